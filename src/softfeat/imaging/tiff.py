"""TIFF files: with up to 8 bits by Pillow, with 16 bits and floats by tifffile."""

import logging
from typing import Any, BinaryIO

import numpy as np
import tifffile
from PIL import ExifTags, Image

from softfeat.imaging.metadata import metadata_of, orientation_of
from softfeat.imaging.raster import (
    Raster,
    UnusableError,
    check_size,
    note_frames,
    open_with_pillow,
    raster_of,
    sixteen_bits,
    split_alpha,
)
from softfeat.imaging.raw import read_raw

_GREY_FROM_WHITE, _GREY, _RGB, _PALETTE, _SEPARATED, _LAB = 0, 1, 2, 3, 5, 8
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_ASSOCIATED, _UNASSOCIATED = 1, 2
_DNG_VERSION = 50706
_QUIET = logging.NullHandler()


def read_tiff(file: BinaryIO, max_pixels: int) -> Raster:
    """Reads the first page of a TIFF file, or a raw file that begins like one."""
    logging.getLogger("tifffile").addHandler(_QUIET)  # else it prints what is raised below
    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages.first.aspage()
        check_size(page.imagewidth, page.imagelength, max_pixels)
        if _DNG_VERSION in page.tags or (page.is_reduced and "SubIFDs" in page.tags):
            return read_raw(file, max_pixels)
        ends = np.add(page.dataoffsets, page.databytecounts)
        if not (min(page.databytecounts, default=0) and ends.max() <= file.seek(0, 2)):
            raise ValueError("its pixels are missing")
        count = sum(not other.aspage().is_reduced for other in tiff.pages)
        deep = page.bitspersample > 8 or page.sampleformat != _UNSIGNED
        raster = _deep_tiff(page) if deep else None
    if raster is None:
        picture = open_with_pillow(file, "TIFF", max_pixels)
        picture.load()
        raster = raster_of(picture)
    note_frames(raster, count)
    return raster


def _deep_tiff(page: tifffile.TiffPage) -> Raster:
    """The pixels of a TIFF file with more than 8 bits, or floats."""
    colours, bits = page.photometric, page.bitspersample
    samples = page.samplesperpixel
    most = {_SEPARATED: 5}.get(colours, 4)
    if samples > most or page.imagedepth > 1:
        raise UnusableError(f"a TIFF file with {samples} channels; save it as RGB")
    if page.sampleformat not in (_UNSIGNED, _SIGNED, _FLOAT):
        raise UnusableError("a TIFF file of complex numbers; save it as RGB")
    pixels = page.asarray()
    pixels = np.moveaxis(pixels, 0, -1) if page.axes == "SYX" else pixels
    if pixels.ndim == 2:
        pixels = pixels[..., None]  # (H,W,C)
    if pixels.shape[:2] != (page.imagelength, page.imagewidth):
        raise ValueError("its pixels are missing")
    if colours == _PALETTE and page.colormap is not None:
        pixels, bits = page.colormap.T[pixels[..., 0]], 16
        colours = _RGB
    pixels = sixteen_bits(pixels, bits)
    described = _tiff_description(page)
    if colours == _SEPARATED and pixels.shape[2] >= 4:
        return Raster((pixels[..., :4] // 257).astype(np.uint8), "CMYK", **described)
    if colours == _LAB and pixels.shape[2] >= 3:
        raise UnusableError("a Lab photo of 16 bits; save it with 8 bits, or as RGB")
    if colours not in (_GREY_FROM_WHITE, _GREY, _RGB):
        raise UnusableError(f"a TIFF file of an unknown colour space ({colours}); save it as RGB")
    if colours == _GREY_FROM_WHITE:
        pixels[..., 0] = 65535 - pixels[..., 0]
    count = 3 if colours == _RGB else 1
    extra = page.extrasamples[0] if page.extrasamples else _UNASSOCIATED
    # More channels of an unnamed kind are selections of Photoshop, not transparency.
    has_alpha = pixels.shape[2] == count + 1 and extra in (_ASSOCIATED, _UNASSOCIATED)
    pixels = pixels[..., : count + has_alpha]
    if has_alpha and extra == _ASSOCIATED:
        alpha = np.maximum(pixels[..., -1:], 1).astype(np.uint32)
        own = (pixels[..., :-1].astype(np.uint32) * 65535 + alpha // 2) // alpha
        pixels[..., :-1] = np.minimum(own, 65535)
    return split_alpha(pixels, **described)


def _tiff_description(page: tifffile.TiffPage) -> dict[str, Any]:
    exif = Image.Exif()
    wanted = (
        ExifTags.Base.Orientation,
        ExifTags.Base.XResolution,
        ExifTags.Base.YResolution,
        ExifTags.Base.ResolutionUnit,
        ExifTags.Base.Artist,
        ExifTags.Base.Copyright,
        ExifTags.Base.XMLPacket,
    )
    for tag in wanted:
        value = page.tags.valueof(tag)
        if isinstance(value, tuple) and len(value) == 2:  # a fraction
            value = value[0] / value[1] if value[1] else None
        if value is not None:
            exif[tag] = value
    icc = page.tags.valueof(ExifTags.Base.InterColorProfile)
    return {
        "icc": icc if isinstance(icc, bytes) else None,
        "orientation": orientation_of(exif),
        "metadata": metadata_of({}, exif),
        "notes": [],
    }
