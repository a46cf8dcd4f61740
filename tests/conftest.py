"""Fixtures that several folders of tests share. Functions they share are in tests/helpers."""

import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch

from softfeat.commands.cli import register_resolvers
from softfeat.data.datamodule import SegmentationData
from softfeat.data.dataset import Augmentation
from softfeat.data.layouts import Folder
from softfeat.imaging.slic import Superpixels
from tests.helpers.datasets import make_ade20k, make_cityscapes, make_folder, make_mixture
from tests.helpers.trainings import tiny_hard_run, tiny_run

register_resolvers()
# The same examples at each run, however slow the machine is.
hypothesis.settings.register_profile("softfeat", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("softfeat")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--first",
        type=int,
        metavar="N",
        help="run the first N tests of each file only, each with the first of its parameters",
    )


@pytest.hookimpl(trylast=True)  # after -m and -k
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if (limit := config.getoption("--first")) is None:
        return
    names: dict[Path, set[str]] = defaultdict(set)
    chosen, others = [], []
    for item in items:
        name = getattr(item, "originalname", item.name)  # without the parameters
        is_chosen = len(names[item.path]) < limit and name not in names[item.path]
        names[item.path] |= {name} if is_chosen else set()
        (chosen if is_chosen else others).append(item)
    config.hook.pytest_deselected(items=others)
    items[:] = chosen


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")


DEVICES: list[Any] = ["cpu"]
if torch.cuda.is_available():
    DEVICES.append(pytest.param("cuda", marks=pytest.mark.gpu))


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def folder_root(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "folder")


@pytest.fixture
def mixture_root(tmp_path: Path) -> Path:
    return make_mixture(tmp_path / "mixture")


@pytest.fixture
def ade20k_root(tmp_path: Path) -> Path:
    return make_ade20k(tmp_path / "ADEChallengeData2016")


@pytest.fixture
def cityscapes_root(tmp_path: Path) -> Path:
    return make_cityscapes(tmp_path / "cityscapes")


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
