"""What a photo's file says besides its pixels: EXIF, XMP, and the text of PNG files."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from PIL import ExifTags, Image

_LONGEST_XMP = 1_000_000  # bytes
_DUBLIN_CORE = "{http://purl.org/dc/elements/1.1/}"
_LIST_ITEM = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}li"
_INCHES = {2: 1.0, 3: 2.54}  # inches per unit of resolution, times pixels per inch
_ADOBE_RGB = 2  # the value of ColorSpace that some cameras write for it


@dataclass(frozen=True)
class Metadata:
    """What a photo's file says besides its pixels, and what outputs keep. Never the location.

    Attributes:
        dpi: Horizontal and vertical resolution in pixels per inch.
        copyright: Copyright notice.
        artist: Author.
    """

    dpi: tuple[float, float] | None = None
    copyright: str | None = None
    artist: str | None = None


def metadata_of(info: Mapping[Any, Any], exif: Image.Exif) -> Metadata:
    """Collects the metadata of a picture.

    Args:
        info: `info` of a PIL picture.
        exif: EXIF of the picture. It has precedence over PNG text, and both over XMP.
    """
    xmp = dict(_xmp(info.get("xmp") or exif.get(ExifTags.Base.XMLPacket)))
    rights = exif.get(ExifTags.Base.Copyright), info.get("Copyright"), xmp.get("rights")
    names = exif.get(ExifTags.Base.Artist), info.get("Author"), info.get("Artist")
    return Metadata(
        dpi=_dpi(info.get("dpi")) or _dpi(_exif_resolution(exif)),
        copyright=_first_text(*rights),
        artist=_first_text(*names, xmp.get("creator")),
    )


def orientation_of(exif: Image.Exif) -> int:
    """EXIF orientation 1 to 8; 1 (upright) for values that do not exist."""
    value = exif.get(ExifTags.Base.Orientation)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def is_adobe_rgb(exif: Image.Exif) -> bool:
    """Whether a photo without a profile is in Adobe RGB, as cameras write it."""
    space = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.ColorSpace)
    try:
        interoperability = exif.get_ifd(ExifTags.IFD.Interop).get(1)
    except KeyError:  # Pillow before 13, if there is none
        interoperability = None
    return space == _ADOBE_RGB or interoperability == "R03"


def _exif_resolution(exif: Image.Exif) -> tuple[float, float] | None:
    unit = _INCHES.get(exif.get(ExifTags.Base.ResolutionUnit, 2))
    x, y = exif.get(ExifTags.Base.XResolution), exif.get(ExifTags.Base.YResolution)
    return (float(x) * unit, float(y) * unit) if unit and x and y else None


def _dpi(dpi: Any) -> tuple[float, float] | None:
    """Two positive numbers; None for anything else, since files hold anything."""
    try:
        x, y = (round(float(value), 2) for value in dpi)
    except (TypeError, ValueError, ArithmeticError):
        return None
    possible = all(math.isfinite(value) and 1 <= value <= 100_000 for value in (x, y))
    return (x, y) if possible else None


def _first_text(*values: Any) -> str | None:
    for value in values:
        text = value.decode("latin-1") if isinstance(value, bytes) else value
        if not isinstance(text, str):
            continue
        with contextlib.suppress(UnicodeError):  # EXIF is ASCII, but most programs write UTF-8
            text = text.encode("latin-1").decode("utf-8")
        text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        if text:
            return text
    return None


def _xmp(packet: Any) -> Iterator[tuple[str, str]]:
    """The rights and creator of an XMP packet; nothing of a damaged or huge one."""
    if not isinstance(packet, bytes) or len(packet) > _LONGEST_XMP or b"<!DOCTYPE" in packet:
        return
    try:
        root = ElementTree.fromstring(packet.strip(b"\0 \n\r\t"))
    except (ElementTree.ParseError, ValueError, LookupError):
        return
    for name in ("rights", "creator"):
        items = [item.text for node in root.iter(_DUBLIN_CORE + name)
                 for item in node.iter(_LIST_ITEM) if item.text]  # fmt: skip
        if items:
            yield name, ", ".join(items)
