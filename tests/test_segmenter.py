"""Photos to layers in one object."""

import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import imagecodecs
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from psd_tools import PSDImage
from psd_tools.composite import composite
from psd_tools.constants import Resource
from skimage.color import deltaE_ciede2000, xyz2lab

import softfeat
from softfeat.imaging.colour import P3_PRIMARIES, rgb_profile
from softfeat.imaging.formats import PhotoWarning
from softfeat.imaging.metadata import Metadata
from softfeat.imaging.photo import Photo, read_photo
from softfeat.layers import Layers, check_join
from softfeat.matting.colours import layer_colours
from softfeat.matting.layers import select
from softfeat.matting.soft_segmentation import STAGES
from softfeat.segmenter import Segmenter, working_size
from tests.helpers.photos import picture, write_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("run") / "best.ckpt")


@pytest.fixture(scope="module")
def segmenter(checkpoint: Path) -> Segmenter:
    return Segmenter(checkpoint, layers=3, size=48)


@pytest.fixture(scope="module")
def layers(segmenter: Segmenter) -> Layers:
    return segmenter(picture())


def test_layers_of_a_photo(layers: Layers) -> None:
    count = len(layers.alphas)
    assert 2 <= count <= 3
    assert np.array_equal(layers.photo, np.asarray(picture()))
    assert (layers.alphas.shape, layers.alphas.dtype) == ((count, 60, 80), np.float32)
    assert np.abs(layers.alphas.sum(0) - 1).max() < 1e-5
    assert layers.features.shape == (36, 48, 3)
    assert layers.superpixels.shape == (36, 48)
    assert list(layers.seconds) == ["reading", "network", *STAGES, "enlarging"]
    assert all(seconds > 0 for seconds in layers.seconds.values())


@pytest.mark.parametrize("kind", ["path", "string", "open file", "picture", "bytes", "floats"])
def test_a_photo_of_any_kind(
    segmenter: Segmenter, layers: Layers, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "a.png"
    picture().save(path)
    pixels = np.asarray(picture())
    photo = {"path": path, "string": str(path), "picture": picture(), "bytes": pixels}
    photo |= {"floats": pixels / 255, "open file": path.open("rb")}
    result = segmenter(photo[kind])
    np.testing.assert_array_equal(result.photo, pixels)
    np.testing.assert_array_equal(result.alphas, layers.alphas)


def test_a_pil_picture_is_turned_upright_and_laid_on_white() -> None:
    turned = Image.new("RGBA", (40, 70), (0, 0, 0, 0))
    turned.getexif()[274] = 6
    with pytest.warns(PhotoWarning, match="transparent everywhere"):
        pixels = read_photo(turned).srgb
    assert pixels.shape == (40, 70, 3)
    assert (pixels == 255).all()


@pytest.mark.parametrize(
    ("photo", "message"),
    [
        (np.zeros((40, 40), np.uint8), r"\(H,W,3\)"),
        (np.zeros((40, 40, 4), np.uint8), r"\(H,W,3\)"),
        (np.zeros((40, 40, 3), np.int64), "uint8, or floats"),
        (np.full((40, 40, 3), 2.0), "divide by 255"),
        (np.full((40, 40, 3), np.nan), "no numbers"),
        (np.full((40, 40, 3), np.inf), "no numbers"),
        (Image.new("F", (40, 40), 200), "unknown range"),
        (np.zeros((0, 40, 3), np.uint8), r"\(H,W,3\)"),
        (Image.new("RGB", (20, 90)), "32 or more"),
    ],
)
def test_photos_that_are_none(segmenter: Segmenter, photo: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        segmenter(photo)  # type: ignore[arg-type]


def test_the_number_of_layers_of_one_call(segmenter: Segmenter) -> None:
    assert len(segmenter(picture(), layers=1).alphas) == 1
    with pytest.raises(ValueError, match="layers=41"):
        segmenter(picture(), layers=41)


def test_colours_are_computed_once(layers: Layers, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(*arguments: Any) -> np.ndarray:
        calls.append(arguments)
        return layer_colours(*arguments)

    monkeypatch.setattr("softfeat.layers.layer_colours", counted)
    parts = layers.original, layers.alphas, layers.features, layers.superpixels, layers.selector
    fresh = Layers(*parts, {})
    assert not calls
    assert (fresh.colours.shape, fresh.colours.dtype) == ((*layers.alphas.shape, 3), np.uint8)
    assert fresh.colours is fresh.colours
    assert len(calls) == 1
    mixed = (layers.alphas[..., None] * fresh.colours).sum(0)
    assert np.abs(mixed - layers.photo).max() < 2


@pytest.mark.parametrize("first", ["colours", "save"])
def test_saved_layers(layers: Layers, tmp_path: Path, first: str) -> None:
    fresh = Layers(*(getattr(layers, name) for name in Layers.__dataclass_fields__))
    if first == "colours":
        assert fresh.colours.any()
    cutout = fresh.join(include=[(40, 30)])
    folder = tmp_path / "deep" / "out"
    summary = fresh.save(folder, bits=16, cutout=cutout, entries={"photo": "a"})
    assert [p.name for p in folder.parent.iterdir()] == ["out"]
    written = json.loads((folder / "summary.json").read_text())
    files = written.pop("files")
    assert written == summary
    assert {*files, "summary.json"} == {p.name for p in folder.iterdir()}
    assert list(summary["seconds"]) == [
        "reading", "network", "layers", "enlarging", "colours", "documents"
    ]  # fmt: skip
    assert list(summary["seconds_of_layers"]) == list(STAGES)
    assert summary["seconds"]["layers"] == pytest.approx(
        sum(summary["seconds_of_layers"].values()), abs=0.01
    )
    for k, (alpha, colours) in enumerate(zip(fresh.alphas, fresh.colours, strict=True), 1):
        grey = np.asarray(Image.open(folder / f"alpha_{k}.png"))
        assert np.array_equal(grey, np.rint(alpha * np.float32(65535)).astype(np.uint16))
        rgba = np.asarray(Image.open(folder / f"layer_{k}.png"))
        assert np.array_equal(rgba[..., :3], colours)
    saved = Image.open(folder / "cutout.png")
    assert np.array_equal(np.asarray(saved), np.asarray(cutout.image))
    assert all(layer.has_mask() for layer in PSDImage.open(folder / "layers.psd"))
    fresh.save(folder, masks=False)
    assert not any(layer.has_mask() for layer in PSDImage.open(folder / "layers.psd"))
    fresh.save(folder)
    assert not (folder / "cutout.png").exists()  # of the call before


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_files_keep_bits_profile_alpha_and_metadata(
    layers: Layers, tmp_path: Path, kind: type
) -> None:
    most = np.iinfo(kind).max
    rng = np.random.default_rng(0)
    pixels = layers.photo.astype(kind) * (most // 255)
    pixels += rng.integers(0, 2, pixels.shape, kind) * (pixels < most)
    own = (np.arange(80) * (most // 79)).astype(kind)[None].repeat(60, 0)
    profile = rgb_profile("P3", P3_PRIMARIES)
    photo = Photo(pixels, own, profile, Metadata((300, 300), "me", "Ann"))
    odd = Layers(photo, *(getattr(layers, n) for n in list(Layers.__dataclass_fields__)[1:]))
    cutout = odd.join(include=[(70, 30)])
    odd.save(tmp_path / "out", cutout=cutout)
    total = np.zeros((60, 80))
    for k, alpha in enumerate(layers.alphas, 1):
        rgba = imagecodecs.png_decode((tmp_path / "out" / f"layer_{k}.png").read_bytes())
        assert rgba.dtype == kind
        assert np.abs(rgba[..., 3] - alpha * own).max() <= 0.51
        np.testing.assert_array_equal(rgba[..., :3], odd.colours[k - 1])
        total += rgba[..., 3]
    assert np.abs(total - own).max() <= len(layers.alphas) / 2
    for name in ("layer_1.png", "cutout.png"):
        with Image.open(tmp_path / "out" / name) as picture:
            picture.load()
            assert picture.info["icc_profile"] == profile
            assert picture.info["dpi"] == pytest.approx((300, 300), abs=0.02)
            assert (picture.info["Copyright"], picture.info["Author"]) == ("me", "Ann")
    cut = imagecodecs.png_decode((tmp_path / "out" / "cutout.png").read_bytes())
    assert cut.dtype == kind
    assert np.abs(cut[..., 3] - cutout.matte * own).max() <= 0.51
    assert (cutout.image.mode, cutout.image.info["icc_profile"]) == ("RGBA", profile)
    psd = PSDImage.open(tmp_path / "out" / "layers.psd")
    assert (psd.depth, psd.channels) == (8 * np.dtype(kind).itemsize, 4)


# Display P3 to XYZ under D65
_P3 = np.array([
    [0.4865709, 0.2656677, 0.1982173],
    [0.2289746, 0.6917385, 0.0792869],
    [0.0, 0.0451134, 1.0439444],
])  # fmt: skip


def p3_lab(values: np.ndarray) -> np.ndarray:
    """L*a*b* of Display P3 values (H,W,3) in [0,1]."""
    light = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return xyz2lab(light @ _P3.T)


def test_a_wide_gamut_photo_in_readers_that_manage_colours(layers: Layers, tmp_path: Path) -> None:
    profile = rgb_profile("P3", P3_PRIMARIES)
    photo = Photo(layers.photo, profile=profile)
    odd = Layers(photo, *(getattr(layers, n) for n in list(Layers.__dataclass_fields__)[1:]))
    odd.save(tmp_path / "out")
    psd = PSDImage.open(tmp_path / "out" / "layers.psd")
    exact = composite(psd, force=True, color=1.0, alpha=0.0)[0]  # in floats
    wanted = p3_lab(layers.photo / 255)
    assert deltaE_ciede2000(p3_lab(exact), wanted).max() <= 1  # half a level of dark colours
    assert deltaE_ciede2000(p3_lab(np.rint(exact * 255) / 255), wanted).max() <= 0.5
    # The profile is the photo's: littleCMS sees the same colours in both, in steps of 8 bits.
    lab = ImageCms.createProfile("LAB")

    def in_lab(picture: Image.Image, icc: bytes) -> np.ndarray:
        source = ImageCms.ImageCmsProfile(BytesIO(icc))
        seen = np.asarray(ImageCms.profileToProfile(picture, source, lab, outputMode="LAB"))
        return seen * [100 / 255, 1, 1] - np.where(seen > 127, [0, 256, 256], 0)

    wanted = in_lab(Image.fromarray(layers.photo), profile)
    icc = psd.image_resources.get_data(Resource.ICC_PROFILE)
    shown = psd.composite(force=True, ignore_preview=True, apply_icc=False).convert("RGB")
    assert deltaE_ciede2000(in_lab(shown, icc), wanted).mean() <= 0.5
    flat = Image.new("RGBA", shown.size)
    with zipfile.ZipFile(tmp_path / "out" / "layers.ora") as archive:
        stack = ElementTree.fromstring(archive.read("stack.xml")).findall("stack/layer")
        for layer in reversed(stack):
            picture = Image.open(BytesIO(archive.read(layer.attrib["src"])))
            flat.alpha_composite(picture, (int(layer.attrib["x"]), int(layer.attrib["y"])))
            assert picture.info["icc_profile"] == profile
    assert deltaE_ciede2000(in_lab(flat.convert("RGB"), profile), wanted).mean() <= 0.5


def test_saving_what_cannot_be_saved(layers: Layers, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bits=12"):
        layers.save(tmp_path / "out", bits=12)
    assert not list(tmp_path.iterdir())


def test_joining_layers(layers: Layers) -> None:
    corner, centre = (2, 2), (40, 30)
    one = layers.join(include=[corner])
    np.testing.assert_array_equal(one.matte, select(layers.alphas, corner))
    assert (one.image.mode, one.image.size) == ("RGBA", (80, 60))
    assert np.array_equal(np.asarray(one.image)[..., 3], np.rint(one.matte * 255))
    both = layers.join(include=[corner, centre]).matte
    assert (both >= np.maximum(one.matte, layers.join([centre]).matte)).all()
    box = (0, 0, 40, 30)
    np.testing.assert_array_equal(layers.join(box=box).matte, select(layers.alphas, box=box))


def test_layers_go_to_a_file_and_back(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = tmp_path_factory.mktemp("clicks")
    segmenter = Segmenter(write_checkpoint(run / "best.ckpt", clicks=True), layers=3, size=48)
    pixels = np.asarray(picture()).astype(np.uint16) * 257
    alpha = np.full((60, 80), 40000, np.uint16)
    profile = rgb_profile("P3", P3_PRIMARIES)
    photo = Photo(pixels, alpha, profile, Metadata((72.0, 72.0), "mine", "me"))
    layers = segmenter(photo)
    file = tmp_path / "photo.npz"
    segmenter.dump(layers, file)
    again = segmenter.load(file)
    assert again.original.metadata == photo.metadata
    assert again.original.profile == profile
    np.testing.assert_array_equal(again.original.pixels, pixels)
    np.testing.assert_array_equal(again.original.alpha, alpha)
    np.testing.assert_allclose(again.alphas, layers.alphas, atol=2e-5)
    np.testing.assert_allclose(again.alphas.sum(0), 1, atol=1e-6)
    assert again.seconds == layers.seconds
    clicks: dict[str, Any] = {"include": [(40, 30)], "exclude": [(5, 5)]}
    np.testing.assert_array_equal(again.select(**clicks), layers.select(**clicks))
    again.save(tmp_path / "layers")
    other = Segmenter(run / "best.ckpt", size=48, features_sizes=64)
    with pytest.raises(ValueError, match="made with other weights"):
        other.load(file)
    with pytest.raises(FileNotFoundError, match=r"nothing\.npz: no such file"):
        segmenter.load(tmp_path / "nothing.npz")
    with pytest.raises(ValueError, match=r"larger than a photo|do not fit"):
        Segmenter(run / "best.ckpt", size=48, max_pixels=4799).load(file)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("pixels", lambda a: a[:-1]),
        ("pixels", lambda a: a.astype(np.float64)),
        ("opacity", lambda a: a[:, :-1]),
        ("alphas", lambda a: a * 0),
        ("alphas", lambda a: a[:, :-1]),
        ("features", lambda a: a * np.float16(np.nan)),
        ("superpixels", lambda a: a.T),
        ("clickable", lambda a: a + np.uint16(1)),
        ("means", lambda a: a * np.float32(np.inf)),
        ("means", lambda a: np.array([print], object)),
        ("header", lambda a: a[:-1]),
        ("header", lambda _: np.frombuffer(b'{"version": 9}', np.uint8)),
        ("strange", lambda _: np.zeros(3)),
        ("small", lambda _: None),
        ("", lambda _: None),
    ],
)
def test_damaged_files_of_layers_are_not_believed(
    segmenter: Segmenter, layers: Layers, tmp_path: Path, name: str, change: Any
) -> None:
    file = tmp_path / "photo.npz"
    photo = replace(layers.original, alpha=np.full((60, 80), 9, np.uint8))
    segmenter.dump(replace(layers, original=photo), file)
    with np.load(file) as content:
        arrays = dict(content)
    if not name:
        file.write_bytes(file.read_bytes()[:-200])
    else:
        changed = change(arrays.pop(name, None))
        if changed is not None:
            arrays[name] = changed
        np.savez_compressed(file, **arrays)
    with pytest.raises(ValueError, match=r"photo\.npz cannot be opened: .*Segment the photo again"):
        segmenter.load(file)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "include="),
        ({"include": []}, "include="),
        ({"include": [(1, 1)], "box": (0, 0, 2, 2)}, "include="),
        ({"include": [(1, 1), (80, 1)]}, "outside the photo of 80x60"),
        ({"box": (5, 1, 85, 3)}, "not inside the photo"),
    ],
)
def test_layers_that_cannot_be_joined(layers: Layers, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layers.join(**arguments)
    with pytest.raises(ValueError, match=message):
        check_join(layers.original, **arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"layers": 0}, ValueError, "layers=0"),
        ({"layers": "many"}, ValueError, "layers=many"),
        ({"size": 16}, ValueError, "size=16"),
        ({"features_sizes": []}, ValueError, "features_sizes"),
        ({"seed": 0.5}, ValueError, "seed=0.5"),
        ({"max_pixels": 0}, ValueError, "max_pixels=0"),
        ({"device": "abacus"}, ValueError, "device abacus .*choose cpu"),
        ({"device": "cuda:99"}, ValueError, "device cuda:99 .*choose cpu"),
        ({"backend": "other"}, ValueError, "backend=other"),
        ({"weights": "nowhere.ckpt"}, FileNotFoundError, "nowhere.ckpt"),
    ],
)
def test_bad_arguments(arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Segmenter(**arguments)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_a_gpu_gives_nearly_the_same_layers(checkpoint: Path, layers: Layers) -> None:
    there = Segmenter(checkpoint, layers=3, size=48, device="cuda")(picture())
    assert np.abs(there.alphas - layers.alphas).mean() < 0.01


def test_the_snippet_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    picture().save("photo.jpg")
    exec(
        "from softfeat import Segmenter\n"
        'layers = Segmenter("general")("photo.jpg")\n'
        'layers.save("out")\n'
    )
    assert {"alpha_1.png", "layers.psd", "summary.json"} <= {p.name for p in Path("out").iterdir()}


def test_the_names_of_the_package() -> None:
    assert softfeat.Segmenter is Segmenter
    assert softfeat.Layers is Layers
    assert softfeat.load_extractor.__module__ == "softfeat.models.extractor"
    assert softfeat.__version__.count(".") == 2
    assert set(softfeat.__all__) <= set(dir(softfeat))
    with pytest.raises(AttributeError, match="nothing"):
        _ = softfeat.nothing


_TRAINING = ("pytorch_lightning", "hydra", "omegaconf", "wandb", "torchmetrics", "matplotlib")


def imported(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has after some code."""
    program = f"{code}\nimport sys\nprint(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


def test_importing_the_package_imports_nothing_slow() -> None:
    slow = {*_TRAINING, "torch", "numpy", "PIL", "scipy", "rich"}
    assert not imported("import softfeat") & slow
    assert not imported("import softfeat.cli") & slow


def test_cutting_a_photo_needs_no_training_packages(checkpoint: Path, tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png")
    options = ["--weights", str(checkpoint), "--size", "32", "-o", str(tmp_path / "out")]
    modules = imported(
        "from softfeat.cli import main\n"
        f"main(['segment', {str(tmp_path / 'a.png')!r}, *{options}], standalone_mode=False)"
    )
    assert (tmp_path / "out" / "a" / "summary.json").is_file()
    assert "torch" in modules
    assert not modules & set(_TRAINING)


@pytest.mark.parametrize(
    ("size", "message"),
    [((31, 90), "32 or more"), ((32, 3300), "crop"), ((4000, 300_001), "300000")],
)
def test_bad_sizes(size: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        working_size(*size, 640)


@pytest.mark.parametrize(
    ("size", "working"),
    [((600, 800), (480, 640)), ((60, 80),) * 2, ((40, 2000), (32, 1600)), ((32, 33),) * 2],
)
def test_working_sizes(size: tuple[int, int], working: tuple[int, int]) -> None:
    assert working_size(*size, 640) == working
