"""Small data sets in every layout, and the real ones where they are installed."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.paths import ROOT


def real_data(name: str) -> Path:
    """The folder of a real data set. Skips the test where there is none."""
    root = Path(os.environ.get("SOFTFEAT_DATA", ROOT.parent / "shared" / "data")) / name
    if not root.is_dir():
        pytest.skip(f"no real data at {root}: set SOFTFEAT_DATA to the folder that holds {name}")
    return root


def random_photo(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3)).astype(np.uint8))
    return np.asarray(coarse.resize((size[1], size[0]), Image.Resampling.BICUBIC))


def random_label(rng: np.random.Generator, size: tuple[int, int], ids: list[int]) -> np.ndarray:
    coarse = Image.fromarray(rng.choice(ids, (3, 4)).astype(np.uint8))
    return np.asarray(coarse.resize((size[1], size[0]), Image.Resampling.NEAREST))


def save_picture(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def make_folder(
    root: Path,
    num_classes: int = 3,
    size: tuple[int, int] = (40, 48),
    counts: tuple[int, int, int] = (4, 2, 2),
) -> Path:
    """A small data set in the layout `folder`; `counts` are photos for train, val and test."""
    rng = np.random.default_rng(0)
    for split, count in zip(("train", "val", "test"), counts, strict=True):
        for i in range(count):
            save_picture(root / "images" / split / f"{i}.jpg", random_photo(rng, size))
            ids = [*range(num_classes), 255]
            save_picture(root / "labels" / split / f"{i}.png", random_label(rng, size, ids))
    (root / "classes.txt").write_text("".join(f"class {i}\n" for i in range(num_classes)))
    return root


def make_mixture(root: Path) -> Path:
    """Small folders under the names of the data sets of `data=photos`, each with other classes."""
    names = (
        "camvid",
        "idd_lite",
        "stanford_background",
        "msrc_v2",
        "clothing_coparsing",
        "nyuv2",
        "voc2012",
        "coco_objects",
        "pascal_person_part",
        "pets_oxford",
        "hair_figaro",
    )
    for number, name in enumerate(names):
        make_folder(root / name, num_classes=2 + number)
    return root


def make_ade20k(root: Path) -> Path:
    """A small data set in the layout of ADE20K."""
    rng = np.random.default_rng(1)
    for split, count in (("training", 4), ("validation", 2)):
        for i in range(count):
            name = f"ADE_{split}_{i:08d}"
            save_picture(root / "images" / split / f"{name}.jpg", random_photo(rng, (40, 48)))
            label = random_label(rng, (40, 48), [0, 1, 150])
            save_picture(root / "annotations" / split / f"{name}.png", label)
    rows = [
        "Idx\tRatio\tTrain\tVal\tName",
        *(f"{i + 1}\t0.1\t1\t1\tthing{i}, it" for i in range(150)),
    ]
    (root / "objectInfo150.txt").write_text("\n".join(rows))
    return root


def make_cityscapes(root: Path) -> Path:
    """A small data set in the layout of Cityscapes."""
    rng = np.random.default_rng(2)
    for split, count in (("train", 4), ("val", 2)):
        for i in range(count):
            stem = f"ulm_{i:06d}_000019"
            photo = root / "leftImg8bit" / split / "ulm" / f"{stem}_leftImg8bit.png"
            save_picture(photo, random_photo(rng, (32, 64)))
            label = root / "gtFine" / split / "ulm" / f"{stem}_gtFine_labelIds.png"
            save_picture(label, random_label(rng, (32, 64), [0, 7, 26, 33]))
    return root
