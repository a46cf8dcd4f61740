"""Kinds of picture files, recognised by their first bytes and never by their names."""

import re
import stat
from pathlib import Path
from typing import BinaryIO

# The formats that Pillow may open. Others, such as EPS, would start other programs.
PILLOW = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP")
NAMES = "JPEG, PNG, TIFF, WebP, AVIF, HEIC, JPEG 2000, GIF, BMP, TGA, PPM, or camera raw"
HEAD = 512  # bytes that the signatures need


class PhotoWarning(UserWarning):
    """A photo is used, but not all that its file holds."""


_SIGNATURES = {
    rb"\xff\xd8\xff": "JPEG",
    rb"\x89PNG\r\n\x1a\n": "PNG",
    rb"GIF8[79]a": "GIF",
    rb"RIFF....WEBP": "WEBP",
    # A bitmap's file header is followed by the length of one of the known info headers.
    rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\x00\x00\x00": "BMP",
    rb"\x00\x00\x00\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51\x00": "JPEG2000",
    rb"P[1-6]\s+(#[^\n]*\s+)*\d+\s": "PPM",
    rb".{4}ftypcrx |II\*\x00.{4}CR\x02|IIU\x00|IIR[OS]|MMOR|FUJIFILMCCD-RAW|FOVb|\x00MRM": "RAW",
    rb"(II[*+]\x00|MM\x00[*+])": "TIFF",
}
_KINDS = [(re.compile(pattern, re.DOTALL), kind) for pattern, kind in _SIGNATURES.items()]
_HEIF = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
_TGA_FOOTER = b"TRUEVISION-XFILE.\0"  # the last bytes of a file of version 2


def kind_of(file: BinaryIO) -> str | None:
    """Recognises the kind of a picture by its signature.

    Args:
        file: File open for reading that can seek. Its position becomes the start.

    Returns:
        "RAW", "HEIF" or a name of `PILLOW`; None for anything else. Raw files that begin as TIFF
        files do are "TIFF".
    """
    file.seek(0)
    head = file.read(HEAD)
    kind = next((kind for pattern, kind in _KINDS if pattern.match(head)), None)
    if kind is None and head[4:8] == b"ftyp":
        end = min(int.from_bytes(head[:4], "big"), HEAD)
        brands = {head[8:12], *(head[i : i + 4] for i in range(16, end - 3, 4))}
        kind = "AVIF" if brands & {b"avif", b"avis"} else "HEIF" if brands & _HEIF else None
    if kind is None and len(head) > len(_TGA_FOOTER):
        file.seek(-len(_TGA_FOOTER), 2)
        kind = "TGA" if file.read() == _TGA_FOOTER else None
    file.seek(0)
    return kind


def is_picture(path: Path) -> bool:
    """Decides whether a file is a picture of a known kind, by its content.

    It reads at most 600 bytes and opens regular files only, so pipes and devices do not block it.
    Raw files and HEIC count even if the packages that read them are not installed.

    Args:
        path: Any path.

    Returns:
        False for anything else: folders, pipes, missing or forbidden files, files of other kinds,
        and the files that macOS keeps next to others (`._photo.jpg`).
    """
    if path.name.startswith("._"):
        return False
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as file:
            return kind_of(file) is not None
    except (OSError, ValueError):  # ValueError: the name holds a null byte
        return False
