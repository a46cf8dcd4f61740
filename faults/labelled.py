"""Data sets with one odd file each, and what a reader has to make of it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from faults import samples
from faults.pictures import MARK

Labels = NDArray[np.uint8]
_SIZE = (40, 48)
_NAMES = tuple(f"class {number}" for number in range(samples.CLASSES))


@dataclass(frozen=True)
class OddSet:
    """A data set with one odd file.

    Attributes:
        named: Part of the odd file's name, which an error has to contain.
        expected: (H,W) classes of the photo with the mark in its name; None if there are none.
        classes: Class names; None if there are none.
    """

    named: str
    expected: Labels | None
    classes: tuple[str, ...] | None = _NAMES


Rule = Callable[[np.random.Generator, Path], OddSet]


def _paths(root: Path) -> tuple[Path, Path]:
    """The photo and the label with the mark in their names."""
    name = f"{MARK}.png"
    return root / "images" / "train" / name, root / "labels" / "train" / name


def write_marked(rng: np.random.Generator, root: Path) -> Labels:
    """Writes a small set with one photo that has the mark in its name; returns its labels."""
    samples.write_set(root, int(rng.integers(1 << 30)), (1, 1))
    photo, label = _paths(root)
    ids = samples.label(rng, *_SIZE, samples.CLASSES)
    Image.fromarray(samples.photo(rng, *_SIZE)).save(photo)
    Image.fromarray(ids).save(label)
    return ids


def _label(
    make: Callable[[Labels], Image.Image], right: bool, rng: np.random.Generator, root: Path
) -> OddSet:
    """A label file made from the ids; with the same ids, or one that must be refused."""
    ids = write_marked(rng, root)
    make(ids).save(_paths(root)[1])
    return OddSet(MARK, ids if right else None)


def _palette(ids: Labels) -> Image.Image:
    picture = Image.fromarray(ids, "P")
    picture.putpalette(list(np.random.default_rng(0).integers(0, 256, 768)))
    return picture


def _with_id(raw: int, ids: Labels) -> Image.Image:
    changed = ids.copy()
    changed[5:9, 5:9] = raw
    return Image.fromarray(changed)


def _wide(raw: int, ids: Labels) -> Image.Image:
    changed = ids.astype(np.uint16)
    changed[5:9, 5:9] = raw
    return Image.fromarray(changed)


def _damaged(
    damage: Callable[[np.random.Generator, bytes], bytes], rng: np.random.Generator, root: Path
) -> OddSet:
    """A label file with damage that its checksums show."""
    ids = write_marked(rng, root)
    path = _paths(root)[1]
    path.write_bytes(damage(rng, path.read_bytes()))
    return OddSet(MARK, ids)


def _cut(rng: np.random.Generator, content: bytes) -> bytes:
    return content[: int(len(content) * rng.uniform(0, 0.98))]


def _flip(rng: np.random.Generator, content: bytes) -> bytes:
    place = int(rng.integers(len(content)))
    return (
        content[:place] + bytes([content[place] ^ 1 << int(rng.integers(8))]) + content[place + 1 :]
    )


def _as_jpeg(rng: np.random.Generator, root: Path) -> OddSet:
    """Ids that were compressed with loss."""
    ids = write_marked(rng, root)
    Image.fromarray(ids).save(_paths(root)[1], "JPEG")
    return OddSet(MARK, ids)


def _missing(rng: np.random.Generator, root: Path) -> OddSet:
    write_marked(rng, root)
    _paths(root)[1].unlink()
    return OddSet(MARK, None)


def _turned_photo(rng: np.random.Generator, root: Path) -> OddSet:
    """A photo that its EXIF turns, with a label of the turned photo."""
    ids = write_marked(rng, root)
    photo, label = _paths(root)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(photo).convert("RGB").save(photo, exif=exif.tobytes())
    turned = np.ascontiguousarray(np.rot90(ids, -1))
    Image.fromarray(turned).save(label)
    return OddSet(MARK, turned)


def _extra(name: str, content: bytes, rng: np.random.Generator, root: Path) -> OddSet:
    """A further file among the photos."""
    ids = write_marked(rng, root)
    (root / "images" / "train" / name).write_bytes(content)
    return OddSet(name, ids)


def _classes(content: bytes | None, right: bool, rng: np.random.Generator, root: Path) -> OddSet:
    """A `classes.txt` of the usual classes in another form, or one that must be refused."""
    ids = write_marked(rng, root)
    path = root / "classes.txt"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    return OddSet("classes.txt", ids if right else None, _NAMES if right else None)


_PLAIN = "".join(f"{name}\n" for name in _NAMES)
_LATIN = _PLAIN.replace("class 1", "Stra\xdfe").encode("latin-1")
_MANY = "".join(f"class {number}\n" for number in range(300)).encode()

RULES: dict[str, tuple[str, Rule]] = {
    **{
        f"label {name}": ("label file", partial(_label, make, right))
        for name, make, right in (
            ("grey", Image.fromarray, True),
            ("palette", _palette, True),
            ("16 bits", lambda ids: Image.fromarray(ids.astype(np.uint16)), True),
            ("RGB", lambda ids: Image.fromarray(ids).convert("RGB"), False),
            ("RGBA", lambda ids: Image.fromarray(ids).convert("RGBA"), False),
            ("grey and alpha", lambda ids: Image.fromarray(ids).convert("LA"), False),
            ("id 3 of 3 classes", partial(_with_id, 3), False),
            ("id 254", partial(_with_id, 254), False),
            ("id 300", partial(_wide, 300), False),
            ("id 65535", partial(_wide, 65535), False),
            ("other size", lambda ids: Image.fromarray(ids[:-1]), False),
            ("turned", lambda ids: Image.fromarray(np.rot90(ids).copy()), False),
        )
    },
    "label truncated": ("label file", partial(_damaged, _cut)),
    "label with a flipped bit": ("label file", partial(_damaged, _flip)),
    "label as JPEG": ("label file", _as_jpeg),
    "label missing": ("label file", _missing),
    "label of a turned photo": ("label file", _turned_photo),
    "Thumbs.db": ("further file", partial(_extra, "Thumbs.db", b"\xd0\xcf\x11\xe0")),
    "._AppleDouble": ("further file", partial(_extra, "._photo.png", b"\x00\x05\x16\x07")),
    "photo without label": ("further file", partial(_extra, "alone.png", b"")),
    **{
        f"classes.txt {name}": ("classes.txt", partial(_classes, content, right))
        for name, content, right in (
            ("plain", _PLAIN.encode(), True),
            ("without last line end", _PLAIN.rstrip().encode(), True),
            ("with blank lines at the end", _PLAIN.encode() + b"\n\n", True),
            ("CRLF", _PLAIN.replace("\n", "\r\n").encode(), True),
            ("with byte order mark", _PLAIN.encode("utf-8-sig"), True),
            ("UTF-16", _PLAIN.encode("utf-16"), False),
            ("Latin-1", _LATIN, False),
            ("empty", b"", False),
            ("missing", None, False),
            ("300 classes", _MANY, False),
            ("doubled name", b"class 0\nclass 0\nclass 2\n", False),
            ("binary", bytes(range(256)), False),
        )
    },
}
