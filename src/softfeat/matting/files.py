"""What a soft segmentation leaves on the disk: alphas, layers, PSD, OpenRaster, a sheet.

Layers go through their PNG files, so that only one of them is in memory at a time.
"""

import json
import math
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from psd_tools import PSDImage

from softfeat.imaging.drawing import boundaries
from softfeat.matting.layers import layer_colours
from softfeat.matting.soft_segmentation import SoftSegmentation

SUMMARY = "summary.json"
_COMPRESSION = 1  # of PNG: higher levels take twice as long for a tenth less
_THUMBNAIL = (256, 256)  # OpenRaster's limit

# The colour alphabet (Green-Armytage 2010), the clearest first.
# fmt: off
PALETTE = np.array([
    (0, 117, 220), (255, 255, 128), (43, 206, 72), (153, 0, 0), (128, 128, 128), (240, 163, 255),
    (153, 63, 0), (76, 0, 92), (0, 92, 49), (255, 204, 153), (148, 255, 181), (143, 124, 0),
    (157, 204, 0), (194, 0, 136), (0, 51, 128), (255, 164, 5), (255, 168, 187), (66, 102, 0),
    (255, 0, 16), (94, 241, 242), (0, 153, 143), (224, 255, 102), (116, 10, 255), (255, 255, 0),
    (255, 80, 5), (25, 25, 25),
], np.uint8)
# fmt: on


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A folder to write to, whose files replace those of an earlier run once all are there.

    After an error nothing of it is left, and `folder` is as it was. While files are being moved
    `folder` has no summary: only what is complete has one.
    """
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
    unfinished.mkdir()
    try:
        yield unfinished
        folder.mkdir(exist_ok=True)
        before = read_summary(folder).get("files", [])
        for name in (SUMMARY, *before):
            (folder / name).unlink(missing_ok=True)
        for path in sorted(unfinished.iterdir(), key=lambda p: p.name == SUMMARY):
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Writes what a folder holds; to be called last."""
    files = sorted(path.name for path in folder.iterdir())
    text = json.dumps({**summary, "files": files}, indent=1, allow_nan=False)
    (folder / SUMMARY).write_text(text + "\n", encoding="utf-8")


def read_summary(folder: Path) -> dict[str, Any]:
    """The summary of a folder, with plain names in `files`; empty if there is none to be read."""
    try:
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        files = [name for name in summary["files"] if Path(name).name == name]
        return {**summary, "files": files}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def is_free(folder: Path) -> bool:
    """Whether there is nothing in a folder's place, or an empty folder."""
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


def is_of(folder: Path, photo: Path) -> bool:
    """Whether a folder holds what was made of a photo."""
    made_of = read_summary(folder).get("input")
    return isinstance(made_of, list) and made_of[:1] == [str(photo.absolute())]


def is_done(folder: Path, made_of: Mapping[str, Any]) -> bool:
    """Whether a folder holds all files of a run, and was made of the same."""
    summary = read_summary(folder)
    same = all(summary.get(key) == value for key, value in made_of.items())
    names = summary.get("files", [])
    return same and bool(names) and all((folder / name).is_file() for name in names)


def _bytes(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    return np.rint(values * np.float32(255)).astype(np.uint8)


def _save_png(picture: Image.Image, path: Path) -> None:
    picture.save(path, compress_level=_COMPRESSION)


def write_alpha(path: Path, alpha: NDArray[np.float32], bits: int = 8) -> None:
    """Writes an alpha (H,W) in [0,1] as a grey PNG of 8 or 16 bits."""
    kind, most = (np.uint16, 65535) if bits == 16 else (np.uint8, 255)
    _save_png(Image.fromarray(np.rint(alpha * np.float32(most)).astype(kind)), path)


def write_cutout(path: Path, image: NDArray[np.float32], alpha: NDArray[np.float32]) -> None:
    """Writes a layer by itself, in its own colours, as an RGBA PNG.

    Args:
        path: of the file.
        image: (H,W,3) the photo in [0,1].
        alpha: (H,W) in [0,1].
    """
    rgba = np.empty((*alpha.shape, 4), np.uint8)
    rgba[..., :3] = _bytes(layer_colours(image, alpha))
    rgba[..., 3] = _bytes(alpha)
    _save_png(Image.fromarray(rgba), path)


def flatten(photo: Image.Image, layers: Sequence[Path]) -> Image.Image:
    """What layers look like over their photo.

    Args:
        photo: RGB.
        layers: RGBA files, lowest first.

    Returns:
        RGBA, opaque.
    """
    flat = photo.convert("RGBA")
    for path in layers:
        flat.alpha_composite(Image.open(path))
    return flat


def write_psd(path: Path, photo: Image.Image, layers: Sequence[Path], flat: Image.Image) -> None:
    """Writes layers over their photo as a Photoshop document.

    Args:
        path: of the file.
        photo: RGB, the lowest layer.
        layers: RGBA files, lowest first.
        flat: of `flatten`, for programs that do not read layers.
    """
    psd = PSDImage.frompil(flat)
    psd.create_pixel_layer(photo, name="photo")
    for number, layer in enumerate(layers, 1):
        psd.create_pixel_layer(Image.open(layer), name=f"layer {number}")
    with path.open("wb") as file:
        psd._record.write(file)  # psd.save would flatten once more, in float: 10 s and 1 GB more


def write_ora(path: Path, photo: Image.Image, layers: Sequence[Path], flat: Image.Image) -> None:
    """Writes layers over their photo as OpenRaster, which Krita, GIMP and MyPaint read.

    Args:
        path: of the file.
        photo: RGB, the lowest layer.
        layers: RGBA files, lowest first.
        flat: of `flatten`.
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
        archive.writestr("mimetype", "image/openraster")  # the first, by which the type is told
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


def overview(photo: Image.Image, found: SoftSegmentation, layers: Sequence[Path]) -> Image.Image:
    """A sheet of a photo, its features, superpixels and layers.

    Args:
        photo: RGB.
        found: its segmentation, at any size.
        layers: RGBA files.

    Returns:
        RGB, at most 1600 pixels wide.
    """
    share = found.alphas.mean((1, 2))
    titles = ["photo", "features", "superpixels", "layers"]
    titles += [f"layer {k}   {s:.0%}" if s >= 0.01 else f"layer {k}   <1%"
               for k, s in enumerate(share, 1)]  # fmt: skip
    colours = PALETTE[np.arange(len(share)) % len(PALETTE)]
    font = ImageFont.load_default(22)
    text = math.ceil(max(font.getlength(title) for title in titles)) + 30  # with the swatch
    margin, head = 24, 34
    columns = _columns(len(titles), photo.width / photo.height, 1552 // (text + margin))
    rows = math.ceil(len(titles) / columns)
    box = (1600 - margin) // columns - margin, max(1200 // rows, 150)
    scale = min(box[0] / photo.width, box[1] / photo.height)
    size = max(1, round(photo.width * scale)), max(1, round(photo.height * scale))
    small = photo.resize(size)
    ids = Image.fromarray(found.superpixels).resize(size, Image.Resampling.NEAREST)
    lines = boundaries(
        torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1)[None] / 255,
        torch.from_numpy(np.asarray(ids).astype(np.int64))[None],
    )[0]
    mixed = np.einsum("khw,kc->hwc", found.alphas, colours / np.float32(255))
    pictures = [
        small,
        Image.fromarray(_bytes(found.features)).resize(size),
        Image.blend(small, Image.fromarray(_bytes(lines.permute(1, 2, 0).numpy())), 0.7),
        Image.fromarray(_bytes(mixed)).resize(size),
        *(_on_checkerboard(Image.open(layer).resize(size)) for layer in layers),
    ]
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


def _columns(count: int, aspect: float, most: int) -> int:
    """How many of `count` pictures side by side make a sheet like 4:3 with few empty places."""

    def cost(columns: int) -> float:
        rows = math.ceil(count / columns)
        unlike = abs(math.log(columns * aspect / rows / (4 / 3)))
        return unlike + 0.1 * (columns * rows - count)

    return min(range(1, min(count, most) + 1), key=cost)
