from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from softfeat.data.datamodule import SegmentationData
from softfeat.data.dataset import Augmentation, SetBalance
from softfeat.data.held_back import is_held_back
from softfeat.data.layouts import DataError, Folder, Layout, Mixture
from softfeat.imaging.slic import Superpixels
from softfeat.ops.superpixels import superpixel_majority
from tests.helpers.datasets import make_folder


def make(layout: Any, root: Path, cache: Path, **options: Any) -> SegmentationData:
    defaults: dict[str, Any] = {
        "image_size": (32, 40),
        "batch_size": 2,
        "superpixels": Superpixels(count=20),
        "augmentation": Augmentation(0.5, (0.7, 1.5)),
        "num_workers": 0,
        "steps_per_epoch": 2,
        "num_levels": 2,
    }
    data = SegmentationData(layout, root, cache, **defaults | options)
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    return data


@pytest.mark.parametrize("mode", ["stored", "online"])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches(folder_root: Path, tmp_path: Path, mode: Any, workers: int) -> None:
    superpixels = Superpixels(count=20, mode=mode)
    data = make(Folder, folder_root, tmp_path / "c", superpixels=superpixels, num_workers=workers)
    for loader, batches in (
        (data.train_dataloader(), 2),
        (data.val_dataloader(), 1),
        (data.test_dataloader(), 1),
    ):
        seen = list(loader)
        assert len(seen) == batches
        for batch in seen:
            assert batch["image"].shape == (2, 3, 32, 40)
            assert batch["superpixels"].max() < 20
            assert len(batch["pooling"]) == 2
    assert (tmp_path / "c" / "superpixels").exists() == (mode == "stored")


def test_workers_do_not_change_the_batches(folder_root: Path, tmp_path: Path) -> None:
    batches = []
    for workers in (0, 2):
        data = make(Folder, folder_root, tmp_path / "c", num_workers=workers, steps_per_epoch=3)
        batches.append(list(data.train_dataloader()))
    for first, second in zip(*batches, strict=True):
        assert first["path"] == second["path"]
        assert torch.equal(first["image"], second["image"])
        assert torch.equal(first["superpixels"], second["superpixels"])


def test_native_labels_are_those_of_the_files(folder_root: Path, tmp_path: Path) -> None:
    data = make(Folder, folder_root, tmp_path / "c", native_labels=True)
    assert "native_label" not in next(iter(data.train_dataloader()))
    for batch in data.test_dataloader():
        for path, label in zip(batch["path"], batch["native_label"], strict=True):
            file = folder_root / "labels" / "test" / f"{Path(path).stem}.png"
            assert np.array_equal(label.numpy(), np.asarray(Image.open(file)))
            assert label.shape == (40, 48)


def test_class_shares_are_those_of_the_train_files(folder_root: Path, tmp_path: Path) -> None:
    data = make(Folder, folder_root, tmp_path / "c")
    labels = np.concatenate(
        [np.asarray(Image.open(p)).ravel() for p in (folder_root / "labels/train").iterdir()]
    )
    expected = np.array([(labels == k).sum() for k in range(len(data.layout.class_names))])
    np.testing.assert_allclose(data.class_shares(), expected / expected.sum())


def test_evaluation_sees_every_photo_once_in_order(folder_root: Path, tmp_path: Path) -> None:
    data = make(Folder, folder_root, tmp_path / "c", batch_size=1)
    paths = [p for batch in data.val_dataloader() for p in batch["path"]]
    assert paths == [str(r.image) for r in Folder(folder_root).records("val")]


def test_a_mixture_trains_on_all_its_sets(mixture_root: Path, tmp_path: Path) -> None:
    layouts: dict[str, type[Layout]] = {"camvid": Folder, "msrc_v2": Folder}
    data = make(partial(Mixture, layouts=layouts), mixture_root, tmp_path / "c")
    for batch in data.train_dataloader():
        for path, space, label in zip(batch["path"], batch["space"], batch["label"], strict=True):
            assert Path(path).parents[2].name == list(layouts)[space]
            assert label[label != 255].max() < len(data.label_spaces[space])
    sets = {Path(p).parents[2].name for batch in data.train_dataloader() for p in batch["path"]}
    assert sets == set(layouts)
    shares = data.class_shares()
    alone = [make(Folder, mixture_root / n, tmp_path / "c").class_shares() for n in layouts]
    assert torch.equal(shares, torch.cat(alone))


def test_a_contrast_class_has_no_share(folder_root: Path, tmp_path: Path) -> None:
    data = make(partial(Folder, contrast=[1]), folder_root, tmp_path / "c")
    assert data.label_spaces == [("class 0", "class 2")]
    plain = make(Folder, folder_root, tmp_path / "c").class_shares()[[0, 2]]
    torch.testing.assert_close(data.class_shares(), plain / plain.sum())
    ids = {i for batch in data.train_dataloader() for i in batch["label"].unique().tolist()}
    assert {0, 1, 254} <= ids <= {0, 1, 254, 255}


@pytest.mark.parametrize("pack", [False, True])
def test_stores_follow_a_change_of_the_contrast_classes(
    folder_root: Path, tmp_path: Path, pack: bool
) -> None:
    for contrast, expected in (([], {0, 1, 2}), ([0], {0, 1, 254}), ([0, 1], {0, 254})):
        data = make(partial(Folder, contrast=contrast), folder_root, tmp_path / "c", pack=pack)
        (batch,) = data.val_dataloader()
        assert set(batch["label"].unique().tolist()) - {255} == expected


@pytest.mark.parametrize(
    ("balance", "expected"), [("photos", [4, 8, 4]), ("sqrt", [5, 6, 5]), ("even", [6, 5, 5])]
)
def test_sets_are_drawn_as_the_balance_says(
    balance: SetBalance, expected: list[int], tmp_path: Path
) -> None:
    names = ["a", "b", "c"]
    for name, count in zip(names, (4, 8, 4), strict=True):
        make_folder(tmp_path / "sets" / name, counts=(count, 1, 1))
    layout = partial(Mixture, layouts=dict.fromkeys(names, Folder))
    data = make(layout, tmp_path / "sets", tmp_path / "c", balance=balance, steps_per_epoch=8)
    spaces = torch.cat([batch["space"] for batch in data.train_dataloader()])
    assert spaces.bincount().tolist() == expected


def test_the_balance_is_checked(folder_root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.balance=sets: choose photos, sqrt or even"):
        SegmentationData(Folder, folder_root, tmp_path, balance="sets")  # type: ignore[arg-type]


def test_superpixels_of_padding_have_no_label(folder_root: Path, tmp_path: Path) -> None:
    data = make(
        Folder, folder_root, tmp_path / "c", augmentation=Augmentation(0.0, (0.5, 0.5)),
        superpixels=Superpixels(count=20, mode="online"),
    )  # fmt: skip
    batch = next(iter(data.train_dataloader()))
    majority = superpixel_majority(batch["label"], batch["superpixels"], 20)
    assert (majority == 255).any()


@pytest.mark.parametrize("mode", ["stored", "online"])
def test_problems_of_all_splits_are_one_error_before_anything_is_computed(
    folder_root: Path, tmp_path: Path, mode: Any
) -> None:
    for split, name in (("train", "1"), ("train", "2"), ("val", "0")):
        (folder_root / "labels" / split / f"{name}.png").unlink()
    (folder_root / "images" / "test" / "1.jpg").write_bytes(b"\xff\xd8\xff no photo")
    with pytest.raises(DataError, match=r"train: 2, val: 1, test: 1\. .*precompute") as error:
        make(Folder, folder_root, tmp_path / "c", superpixels=Superpixels(count=20, mode=mode))
    for line, file in zip(
        error.value.problems,
        ("train/1.jpg has no", "train/2.jpg has no", "val/0.jpg has no", "test/1.jpg: unreadable"),
        strict=True,
    ):
        assert file in line
    assert not (tmp_path / "c" / "superpixels").exists()


def test_a_damaged_photo_of_a_good_set_is_reported_by_the_store(
    folder_root: Path, tmp_path: Path
) -> None:
    for split in ("train", "val"):
        photo = folder_root / "images" / split / "1.jpg"
        photo.write_bytes(photo.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"(?s)train: 1, val: 1\..*train/1\.jpg.*val/1\.jpg"):
        make(Folder, folder_root, tmp_path)


def test_missing_and_empty_splits_come_with_the_other_problems(
    folder_root: Path, tmp_path: Path
) -> None:
    (folder_root / "labels" / "train" / "1.png").unlink()
    for split in ("val", "test"):
        (folder_root / "images" / split).rename(folder_root / split)
    with pytest.raises(DataError, match=r"val: 1, train: 1\.") as error:
        make(Folder, folder_root, tmp_path)
    missing, unlabelled = error.value.problems
    assert "images/val is not a folder" in missing
    assert "data.hold_back=true data.test_split=val" in missing
    assert "train/1.jpg has no label" in unlabelled
    (folder_root / "images" / "val").mkdir()
    with pytest.raises(DataError, match="images/val has no photos"):
        make(Folder, folder_root, tmp_path)


def test_a_train_split_alone_is_enough_with_hold_back(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", counts=(40, 0, 0))
    data = make(Folder, root, tmp_path / "c", hold_back=True, test_split="val")
    assert len(data.datasets["train"]) > 30
    assert data.records("val") == data.datasets["test"].records


def test_one_photo_is_enough(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", counts=(1, 1, 0))
    data = make(Folder, root, tmp_path / "c")
    assert [len(list(loader)) for loader in (data.train_dataloader(), data.val_dataloader())] == [
        2,
        1,
    ]


def test_a_test_reads_its_own_split_only(folder_root: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        (folder_root / "images" / split).rename(folder_root / split)
    data = SegmentationData(Folder, folder_root, tmp_path, (32, 40), num_workers=0)
    data.trainer = SimpleNamespace(testing=True)  # type: ignore[assignment]
    data.prepare_data()
    data.trainer.testing = False
    with pytest.raises(DataError, match="images/train is not a folder"):
        data.prepare_data()


def test_labels_on_photos_as_stored(folder_root: Path, tmp_path: Path) -> None:
    photo, exif = folder_root / "images" / "val" / "0.jpg", Image.Exif()
    exif[0x112] = 6
    with Image.open(photo) as picture:
        picture.load()
    picture.save(photo, exif=exif)
    with pytest.raises(DataError, match=r"set data\.exif=ignore"):
        make(Folder, folder_root, tmp_path / "c")
    data = make(Folder, folder_root, tmp_path / "c", exif="ignore", native_labels=True)
    batch = next(iter(data.val_dataloader()))
    stored = np.asarray(Image.open(photo).resize((40, 32), Image.Resampling.BILINEAR))
    assert np.array_equal((batch["image"][0] * 255).round().byte(), stored.transpose(2, 0, 1))
    assert batch["native_label"][0].shape == (40, 48)
    with pytest.raises(ValueError, match=r"data\.exif=auto: choose apply or ignore"):
        SegmentationData(Folder, folder_root, tmp_path, exif="auto")  # type: ignore[arg-type]


def test_labels_that_change_later_are_checked_again(folder_root: Path, tmp_path: Path) -> None:
    label = folder_root / "labels" / "train" / "1.png"
    make(Folder, folder_root, tmp_path)
    Image.fromarray(np.full((40, 48), 77, np.uint8)).save(label)
    with pytest.raises(DataError, match=r"1\.png: label id 77"):
        make(Folder, folder_root, tmp_path)


def test_the_split_is_checked(folder_root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.test_split=training: choose train, val or test"):
        SegmentationData(Folder, folder_root, tmp_path, test_split="training")


def test_image_size_is_checked(folder_root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.image_size"):
        SegmentationData(Folder, folder_root, tmp_path, image_size=(224,))


def equal(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        same = first.dtype == second.dtype and first.stride() == second.stride()
        return same and torch.equal(first, second)
    if isinstance(first, Mapping):
        return first.keys() == second.keys() and all(equal(first[k], second[k]) for k in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(equal, first, second))
    return first == second


def all_batches(data: SegmentationData) -> list[Any]:
    loaders = (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
    return [batch for loader in loaders for batch in loader]


@pytest.mark.parametrize("mode", ["stored", "online"])
@pytest.mark.parametrize("options", [{"native_labels": True, "num_workers": 2}, {"variants": 2}])
def test_packing_changes_no_batch(
    folder_root: Path, tmp_path: Path, mode: Any, options: dict[str, Any]
) -> None:
    options = {"superpixels": Superpixels(count=20, mode=mode), "steps_per_epoch": 6} | options
    read = make(Folder, folder_root, tmp_path / "c", **options)
    packed = make(Folder, folder_root, tmp_path / "c", pack=True, **options)
    first, second = all_batches(read), all_batches(packed)
    assert len(first) == 8
    assert equal(first, second)
    # ... which reads the store, in which superpixels are only where they are stored
    store = packed.datasets["train"].store
    assert store is not None
    assert ("superpixels" in store[0]) == (mode == "stored")


@pytest.mark.parametrize("mode", ["stored", "online"])
def test_packed_epochs_decode_no_photo(
    folder_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: Any
) -> None:
    def decoded(path: Path) -> None:
        raise AssertionError(path)

    options = {"superpixels": Superpixels(count=20, mode=mode), "native_labels": True}
    data = make(Folder, folder_root, tmp_path / "c", pack=True, **options)
    monkeypatch.setattr("softfeat.data.records.read_image", decoded)
    assert len(all_batches(data)) == 4
    make(Folder, folder_root, tmp_path / "c", pack=True, **options)  # all is there already
    with pytest.raises(AssertionError):
        all_batches(make(Folder, folder_root, tmp_path / "c", **options))


def test_a_tenth_of_the_train_split_is_held_back(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", counts=(40, 3, 2))
    data = make(Folder, root, tmp_path / "c", hold_back=True)
    splits = {split: {r.image.stem for r in data.records(split)} for split in ("train", "val")}
    every = {path.stem for path in (root / "images" / "train").iterdir()}
    assert splits["train"] | splits["val"] == every
    assert not splits["train"] & splits["val"]
    assert splits["val"] == {stem for stem in every if is_held_back(stem)}
    assert 0 < len(splits["val"]) < 10
    assert len(data.datasets["val"]) == len(splits["val"])
    assert len(data.datasets["test"]) == 2  # as without


def test_too_few_photos_to_hold_some_back(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", counts=(2, 1, 1))
    with pytest.raises(DataError, match=r"leaves no photo for val: 2 photos .*hold_back=false"):
        make(Folder, root, tmp_path / "c", hold_back=True)
