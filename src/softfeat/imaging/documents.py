"""Files that show layers: PNG, Photoshop, OpenRaster, and an overview on one sheet.

All but the overview have the bits and the colour profile of the photo, its resolution, and its
notes on copyright and author.

Legend: H W pixels of the photo, K layers.
"""

import math
import os
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import imagecodecs
import numpy as np
from imagecodecs import PNG
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from psd_tools.constants import ChannelID, Compression, Resource, Tag
from psd_tools.psd import PSD
from psd_tools.psd.header import FileHeader
from psd_tools.psd.image_data import ImageData
from psd_tools.psd.image_resources import ImageResource, ImageResources, ResoulutionInfo
from psd_tools.psd.layer_and_mask import (
    ChannelData,
    ChannelDataList,
    ChannelImageData,
    ChannelInfo,
    GlobalLayerMaskInfo,
    LayerAndMaskInformation,
    LayerInfo,
    LayerRecord,
    LayerRecords,
    MaskData,
)
from psd_tools.psd.tagged_blocks import TaggedBlocks
from scipy.ndimage import maximum_filter

from softfeat.imaging.colour import SRGB_PRIMARIES, rgb_profile
from softfeat.imaging.convert import (
    eight_bits,
    ids_tensor,
    to_array,
    to_float,
    to_tensor,
    to_uint8,
    to_whole,
)
from softfeat.imaging.drawing import boundaries
from softfeat.imaging.metadata import Metadata
from softfeat.imaging.photo import Photo
from softfeat.imaging.raster import Depth
from softfeat.thread_pool import map_in_threads

# Of PNG: the mean of the pixels to the left and above predicts a pixel, and zlib looks for runs of
# equal differences only, which is faster than its search for repeated patterns.
_COMPRESSION = {"level": 1, "strategy": PNG.STRATEGY.RLE, "filter": PNG.FILTER.AVG}
_THUMBNAIL = 256  # pixels, limit of OpenRaster
_LONGEST_PSD = 30_000  # pixels a side; larger documents are PSB
_LARGEST_PSD = 2**31  # bytes
_EDGE = 8  # pixels around a layer whose colours are known well enough for edits of its mask

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


@dataclass(frozen=True, eq=False)
class DocumentLayer:
    """A layer of a document.

    Attributes:
        name: Name for people.
        colours: (H,W,3) with the bits and in the colours of the photo.
        opacity: (H,W) with the same bits, for layers that are laid over each other.
    """

    name: str
    colours: NDArray[Depth]
    opacity: NDArray[Depth]


def _bits(values: NDArray[Depth]) -> int:
    return 8 * values.itemsize


def _readable(text: str) -> str:
    """Text without characters that XML and other programs refuse."""
    return "".join(c for c in text if c.isprintable() or c in "\n\t")


def _resolution(metadata: Metadata) -> tuple[float, float] | None:
    """The resolution in pixels per inch, if it is one that all formats can store."""
    dpi = metadata.dpi
    return dpi if dpi is not None and all(1 <= side < 2**15 for side in dpi) else None


def _profile(photo: Photo) -> bytes:
    """The profile for documents. Without one, Krita takes 16 bits for linear, or asks the user."""
    return photo.profile or rgb_profile("sRGB", SRGB_PRIMARIES)


def write_png(file: BinaryIO, photo: Photo) -> None:
    """Writes a photo as PNG, quickly, with its bits, alpha, profile and metadata.

    Args:
        file: File open for writing.
        photo: Photo, or a layer in the form of one.
    """
    pixels = photo.pixels if photo.alpha is None else np.dstack([photo.pixels, photo.alpha])
    data = imagecodecs.png_encode(np.ascontiguousarray(pixels), **_COMPRESSION)
    start = 33  # bytes of the signature and the header, which all other chunks follow
    file.write(data[:start])
    if photo.profile is not None:
        file.write(_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(photo.profile)))
    if (dpi := _resolution(photo.metadata)) is not None:
        per_metre = [round(side / 0.0254) for side in dpi]
        file.write(_chunk(b"pHYs", struct.pack(">IIB", *per_metre, 1)))
    texts = {b"Copyright": photo.metadata.copyright, b"Author": photo.metadata.artist}
    for keyword, text in texts.items():
        if text:
            file.write(_chunk(b"iTXt", keyword + b"\0\0\0\0\0" + _readable(text).encode()))
    file.write(data[start:])


def _chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def save_png(file: str | os.PathLike[str] | BinaryIO, photo: Photo) -> None:
    """Writes a photo to a PNG file, or to one that is open for writing; see `write_png`."""
    if isinstance(file, str | os.PathLike):
        with Path(file).open("wb") as opened:
            write_png(opened, photo)
    else:
        write_png(file, photo)


def write_alpha(path: Path, alpha: NDArray[np.float32], bits: int = 8) -> None:
    """Writes an alpha (H,W) in [0,1] as a grey PNG of 8 or 16 bits."""
    kind, most = (np.uint16, 65535) if bits == 16 else (np.uint8, 255)
    values = to_whole(alpha, most, kind)
    path.write_bytes(imagecodecs.png_encode(values, **_COMPRESSION))


def _on_white(photo: Photo) -> NDArray[Depth]:
    """Pixels (H,W,3) with transparent parts on white."""
    if photo.alpha is None:
        return photo.pixels
    most = np.iinfo(photo.pixels.dtype).max
    own = (photo.alpha / np.float32(most))[..., None]  # (H,W,1)
    mixed = photo.pixels * own + np.float32(most) * (1 - own)
    return np.rint(mixed).astype(photo.pixels.dtype)


def _box(known: NDArray[np.bool_], margin: int = 0) -> tuple[slice, slice]:
    """Rows and columns of the smallest box around what is true; one pixel if nothing is.

    The margin, in pixels, ends at the border.
    """
    rows, columns = np.flatnonzero(known.any(1)), np.flatnonzero(known.any(0))
    if not len(rows):
        return slice(0, 1), slice(0, 1)

    def around(places: NDArray[np.intp], size: int) -> slice:
        return slice(max(int(places[0]) - margin, 0), min(int(places[-1]) + 1 + margin, size))

    height, width = known.shape
    return around(rows, height), around(columns, width)


def write_photoshop(
    stem: Path, photo: Photo, layers: Sequence[DocumentLayer], masks: bool = True
) -> Path:
    """Writes layers as a Photoshop document.

    The merged picture, for programs that do not read layers, is the photo. Without a profile its
    colours are sRGB.

    Args:
        stem: File to write, without its suffix. The suffix becomes `.psd`, or `.psb` for more than
            30,000 pixels a side or more than 2 GB.
        photo: The photo.
        layers: Layers, lowest first.
        masks: Whether opacities become layer masks, which can be edited. The colours below a mask
            are opaque where the layer is visible and some pixels further. Otherwise opacities
            become the transparency of the layers.

    Returns:
        The file.
    """
    height, width, _ = photo.pixels.shape
    bits = _bits(photo.pixels)
    boxes = [_box(layer.opacity > 0, _EDGE if masks else 0) for layer in layers]
    area = sum(layer.opacity[box].size for layer, box in zip(layers, boxes, strict=True))
    large = max(height, width) > _LONGEST_PSD
    large |= (5 * area + 4 * height * width) * bits // 8 >= _LARGEST_PSD
    version = 2 if large else 1
    header = FileHeader(
        version=version,
        channels=3 if photo.alpha is None else 4,
        height=height,
        width=width,
        depth=bits,
    )
    merged = _psd_merged(photo, header)  # before the layers, because it needs much memory
    records, channels = LayerRecords(), ChannelImageData()
    parts = map_in_threads(
        lambda part: _psd_layer(*part, masks, version), zip(layers, boxes, strict=True)
    )
    for number, (layer, (record, data)) in enumerate(zip(layers, parts, strict=True), 1):
        record.tagged_blocks.set_data(Tag.UNICODE_LAYER_NAME, layer.name)
        record.tagged_blocks.set_data(Tag.LAYER_ID, number)
        records.append(record)
        channels.append(data)
    # A negative number says that the merged picture has transparency.
    count = len(layers) if photo.alpha is None else -len(layers)
    blocks, info = TaggedBlocks(), LayerInfo()
    if bits == 16:  # Photoshop keeps layers of 16 bits in a block; GIMP wants it to be the first
        blocks.set_data(Tag.LAYER_16, count, records, channels)
    else:
        info = LayerInfo(count, records, channels)
    if photo.alpha is not None:
        blocks.set_data(
            Tag.SAVING_MERGED_TRANSPARENCY16 if bits == 16 else Tag.SAVING_MERGED_TRANSPARENCY
        )
    document = PSD(
        header=header,
        image_resources=_psd_resources(photo),
        layer_and_mask_information=LayerAndMaskInformation(info, GlobalLayerMaskInfo(), blocks),
        image_data=merged,
    )
    path = stem.with_suffix(".psb" if large else ".psd")
    with path.open("wb") as file:
        document.write(file)
    return path


def _big_endian(plane: NDArray[Depth]) -> bytes:
    return plane.astype(plane.dtype.newbyteorder(">")).tobytes()


def _psd_merged(photo: Photo, header: FileHeader) -> ImageData:
    """The merged picture."""
    planes = list(_on_white(photo).transpose(2, 0, 1))
    planes += [] if photo.alpha is None else [photo.alpha]
    result = ImageData(Compression.RLE)
    result.set_data([_big_endian(plane) for plane in planes], header)
    return result


def _psd_layer(
    layer: DocumentLayer, box: tuple[slice, slice], masks: bool, version: int
) -> tuple[LayerRecord, ChannelDataList]:
    """Record and channels of a layer, cropped to a box outside of which its colours are unknown."""
    colours, opacity = layer.colours[box], layer.opacity[box]
    known = opacity > 0
    if masks:
        known = maximum_filter(known, 2 * _EDGE + 1)
    kind = opacity.dtype
    height, width = opacity.shape
    place = {
        "top": box[0].start, "left": box[1].start, "bottom": box[0].stop, "right": box[1].stop
    }  # fmt: skip
    # Programs read the name in Unicode, which is stored besides this old one.
    old_name = layer.name.encode("mac_roman", "replace").decode("mac_roman")
    record = LayerRecord(**place, name=old_name)
    data = ChannelDataList()

    def add(channel: ChannelID, plane: NDArray) -> None:
        # Runs of equal bytes are rare in 16 bits. Krita 5.1 cannot read ZIP_WITH_PREDICTION.
        packed = Compression.RLE if kind == np.uint8 else Compression.ZIP
        stored = ChannelData(packed)
        stored.set_data(_big_endian(plane), width, height, _bits(plane), version)
        record.channel_info.append(ChannelInfo(channel, len(stored.data) + 2))
        data.append(stored)

    most = np.array(np.iinfo(kind).max, kind)
    add(ChannelID.TRANSPARENCY_MASK, known * most if masks else opacity)
    for index in range(3):
        add(ChannelID(index), colours[..., index] * known)
    if masks:
        record.mask_data = MaskData(**place, background_color=0)
        add(ChannelID.USER_LAYER_MASK, opacity)
    return record, data


def _psd_resources(photo: Photo) -> ImageResources:
    """Profile, resolution, copyright and author of a document."""
    resources = ImageResources.new()

    def add(key: Resource, data: Any) -> None:
        resources[key] = ImageResource(key=key, data=data)

    if (dpi := _resolution(photo.metadata)) is not None:
        across, down = (round(side * 65536) for side in dpi)
        add(Resource.RESOLUTION_INFO, ResoulutionInfo(across, 1, 2, down, 1, 2))
    add(Resource.ICC_PROFILE, _profile(photo))
    if photo.metadata.copyright or photo.metadata.artist:
        add(Resource.XMP_METADATA, _xmp(photo.metadata))
    return resources


def _xmp(metadata: Metadata) -> bytes:
    """Copyright and author as XMP."""
    parts = ""
    if metadata.copyright:
        item = f'<rdf:li xml:lang="x-default">{escape(_readable(metadata.copyright))}</rdf:li>'
        parts += f"<dc:rights><rdf:Alt>{item}</rdf:Alt></dc:rights>"
    if metadata.artist:
        item = f"<rdf:li>{escape(_readable(metadata.artist))}</rdf:li>"
        parts += f"<dc:creator><rdf:Seq>{item}</rdf:Seq></dc:creator>"
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f"{parts}"
        '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
    ).encode()


def write_ora(path: Path, photo: Photo, layers: Sequence[DocumentLayer]) -> None:
    """Writes layers as OpenRaster.

    Args:
        path: File to write.
        photo: The photo. It becomes the merged picture. Without a profile its colours are sRGB.
        layers: Layers, lowest first.
    """
    profile = _profile(photo)
    height, width, _ = photo.pixels.shape
    size = {"w": str(width), "h": str(height)}
    if (dpi := _resolution(photo.metadata)) is not None:
        size |= {"xres": str(round(dpi[0])), "yres": str(round(dpi[1]))}
    root = ElementTree.Element("image", {"version": "0.0.3", **size})
    stack = ElementTree.SubElement(root, "stack")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:  # PNGs do not get smaller

        def write(name: str, content: bytes) -> None:
            archive.writestr(zipfile.ZipInfo(name), content)  # no time: equal layers, equal files

        write("mimetype", b"image/openraster")  # first: it identifies the type

        def add(name: str, content: Photo) -> None:
            with archive.open(name, "w", force_zip64=True) as file:
                write_png(file, content)  # type: ignore[arg-type]

        for number, layer in reversed(list(enumerate(layers, 1))):  # the highest comes first
            box = _box(layer.opacity > 0)
            source = f"data/layer_{number}.png"
            place = {"x": str(box[1].start), "y": str(box[0].start)}
            ElementTree.SubElement(stack, "layer", {"name": layer.name, "src": source, **place})
            opacity = layer.opacity[box]
            colours = layer.colours[box] * (opacity > 0)[..., None]
            add(source, Photo(colours, opacity, profile, photo.metadata))
        visible = photo.pixels
        if photo.alpha is not None:  # colours that nobody sees stay out of the file
            visible = np.where(photo.alpha[..., None] > 0, photo.pixels, 0)
        add("mergedimage.png", Photo(visible, photo.alpha, profile, photo.metadata))
        write("stack.xml", ElementTree.tostring(root, "utf-8", xml_declaration=True))
        thumbnail = Image.fromarray(Photo(_on_white(photo), profile=photo.profile).srgb)
        thumbnail.thumbnail((_THUMBNAIL, _THUMBNAIL))
        encoded = BytesIO()
        thumbnail.save(encoded, "PNG")
        write("Thumbnails/thumbnail.png", encoded.getvalue())


def checkerboard(height: int, width: int, square: int = 10) -> NDArray[np.uint8]:
    """Draws what is shown behind transparent pictures, (height,width,3)."""
    rows, columns = np.ogrid[:height, :width]
    bright = (rows // square + columns // square) % 2 == 0
    return np.repeat(np.where(bright, 255, 205)[..., None], 3, 2).astype(np.uint8)


def _on_checkerboard(picture: Image.Image) -> Image.Image:
    board = Image.fromarray(checkerboard(picture.height, picture.width)).convert("RGBA")
    board.alpha_composite(picture)
    return board.convert("RGB")


def overview(
    photo: Photo,
    features: NDArray[np.floating],
    superpixels: NDArray[np.uint16],
    colours: Sequence[NDArray[Depth]],
    alphas: NDArray[np.float32],
    coverage: Sequence[float],
) -> Image.Image:
    """Draws a photo, its features, superpixels and layers on one sheet.

    Args:
        photo: The photo.
        features: (h,w,3) in [0,1], at any size.
        superpixels: (h,w) ids, at any size.
        colours: K colours (H,W,3) of the layers, with the bits and in the colours of the photo.
        alphas: (K,H,W) in [0,1] that add up to 1.
        coverage: Share of the photo that each layer covers, in [0,1].

    Returns:
        An RGB picture at most 1600 pixels wide.
    """
    titles = ["photo", "features", "superpixels", "layers"]
    titles += [f"layer {k}   {s:.0%}" if s >= 0.01 else f"layer {k}   <1%"
               for k, s in enumerate(coverage, 1)]  # fmt: skip
    marks = PALETTE[np.arange(len(alphas)) % len(PALETTE)]
    font = ImageFont.load_default(22)
    text = math.ceil(max(font.getlength(title) for title in titles)) + 30  # with the swatch
    margin, head = 24, 34
    height, width, _ = photo.pixels.shape
    columns = _columns(len(titles), width / height, 1552 // (text + margin))
    rows = math.ceil(len(titles) / columns)
    box = (1600 - margin) // columns - margin, max(1200 // rows, 150)
    scale = min(box[0] / width, box[1] / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    pictures = _pictures(photo, features, superpixels, colours, alphas, marks, size)
    cell = max(size[0], text), size[1] + head
    sheet = Image.new(
        "RGB", (columns * (cell[0] + margin) + margin, rows * (cell[1] + margin) + margin), "white"
    )
    draw = ImageDraw.Draw(sheet)
    for index, (title, picture) in enumerate(zip(titles, pictures, strict=True)):
        left = margin + index % columns * (cell[0] + margin)
        top = margin + index // columns * (cell[1] + margin)
        layer = index - (len(titles) - len(alphas))
        if layer >= 0:
            fill = tuple(int(c) for c in marks[layer])
            draw.rectangle((left, top + 4, left + 20, top + 24), fill, "black")
        draw.text((left + (30 if layer >= 0 else 0), top), title, "black", font)
        sheet.paste(picture, (left, top + head))
    return sheet


def _pictures(
    photo: Photo,
    features: NDArray[np.floating],
    superpixels: NDArray[np.uint16],
    colours: Sequence[NDArray[Depth]],
    alphas: NDArray[np.float32],
    marks: NDArray[np.uint8],
    size: tuple[int, int],
) -> list[Image.Image]:
    """The pictures of an overview at `size` (width, height); `marks` (K,3) colour the layers."""
    small = Image.fromarray(photo.srgb).resize(size)
    ids = Image.fromarray(superpixels).resize(size, Image.Resampling.NEAREST)
    lines = boundaries(to_tensor(np.asarray(small)), ids_tensor(np.asarray(ids)))  # (1,3,h,w)
    bordered = Image.fromarray(to_uint8(to_array(lines)))
    shown = np.stack([np.asarray(Image.fromarray(alpha).resize(size)) for alpha in alphas])
    shown = shown.clip(0, 1)  # (K,h,w)
    mixed = np.einsum("khw,kc->hwc", shown, to_float(marks)).clip(0, 1)  # (h,w,3)
    if photo.alpha is not None:
        own = Image.fromarray(photo.alpha / np.float32(np.iinfo(photo.alpha.dtype).max))
        shown = shown * np.asarray(own.resize(size)).clip(0, 1)
    cutouts = []
    for values, alpha in zip(colours, shown, strict=True):
        pixels = np.asarray(Image.fromarray(eight_bits(values)).resize(size))
        seen = Photo(pixels, profile=photo.profile).srgb
        cutouts.append(Image.fromarray(np.dstack([seen, to_uint8(alpha)])))
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
