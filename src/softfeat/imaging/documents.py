"""Files that show layers: PNG, Photoshop, OpenRaster, and an overview on one sheet.

Documents read the layers from their PNG files, so only one layer is in memory at a time.
"""

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from psd_tools import PSDImage

from softfeat.imaging.convert import ids_tensor, to_array, to_float, to_tensor, to_uint8
from softfeat.imaging.drawing import boundaries

_COMPRESSION = 1  # level of PNG; higher levels take twice as long and save a tenth
_THUMBNAIL = (256, 256)  # limit of OpenRaster

# The colour alphabet (Green-Armytage 2010), clearest colours first.
# fmt: off
PALETTE = np.array([
    (0, 117, 220), (255, 255, 128), (43, 206, 72), (153, 0, 0), (128, 128, 128), (240, 163, 255),
    (153, 63, 0), (76, 0, 92), (0, 92, 49), (255, 204, 153), (148, 255, 181), (143, 124, 0),
    (157, 204, 0), (194, 0, 136), (0, 51, 128), (255, 164, 5), (255, 168, 187), (66, 102, 0),
    (255, 0, 16), (94, 241, 242), (0, 153, 143), (224, 255, 102), (116, 10, 255), (255, 255, 0),
    (255, 80, 5), (25, 25, 25),
], np.uint8)
# fmt: on


def save_png(picture: Image.Image, path: Path) -> None:
    """Writes a picture as PNG, quickly."""
    picture.save(path, "PNG", compress_level=_COMPRESSION)


def write_alpha(path: Path, alpha: NDArray[np.float32], bits: int = 8) -> None:
    """Writes an alpha (H,W) in [0,1] as a grey PNG of 8 or 16 bits."""
    kind, most = (np.uint16, 65535) if bits == 16 else (np.uint8, 255)
    save_png(Image.fromarray(np.rint(alpha * np.float32(most)).astype(kind)), path)


def cutout_picture(colours: NDArray[np.uint8], alpha: NDArray[np.float32]) -> Image.Image:
    """Joins colours (H,W,3) and an alpha (H,W) in [0,1] to an RGBA picture."""
    return Image.fromarray(np.dstack([colours, to_uint8(alpha)]))


def flatten(photo: Image.Image, layers: Sequence[Path]) -> Image.Image:
    """Composites layers over their photo.

    Args:
        photo: RGB picture.
        layers: RGBA files, lowest first.

    Returns:
        An opaque RGBA picture.
    """
    flat = photo.convert("RGBA")
    for path in layers:
        flat.alpha_composite(Image.open(path))
    return flat


def write_psd(path: Path, photo: Image.Image, layers: Sequence[Path], flat: Image.Image) -> None:
    """Writes layers over their photo as a Photoshop document.

    Args:
        path: File to write.
        photo: RGB picture, the lowest layer.
        layers: RGBA files, lowest first.
        flat: Result of `flatten`, for programs that do not read layers.
    """
    psd = PSDImage.frompil(flat)
    psd.create_pixel_layer(photo, name="photo")
    for number, layer in enumerate(layers, 1):
        psd.create_pixel_layer(Image.open(layer), name=f"layer {number}")
    with path.open("wb") as file:
        psd._record.write(file)  # psd.save would flatten again, in float: 10 s and 1 GB more


def write_ora(path: Path, photo: Image.Image, layers: Sequence[Path], flat: Image.Image) -> None:
    """Writes layers over their photo as OpenRaster, which Krita, GIMP and MyPaint read.

    Args:
        path: File to write.
        photo: RGB picture, the lowest layer.
        layers: RGBA files, lowest first.
        flat: Result of `flatten`.
    """
    width, height = (str(side) for side in photo.size)
    root = ElementTree.Element("image", version="0.0.3", w=width, h=height)
    stack = ElementTree.SubElement(root, "stack")
    names = [f"layer {number}" for number in range(1, len(layers) + 1)]
    sources = [f"data/{layer.name}" for layer in layers]
    for name, source in reversed([("photo", "data/photo.png"), *zip(names, sources, strict=True)]):
        ElementTree.SubElement(stack, "layer", name=name, src=source, x="0", y="0")
    thumbnail = flat.copy()
    thumbnail.thumbnail(_THUMBNAIL)
    pictures = {
        "data/photo.png": photo,
        "mergedimage.png": flat,
        "Thumbnails/thumbnail.png": thumbnail,
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:  # PNGs do not get smaller
        archive.writestr("mimetype", "image/openraster")  # first: it identifies the type
        archive.writestr("stack.xml", ElementTree.tostring(root, "utf-8", xml_declaration=True))
        for layer, source in zip(layers, sources, strict=True):
            archive.write(layer, source)
        for name, picture in pictures.items():
            with archive.open(name, "w") as file:
                picture.save(file, "PNG", compress_level=_COMPRESSION)


def _on_checkerboard(picture: Image.Image, square: int = 10) -> Image.Image:
    rows, columns = np.ogrid[: picture.height, : picture.width]
    bright = (rows // square + columns // square) % 2 == 0
    board = Image.fromarray(np.where(bright, 255, 205).astype(np.uint8)).convert("RGBA")
    board.alpha_composite(picture)
    return board.convert("RGB")


def overview(
    photo: Image.Image,
    features: NDArray[np.floating],
    superpixels: NDArray[np.uint16],
    layers: Sequence[Path],
    coverage: Sequence[float],
) -> Image.Image:
    """Draws a photo, its features, superpixels and layers on one sheet.

    Args:
        photo: RGB picture.
        features: (h,w,3) in [0,1], at any size.
        superpixels: (h,w) ids, at any size.
        layers: RGBA files, lowest first.
        coverage: Share of the photo that each layer covers, in [0,1].

    Returns:
        An RGB picture at most 1600 pixels wide.
    """
    titles = ["photo", "features", "superpixels", "layers"]
    titles += [f"layer {k}   {s:.0%}" if s >= 0.01 else f"layer {k}   <1%"
               for k, s in enumerate(coverage, 1)]  # fmt: skip
    colours = PALETTE[np.arange(len(layers)) % len(PALETTE)]
    font = ImageFont.load_default(22)
    text = math.ceil(max(font.getlength(title) for title in titles)) + 30  # with the swatch
    margin, head = 24, 34
    columns = _columns(len(titles), photo.width / photo.height, 1552 // (text + margin))
    rows = math.ceil(len(titles) / columns)
    box = (1600 - margin) // columns - margin, max(1200 // rows, 150)
    scale = min(box[0] / photo.width, box[1] / photo.height)
    size = max(1, round(photo.width * scale)), max(1, round(photo.height * scale))
    pictures = _pictures(photo, features, superpixels, layers, colours, size)
    cell = max(size[0], text), size[1] + head
    sheet = Image.new(
        "RGB", (columns * (cell[0] + margin) + margin, rows * (cell[1] + margin) + margin), "white"
    )
    draw = ImageDraw.Draw(sheet)
    for index, (title, picture) in enumerate(zip(titles, pictures, strict=True)):
        left = margin + index % columns * (cell[0] + margin)
        top = margin + index // columns * (cell[1] + margin)
        layer = index - (len(titles) - len(layers))
        if layer >= 0:
            fill = tuple(int(c) for c in colours[layer])
            draw.rectangle((left, top + 4, left + 20, top + 24), fill, "black")
        draw.text((left + (30 if layer >= 0 else 0), top), title, "black", font)
        sheet.paste(picture, (left, top + head))
    return sheet


def _pictures(
    photo: Image.Image,
    features: NDArray[np.floating],
    superpixels: NDArray[np.uint16],
    layers: Sequence[Path],
    colours: NDArray[np.uint8],
    size: tuple[int, int],
) -> list[Image.Image]:
    """The pictures of an overview at `size` (width, height); `colours` (K,3) mark the layers."""
    small = photo.resize(size)
    ids = Image.fromarray(superpixels).resize(size, Image.Resampling.NEAREST)
    lines = boundaries(to_tensor(np.asarray(small)), ids_tensor(np.asarray(ids)))  # (1,3,h,w)
    bordered = Image.fromarray(to_uint8(to_array(lines)))
    cutouts = [Image.open(layer).resize(size) for layer in layers]
    alphas = to_float(np.stack([np.asarray(cutout)[..., 3] for cutout in cutouts]))  # (K,h,w)
    alphas /= np.maximum(1, alphas.sum(0))  # sums of rounded values may exceed 1
    mixed = np.einsum("khw,kc->hwc", alphas, to_float(colours))  # (h,w,3)
    return [
        small,
        Image.fromarray(to_uint8(features)).resize(size),
        Image.blend(small, bordered, 0.7),
        Image.fromarray(to_uint8(mixed)),
        *(_on_checkerboard(cutout) for cutout in cutouts),
    ]


def _columns(count: int, aspect: float, most: int) -> int:
    """Number of columns with which `count` pictures make a sheet near 4:3 with few empty places."""

    def cost(columns: int) -> float:
        rows = math.ceil(count / columns)
        unlike = abs(math.log(columns * aspect / rows / (4 / 3)))
        return unlike + 0.1 * (columns * rows - count)

    return min(range(1, min(count, most) + 1), key=cost)
