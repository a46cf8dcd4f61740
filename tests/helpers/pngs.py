"""PNG files of kinds that Pillow does not write."""

import struct
import zlib

import numpy as np

START = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def png(pixels: np.ndarray, *chunks: bytes) -> bytes:
    """A PNG file.

    Args:
        pixels: (H,W,C) of 8 or 16 bits: grey, grey with alpha, RGB or RGBA.
        chunks: Chunks before the pixels.
    """
    height, width, channels = pixels.shape
    colours = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    bits = 8 * pixels.itemsize
    header = struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(f">u{pixels.itemsize}").tobytes() for row in pixels)
    return START + b"".join(
        [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    )
