"""Files that the page offers, opened again."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from psd_tools import PSDImage

from softfeat.app.choices import FILES, Background
from softfeat.app.exports import WRITERS
from softfeat.app.sessions import Session
from softfeat.app.work import Work


@pytest.fixture
def session(layered: Work, tmp_path: Path) -> Session:
    layered.click(24, 18)
    layered.add_selection()
    layered.rename("added 1", "猫 <cat> ../x")
    return Session(tmp_path / "session", opened=layered)


def test_every_file_has_a_writer() -> None:
    assert set(WRITERS) == set(FILES)


@pytest.mark.parametrize("kind", FILES)
def test_names_are_fixed_and_files_in_the_folder(session: Session, kind: str) -> None:
    path = WRITERS[kind](session)
    assert path.parent == session.folder
    assert path.stem in ("cutout", "cutout_over_background", "layers")


def test_cutouts(session: Session) -> None:
    with Image.open(WRITERS["cutout"](session)) as picture:
        assert (picture.mode, picture.size) == ("RGBA", (80, 60))
    with Image.open(WRITERS["background"](session)) as picture:
        assert picture.mode == "RGBA"  # the checkerboard stays transparent
    session.background = Background("white")
    with Image.open(WRITERS["background"](session)) as picture:
        assert picture.mode == "RGB"


def test_documents(session: Session) -> None:
    names = session.work.names()
    document = PSDImage.open(WRITERS["psd"](session))
    assert [layer.name for layer in document] == names
    with zipfile.ZipFile(WRITERS["ora"](session)) as archive:
        assert archive.read("mimetype") == b"image/openraster"
        assert "&lt;cat&gt;" in archive.read("stack.xml").decode()


def test_the_pictures_of_the_zip_add_up(session: Session, layered: Work) -> None:
    with zipfile.ZipFile(WRITERS["zip"](session)) as archive:
        count = len(session.work.entries)
        assert archive.namelist() == [f"layer_{k}.png" for k in range(1, count + 1)]
        total = np.zeros((60, 80, 4))
        for name in archive.namelist():
            rgba = np.asarray(Image.open(archive.open(name))) / 255.0
            total += np.dstack([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]])
    assert np.abs(total[..., 3] - 1).max() < 0.02
    photo = layered.photo.selector.original.pixels / 255.0
    assert np.abs(total[..., :3] - photo).mean() < 0.02
