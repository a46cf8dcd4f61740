from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from softfeat.data.dataset import (
    Augmentation,
    Collate,
    SegmentationDataset,
    SetBalance,
    StreamSampler,
    level_sizes,
    shares,
)
from softfeat.data.flat_batch import FlatBatch
from softfeat.data.layouts import Folder
from softfeat.data.store import SampleStore
from softfeat.imaging.images import resize_image
from softfeat.imaging.slic import Superpixels
from softfeat.models.extractor import BottleneckExtractor
from softfeat.ops.pyramid import pooling_weights
from softfeat.ops.superpixel_graph import find_neighbours

SIZE = (32, 40)
SLIC = Superpixels(count=20)


def coded(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A photo, label and map that say the same at every pixel."""
    y, x = np.indices(size)
    label = ((y // 13 + x // 17) % 5).astype(np.uint8)
    return np.repeat(label[..., None] * 40, 3, 2), label, label.astype(np.int64)


@pytest.mark.parametrize("scale", [(1.0, 1.0), (1.3, 1.9), (0.5, 0.8)])
def test_maps_stay_together(scale: tuple[float, float]) -> None:
    augment = Augmentation(flip=0.5, scale=scale)
    image, label, superpixels = coded((48, 64))
    for seed in range(12):
        rng = np.random.default_rng(seed)
        new_image, new_label, new_superpixels = augment(rng, image, label, superpixels)
        assert new_image.shape == image.shape
        assert new_superpixels is not None
        inside = new_label != 255
        assert inside.mean() >= min(1, scale[0] ** 2) - 0.05
        assert np.array_equal(inside, new_superpixels >= 0)
        assert np.array_equal(new_label[inside], new_superpixels[inside])
        # the photo is interpolated, so only away from edges does it say exactly the same
        same = np.abs(new_image[..., 0].astype(int) - new_label * 40)[inside] < 2
        assert same.mean() > 0.7
        if scale[0] > 1:
            assert inside.all()


def test_padding_is_ignored_and_no_superpixel() -> None:
    image, label, superpixels = coded((40, 40))
    _, padded, ids = Augmentation(scale=(0.5, 0.5))(
        np.random.default_rng(0), image, label, superpixels
    )
    assert (padded == 255).mean() == pytest.approx(0.75, abs=0.05)
    assert ids is not None
    assert (ids[padded == 255] == -1).all()


def test_colours_stray_and_leave_labels_alone() -> None:
    image = np.random.default_rng(1).integers(60, 190, (30, 40, 3), np.uint8)
    _, label, superpixels = coded((30, 40))
    augment = Augmentation(flip=0.0, colour=0.3)
    seen = [augment(np.random.default_rng(seed), image, label, superpixels) for seed in range(20)]
    for new, *maps in seen:
        assert new.dtype == np.uint8
        assert new.shape == image.shape
        assert all(np.array_equal(a, b) for a, b in zip(maps, (label, superpixels), strict=True))
    ratios = np.array([new.mean((0, 1)) / image.mean((0, 1)) for new, *_ in seen])
    assert ratios.std(0).min() > 0.05
    assert ratios.min() > (1 - 0.3) * (1 - 0.15) * 0.95
    assert ratios.max() < (1 + 0.3) * (1 + 0.15) * 1.05
    assert np.ptp(ratios / ratios.mean(1, keepdims=True), axis=0).min() > 0.05  # a cast
    same = Augmentation(flip=0.0)(np.random.default_rng(0), image, label, superpixels)[0]
    assert np.array_equal(same, image)


def test_colours_too_far_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"data\.augmentation\.colour=1"):
        Augmentation(colour=1.0)


def test_flip_turns_everything() -> None:
    image, label, superpixels = coded((10, 14))
    flipped = Augmentation(flip=1.0)(np.random.default_rng(0), image, label, superpixels)
    for new, old in zip(flipped, (image, label, superpixels), strict=True):
        assert new is not None
        assert np.array_equal(new, old[:, ::-1])


def test_bad_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="first number is above"):
        Augmentation(scale=(2.0, 1.0))


def test_samples_have_the_types_of_the_data_flow(folder_root: Path, tmp_path: Path) -> None:
    records = Folder(folder_root).records("train")
    store = SampleStore(tmp_path / "cache", records, SIZE, SLIC)
    store.prepare(0)
    sample = SegmentationDataset(records, SIZE, SLIC, store)[1]
    assert sample["image"].shape == (3, *SIZE)
    assert sample["image"].dtype == torch.float32
    assert 0 <= sample["image"].min() <= sample["image"].max() <= 1
    assert sample["label"].dtype == sample["superpixels"].dtype == torch.int64
    assert sample["label"].shape == sample["superpixels"].shape == SIZE
    assert sample["path"] == str(records[1].image)
    assert np.array_equal(sample["superpixels"].numpy(), store[1]["superpixels"])


def test_online_maps_fit_the_augmented_photo(folder_root: Path) -> None:
    records = Folder(folder_root).records("train")
    dataset = SegmentationDataset(records, SIZE, SLIC, None, Augmentation(1.0, (1.5, 1.5)))
    sample = dataset[(0, 3)]
    image = (sample["image"].permute(1, 2, 0) * 255).round().byte().numpy()
    assert np.array_equal(sample["superpixels"].numpy(), SLIC(image))


def test_online_equals_stored_without_augmentation(folder_root: Path, tmp_path: Path) -> None:
    records = Folder(folder_root).records("train")
    store = SampleStore(tmp_path / "cache", records, SIZE, SLIC)
    store.prepare(0)
    stored = SegmentationDataset(records, SIZE, SLIC, store)[2]
    online = SegmentationDataset(records, SIZE, SLIC)[2]
    assert torch.equal(stored["superpixels"], online["superpixels"])


def test_randomness_hangs_on_seed_and_place_alone(folder_root: Path) -> None:
    records = Folder(folder_root).records("train")

    def sample(seed: int, place: int) -> torch.Tensor:
        augmentation = Augmentation(0.5, (0.5, 2.0))
        return SegmentationDataset(records, SIZE, SLIC, None, augmentation, seed)[(0, place)][
            "image"
        ]

    assert torch.equal(sample(0, 5), sample(0, 5))
    assert not torch.equal(sample(0, 5), sample(0, 6))
    assert not torch.equal(sample(0, 5), sample(1, 5))


def test_labels_are_resized_without_mixing(folder_root: Path) -> None:
    record = Folder(folder_root).records("train")[0]
    sample = SegmentationDataset([record], (17, 23), SLIC)[0]
    assert set(sample["label"].unique().tolist()) <= {0, 1, 2, 255}
    image = np.asarray(Image.open(record.image))
    expected = torch.from_numpy(resize_image(image, (17, 23)).transpose(2, 0, 1).copy()) / 255
    torch.testing.assert_close(sample["image"], expected)


def test_a_bad_label_is_named(folder_root: Path) -> None:
    record = Folder(folder_root).records("train")[0]
    Image.fromarray(np.full((40, 48), 9, np.uint8)).save(record.label)
    with pytest.raises(ValueError, match=r"labels/train/0\.png: label id 9"):
        SegmentationDataset([record], SIZE, SLIC)[0]


def test_collate_builds_the_pooling_of_the_batch(folder_root: Path) -> None:
    dataset = SegmentationDataset(Folder(folder_root).records("train"), SIZE, SLIC)
    batch = Collate(20, 2)([dataset[0], dataset[1]])
    assert batch["image"].shape == (2, 3, *SIZE)
    assert len(batch["path"]) == 2
    expected = pooling_weights(batch["superpixels"], 20, [(16, 20), (8, 10)])
    for level, same in zip(batch["pooling"], expected, strict=True):
        for tensor, other in zip(level, same, strict=True):
            assert torch.equal(tensor, other)
    assert "pooling" not in Collate(20)([dataset[0]])


def test_collate_finds_touching_superpixels_on_demand(folder_root: Path) -> None:
    dataset = SegmentationDataset(Folder(folder_root).records("train"), SIZE, SLIC)
    batch = Collate(20, neighbours=True)([dataset[0], dataset[1]])
    expected = find_neighbours(batch["superpixels"], 20)
    for tensor, other in zip(batch["neighbours"], expected, strict=True):
        assert torch.equal(tensor, other)
    assert "neighbours" not in Collate(20)([dataset[0]])


@pytest.mark.parametrize("size", [(32, 40), (33, 47), (1, 5)])
def test_levels_have_the_sizes_of_the_extractors(size: tuple[int, int]) -> None:
    extractor = BottleneckExtractor(widths=[4, 4, 4], blocks=[1, 1, 1], dim=3)
    assert level_sizes(size, 3) == extractor.level_sizes(size)
    shapes = [
        (level.shape[2], level.shape[3])
        for level in extractor.eval().pyramid(torch.rand(1, 3, *size))
    ]
    assert level_sizes(size, 3) == shapes


def test_a_flat_batch_holds_the_same(folder_root: Path) -> None:
    dataset = SegmentationDataset(Folder(folder_root).records("train"), SIZE, SLIC)
    plain, flat = (Collate(20, 2, flat=flat)([dataset[0], dataset[1]]) for flat in (False, True))
    assert isinstance(flat, FlatBatch)
    assert set(flat) == set(plain)
    for key in ("image", "label", "superpixels", "space"):
        assert torch.equal(flat[key], plain[key])
    assert flat["path"] == plain["path"]
    expected = pooling_weights(plain["superpixels"], 20, [(16, 20), (8, 10)], padded=True)
    for level, same in zip(flat["pooling"], expected, strict=True):
        for tensor, other in zip(level, same, strict=True):
            assert torch.equal(tensor, other)


def test_stream_is_shuffled_passes_without_gaps() -> None:
    sampler = StreamSampler([0] * 7, epoch_length=10, seed=0)
    stream = []
    for epoch in range(7):
        sampler.set_epoch(epoch)
        part = list(sampler)
        assert len(part) == len(sampler) == 10
        stream += part
    assert [place for _, place in stream] == list(range(70))
    passes = [tuple(index for index, _ in stream[i : i + 7]) for i in range(0, 70, 7)]
    assert all(sorted(p) == list(range(7)) for p in passes)
    assert len(set(passes)) > 5


def test_an_epoch_is_the_same_stretch_whenever_it_runs() -> None:
    first, second = (StreamSampler([0] * 7, 10, seed=3) for _ in range(2))
    list(first)
    first.set_epoch(4)
    second.set_epoch(4)
    assert list(first) == list(second)
    other = StreamSampler([0] * 7, 10, seed=4)
    other.set_epoch(4)
    assert list(other) != list(first)


SETS = [0] * 2 + [1] * 18 + [4] * 8  # a mixture, some of whose sets are held out
BALANCES: list[SetBalance] = ["photos", "sqrt", "even"]


def stretch(balance: SetBalance, epochs: range, epoch_length: int = 35) -> list[tuple[int, int]]:
    sampler = StreamSampler(SETS, epoch_length, seed=5, balance=balance)
    found = []
    for epoch in epochs:
        sampler.set_epoch(epoch)
        found += list(sampler)
    return found


def test_one_photo_is_as_likely_as_another_by_default() -> None:
    stream = stretch("photos", range(8))  # ten cycles
    assert [place for _, place in stream] == list(range(280))
    for cycle in range(10):
        order = [index for index, _ in stream[28 * cycle : 28 * (cycle + 1)]]
        expected = np.random.default_rng((5, cycle)).permutation(28)
        assert order == expected.tolist()


@pytest.mark.parametrize(
    ("balance", "expected"),
    # 28 places by the roots 1.41, 4.24, 2.83: 4.67, 14, 9.33
    [("sqrt", {0: 5, 1: 14, 4: 9}), ("even", {0: 10, 1: 9, 4: 9})],
)
def test_a_cycle_holds_every_set_as_often_as_its_share(
    balance: SetBalance, expected: dict[int, int]
) -> None:
    stream = stretch(balance, range(8))
    assert [place for _, place in stream] == list(range(280))
    orders = []
    for cycle in range(10):
        sets = [SETS[index] for index, _ in stream[28 * cycle : 28 * (cycle + 1)]]
        assert {number: sets.count(number) for number in expected} == expected
        orders.append(tuple(sets))
    assert len(set(orders)) == 10  # shuffled


@pytest.mark.parametrize("balance", ["sqrt", "even"])
def test_a_set_runs_through_all_its_photos_before_one_comes_again(balance: SetBalance) -> None:
    stream = [index for index, _ in stretch(balance, range(24))]
    for number in (0, 1, 4):
        members = [i for i, each in enumerate(SETS) if each == number]
        # A cycle shuffles its places: passes are seen over whole cycles.
        seen: Counter[int] = Counter()
        for cycle in range(30):
            seen.update(i for i in stream[28 * cycle : 28 * (cycle + 1)] if SETS[i] == number)
            passes = seen.total() // len(members)
            assert all(passes <= seen[i] <= passes + 1 for i in members)


@pytest.mark.parametrize("balance", ["sqrt", "even"])
def test_passes_over_a_set_are_shuffled_anew(balance: SetBalance) -> None:
    sampler = StreamSampler(SETS, 28, seed=5, balance=balance)
    passes = [tuple(sampler._draw(1, start, 18).tolist()) for start in range(0, 180, 18)]
    assert all(sorted(each) == list(range(2, 20)) for each in passes)
    assert len(set(passes)) == 10
    across = sampler._draw(1, 10, 40).tolist()  # the same stream, from the middle of a pass on
    assert across == [*chain(*passes)][10:50]


@pytest.mark.parametrize("balance", BALANCES)
def test_a_resumed_run_draws_the_same_stretch(balance: SetBalance) -> None:
    whole = stretch(balance, range(6))
    assert stretch(balance, range(4, 6)) == whole[140:]  # begins in the middle of a pass
    assert stretch(balance, range(10), epoch_length=21) == whole
    other = StreamSampler(SETS, 35, seed=6, balance=balance)
    assert list(other) != whole[:35]


@pytest.mark.parametrize("balance", ["sqrt", "even"])
def test_one_set_alone_is_drawn_in_whole_passes(balance: SetBalance) -> None:
    stream = [index for index, _ in StreamSampler([2] * 7, 28, seed=0, balance=balance)]
    assert all(sorted(stream[i : i + 7]) == list(range(7)) for i in range(0, 28, 7))


@pytest.mark.parametrize("seed", range(5))
def test_shares_are_whole_and_next_to_the_exact_ones(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights, total = rng.uniform(0.1, 5, 9), int(rng.integers(1, 500))
    found = shares(total, weights)
    assert sum(found) == total
    assert np.abs(np.array(found) - total * weights / weights.sum()).max() < 1


@pytest.mark.parametrize("balance", BALANCES)
def test_ranks_share_the_stream(balance: SetBalance) -> None:
    whole = list(StreamSampler(SETS, 12, seed=0, balance=balance))
    parts = [
        list(StreamSampler(SETS, 12, seed=0, rank=rank, world_size=3, balance=balance))
        for rank in range(3)
    ]
    assert [len(p) for p in parts] == [4, 4, 4]
    assert sorted(chain(*parts), key=lambda entry: entry[1]) == whole


def test_online_mode_refuses_a_label_of_another_size(folder_root: Path) -> None:
    record = Folder(folder_root).records("train")[0]
    Image.fromarray(np.zeros((20, 24), np.uint8)).save(record.label)
    with pytest.raises(ValueError, match=r"0\.jpg is 48x40 but its label .* is 24x20"):
        SegmentationDataset([record], SIZE, SLIC)[0]
