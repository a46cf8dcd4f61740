import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from psd_tools import PSDImage

from softfeat.imaging import documents

HEIGHT, WIDTH = 40, 56


@pytest.fixture
def photo() -> np.ndarray:
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8))
    return np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))


@pytest.fixture
def alphas() -> np.ndarray:
    """Three layers that blend into each other from left to right."""
    x = np.linspace(0, 2, WIDTH, dtype=np.float32)
    rows = np.stack([(1 - abs(x - k)).clip(0) for k in range(3)])
    return np.repeat(rows[:, None], HEIGHT, 1)


def write_layers(folder: Path, photo: np.ndarray, alphas: np.ndarray) -> list[Path]:
    """Layers in colours of noise: for the documents, any will do."""
    rng = np.random.default_rng(1)
    paths = []
    for k, alpha in enumerate(alphas, 1):
        rgba = rng.integers(0, 256, (*alpha.shape, 4), np.uint8)
        rgba[..., 3] = np.rint(alpha * 255)
        paths.append(folder / f"layer_{k}.png")
        Image.fromarray(rgba).save(paths[-1])
    return paths


def over(photo: np.ndarray, layers: list[Path]) -> np.ndarray:
    """Layers over a photo, by the book."""
    seen = photo.astype(float)
    for path in layers:
        layer = np.asarray(Image.open(path)).astype(float)
        alpha = layer[..., 3:] / 255
        seen = alpha * layer[..., :3] + (1 - alpha) * seen
    return seen


@pytest.mark.parametrize(("bits", "most"), [(8, 255), (16, 65535)])
def test_alphas_add_up_in_their_files(
    tmp_path: Path, alphas: np.ndarray, bits: int, most: int
) -> None:
    total = np.zeros(alphas.shape[1:], int)
    for alpha in alphas:
        documents.write_alpha(tmp_path / "a.png", alpha, bits)
        read = np.asarray(Image.open(tmp_path / "a.png"))
        assert read.dtype == (np.uint8 if bits == 8 else np.uint16)
        assert np.abs(read / most - alpha).max() <= 0.51 / most
        total += read
    assert abs(total - most).max() <= 1


def test_a_cutout_keeps_its_colours_where_it_is_transparent(alphas: np.ndarray) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    rgba = np.asarray(documents.cutout_picture(colours, alphas[0]))
    assert np.array_equal(rgba[..., :3], colours)
    assert np.array_equal(rgba[..., 3], np.rint(alphas[0] * 255))


def test_psd_holds_the_layers_over_the_photo(
    tmp_path: Path, photo: np.ndarray, alphas: np.ndarray
) -> None:
    layers = write_layers(tmp_path, photo, alphas)
    picture = Image.fromarray(photo)
    documents.write_psd(tmp_path / "a.psd", picture, layers, documents.flatten(picture, layers))
    psd = PSDImage.open(tmp_path / "a.psd")
    assert psd.size == (WIDTH, HEIGHT)
    assert [layer.name for layer in psd] == ["photo", "layer 1", "layer 2", "layer 3"]
    assert all(layer.is_visible() and layer.opacity == 255 for layer in psd)
    assert not any(layer.has_mask() for layer in psd)
    bottom = np.asarray(psd[0].topil().convert("RGBA"))
    assert np.array_equal(bottom[..., :3], photo)
    assert (bottom[..., 3] == 255).all()
    for layer, path in zip(list(psd)[1:], layers, strict=True):
        assert layer.bbox == (0, 0, WIDTH, HEIGHT)
        assert np.array_equal(np.asarray(layer.topil()), np.asarray(Image.open(path)))
    stored = np.asarray(psd.topil().convert("RGB")).astype(float)
    assert np.abs(stored - over(photo, layers)).max() <= 2
    rendered = psd.composite(ignore_preview=True, force=True).convert("RGB")
    assert np.abs(np.asarray(rendered) - stored).max() <= 2


def test_ora_holds_the_layers_over_the_photo(
    tmp_path: Path, photo: np.ndarray, alphas: np.ndarray
) -> None:
    layers = write_layers(tmp_path, photo, alphas)
    picture = Image.fromarray(photo).resize((600, 300))
    layers = [p for p in layers if Image.open(p).resize((600, 300)).save(p) is None]
    flat = documents.flatten(picture, layers)
    documents.write_ora(tmp_path / "a.ora", picture, layers, flat)
    # the type as programs look it up: 38 bytes into the file
    assert (tmp_path / "a.ora").read_bytes()[30:54] == b"mimetypeimage/openraster"
    with zipfile.ZipFile(tmp_path / "a.ora") as archive:
        first = archive.infolist()[0]
        assert (first.filename, first.compress_type) == ("mimetype", zipfile.ZIP_STORED)
        root = ElementTree.fromstring(archive.read("stack.xml"))
        assert (root.tag, root.get("w"), root.get("h")) == ("image", "600", "300")
        stack = root.findall("stack/layer")
        names = [layer.get("name") for layer in stack]
        assert names == ["layer 3", "layer 2", "layer 1", "photo"]  # the highest first

        def read(name: str) -> np.ndarray:
            with archive.open(name) as file:
                return np.asarray(Image.open(file))

        contents = [read(str(layer.get("src"))) for layer in stack]
        assert np.array_equal(contents[-1], np.asarray(picture))
        for content, path in zip(contents[-2::-1], layers, strict=True):
            assert np.array_equal(content, np.asarray(Image.open(path)))
        merged = read("mergedimage.png")[..., :3].astype(float)
        assert np.abs(merged - over(np.asarray(picture), layers)).max() <= 2
        assert read("Thumbnails/thumbnail.png").shape[:2] == (128, 256)


@pytest.mark.parametrize(
    ("size", "count"), [((40, 56), 5), ((56, 40), 1), ((32, 1600), 3), ((1600, 32), 40)]
)
def test_the_sheet_fits(tmp_path: Path, size: tuple[int, int], count: int) -> None:
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (*size, 3), np.uint8)
    alphas = np.full((count, *size), 1 / count, np.float32)
    layers = write_layers(tmp_path, photo, alphas)
    features, superpixels = rng.random((*size, 3)), np.zeros(size, np.uint16)
    coverage = [1 / count] * count
    picture = Image.fromarray(photo)
    sheet = documents.overview(picture, features, superpixels, layers, coverage)
    assert 400 < sheet.width <= 1600
    assert sheet.height < 3000
    pixels = np.asarray(sheet)
    for edge in (pixels[:20], pixels[-20:], pixels[:, :20], pixels[:, -20:]):
        assert (edge == 255).all()  # margins: nothing is cut off


def test_the_sheet_mixes_the_colours_of_the_layers(
    tmp_path: Path, photo: np.ndarray, alphas: np.ndarray
) -> None:
    layers = write_layers(tmp_path, photo, alphas)
    superpixels = np.zeros(photo.shape[:2], np.uint16)
    picture = Image.fromarray(photo)
    sheet = documents.overview(picture, photo / 255, superpixels, layers, [0.25, 0.5, 0.25])
    colours = np.unique(np.asarray(sheet) @ np.array([65536, 256, 1]))
    first, second, third = documents.PALETTE[:3].astype(int)
    for alone in (first, third):  # each is alone at one side of the picture
        assert alone @ [65536, 256, 1] in colours
    seen = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], 1)
    middle = (first + second) / 2
    assert np.abs(seen - middle).max(1).min() < 6
