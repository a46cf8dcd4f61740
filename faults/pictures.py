"""Odd and damaged photos by rule, each with what a reader has to make of it."""

import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from faults.samples import photo

Pixels = NDArray[np.uint8]
MARK = "pic7"  # part of every file name, and found in messages
FORMATS = {"jpg": "JPEG", "png": "PNG", "bmp": "BMP", "tif": "TIFF", "webp": "WEBP", "gif": "GIF"}
_SIZE = (40, 48)
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Odd:
    """A file, and what a reader has to make of it.

    Attributes:
        path: The file.
        expected: (H,W,3) sRGB that it shows; None if there is no right picture.
        tolerance: Largest difference from `expected`, in levels of 8 bits.
        may_differ: Whether damage cannot be noticed, so that any picture is right.
    """

    path: Path
    expected: Pixels | None
    tolerance: int = 0
    may_differ: bool = False


Rule = Callable[[np.random.Generator, Path], Odd]


def decode(path: Path | BytesIO) -> Pixels:
    """Decodes a file of which nothing is odd."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def _write(rng: np.random.Generator, path: Path, kind: str, **options: Any) -> Pixels:
    """Writes a photo in a format and returns what it shows."""
    Image.fromarray(photo(rng, *_SIZE)).save(path, FORMATS[kind], **options)
    return decode(path)


def _intact(kind: str, rng: np.random.Generator, folder: Path, **options: Any) -> Odd:
    path = folder / f"{MARK}.{kind}"
    return Odd(path, _write(rng, path, kind, **options))


def _damaged(
    kind: str,
    damage: Callable[[np.random.Generator, bytearray], bytes],
    rng: np.random.Generator,
    folder: Path,
    noticed: bool = True,
) -> Odd:
    odd = _intact(kind, rng, folder)
    odd.path.write_bytes(damage(rng, bytearray(odd.path.read_bytes())))
    return Odd(odd.path, odd.expected, may_differ=not noticed)


def _cut(rng: np.random.Generator, content: bytearray) -> bytes:
    return bytes(content[: int(len(content) * rng.uniform(0.02, 0.98))])


def _flip(rng: np.random.Generator, content: bytearray) -> bytes:
    for place in rng.integers(0, len(content), rng.integers(1, 9)):
        content[place] ^= 1 << int(rng.integers(8))
    return bytes(content)


def _blank(rng: np.random.Generator, content: bytearray) -> bytes:
    """Zeros from some place to the end, as a download leaves that was broken off."""
    start = int(len(content) * rng.uniform(0.02, 0.98))
    return bytes(content[:start]) + bytes(len(content) - start)


def _append(rng: np.random.Generator, content: bytearray) -> bytes:
    return bytes(content) + rng.bytes(100)


def _no_picture(content: bytes | None, rng: np.random.Generator, folder: Path) -> Odd:
    path = folder / f"{MARK}.{rng.choice(list(FORMATS))}"
    path.write_bytes(rng.bytes(500) if content is None else content)
    return Odd(path, None)


def _named(kind: str, name: str | bytes, rng: np.random.Generator, folder: Path) -> Odd:
    """A photo of a format under any name."""
    path = folder / os.fsdecode(name)
    expected = _write(rng, folder / "unnamed", kind)
    (folder / "unnamed").rename(path)
    return Odd(path, expected)


def _sized(height: int, width: int, fits: bool, rng: np.random.Generator, folder: Path) -> Odd:
    path = folder / f"{MARK}.png"
    pixels = photo(rng, height, width)
    Image.fromarray(pixels).save(path)
    return Odd(path, pixels if fits else None)


def _bomb(_: np.random.Generator, folder: Path) -> Odd:
    path = folder / f"{MARK}.png"
    path.write_bytes(png_bytes(60_000, 60_000, 8, 2, b"\0" * 100))
    return Odd(path, None)


def png_bytes(height: int, width: int, depth: int, colours: int, rows: bytes) -> bytes:
    """Encodes a PNG, of depths that Pillow does not write.

    Args:
        height: Rows.
        width: Columns.
        depth: Bits per channel.
        colours: Colour type: 0 grey, 2 RGB, 4 grey and alpha, 6 RGB and alpha.
        rows: Pixels, each row after a byte 0.
    """

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def _deep(channels: int, rng: np.random.Generator, folder: Path) -> Odd:
    """A PNG with 16 bits per channel: grey, RGB or RGB and alpha."""
    path = folder / f"{MARK}.png"
    values = rng.integers(0, 65536, (*_SIZE, channels)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    path.write_bytes(png_bytes(*_SIZE, 16, {1: 0, 3: 2, 4: 6}[channels], rows))
    light = values[..., :3].astype(float) / 257
    if channels == 4:
        light = 255 + (light - 255) * (values[..., 3:] / 65535)
    return Odd(path, np.rint(np.broadcast_to(light, (*_SIZE, 3))).astype(np.uint8), tolerance=2)


def _mode(kind: str, mode: str, rng: np.random.Generator, folder: Path) -> Odd:
    """A photo in another mode of Pillow's."""
    path = folder / f"{MARK}.{kind}"
    pixels = photo(rng, *_SIZE)
    picture = Image.fromarray(pixels)
    unknown = mode in ("CMYK", "LAB", "YCbCr", "F", "I")  # more than one right picture
    if mode in ("RGBA", "LA", "PA"):
        alpha = rng.integers(0, 256, _SIZE).astype(np.uint8)
        alpha[:20] = 255
        grey = mode != "RGBA"
        colours = np.asarray(picture.convert("L").convert("RGB")) if grey else pixels
        picture = Image.fromarray(np.dstack([colours, alpha]))
        picture = picture.convert("LA") if grey else picture
        light = 255 + (colours.astype(float) - 255) * (alpha[..., None] / 255)
        expected = np.rint(light).astype(np.uint8)
    elif mode == "I;16":
        values = rng.integers(0, 65536, _SIZE).astype(np.uint16)
        picture = Image.fromarray(values)
        grey_levels = np.rint(values / 257).astype(np.uint8)
        expected = np.repeat(grey_levels[..., None], 3, axis=2)
    elif mode == "LAB":
        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        converted = ImageCms.profileToProfile(picture, srgb, lab, outputMode="LAB")
        assert converted is not None
        profile = bytearray(converted.info["icc_profile"])
        profile[24:36] = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)  # its date, which is that of now
        converted.info["icc_profile"] = bytes(profile)
        picture, expected = converted, pixels
    elif mode in ("F", "I"):
        picture = picture.convert("L").convert(mode)
        expected = pixels
    else:
        picture = picture.convert(mode)
        expected = np.asarray(picture.convert("RGB"))
    lossless = {"lossless": True} if kind == "webp" else {}
    picture.save(path, FORMATS[kind], **lossless)
    if kind == "jpg":
        expected = decode(path)
    return Odd(path, expected, tolerance=2, may_differ=unknown)


@cache
def swapped_profile() -> bytes:
    """An ICC profile like sRGB, except that red and green are exchanged."""
    plain = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    content = bytearray(plain)
    (count,) = struct.unpack_from(">I", plain, 128)
    offsets = {plain[p : p + 4]: p + 4 for p in range(132, 132 + 12 * count, 12)}
    red, green = offsets[b"rXYZ"], offsets[b"gXYZ"]
    content[red : red + 8], content[green : green + 8] = (
        plain[green : green + 8],
        plain[red : red + 8],
    )
    return bytes(content)


def _profile(kind: str, profile: str, rng: np.random.Generator, folder: Path) -> Odd:
    """A photo with an ICC profile: that of sRGB, of exchanged colours, or a broken one."""
    path = folder / f"{MARK}.{kind}"
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    content = {"srgb": srgb.tobytes(), "swapped": swapped_profile(), "broken": rng.bytes(400)}
    plain = _write(rng, path, kind, icc_profile=content[profile])
    if profile != "swapped":
        return Odd(path, plain, tolerance=2)
    own = ImageCms.ImageCmsProfile(BytesIO(content["swapped"]))
    converted = ImageCms.profileToProfile(Image.fromarray(plain), own, srgb)
    assert converted is not None
    return Odd(path, np.asarray(converted), tolerance=4)


# Turns the pixels of a file by its EXIF orientation.
_TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
    8: lambda p: np.rot90(p),
}


def _turned(kind: str, orientation: int, rng: np.random.Generator, folder: Path) -> Odd:
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    path = folder / f"{MARK}.{kind}"
    picture, unturned = Image.fromarray(photo(rng, *_SIZE)), BytesIO()
    picture.save(path, FORMATS[kind], exif=exif.tobytes())
    picture.save(unturned, FORMATS[kind])
    plain = decode(unturned)
    return Odd(path, np.ascontiguousarray(_TURNS.get(orientation, np.array)(plain)))


def _broken_exif(kind: str, rng: np.random.Generator, folder: Path) -> Odd:
    return _intact(kind, rng, folder, exif=b"Exif\0\0" + rng.bytes(200))


def _frames(kind: str, rng: np.random.Generator, folder: Path) -> Odd:
    """An animation, or a file of several pages: the first picture counts."""
    path = folder / f"{MARK}.{kind}"
    first, *others = (Image.fromarray(photo(rng, *_SIZE)) for _ in range(3))
    lossless = {"lossless": True} if kind == "webp" else {}
    first.save(path, FORMATS[kind], save_all=True, append_images=others, **lossless)
    return Odd(path, decode(path))


def _special(kind: str, rng: np.random.Generator, folder: Path) -> Odd:
    """Something that is no ordinary file."""
    path = folder / f"{MARK}.png"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "dangling link":
        path.symlink_to(folder / "nothing.png")
    elif kind == "link to itself":
        path.symlink_to(path)
    elif kind == "endless device":
        path.symlink_to("/dev/zero")
    else:  # a good link
        expected = _write(rng, folder.parent / "elsewhere.png", "png")
        path.symlink_to(folder.parent / "elsewhere.png")
        return Odd(path, expected)
    return Odd(path, None)


_NAMES: tuple[str | bytes, ...] = (
    f"{MARK} with spaces.png",
    f" {MARK}.png",
    f"{MARK}\nnew line.png",
    f"-{MARK}.png",
    f"--{MARK}=1.png",
    f'{MARK}\'s "quotes".png',
    f"{MARK}[1-3]*?.png",
    f"{MARK}%20{{0}}$HOME`id`;&|.png",
    f"{MARK}\\back.png",
    f".{MARK}.png",
    f"{MARK}.tar.gz.png",
    f"{MARK}..png",
    f"{MARK}-日本語-😀.png",
    f"{MARK}-e\u0301.png",
    f"\u202e{MARK}.png",
    f"{MARK}[bold]x[red].png",
    f"{MARK}-".encode() + b"\xff\xfe.png",
    f"{MARK}{'n' * 240}.png",
    f"{MARK}{'é' * 120}.png",
    "con." + f"{MARK}.png",
)


def _rules() -> dict[str, tuple[str, Rule]]:
    """All rules by name, each with the row of the table that it belongs to."""
    rules: dict[str, tuple[str, Rule]] = {}
    for kind in FORMATS:
        rules[f"intact {kind}"] = "intact", partial(_intact, kind)
        # Formats without checksums cannot notice single wrong bits.
        checked = kind == "png"
        for name, damage, noticed in (
            ("truncated", _cut, True),
            ("bytes flipped", _flip, checked),
            ("zeros at the end", _blank, checked),
        ):
            rules[f"{name} {kind}"] = name, partial(_damaged, kind, damage, noticed=noticed)
        rules[f"bytes after the end {kind}"] = "intact", partial(_damaged, kind, _append)
    for name, content in (("empty", b""), ("text", b"no photo\n" * 40), ("random bytes", None)):
        rules[name] = "no picture", partial(_no_picture, content)
    for kind, suffix in (("png", "jpg"), ("jpg", "png"), ("bmp", "webp"), ("webp", "tif")):
        rules[f"{kind} named .{suffix}"] = "wrong suffix", partial(_named, kind, f"{MARK}.{suffix}")
    for suffix in (".PNG", ".JPG", ".Jpeg", "", ".jfif", ".photo", ".heic"):
        kind = "png" if suffix in (".PNG", "") else "jpg"
        rules[f"suffix {suffix or 'none'}"] = (
            "wrong suffix",
            partial(_named, kind, f"{MARK}{suffix}"),
        )
    for height, width, fits in (
        (1, 1, False), (31, 64, False), (64, 31, False), (32, 32, True), (33, 33, True),
        (32, 3201, False), (33, 3300, True), (3300, 33, True), (1, 5000, False),
    ):  # fmt: skip
        rules[f"{width}x{height}"] = "size", partial(_sized, height, width, fits)
    rules["60000x60000"] = "size", _bomb
    for kind, modes in {
        "png": ("1", "L", "P", "LA", "RGBA", "I;16"),
        "jpg": ("L", "CMYK"),
        "tif": ("1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"),
        "webp": ("RGBA",),
        "gif": ("L", "P"),
        "bmp": ("1", "L", "P"),
    }.items():
        for mode in modes:
            rules[f"{kind} {mode}"] = "mode", partial(_mode, kind, mode)
    for channels, name in ((1, "grey"), (3, "RGB"), (4, "RGB and alpha")):
        rules[f"png 16 bits {name}"] = "mode", partial(_deep, channels)
    for kind in ("png", "jpg", "tif", "webp"):
        for profile in ("srgb", "swapped", "broken"):
            rules[f"{profile} profile {kind}"] = "profile", partial(_profile, kind, profile)
        for turn in range(10):
            rules[f"orientation {turn} {kind}"] = "orientation", partial(_turned, kind, turn)
    for kind in ("png", "jpg", "webp"):
        rules[f"broken EXIF {kind}"] = "orientation", partial(_broken_exif, kind)
    for number, file_name in enumerate(_NAMES):
        rules[f"name {number}"] = "name", partial(_named, "png", file_name)
    for kind in ("gif", "png", "webp", "tif"):
        rules[f"frames {kind}"] = "several pictures", partial(_frames, kind)
    for kind in ("folder", "pipe", "dangling link", "link to itself", "endless device", "link"):
        rules[kind] = "no ordinary file", partial(_special, kind)
    rules["progressive jpg"] = "intact", partial(_intact, "jpg", progressive=True)
    return rules


RULES = _rules()
