"""What the page offers to choose from. This module imports nothing slow."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from softfeat.imaging.photo import Photo

View = Literal["photo", "cut-out", "layers"]
Kind = Literal["checkerboard", "black", "white", "colour", "photo"]
VIEWS: tuple[View, ...] = ("photo", "cut-out", "layers")
KINDS: tuple[Kind, ...] = ("checkerboard", "black", "white", "colour", "photo")
OVERLAYS = ("features", "superpixels")
INCLUDE, EXCLUDE = "include", "exclude"
FILES = {
    "cutout": "Cut-out (PNG)",
    "background": "Cut-out over the background (PNG)",
    "psd": "Layers (PSD)",
    "ora": "Layers (OpenRaster)",
    "zip": "Layers (zip of PNGs)",
}


@dataclass(frozen=True, eq=False)
class Background:
    """What is seen behind cut-outs and layers.

    Attributes:
        kind: One of `KINDS`.
        colour: Colour for the kind "colour": "#rrggbb", a name, or "rgba(...)".
        photo: Photo for the kind "photo".
    """

    kind: Kind = "checkerboard"
    colour: str = "#ff8800"
    photo: "Photo | None" = None
