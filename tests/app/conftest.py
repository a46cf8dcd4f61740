"""A tiny network that answers clicks, untrained, and a photo opened with it."""

from pathlib import Path

import pytest

from faults.samples import write_checkpoint
from softfeat.app.work import Work
from softfeat.segmenter import Layers, OpenPhoto, Segmenter
from tests.helpers.photos import picture


@pytest.fixture(scope="package")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("app") / "tiny.ckpt", 0, clicks=True)


@pytest.fixture(scope="package")
def segmenter(weights: Path) -> Segmenter:
    return Segmenter(weights, size=48)


@pytest.fixture(scope="package")
def photo(segmenter: Segmenter) -> OpenPhoto:
    """An open photo of 80x60 pixels, analysed at 48x36."""
    return segmenter.open(picture())


@pytest.fixture(scope="package")
def three(photo: OpenPhoto) -> Layers:
    return photo.layers(3)


@pytest.fixture
def work(photo: OpenPhoto) -> Work:
    """A photo without layers."""
    return Work(photo)


@pytest.fixture
def layered(work: Work, three: Layers) -> Work:
    """A photo with three layers."""
    work.use(three)
    return work
