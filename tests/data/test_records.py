"""Label maps, read and checked."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from softfeat.data.labels import LabelMap
from softfeat.data.layouts import Record
from softfeat.data.records import read_label, read_record, resize_label


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
    with pytest.raises(ValueError, match=r"a\.png: a label with colours"):
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


def png(path: Path, bits: int, row: bytes, width: int, palette: bool = False) -> None:
    """Write a PNG of one row with few bits per pixel, which Pillow cannot write."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, 1, bits, 3 if palette else 0, 0, 0, 0))]
    chunks += [(b"PLTE", bytes(3 * 2**bits))] * palette
    chunks += [(b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(content)) + kind + content
            + struct.pack(">I", zlib.crc32(kind + content))
            for kind, content in chunks
        )
    )  # fmt: skip


@pytest.mark.parametrize("palette", [False, True])
@pytest.mark.parametrize(
    ("bits", "row", "ids"),
    [(1, b"\x50", [0, 1, 0, 1]), (2, b"\x1b", [0, 1, 2, 3]), (4, b"\x0f\x12", [0, 15, 1, 2])],
)
def test_few_bits_per_pixel_keep_their_ids(
    tmp_path: Path, bits: int, row: bytes, ids: list[int], palette: bool
) -> None:
    png(tmp_path / "a.png", bits, row, 4, palette)
    assert read_label(tmp_path / "a.png").tolist() == [ids]


def test_eight_bits_that_look_like_fewer_are_left_alone(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 17, 34, 255]], np.uint8)).save(tmp_path / "a.png")
    assert read_label(tmp_path / "a.png").tolist() == [[0, 17, 34, 255]]


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "gif", "pgm", "tga"])
def test_lossless_formats_keep_ids(tmp_path: Path, suffix: str) -> None:
    ids = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(ids).save(tmp_path / f"a.{suffix}")
    assert np.array_equal(read_label(tmp_path / f"a.{suffix}"), ids)


def test_transparent_entries_of_a_palette_keep_their_ids(tmp_path: Path) -> None:
    ids = np.arange(12, dtype=np.uint8).reshape(3, 4)
    picture = Image.fromarray(ids, "P")
    picture.putpalette(list(range(36)))
    for transparency in (3, bytes(range(12))):
        picture.save(tmp_path / "a.png", transparency=transparency)
        assert np.array_equal(read_label(tmp_path / "a.png"), ids)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"format": "JPEG"}, "JPEG"),
        ({"format": "WEBP"}, "WEBP"),
        ({"format": "TIFF", "compression": "jpeg"}, "TIFF"),
    ],
)
def test_formats_that_change_ids_are_refused_whatever_the_name(
    tmp_path: Path, options: dict[str, str], word: str
) -> None:
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "a.png", **options)
    with pytest.raises(ValueError, match=rf"a\.png: {word} changes ids"):
        read_label(tmp_path / "a.png")


def test_alpha_floats_and_several_pictures_are_refused(tmp_path: Path) -> None:
    Image.new("LA", (5, 4)).save(tmp_path / "a.png")
    Image.new("F", (5, 4)).save(tmp_path / "b.tif")
    frames = [Image.new("L", (5, 4), value) for value in (0, 9)]
    frames[0].save(tmp_path / "c.gif", save_all=True, append_images=frames[1:])
    for name, words in (
        ("a.png", "transparency"),
        ("b.tif", "floating-point"),
        ("c.gif", "several pictures"),
    ):
        with pytest.raises(ValueError, match=rf"{name}: a label with {words}"):
            read_label(tmp_path / name)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photo_and_label_turn_together(tmp_path: Path, orientation: int) -> None:
    """A label drawn on the stored photo, read as stored or with the orientation of its own."""
    ids = np.arange(12, dtype=np.uint8).reshape(3, 4)
    exif = Image.Exif()
    exif[0x112] = orientation
    Image.fromarray(np.repeat(ids[..., None] * 20, 3, 2)).save(tmp_path / "a.png", exif=exif)
    Image.fromarray(ids).save(tmp_path / "plain.png")
    Image.fromarray(ids).save(tmp_path / "turned.png", exif=exif)
    label_map = LabelMap.identity([f"class {i}" for i in range(12)])
    for name, upright in (("plain", False), ("turned", False), ("turned", True)):
        record = Record(tmp_path / "a.png", tmp_path / f"{name}.png", label_map, upright=upright)
        image, label = read_record(record)
        assert np.array_equal(image[..., 0], label * 20)
        assert np.array_equal(label, ids) == (not upright or orientation == 1)


def test_several_candidates_for_a_label_are_named(tmp_path: Path) -> None:
    for name in ("a.jpg", "labels/a.bmp", "labels/a.gif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (5, 4)).save(tmp_path / name)
    record = Record(tmp_path / "a.jpg", tmp_path / "labels" / "a.png", LabelMap.identity(["x"]))
    with pytest.raises(FileNotFoundError, match=r"a\.jpg has no label.*there are a\.bmp, a\.gif"):
        read_record(record)
