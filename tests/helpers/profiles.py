"""ICC profiles of spaces that the package itself does not make."""

import struct


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
