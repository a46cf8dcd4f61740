"""Label maps, read and checked."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from softfeat.data.records import read_label, resize_label


@pytest.mark.parametrize("mode", ["L", "P"])
def test_labels_keep_their_ids(tmp_path: Path, mode: str) -> None:
    ids = np.arange(12, dtype=np.uint8).reshape(3, 4)
    picture = Image.fromarray(ids)
    if mode == "P":
        picture = Image.frombytes("P", (4, 3), ids.tobytes())
        picture.putpalette(list(range(255, -1, -1)) * 3)
    picture.save(tmp_path / "a.png")
    assert np.array_equal(read_label(tmp_path / "a.png"), ids)


def test_sixteen_bit_labels_are_read_if_they_fit(tmp_path: Path) -> None:
    Image.fromarray(np.array([[1, 200]], np.uint16)).save(tmp_path / "a.png")
    assert read_label(tmp_path / "a.png").tolist() == [[1, 200]]
    Image.fromarray(np.array([[1, 300]], np.uint16)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"b\.png: label ids .*300"):
        read_label(tmp_path / "b.png")


def test_coloured_labels_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (5, 4)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png: a label map needs one id"):
        read_label(tmp_path / "a.png")


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        read_label(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(ValueError, match=r"text\.png: unreadable"):
        read_label(tmp_path / "text.png")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64), np.uint8)).save(tmp_path / "cut.png")
    content = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"cut\.png: unreadable or truncated"):
        read_label(tmp_path / "cut.png")


def test_resizing_makes_no_new_ids() -> None:
    label = np.array([[0, 255], [7, 9]], np.uint8)
    assert set(np.unique(resize_label(label, (7, 5)))) == {0, 7, 9, 255}
