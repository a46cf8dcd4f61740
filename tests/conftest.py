"""What the tests share: small data sets in every true layout, and the devices at hand."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from softfeat.commands.cli import register_resolvers
from softfeat.data.datamodule import SegmentationData
from softfeat.data.dataset import Augmentation
from softfeat.data.layouts import Folder
from softfeat.imaging.slic import Superpixels

register_resolvers()
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def real_data(name: str) -> Path:
    """A folder of the real data sets, or a skip that says where they are looked for."""
    root = Path(os.environ.get("SOFTFEAT_DATA", "../shared/data")) / name
    if not root.is_dir():
        pytest.skip(f"no real data at {root}: set SOFTFEAT_DATA to the folder that holds {name}")
    return root


def _picture(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3)).astype(np.uint8))
    return np.asarray(coarse.resize((size[1], size[0]), Image.Resampling.BICUBIC))


def _label(rng: np.random.Generator, size: tuple[int, int], ids: list[int]) -> np.ndarray:
    coarse = Image.fromarray(rng.choice(ids, (3, 4)).astype(np.uint8))
    return np.asarray(coarse.resize((size[1], size[0]), Image.Resampling.NEAREST))


def _save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def make_folder(
    root: Path,
    num_classes: int = 3,
    size: tuple[int, int] = (40, 48),
    counts: tuple[int, int, int] = (4, 2, 2),
) -> Path:
    rng = np.random.default_rng(0)
    for split, count in zip(("train", "val", "test"), counts, strict=True):
        for i in range(count):
            _save(root / "images" / split / f"{i}.jpg", _picture(rng, size))
            ids = [*range(num_classes), 255]
            _save(root / "labels" / split / f"{i}.png", _label(rng, size, ids))
    (root / "classes.txt").write_text("".join(f"class {i}\n" for i in range(num_classes)))
    return root


@pytest.fixture
def folder_root(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "folder")


@pytest.fixture
def mixture_root(tmp_path: Path) -> Path:
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
        make_folder(tmp_path / "mixture" / name, num_classes=2 + number)
    return tmp_path / "mixture"


@pytest.fixture
def ade20k_root(tmp_path: Path) -> Path:
    root = tmp_path / "ADEChallengeData2016"
    rng = np.random.default_rng(1)
    for split, count in (("training", 4), ("validation", 2)):
        for i in range(count):
            name = f"ADE_{split}_{i:08d}"
            _save(root / "images" / split / f"{name}.jpg", _picture(rng, (40, 48)))
            _save(root / "annotations" / split / f"{name}.png", _label(rng, (40, 48), [0, 1, 150]))
    rows = [
        "Idx\tRatio\tTrain\tVal\tName",
        *(f"{i + 1}\t0.1\t1\t1\tthing{i}, it" for i in range(150)),
    ]
    (root / "objectInfo150.txt").write_text("\n".join(rows))
    return root


@pytest.fixture
def cityscapes_root(tmp_path: Path) -> Path:
    root = tmp_path / "cityscapes"
    rng = np.random.default_rng(2)
    for split, count in (("train", 4), ("val", 2)):
        for i in range(count):
            stem = f"ulm_{i:06d}_000019"
            photo = root / "leftImg8bit" / split / "ulm" / f"{stem}_leftImg8bit.png"
            _save(photo, _picture(rng, (32, 64)))
            label = root / "gtFine" / split / "ulm" / f"{stem}_gtFine_labelIds.png"
            _save(label, _label(rng, (32, 64), [0, 7, 26, 33]))
    return root


def compose_train(*overrides: str) -> DictConfig:
    """The configuration of a training, as the command line would compose it."""
    with initialize_config_module("softfeat.conf", version_base="1.3"):
        cfg = compose("train", overrides=list(overrides))
    OmegaConf.set_struct(cfg, False)
    return cfg


# A network, photos and superpixels small enough for many trainings.
TINY = (
    "trainer.accelerator=cpu",
    "trainer.log_every_n_steps=1",
    "data.image_size=[32,32]",
    "data.superpixels.count=16",
    "data.num_workers=0",
    "extractor.widths=[8,16]",
    "extractor.blocks=[1,1]",
    "extractor.dim=8",
)


def tiny_run(root: Path, run_dir: Path, *overrides: str) -> DictConfig:
    """A training of two epochs of three steps on a small folder."""
    return compose_train(
        "experiment=softfeat_camvid",
        f"data.root={root}",
        f"data.cache_dir={root.parent / 'cache'}",
        f"run_dir={run_dir}",
        "run_id=abc",
        *TINY,
        "data.steps_per_epoch=3",
        "trainer.max_epochs=2",
        *overrides,
    )


def tiny_hard_run(
    root: Path, run_dir: Path, checkpoint: Path | None, *overrides: str
) -> DictConfig:
    """A training of a head, two epochs of three steps, on a small folder."""
    return compose_train(
        "experiment=hardseg_camvid",
        f"data.root={root}",
        f"data.cache_dir={root.parent / 'cache'}",
        f"run_dir={run_dir}",
        f"model.features_checkpoint={checkpoint or 'null'}",
        "run_id=abc",
        *TINY,
        "data.batch_size=2",
        "data.steps_per_epoch=3",
        "trainer.max_epochs=2",
        "model.warmup_steps=0",
        "model.optimizer.lr=0.05",
        *overrides,
    )


@pytest.fixture(scope="session")
def hard_wandb_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a tiny training of a head that logged to W&B, offline."""
    from softfeat.commands.train import train

    root = tmp_path_factory.mktemp("hard_wandb")
    options = ("logger=wandb", "logger.mode=offline")
    train(tiny_hard_run(make_folder(root / "folder"), root / "run", None, *options))
    return root / "run"


@pytest.fixture(scope="session")
def wandb_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a tiny training that logged to W&B, offline; see `wandb_offline`."""
    from softfeat.commands.train import train

    root = tmp_path_factory.mktemp("wandb")
    options = ("logger=wandb", "logger.mode=offline", "logger.name=job 3", "++logger.group=sweep")
    train(tiny_run(make_folder(root / "folder"), root / "run", *options))
    return root / "run"


@pytest.fixture
def tiny_data(folder_root: Path, tmp_path: Path) -> Callable[..., SegmentationData]:
    """Makes data of few small photos, with options."""

    def make(**options: Any) -> SegmentationData:
        defaults: dict[str, Any] = {
            "image_size": (32, 40),
            "batch_size": 2,
            "superpixels": Superpixels(count=20),
            "augmentation": Augmentation(scale=(0.8, 1.5)),
            "steps_per_epoch": 2,
            "num_workers": 0,
        }
        return SegmentationData(Folder, folder_root, tmp_path / "cache", **defaults | options)

    return make
