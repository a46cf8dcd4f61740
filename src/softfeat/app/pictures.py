"""What the page shows: the photo with its selection, the cut-out, and the layers.

Legend: h w pixels of the photo as it is shown.
"""

import re
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from softfeat.app.choices import Background, View
from softfeat.app.work import Entry, Point, Work
from softfeat.imaging.convert import ids_tensor, to_array, to_tensor, to_uint8
from softfeat.imaging.documents import checkerboard
from softfeat.imaging.drawing import boundaries
from softfeat.imaging.photo import Photo
from softfeat.matting.colours import layer_colours
from softfeat.selection import colour_of, covering

_DIMMED = 0.35  # brightness of what is not selected
_RADIUS = 6  # pixels, of a mark
_THUMBNAIL = 160  # pixels
_INCLUDED, _EXCLUDED = (0, 130, 60), (200, 30, 30)
_RGBA = re.compile(r"rgba?\(\s*([\d.]+)\s*,\s*([\d.]+)\s*,\s*([\d.]+)")


def behind(background: Background) -> str | Photo | None:
    """What is behind a cut-out: a colour or a photo, as `Cutout.over` takes them; None for nothing.

    Raises:
        ValueError: There is no such colour, or no photo yet.
    """
    if background.kind == "photo":
        if background.photo is None:
            raise ValueError("choose a photo for the background first")
        return background.photo
    if background.kind == "colour":
        return hex_colour(background.colour)
    return None if background.kind == "checkerboard" else background.kind


def backdrop(background: Background, height: int, width: int) -> NDArray[np.uint8]:
    """Draws a background, (height,width,3) sRGB; see `behind`."""
    content = behind(background)
    if content is None:
        return checkerboard(height, width)
    if isinstance(content, Photo):
        return covering(content.srgb, height, width)
    colour = colour_of(content)
    assert colour is not None
    return np.full((height, width, 3), to_uint8(np.array(colour)), np.uint8)


def hex_colour(text: str) -> str:
    """Reads a colour as browsers write it.

    >>> hex_colour("rgba(255, 136.2, 0, 1)")
    '#ff8800'

    Raises:
        ValueError: It is no colour.
    """
    if numbers := _RGBA.match(text):
        parts = [min(255, round(float(number))) for number in numbers.groups()]
    elif (colour := colour_of(text)) is not None:
        parts = [round(255 * share) for share in colour]
    else:
        raise ValueError("this is no colour: choose one such as #ff8800")
    return "#" + "".join(f"{part:02x}" for part in parts)


def draw(
    work: Work, view: View, background: Background, overlays: Collection[str] = ()
) -> NDArray[np.uint8]:
    """Draws what the user sees.

    Args:
        work: The photo, its selection and its layers.
        view: "photo" with the selection bright and the rest dark; "cut-out", the selection over the
            background; "layers", the layers that are shown, over the background.
        background: What is behind.
        overlays: Any of `OVERLAYS`.

    Returns:
        (h,w,3) sRGB.
    """
    height, width = work.small.shape[:2]
    if view == "photo":
        matte = work.matte()
        picture = work.small if matte is None else _highlighted(work.small, matte)
    elif view == "cut-out":
        matte = work.matte()
        if matte is None:
            picture = work.small
        else:
            own = layer_colours(Photo(work.small), np.stack([matte, 1 - matte]))[0]
            picture = over(backdrop(background, height, width), own, matte)
    else:
        shown = [entry for entry in work.entries if entry.shown]
        picture = _layers(work, shown, backdrop(background, height, width))
    if "features" in overlays and work.features is not None:
        picture = to_uint8(0.4 * (picture / np.float32(255)) + 0.6 * work.features)
    if "superpixels" in overlays:
        ids = ids_tensor(work.photo.selector.superpixels)
        picture = to_uint8(to_array(boundaries(to_tensor(np.ascontiguousarray(picture)), ids)))
    return _marked(picture, *work.shown_points()) if view == "photo" else picture


def thumbnails(work: Work, entries: Sequence[Entry]) -> list[NDArray[np.uint8]]:
    """Draws each layer alone over a checkerboard, small."""
    height, width = work.small.shape[:2]
    scale = min(1, _THUMBNAIL / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    pictures = []
    for entry in entries:
        alone = _layers(work, [entry], checkerboard(height, width, round(8 / scale)))
        pictures.append(np.asarray(Image.fromarray(alone).resize(size)))
    return pictures


def over(
    backdrop: NDArray[np.uint8], colours: NDArray[np.uint8], alpha: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """Puts colours (h,w,3) with an alpha (h,w) before a picture (h,w,3)."""
    share = alpha[..., None]
    return np.rint(share * colours + (1 - share) * backdrop).clip(0, 255).astype(np.uint8)


def _layers(work: Work, entries: Sequence[Entry], backdrop: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Layers add up: their order does not matter here."""
    rest = np.ones(backdrop.shape[:2], np.float32)
    picture = np.zeros(backdrop.shape, np.float32)
    for entry in entries:
        alpha, colours = work.preview(entry)
        picture += alpha[..., None] * colours
        rest -= alpha
    picture += rest.clip(0, 1)[..., None] * backdrop
    return np.rint(picture).clip(0, 255).astype(np.uint8)


def _highlighted(picture: NDArray[np.uint8], matte: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Darkens what is not selected, and draws a line around the rest."""
    bright = _DIMMED + (1 - _DIMMED) * matte
    shown = np.rint(picture * bright[..., None]).astype(np.uint8)
    inside = matte >= 0.5
    line = np.zeros_like(inside)
    line[1:] |= inside[1:] != inside[:-1]
    line[:, 1:] |= inside[:, 1:] != inside[:, :-1]
    shown[line] = (255, 230, 30)
    return shown


def _marked(
    picture: NDArray[np.uint8], include: Sequence[Point], exclude: Sequence[Point]
) -> NDArray[np.uint8]:
    """Draws a plus at each point to include, and a minus at each point to exclude."""
    if not (include or exclude):
        return picture
    canvas = Image.fromarray(picture)
    pen = ImageDraw.Draw(canvas)
    for points, colour in ((include, _INCLUDED), (exclude, _EXCLUDED)):
        for x, y in points:
            box = (x - _RADIUS, y - _RADIUS, x + _RADIUS, y + _RADIUS)
            pen.ellipse(box, colour, "white", 1)
            arm = _RADIUS - 3
            pen.line((x - arm, y, x + arm, y), "white", 2)
            if colour == _INCLUDED:
                pen.line((x, y - arm, x, y + arm), "white", 2)
    return np.asarray(canvas)
