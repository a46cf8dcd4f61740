"""Documents, read by other programs."""

import shutil
import subprocess
import zipfile
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageCms
from psd_tools import PSDImage
from psd_tools.composite import composite
from psd_tools.constants import Resource

from benchmarks.blends import blend_of_known_layers
from softfeat.imaging import documents
from softfeat.imaging.colour import Profile
from softfeat.imaging.documents import DocumentLayer
from softfeat.imaging.metadata import Metadata
from softfeat.imaging.photo import Photo
from softfeat.imaging.stacking import fit_colours, stacking_alphas
from softfeat.matting.colours import layer_colours

HEIGHT, WIDTH = 50, 66
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
NOTES = Metadata((300, 150), "© me & <you>\x00", "Ann")
KINDS = [np.uint8, np.uint16]


def document(
    kind: type = np.uint8, count: int = 3, own_alpha: bool = False
) -> tuple[Photo, list[DocumentLayer]]:
    plain, alphas, _ = blend_of_known_layers(kind, count, (HEIGHT, WIDTH), own_alpha)
    photo = Photo(plain.pixels, plain.alpha, SRGB, NOTES)
    colours, stack = layer_colours(photo, alphas), stacking_alphas(photo, alphas)
    fit_colours(photo, colours, stack)
    names = [f"{k} centre, brown" for k in range(1, count + 1)]
    return photo, [DocumentLayer(*parts) for parts in zip(names, colours, stack, strict=True)]


def premultiplied(photo: Photo) -> np.ndarray:
    """RGBA (H,W,4) in levels 0..255, with colours times alpha."""
    most = np.iinfo(photo.pixels.dtype).max
    alpha = np.ones((HEIGHT, WIDTH, 1)) if photo.alpha is None else photo.alpha[..., None] / most
    return np.dstack([photo.pixels * alpha * 255 / most, alpha * 255])


def difference(rgba: np.ndarray, photo: Photo) -> float:
    """Largest difference, in levels of 255, between straight RGBA in [0,1] and a photo."""
    assert rgba.shape == (HEIGHT, WIDTH, 4)
    shown = np.dstack([rgba[..., :3] * rgba[..., 3:], rgba[..., 3]]) * 255
    return float(np.abs(shown - premultiplied(photo)).max())


@pytest.mark.parametrize(("bits", "most"), [(8, 255), (16, 65535)])
def test_alphas_add_up_in_their_files(tmp_path: Path, bits: int, most: int) -> None:
    _, alphas, _ = blend_of_known_layers(np.uint8, 3, (HEIGHT, WIDTH))
    total = np.zeros(alphas.shape[1:], int)
    for alpha in alphas:
        documents.write_alpha(tmp_path / "a.png", alpha, bits)
        read = np.asarray(Image.open(tmp_path / "a.png"))
        assert read.dtype == (np.uint8 if bits == 8 else np.uint16)
        assert np.abs(read / most - alpha).max() <= 0.51 / most
        total += read
    assert abs(total - most).max() <= 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("own_alpha", [False, True])
def test_png_keeps_bits_alpha_profile_and_notes(
    tmp_path: Path, kind: type, own_alpha: bool
) -> None:
    photo, _ = document(kind, 1, own_alpha)
    documents.save_png(tmp_path / "a.png", photo)
    read = imagecodecs.png_decode((tmp_path / "a.png").read_bytes())
    assert read.dtype == kind
    np.testing.assert_array_equal(read[..., :3], photo.pixels)
    if photo.alpha is not None:
        np.testing.assert_array_equal(read[..., 3], photo.alpha)
    with Image.open(tmp_path / "a.png") as picture:
        picture.load()  # text after the pixels would be read, too
        assert picture.info["icc_profile"] == SRGB
        assert picture.info["dpi"] == pytest.approx((300, 150), abs=0.02)
        assert picture.info["Copyright"] == "© me & <you>"
        assert picture.info["Author"] == "Ann"


@pytest.mark.parametrize("dpi", [(0, 72), (float("nan"), 72), (72, 1e9)])
def test_a_resolution_that_is_none_is_left_out(tmp_path: Path, dpi: tuple[float, float]) -> None:
    photo, layers = document()
    odd = Photo(photo.pixels, metadata=Metadata(dpi))
    documents.save_png(tmp_path / "a.png", odd)
    assert "dpi" not in Image.open(tmp_path / "a.png").info
    path = documents.write_photoshop(tmp_path / "a", odd, layers)
    assert Resource.RESOLUTION_INFO not in PSDImage.open(path).image_resources


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, 5, 12])
@pytest.mark.parametrize("own_alpha", [False, True])
@pytest.mark.parametrize("masks", [True, False])
def test_psd_in_psd_tools(
    tmp_path: Path, kind: type, count: int, own_alpha: bool, masks: bool
) -> None:
    photo, layers = document(kind, count, own_alpha)
    path = documents.write_photoshop(tmp_path / "a", photo, layers, masks)
    assert path.name == "a.psd"
    psd = PSDImage.open(path)
    assert (psd.size, psd.depth) == ((WIDTH, HEIGHT), 8 * np.dtype(kind).itemsize)
    assert [layer.name for layer in psd] == [layer.name for layer in layers]
    assert all(layer.is_visible() and layer.opacity == 255 for layer in psd)
    assert all(layer.has_mask() == masks for layer in psd)
    colour, _, alpha = composite(psd, color=1.0, alpha=0.0, force=True)
    assert difference(np.dstack([colour, alpha]), photo) < 1
    merged = psd.numpy()  # the stored picture
    if not own_alpha:
        merged = np.dstack([merged, np.ones((HEIGHT, WIDTH))])
    assert difference(merged, photo) < 1
    resources = psd.image_resources
    assert resources.get_data(Resource.ICC_PROFILE) == SRGB
    resolution = resources.get_data(Resource.RESOLUTION_INFO)
    assert (resolution.horizontal / 65536, resolution.vertical / 65536) == (300, 150)
    xmp = ElementTree.fromstring(resources.get_data(Resource.XMP_METADATA))
    assert [e.text for e in xmp.iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}li")] == [
        "© me & <you>", "Ann"
    ]  # fmt: skip


def test_layers_are_cropped_and_opaque_around_their_mask(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    opacity = np.zeros((HEIGHT, WIDTH), np.uint8)
    opacity[20:30, 30:33] = 100
    layers = [
        DocumentLayer("1 a", pixels, np.full_like(opacity, 255)),
        DocumentLayer("2 b", pixels, opacity),
        DocumentLayer("3 empty", pixels, np.zeros_like(opacity)),
    ]
    for masks, margin in ((True, 8), (False, 0)):
        path = documents.write_photoshop(tmp_path / "a", Photo(pixels), layers, masks)
        boxes = [layer.bbox for layer in PSDImage.open(path)]
        middle = (30 - margin, 20 - margin, 33 + margin, 30 + margin)
        assert boxes == [(0, 0, WIDTH, HEIGHT), middle, (0, 0, 1, 1)]
    path = documents.write_photoshop(tmp_path / "a", Photo(pixels), layers)
    layer = list(PSDImage.open(path))[1]
    rgba = layer.numpy()
    assert (rgba[..., 3] == 1).all()
    np.testing.assert_allclose(rgba[..., :3], pixels[12:38, 22:41] / 255, atol=1e-6)
    assert layer.mask.background_color == 0
    np.testing.assert_array_equal(np.asarray(layer.mask.topil()), opacity[12:38, 22:41])


def test_a_large_photo_becomes_psb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.zeros((32, 30_001, 3), np.uint8)
    pixels[:, ::3] = 200
    wide = Photo(pixels)
    layer = DocumentLayer("1 centre, grey", pixels, np.full(pixels.shape[:2], 255, np.uint8))
    path = documents.write_photoshop(tmp_path / "a", wide, [layer])
    assert path.name == "a.psb"
    psd = PSDImage.open(path)
    assert psd.size == (30_001, 32)
    assert psd.version == 2
    planes = [data.get_data(30_001, 32, 8, 2) for data in list(psd[0]._channels)[1:4]]
    shown = np.stack([np.frombuffer(plane, np.uint8).reshape(32, 30_001) for plane in planes], -1)
    np.testing.assert_array_equal(shown, pixels)
    monkeypatch.setattr(documents, "_LARGEST_PSD", 100_000)
    photo, layers = document(np.uint16)
    path = documents.write_photoshop(tmp_path / "b", photo, layers)
    assert path.name == "b.psb"
    colour, _, alpha = composite(PSDImage.open(path), color=1.0, alpha=0.0, force=True)
    assert difference(np.dstack([colour, alpha]), photo) < 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, 5, 12])
@pytest.mark.parametrize("own_alpha", [False, True])
def test_ora_holds_layers_that_stack_to_the_photo(
    tmp_path: Path, kind: type, count: int, own_alpha: bool
) -> None:
    photo, layers = document(kind, count, own_alpha)
    documents.write_ora(tmp_path / "a.ora", photo, layers)
    # the type as programs look it up: 38 bytes into the file
    assert (tmp_path / "a.ora").read_bytes()[30:54] == b"mimetypeimage/openraster"
    with zipfile.ZipFile(tmp_path / "a.ora") as archive:
        first = archive.infolist()[0]
        assert (first.filename, first.compress_type) == ("mimetype", zipfile.ZIP_STORED)
        root = ElementTree.fromstring(archive.read("stack.xml"))
        assert (root.tag, root.get("w"), root.get("h")) == ("image", str(WIDTH), str(HEIGHT))
        assert (root.get("xres"), root.get("yres")) == ("300", "150")
        stack = root.findall("stack/layer")
        names = [layer.name for layer in layers]
        assert [layer.get("name") for layer in stack] == names[::-1]  # the highest comes first
        exact = np.zeros((HEIGHT, WIDTH, 4))  # premultiplied
        pillow = Image.new("RGBA", (WIDTH, HEIGHT))
        for layer in reversed(stack):
            data = archive.read(str(layer.get("src")))
            place = int(layer.get("x", 0)), int(layer.get("y", 0))
            with Image.open(BytesIO(data)) as picture:
                assert picture.info["icc_profile"] == SRGB
                pillow.alpha_composite(picture.convert("RGBA"), place)
            values = imagecodecs.png_decode(data)
            assert values.dtype == kind
            values = values / np.iinfo(kind).max
            values[..., :3] *= values[..., 3:]
            part = exact[place[1] :, place[0] :][: values.shape[0], : values.shape[1]]
            part[:] = values + (1 - values[..., 3:]) * part
        assert np.abs(exact * 255 - premultiplied(photo)).max() < 1
        if kind == np.uint8 and count <= 5:  # Pillow rounds to 8 bits after each layer
            assert difference(np.asarray(pillow) / 255, photo) < 2
        merged = imagecodecs.png_decode(archive.read("mergedimage.png")) / np.iinfo(kind).max
        if not own_alpha:
            merged = np.dstack([merged, np.ones((HEIGHT, WIDTH))])
        assert difference(merged, photo) < 1e-6
        with Image.open(BytesIO(archive.read("Thumbnails/thumbnail.png"))) as thumbnail:
            assert max(thumbnail.size) <= 256


@pytest.mark.parametrize("kind", KINDS)
def test_documents_without_a_profile_are_in_srgb(tmp_path: Path, kind: type) -> None:
    photo, layers = document(kind)
    path = documents.write_photoshop(tmp_path / "a", Photo(photo.pixels), layers)
    assert Profile(PSDImage.open(path).image_resources.get_data(Resource.ICC_PROFILE)).is_srgb
    documents.write_ora(tmp_path / "a.ora", Photo(photo.pixels), layers)
    with zipfile.ZipFile(tmp_path / "a.ora") as archive:
        for name in ("mergedimage.png", "data/layer_1.png", "data/layer_3.png"):
            with Image.open(BytesIO(archive.read(name))) as picture:
                assert Profile(picture.info["icc_profile"]).is_srgb


def test_equal_layers_become_equal_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo, layers = document(np.uint8, 2, own_alpha=False)
    written = []
    for number, seconds in enumerate((1e9, 1.5e9)):  # whenever they are written
        monkeypatch.setattr("time.time", lambda now=seconds: now)
        documents.write_ora(tmp_path / f"{number}.ora", photo, layers)
        psd = documents.write_photoshop(tmp_path / str(number), photo, layers)
        written.append(((tmp_path / f"{number}.ora").read_bytes(), psd.read_bytes()))
    assert written[0] == written[1]


def test_documents_hide_what_the_photo_hides(tmp_path: Path) -> None:
    photo, layers = document(np.uint8, 2, own_alpha=True)
    assert photo.alpha is not None
    secret = np.where(photo.alpha[..., None] > 0, photo.pixels, np.uint8([1, 254, 3]))
    documents.write_ora(tmp_path / "a.ora", Photo(secret, photo.alpha), layers)
    path = documents.write_photoshop(tmp_path / "a", Photo(secret, photo.alpha), layers)
    with zipfile.ZipFile(tmp_path / "a.ora") as archive:
        names = [name for name in archive.namelist() if name.endswith(".png")]
        pictures = [np.asarray(Image.open(BytesIO(archive.read(name)))) for name in names]
    pictures += [np.asarray(layer.topil()) for layer in PSDImage.open(path)]
    for picture in pictures:
        assert not (picture[..., :3] == [1, 254, 3]).all(-1).any()


def imagemagick() -> str:
    for name in ("convert-im6.q16", "magick", "convert"):
        program = shutil.which(name)
        if program is not None:
            done = subprocess.run([program, "--version"], capture_output=True, text=True)
            if "ImageMagick" in done.stdout:
                return program
    pytest.skip("ImageMagick is not installed")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("own_alpha", [False, True])
@pytest.mark.parametrize("masks", [True, False])
def test_psd_in_imagemagick(tmp_path: Path, kind: type, own_alpha: bool, masks: bool) -> None:
    program = imagemagick()
    photo, layers = document(kind, 5, own_alpha)
    path = documents.write_photoshop(tmp_path / "a", photo, layers, masks)
    command = [program, "-size", f"{WIDTH}x{HEIGHT}", "xc:none", f"{path}[1--1]"]
    command += ["-background", "none", "-flatten", "-depth", "16", "rgba:-"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert not done.stderr
    rgba = np.frombuffer(done.stdout, np.uint16).reshape(HEIGHT, WIDTH, 4) / 65535
    assert difference(rgba, photo) < 1
    labels = subprocess.run([program, path, "-format", "%l|", "info:"], capture_output=True)
    assert labels.stdout.decode().split("|")[1:6] == [layer.name for layer in layers]


_GIMP = """
(define (out from to)
  (let* ((image (car (gimp-file-load RUN-NONINTERACTIVE from from)))
         (count (if (= 5 (car (gimp-image-get-layers image))) 0 (error "not five layers")))
         (flat (car (gimp-image-merge-visible-layers image CLIP-TO-IMAGE))))
    (gimp-layer-resize-to-image-size flat)
    (file-png-save2 RUN-NONINTERACTIVE image flat to to 0 1 0 0 0 0 0 0 1)))
"""


@pytest.mark.slow
def test_psd_in_gimp(tmp_path: Path) -> None:
    program = shutil.which("gimp")
    if program is None:
        pytest.skip("GIMP is not installed")
    script, photos = _GIMP, []
    for number, kind in enumerate(KINDS * 2):
        photo, layers = document(kind, 5, number > 1)
        for masks in (True, False):
            stem = tmp_path / f"{number}{masks}"
            path = documents.write_photoshop(stem, photo, layers, masks)
            script += f'(out "{path}" "{stem}.png")\n'
            photos.append((photo, Path(f"{stem}.png")))
    command = [program, "-i", "-d", "-f", "-b", "-"]
    subprocess.run(command, input=script + "(gimp-quit 0)\n", text=True, capture_output=True)
    for photo, written in photos:
        values = imagecodecs.png_decode(written.read_bytes())
        assert values.dtype == photo.pixels.dtype
        assert difference(values / np.iinfo(values.dtype).max, photo) <= 1.001


@pytest.mark.parametrize(
    ("size", "count"), [((40, 56), 5), ((56, 40), 1), ((32, 1600), 3), ((1600, 32), 40)]
)
def test_the_sheet_fits(size: tuple[int, int], count: int) -> None:
    rng = np.random.default_rng(0)
    photo = Photo(rng.integers(0, 256, (*size, 3), np.uint8))
    alphas = np.full((count, *size), 1 / count, np.float32)
    colours = np.broadcast_to(photo.pixels, (count, *size, 3))
    features, superpixels = rng.random((*size, 3)), np.zeros(size, np.uint16)
    coverage = [1 / count] * count
    sheet = documents.overview(photo, features, superpixels, colours, alphas, coverage)
    assert 400 < sheet.width <= 1600
    assert sheet.height < 3000
    pixels = np.asarray(sheet)
    for edge in (pixels[:20], pixels[-20:], pixels[:, :20], pixels[:, -20:]):
        assert (edge == 255).all()  # margins: nothing is cut off


@pytest.mark.parametrize("kind", KINDS)
def test_the_sheet_mixes_the_colours_of_the_layers(kind: type) -> None:
    x = np.linspace(0, 2, WIDTH, dtype=np.float32)  # three layers from left to right
    rows = np.stack([(1 - abs(x - k)).clip(0) for k in range(3)])
    alphas = np.repeat(rows[:, None], HEIGHT, 1)
    photo, _ = document(kind, 1, own_alpha=True)
    superpixels = np.zeros((HEIGHT, WIDTH), np.uint16)
    features = photo.pixels / np.iinfo(kind).max
    colours = np.broadcast_to(photo.pixels, (3, HEIGHT, WIDTH, 3))
    sheet = documents.overview(photo, features, superpixels, colours, alphas, [0.25, 0.5, 0.25])
    seen_colours = np.unique(np.asarray(sheet) @ np.array([65536, 256, 1]))
    first, second, third = documents.PALETTE[:3].astype(int)
    for alone in (first, third):  # each is alone at one side of the picture
        assert alone @ [65536, 256, 1] in seen_colours
    seen = np.stack([seen_colours >> 16, seen_colours >> 8 & 255, seen_colours & 255], 1)
    middle = (first + second) / 2
    assert np.abs(seen - middle).max(1).min() < 6
