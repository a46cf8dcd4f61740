"""ICC profiles of spaces that the package itself does not make."""

import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms


def grey_profile(gamma: float) -> bytes:
    """A grey profile, version 2."""
    curve = struct.pack(">4s4xIH2x", b"curv", 1, round(gamma * 256))
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    offset = 128 + 4 + 2 * 12
    table = struct.pack(">I4sII4sII", 2, b"wtpt", offset, 20, b"kTRC", offset + 20, 14)
    body = white + curve
    head = struct.pack(">I4xI", offset + len(body), 0x02100000) + b"mntrGRAYXYZ "
    head += struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + white[8:]
    return head.ljust(128, b"\0") + table + body


def cmyk_profile(colours: NDArray[np.uint8]) -> bytes:
    """A profile of CMYK, version 2, in which every combination of full inks has its own colour.

    Args:
        colours: (16,3) sRGB. Row 8c + 4m + 2y + k is the colour of the inks c, m, y, k of 0 or 1.
    """
    srgb, lab = (ImageCms.createProfile(name) for name in ("sRGB", "LAB"))
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    picture = Image.fromarray(colours[None])
    converted = ImageCms.profileToProfile(picture, srgb, lab, intent, "LAB")
    assert converted is not None
    # Pillow stores a and b with a sign, profiles with 128 added.
    levels = np.asarray(converted)[0] ^ np.uint8([0, 128, 128])  # (16,3)
    line = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 * (place % 4 == 0) for place in range(9)))
    table = struct.pack(">4s4x4B", b"mft1", 4, 3, 2, 0) + matrix
    table += 4 * line + levels.tobytes() + 3 * line
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    offset = 128 + 4 + 2 * 12
    tags = struct.pack(">I4sII4sII", 2, b"wtpt", offset, 20, b"A2B0", offset + 20, len(table))
    body = white + table
    head = struct.pack(">I4xI", offset + len(body), 0x02100000) + b"prtrCMYKLab "
    head += struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + white[8:]
    return head.ljust(128, b"\0") + tags + body
