"""Photos that the packages of the extras `heif` and `raw` read."""

from typing import BinaryIO

import numpy as np
from PIL import Image

from softfeat.imaging.raster import (
    Raster,
    check_size,
    coded_profile,
    description_of,
    note_frames,
    sixteen_bits,
    split_alpha,
)


def read_heif(file: BinaryIO, max_pixels: int) -> Raster:
    """Reads a HEIC or HEIF file.

    Raises:
        ImportError: pillow-heif is not installed.
    """
    try:
        import pillow_heif
    except ImportError as error:
        raise ImportError(
            'HEIC photos need the package pillow-heif: pip install "softfeat[heif]"'
        ) from error
    heif = pillow_heif.open_heif(file, convert_hdr_to_8bit=False)
    width, height = heif.size
    check_size(width, height, max_pixels)
    picture = Image.new("L", (1, 1))
    picture.info = dict(heif.info)
    described = description_of(picture)
    described["orientation"] = 1  # the decoder has turned it
    codes = heif.info.get("nclx_profile")
    if described["icc"] is None and codes:
        primaries, transfer = codes["color_primaries"], codes["transfer_characteristics"]
        described["icc"] = coded_profile(int(primaries), int(transfer), described["notes"])
    pixels = np.asarray(heif)
    if pixels.dtype == np.uint16:  # the decoder leaves the lowest bits empty: white is not 65535
        bits = heif.info["bit_depth"]
        pixels = sixteen_bits(pixels >> (16 - bits), bits)
    raster = split_alpha(pixels, **described)
    note_frames(raster, len(heif))
    return raster


def read_raw(file: BinaryIO, max_pixels: int) -> Raster:
    """Develops a camera's raw file as the camera would, to sRGB of 16 bits.

    Raises:
        ImportError: rawpy is not installed.
    """
    try:
        import rawpy
    except ImportError as error:
        raise ImportError(
            'raw photos need the package rawpy: pip install "softfeat[raw]"'
        ) from error
    file.seek(0)
    with rawpy.imread(file) as raw:
        check_size(raw.sizes.iwidth, raw.sizes.iheight, max_pixels)
        pixels = raw.postprocess(output_bps=16, use_camera_wb=True, gamma=(2.4, 12.92))
    return split_alpha(pixels)
