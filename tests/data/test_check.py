"""All faults of a data set at once, before anything is computed from it."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from softfeat.data import check as check_module
from softfeat.data.check import check_splits
from softfeat.data.layouts import Cityscapes, Folder, Record

SPLITS = ("train", "val")


def check(root: Path, cache: Path, upright: bool = True, **options: bool) -> dict[str, list[str]]:
    layout = (Cityscapes if (root / "gtFine").is_dir() else Folder)(root)
    splits = {
        split: [replace(record, upright=upright) for record in layout.records(split)]
        for split in SPLITS
    }
    settings = {"decode": False, "needs_pairs": True} | options
    return check_splits(splits, cache, 0, **settings)


def fill(root: Path, value: int, pattern: str = "labels/*/*.png") -> None:
    for path in root.glob(pattern):
        Image.new("L", Image.open(path).size, value).save(path)


def test_bad_files_of_all_splits_are_found_and_good_sets_have_none(
    folder_root: Path, tmp_path: Path
) -> None:
    assert check(folder_root, tmp_path) == {}
    (folder_root / "labels" / "train" / "0.png").unlink()
    fill(folder_root, 77, "labels/val/1.png")
    Image.new("L", (9, 9)).save(folder_root / "labels" / "train" / "2.png")
    problems = check(folder_root, tmp_path)
    assert [line.split("/")[-1] for line in problems["train"]] == [
        "0.png: add the label or remove the photo",
        "2.png is 9x9: they must have the same size",
    ]
    assert "1.png: label id 77 is not in the class list" in problems["val"][0]


def test_damaged_photos_are_found_when_they_are_decoded(folder_root: Path, tmp_path: Path) -> None:
    photo = folder_root / "images" / "val" / "1.jpg"
    photo.write_bytes(photo.read_bytes()[:-40])
    assert check(folder_root, tmp_path) == {}
    problems = check(folder_root, tmp_path, decode=True)
    assert list(problems) == ["val"]
    assert "1.jpg" in problems["val"][0]


def test_files_are_read_once_until_they_change(
    folder_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    real = check_module.map_in_workers

    def counted(function: object, items: list[Record], *args: object) -> object:
        read.extend(record.image.parent.name for record in items)
        return real(function, items, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(check_module, "map_in_workers", counted)
    check(folder_root, tmp_path)
    assert len(read) == 6
    check(folder_root, tmp_path)
    assert len(read) == 6
    fill(folder_root, 0, "labels/val/0.png")
    check(folder_root, tmp_path)
    assert read[6:] == ["val", "val"]
    for file in (tmp_path / "checked").iterdir():
        file.write_text(file.read_text()[:10])  # damaged
    check(folder_root, tmp_path)
    assert len(read) == 14
    (folder_root / "classes.txt").write_text("only one\n")
    assert set(check(folder_root, tmp_path)) == set(SPLITS)


@pytest.mark.parametrize("extension", ["png", "gif"])
def test_photos_with_one_name_share_a_label(
    folder_root: Path, tmp_path: Path, extension: str
) -> None:
    Image.new("RGB", (48, 40)).save(folder_root / "images" / "val" / f"1.{extension}")
    (problem,) = check(folder_root, tmp_path)["val"]
    assert f"1.{extension}" in problem
    assert "1.jpg" in problem
    assert "share the label" in problem


def test_a_split_without_any_label_is_an_error_and_a_photo_is_named(
    folder_root: Path, tmp_path: Path
) -> None:
    fill(folder_root, 255, "labels/val/0.png")
    with pytest.warns(UserWarning, match=r"val: 1 photo \(0\.jpg\) without a pixel of a class"):
        assert check(folder_root, tmp_path) == {}
    fill(folder_root, 255, "labels/val/*.png")
    problems = check(folder_root, tmp_path, needs_pairs=False)
    assert list(problems) == ["val"]
    assert "labels/val: no label has a pixel of a class" in problems["val"][0]


def test_one_class_per_photo_is_an_error_for_soft_features_only(
    folder_root: Path, tmp_path: Path
) -> None:
    fill(folder_root, 0, "labels/train/[01].png")
    fill(folder_root, 1, "labels/train/[23].png")
    (problem,) = check(folder_root, tmp_path)["train"]
    assert "no photo has two classes" in problem
    with pytest.warns(UserWarning, match="no photo has two classes"):
        assert check(folder_root, tmp_path, needs_pairs=False) == {}


def test_a_contrast_class_differs_from_a_class_and_is_none(
    folder_root: Path, tmp_path: Path
) -> None:
    for path in folder_root.glob("labels/*/*.png"):
        label = np.zeros((40, 48), np.uint8)
        label[:, 9:] = 1
        Image.fromarray(label).save(path)
    records = Folder(folder_root, contrast=[0]).records("train")
    check_contrast = partial(check_splits, cache_dir=tmp_path, num_workers=0, decode=False)
    assert check_contrast({"train": records}, needs_pairs=True) == {}
    fill(folder_root, 0)
    records = Folder(folder_root, contrast=[0]).records("train")
    assert (
        "no label has a pixel" in check_contrast({"train": records}, needs_pairs=True)["train"][0]
    )


def turn(photo: Path, orientation: int, pixels: Callable[[Image.Image], Image.Image]) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    with Image.open(photo) as picture:
        picture.load()
    pixels(picture).save(photo, exif=exif)


def test_labels_drawn_on_photos_as_stored_need_a_setting(folder_root: Path, tmp_path: Path) -> None:
    turn(folder_root / "images" / "train" / "1.jpg", 6, lambda picture: picture)
    (problem,) = check(folder_root, tmp_path)["train"]
    assert "set data.exif=ignore" in problem
    assert check(folder_root, tmp_path, upright=False) == {}
    # a camera's photo with a label of the upright photo
    rotated = Image.Transpose.ROTATE_90
    turn(folder_root / "images" / "train" / "1.jpg", 6, lambda picture: picture.transpose(rotated))
    assert check(folder_root, tmp_path, decode=True) == {}
    (problem,) = check(folder_root, tmp_path, upright=False)["train"]
    assert "set data.exif=apply" in problem


def test_orientations_that_sizes_cannot_confirm_are_warned_about(
    folder_root: Path, tmp_path: Path
) -> None:
    turn(folder_root / "images" / "train" / "1.jpg", 3, lambda picture: picture)
    with pytest.warns(UserWarning, match=r"1 photo \(1\.jpg\).*data\.exif=ignore"):
        assert check(folder_root, tmp_path) == {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check(folder_root, tmp_path, upright=False) == {}


def test_train_ids_in_files_of_raw_ids_are_refused(cityscapes_root: Path, tmp_path: Path) -> None:
    for path in cityscapes_root.glob("gtFine/*/*/*.png"):
        label = np.zeros((32, 64), np.uint8)
        label[:, 9:], label[:, 50:] = 13, 255
        Image.fromarray(label).save(path)
    problems = check(cityscapes_root, tmp_path)
    assert {split: len(lines) for split, lines in problems.items()} == {"train": 4, "val": 2}
    assert "data.layout.train_ids=true" in problems["train"][0]
    records = Cityscapes(cityscapes_root, train_ids=True).records("train")
    options = {"num_workers": 0, "decode": False, "needs_pairs": True}
    assert check_splits({"train": records}, tmp_path, **options) == {}  # type: ignore[arg-type]
    fill(cityscapes_root, 7, "gtFine/*/*/*.png")  # no 255: no file can tell alone
    with pytest.warns(UserWarning, match=r"no id above 18.*train_ids=true"):
        check(cityscapes_root, tmp_path)
