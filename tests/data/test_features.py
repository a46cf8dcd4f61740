"""The store of frozen features: what it gives, when it is believed, what its key hangs on."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from softfeat.data.datamodule import SegmentationData
from softfeat.data.dataset import Augmentation
from softfeat.data.layouts import DataError, Folder
from softfeat.imaging.slic import Superpixels


def maps(image: Tensor) -> list[Tensor]:
    """Stands in for a network: two maps of different sizes."""
    small = torch.nn.functional.avg_pool2d(image, 4)
    return [torch.cat([image[:, :, ::2, ::2]] * 2, 1), small]


class Network:
    """A frozen network made of a function."""

    def __init__(self, function: Any = maps, identity: str = "network") -> None:
        self.function, self.identity = function, identity

    def to(self, device: torch.device) -> "Network":
        return self

    def __call__(self, image: Tensor) -> list[Tensor]:
        return self.function(image)


def made(root: Path, **options: Any) -> SegmentationData:
    defaults: dict[str, Any] = {
        "layout": Folder,
        "root": root,
        "cache_dir": root.parent / "cache",
        "image_size": (32, 40),
        "batch_size": 3,
        "superpixels": Superpixels(count=10),
        "augmentation": Augmentation(flip=0.5, scale=(0.8, 1.5)),
        "variants": 3,
        "native_labels": True,
        "steps_per_epoch": 8,
        "num_workers": 0,
    }
    data = SegmentationData(**defaults | options)
    data.prepare_data()
    data.setup("fit")
    return data


def stored(root: Path, function: Any = maps, **options: Any) -> SegmentationData:
    return made(root, frozen=Network(function, options.pop("identity", "network")), **options)


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_are_those_of_the_photos(folder_root: Path, workers: int) -> None:
    plain, frozen = made(folder_root), stored(folder_root, num_workers=workers)
    for loader in ("train_dataloader", "val_dataloader"):
        count = 0
        for a, b in zip(getattr(plain, loader)(), getattr(frozen, loader)(), strict=True):
            assert a["path"] == b["path"]
            assert torch.equal(a["label"], b["label"])
            for level, expected in zip(b["features"], maps(a["image"]), strict=True):
                assert level.dtype == torch.float16
                torch.testing.assert_close(level, expected.half())
                assert level.is_contiguous(memory_format=torch.channels_last)
            if loader == "val_dataloader":
                for first, second in zip(a["native_label"], b["native_label"], strict=True):
                    assert torch.equal(first, second)
            count += 1
        assert count == {"train_dataloader": 8, "val_dataloader": 1}[loader]


def test_passes_go_through_the_variants(folder_root: Path) -> None:
    data = made(folder_root)
    dataset = data.datasets["train"]
    versions = [dataset[(1, place)]["image"] for place in range(0, 4 * len(dataset), len(dataset))]
    assert not torch.equal(versions[0], versions[1])
    assert not torch.equal(versions[1], versions[2])
    assert torch.equal(versions[0], versions[3])


def test_a_second_run_computes_nothing(folder_root: Path) -> None:
    stored(folder_root)

    def refuse(image: Tensor) -> list[Tensor]:
        raise AssertionError("computed again")

    stored(folder_root, refuse)


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": (32, 32)},
        {"variants": 2},
        {"seed": 1},
        {"augmentation": Augmentation(flip=0.0, scale=(0.8, 1.5))},
        {"identity": "another network"},
        {"augmentation": None},
    ],
)
def test_everything_that_decides_them_is_in_the_key(
    folder_root: Path, change: dict[str, Any]
) -> None:
    first, second = stored(folder_root), stored(folder_root, **change)
    assert first.features["train"].path != second.features["train"].path


def test_a_changed_label_is_another_store(folder_root: Path) -> None:
    first = stored(folder_root)
    label = folder_root / "labels" / "train" / "0.png"
    label.write_bytes(label.read_bytes() + b"\0")
    second = stored(folder_root)
    assert first.features["train"].path != second.features["train"].path


def test_an_interrupted_store_goes_on_where_it_stopped(
    folder_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("softfeat.data.features._FLUSH_EVERY", 1)
    calls = []

    def breaks(image: Tensor) -> list[Tensor]:
        calls.append(len(image))
        if len(calls) == 4:  # the first only asks for the shapes
            raise KeyboardInterrupt
        return maps(image)

    with pytest.raises(KeyboardInterrupt):
        stored(folder_root, breaks)
    seen = []

    def counts(image: Tensor) -> list[Tensor]:
        seen.append(len(image))
        return maps(image)

    resumed = stored(folder_root, counts)
    assert sum(calls[1:3]) == 6
    assert sum(seen) == 1 + 6 + 1 + 2  # shapes, the rest of 12, and val with its shapes
    whole = stored(folder_root, cache_dir=folder_root.parent / "other")
    for name in ("0.f16", "1.f16", "labels.u8"):
        first, second = (d.features["train"].path / name for d in (resumed, whole))
        assert first.read_bytes() == second.read_bytes()


def test_a_damaged_store_is_refused(folder_root: Path) -> None:
    data = stored(folder_root)
    file = data.features["train"].path / "0.f16"
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(DataError, match=r"damaged.*delete the folder"):
        data.features["train"].__getitems__([0])


@pytest.mark.parametrize(
    "index",
    [
        "",
        "{}",
        '{"shapes": 3}',
        '{"shapes": [[16, 20]]}',
        '{"shapes": [[16, 20, 0]]}',
        '{"shapes": [[16, 20, -6]]}',
        '{"shapes": [[16, 20.0, 6]]}',
        '{"shapes": [[16, 20, 99999999]]}',
    ],
)
def test_a_damaged_index_is_refused(folder_root: Path, index: str) -> None:
    store = stored(folder_root).features["train"]
    (store.path / "index.json").write_text(index)
    with pytest.raises(DataError, match=r"index\.json was damaged.*delete the folder"):
        store.__getitems__([0])


def test_the_index_says_what_is_stored(folder_root: Path) -> None:
    store = stored(folder_root).features["train"]
    index = json.loads((store.path / "index.json").read_text(encoding="utf-8"))
    assert index["shapes"] == [[16, 20, 6], [8, 10, 3]]
    assert index["photos"] == [str(record.image) for record in store.dataset.records]


def test_features_too_large_for_half_precision_are_refused(folder_root: Path) -> None:
    with pytest.raises(ValueError, match="cache_features=false"):
        stored(folder_root, lambda x: [x * 1e6])


def test_endless_augmentation_is_refused(folder_root: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.variants"):
        stored(folder_root, variants=None)
    with pytest.raises(ValueError, match=r"data\.variants=0"):
        made(folder_root, variants=0)


def test_a_full_disk_is_explained(folder_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, num_bytes: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("softfeat.data.features.reserve", full)
    with pytest.raises(DataError, match=r"is full.*data\.cache_dir"):
        stored(folder_root)


def test_rows_keep_what_the_loader_of_the_store_gave(folder_root: Path) -> None:
    """Row r holds photo r % N in variant r // N, whatever the batch size."""
    stores = []
    for batch_size in (1, 5):
        data = stored(
            folder_root, batch_size=batch_size, cache_dir=folder_root.parent / str(batch_size)
        )
        stores.append(np.fromfile(data.features["train"].path / "0.f16", np.float16))
    assert np.array_equal(*stores)
    dataset = made(folder_root).datasets["train"]
    row = partial(stores[0].reshape(12, 16, 20, 6).__getitem__)
    expected = maps(dataset[(2, 2 * len(dataset) + 1)]["image"][None])[0][0]
    assert np.array_equal(row(2 * 4 + 2), expected.permute(1, 2, 0).half().numpy())


def test_variants_without_stored_features_are_questioned(folder_root: Path) -> None:
    with pytest.warns(UserWarning, match=r"data\.variants=3 without model\.cache_features"):
        made(folder_root)
