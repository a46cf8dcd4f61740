"""PNG files: complete, with right checksums, with up to 16 bits."""

import re
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any, BinaryIO

import imagecodecs
import numpy as np

from softfeat.imaging.colour import (
    D65,
    SRGB_PRIMARIES,
    rgb_profile,
)
from softfeat.imaging.raster import (
    Raster,
    check_size,
    coded_profile,
    description_of,
    note_frames,
    open_with_pillow,
    split_alpha,
)

_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT"}
_PNG_DESCRIPTION = {b"iCCP", b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"eXIf"}
_PNG_TEXT = re.compile(rb"(Copyright|Author|Artist|XML:com\.adobe\.xmp|Raw profile type exif)\0")


class Png:
    """The chunks of a PNG file, which is complete and whose checksums are right."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._chunks: list[tuple[bytes, int, int]] = []  # kind, start and end in the file
        place, kind = len(_PNG_START), b""
        while kind != b"IEND":
            length = int.from_bytes(data[place : place + 4], "big")
            kind, end = data[place + 4 : place + 8], place + 12 + length
            if end > len(data):
                raise ValueError("its end is missing")
            checksum = int.from_bytes(data[end - 4 : end], "big")
            if zlib.crc32(self._data[place + 4 : end - 4]) != checksum:
                raise ValueError(f"wrong checksum of its part {kind.decode('latin-1')!r}")
            self._chunks.append((kind, place, end))
            place = end
        header = self.content(b"IHDR")
        if self._chunks[0][0] != b"IHDR" or header is None or len(header) != 13:
            raise ValueError("its header is missing")
        self.size = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")

    def content(self, kind: bytes) -> bytes | None:
        """The content of the first chunk of this kind."""
        for found, start, end in self._chunks:
            if found == kind:
                return bytes(self._data[start + 8 : end - 4])
        return None

    @property
    def frames(self) -> int:
        """Number of pictures, of an animation."""
        animation = self.content(b"acTL")
        return 1 if animation is None else int.from_bytes(animation[:4], "big")

    def pixels(self) -> bytes:
        """A PNG file with nothing but the pixels: the decoder prints its opinion of the rest."""
        return self._joined(lambda kind, _: kind in _PNG_PIXELS)

    def rebuilt(self) -> bytes:
        """A PNG file of one picture with its colours and the metadata that is used."""

        def used(kind: bytes, start: int) -> bool:
            text = kind in (b"tEXt", b"zTXt", b"iTXt")
            wanted = text and _PNG_TEXT.match(self._data, start + 8) is not None
            return wanted or kind in _PNG_PIXELS | _PNG_DESCRIPTION

        return self._joined(used)

    def _joined(self, used: Callable[[bytes, int], bool]) -> bytes:
        parts = [(kind == b"IDAT", self._data[start:end]) for kind, start, end in self._chunks
                 if kind == b"IEND" or used(kind, start)]  # fmt: skip
        *parts, (_, last) = parts
        parts.sort(key=lambda part: part[0])  # metadata before pixels; the order stays otherwise
        return b"".join([_PNG_START, *(part for _, part in parts), last])


def read_png(file: BinaryIO, max_pixels: int) -> Raster:
    """Reads a PNG file; of an animation, its still picture."""
    png = Png(file.read())
    check_size(*png.size, max_pixels)
    pixels = imagecodecs.png_decode(png.pixels())
    picture = open_with_pillow(BytesIO(png.rebuilt()), "PNG", max_pixels)
    described = description_of(picture)
    code = png.content(b"cICP")
    if code is not None and len(code) >= 2:
        described["icc"] = coded_profile(code[0], code[1], described["notes"])
    elif described["icc"] is None and "srgb" not in picture.info:
        described["icc"] = _measured_profile(picture.info, described["notes"])
    raster = split_alpha(pixels, **described)
    note_frames(raster, png.frames)
    return raster


def _measured_profile(info: dict[Any, Any], notes: list[str]) -> bytes | None:
    """The profile of a PNG file's gAMA and cHRM; None for those of sRGB."""
    gamma, chromaticity = info.get("gamma"), info.get("chromaticity")
    if gamma is None:  # without it, the chromaticities say nothing
        return None
    white, primaries = D65, SRGB_PRIMARIES
    if chromaticity is not None and np.abs(
        np.subtract(chromaticity, (*D65, *SRGB_PRIMARIES))
    ).max() > 0.002:  # fmt: skip
        white, primaries = chromaticity[:2], chromaticity[2:]
    like_srgb = abs(gamma - 1 / 2.2) < 0.005
    if like_srgb and primaries is SRGB_PRIMARIES:
        return None
    try:
        if not 0.1 <= gamma <= 10:
            raise ValueError
        return rgb_profile("measured", primaries, white, None if like_srgb else 1 / gamma)
    except ValueError:
        notes.append("its gamma or chromaticities are impossible: it is read as sRGB")
        return None
