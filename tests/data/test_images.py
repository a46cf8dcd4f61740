from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.data.images import read_image, read_label, resize_image, resize_label


def test_photos_come_upright_in_rgb(tmp_path: Path) -> None:
    array = np.zeros((4, 6, 3), np.uint8)
    array[0] = 255  # a bright top row
    exif = Image.Exif()
    exif[274] = 6  # stored turned: to be rotated by 90 degrees for display
    Image.fromarray(array).save(tmp_path / "a.png", exif=exif)
    image = read_image(tmp_path / "a.png")
    assert image.shape == (6, 4, 3)
    assert (image[:, -1] == 255).all()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_other_photo_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.new("RGB", (5, 4), (200, 10, 10)).convert(mode).save(path)
    assert read_image(path).shape == (4, 5, 3)


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
    with pytest.raises(ValueError, match=r"b\.png: label id 300"):
        read_label(tmp_path / "b.png")


def test_coloured_labels_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (5, 4)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png: a label map holds one id"):
        read_label(tmp_path / "a.png")


@pytest.mark.parametrize("read", [read_image, read_label])
def test_bad_files_are_named(tmp_path: Path, read: object) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        read(tmp_path / "none.png")  # type: ignore[operator]
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(ValueError, match=r"text\.png: unreadable"):
        read(tmp_path / "text.png")  # type: ignore[operator]
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64), np.uint8)).save(tmp_path / "cut.png")
    content = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"cut\.png: unreadable or truncated"):
        read(tmp_path / "cut.png")  # type: ignore[operator]


def test_resizing() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, 4:] = 200
    assert (
        resize_image(image, (4, 2))[:, :, 0].tolist()
        == [[pytest.approx(0, abs=40)] * 1 + [pytest.approx(200, abs=40)]] * 4
    )
    label = np.array([[0, 255], [7, 9]], np.uint8)
    assert set(np.unique(resize_label(label, (7, 5)))) == {0, 7, 9, 255}
