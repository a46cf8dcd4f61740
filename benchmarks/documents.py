"""Documents of layers as other programs show them, compared with the photo."""

import shutil
import subprocess
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import imagecodecs
import numpy as np
import skimage
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageCms
from psd_tools import PSDImage
from psd_tools.composite import composite
from psd_tools.constants import Resource
from rich.progress import track
from skimage.color import deltaE_ciede2000

from softfeat.imaging.colour import ADOBE_GAMMA, ADOBE_PRIMARIES, P3_PRIMARIES, rgb_profile
from softfeat.imaging.images import read_image
from softfeat.segmenter import Segmenter

_P3 = rgb_profile("Display P3", P3_PRIMARIES)
_ADOBE = rgb_profile("Adobe RGB (1998)", ADOBE_PRIMARIES, gamma=ADOBE_GAMMA)
_LAB = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
_SECONDS = 120  # limit for a program
_IMAGEMAGICK = "magick" if shutil.which("magick") else "convert"  # version 7, or earlier

_GIMP = """
(let* ((image (car (gimp-file-load RUN-NONINTERACTIVE "{source}" "")))
       (flat (car (gimp-image-merge-visible-layers image CLIP-TO-IMAGE))))
  (gimp-layer-resize-to-image-size flat)
  (file-png-save2 RUN-NONINTERACTIVE image flat "{target}" "" 0 1 0 0 0 0 0 0 1))
(gimp-quit 0)
"""


@dataclass(frozen=True, eq=False)
class Sample:
    """A photo as it is written to a file.

    Attributes:
        pixels: (H,W,3) of 8 or 16 bits.
        alpha: (H,W) of the same bits, or None.
        profile: ICC profile, or None for sRGB.
    """

    pixels: NDArray
    alpha: NDArray | None
    profile: bytes | None

    @property
    def rgba(self) -> NDArray[np.float64]:
        """(H,W,4) in [0,1]."""
        most = np.iinfo(self.pixels.dtype).max
        alpha = np.full(self.pixels.shape[:2], most) if self.alpha is None else self.alpha
        return np.dstack([self.pixels, alpha]) / most

    def write(self, path: Path) -> None:
        """Writes the photo as TIFF."""
        pixels = self.pixels if self.alpha is None else np.dstack([self.pixels, self.alpha])
        extra = None if self.alpha is None else ["unassalpha"]
        tifffile.imwrite(
            path, pixels, photometric="rgb", extrasamples=extra, iccprofile=self.profile
        )


@dataclass(frozen=True, eq=False)
class Shown:
    """What a program shows of a document.

    Attributes:
        rgba: (H,W,4) in [0,1], its composite of all layers.
        profile: ICC profile that it found in the document.
    """

    rgba: NDArray[np.float64]
    profile: bytes | None


def crops(files: Sequence[Path], count: int, size: int, seed: int) -> Iterator[Sample]:
    """Cuts photos out of photos, with 8 and with 16 bits.

    A third of them has no profile, a third Display P3 and a third Adobe RGB. The numbers of the
    photo are taken as numbers of these spaces, so colours lie outside sRGB. A fourth has an alpha.

    Args:
        files: Photos with 8 bits.
        count: Number of crops of each photo.
        size: Pixels of the long side. Reducing to it makes true values between those of 8 bits.
        seed: Random seed.
    """
    rng = np.random.default_rng(seed)
    profiles, with_alpha = cycle([None, _P3, _ADOBE]), cycle([False, False, False, True])
    for photo in map(read_image, files):
        for _ in range(count):
            sides = np.array(photo.shape[:2])
            box = (sides * rng.uniform(0.5, 1)).astype(int)
            top, left = (rng.random(2) * (sides - box)).astype(int)
            crop = photo[top : top + box[0], left : left + box[1]]
            height, width = (box * size / box.max()).round().astype(int)
            planes = [Image.fromarray(crop[..., c].astype(np.float32)) for c in range(3)]
            small = [plane.resize((width, height), Image.Resampling.BOX) for plane in planes]
            values = np.dstack([np.asarray(plane) for plane in small]) / 255
            y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
            alpha = ((1 - np.hypot(x, y)) * 3).clip(0, 1) if next(with_alpha) else None
            profile = next(profiles)
            for kind in (np.uint8, np.uint16):
                most = np.iinfo(kind).max
                own = None if alpha is None else np.rint(alpha * most).astype(kind)
                yield Sample(np.rint(values * most).astype(kind), own, profile)


def _in_psd_tools(folder: Path, _: tuple[int, int]) -> Shown:
    psd = PSDImage.open(folder / "layers.psd")
    colours, _alpha, alpha = composite(psd, color=1.0, alpha=0.0, force=True)
    return Shown(np.dstack([colours, alpha]), psd.image_resources.get_data(Resource.ICC_PROFILE))


def _in_imagemagick(folder: Path, size: tuple[int, int]) -> Shown:
    document = folder / "layers.psd"
    command = [_IMAGEMAGICK, "-size", f"{size[1]}x{size[0]}", "xc:none", f"{document}[1--1]"]
    pixels = _output([*command, "-background", "none", "-flatten", "-depth", "16", "rgba:-"])
    rgba = np.frombuffer(pixels, np.uint16).reshape(*size, 4) / 65535
    # Fails without a profile.
    done = subprocess.run(
        [_IMAGEMAGICK, f"{document}[0]", "icc:-"], capture_output=True, check=False
    )
    return Shown(rgba, done.stdout or None)


def _in_gimp(folder: Path, _: tuple[int, int]) -> Shown:
    target = folder / "gimp.png"
    script = _GIMP.format(source=folder / "layers.psd", target=target)
    _output(["gimp", "-i", "-d", "-f", "-b", "-"], script.encode())
    return _png(target)


def _in_krita(folder: Path, suffix: str) -> Shown:
    target = folder / f"krita{suffix}.png"
    program = ["xvfb-run", "-a", "krita", "--nosplash", "--export", "--export-filename"]
    _output([*program, str(target), str(folder / f"layers{suffix}")])
    return _png(target)


def _in_pyora(folder: Path, _: tuple[int, int]) -> Shown:
    from pyora import Project

    path = folder / "layers.ora"
    picture = Project.load(str(path)).get_image_data(use_original=False)  # from the layers
    with zipfile.ZipFile(path) as archive, archive.open("mergedimage.png") as file:
        profile = Image.open(file).info.get("icc_profile")  # pyora knows no profiles
    return Shown(np.asarray(picture.convert("RGBA")) / 255, profile)


def _output(command: list[str], text: bytes = b"") -> bytes:
    done = subprocess.run(command, input=text, capture_output=True, check=True, timeout=_SECONDS)
    return done.stdout


def _png(path: Path) -> Shown:
    values = imagecodecs.png_decode(path.read_bytes())
    with Image.open(path) as picture:
        profile = picture.info.get("icc_profile")
    if values.shape[2] == 3:
        values = np.dstack([values, np.full(values.shape[:2], np.iinfo(values.dtype).max)])
    return Shown(values / np.iinfo(values.dtype).max, profile)


# Document, program and what it needs: a command, or a package of Python.
READERS: dict[tuple[str, str], tuple[str, Callable[[Path, tuple[int, int]], Shown]]] = {
    ("PSD", "psd-tools"): ("psd_tools", _in_psd_tools),
    ("PSD", "ImageMagick"): (_IMAGEMAGICK, _in_imagemagick),
    ("PSD", "GIMP"): ("gimp", _in_gimp),
    ("PSD", "Krita"): ("krita", lambda folder, _: _in_krita(folder, ".psd")),
    ("ORA", "pyora"): ("pyora", _in_pyora),
    ("ORA", "Krita"): ("krita", lambda folder, _: _in_krita(folder, ".ora")),
}


def levels(shown: Shown, sample: Sample) -> NDArray[np.float64]:
    """Differences (H,W,4) of colours times alpha, and of alpha, in levels of 255."""
    both = [np.dstack([v[..., :3] * v[..., 3:], v[..., 3]]) for v in (shown.rgba, sample.rgba)]
    return np.abs(both[0] - both[1]) * 255


def colour_differences(shown: Shown, sample: Sample) -> NDArray[np.float64]:
    """CIEDE2000 (n,) of the opaque pixels, each converted to Lab by its own profile."""
    assert sample.profile is not None
    if shown.profile is None:
        raise ValueError("the document has lost the colour profile of the photo")
    opaque = sample.rgba[..., 3] == 1
    most = np.iinfo(sample.pixels.dtype).max
    rounded = np.rint(shown.rgba * most) / most  # as it is saved, with the bits of the document
    ours, theirs = (
        imagecodecs.cms_transform(
            np.ascontiguousarray(rgba[opaque][None, :, :3], np.float32),
            profile,
            _LAB,
            colorspace="rgb",
            outcolorspace="lab",
            outdtype="float32",
        )[0]
        for rgba, profile in ((sample.rgba, sample.profile), (rounded, shown.profile))
    )
    differences: NDArray[np.float64] = deltaE_ciede2000(ours, theirs)
    return differences


def documents(
    checkpoint: str, photos: Sequence[str], crops_of_each: int, size: int, layers: int, seed: int
) -> dict[str, Any]:
    """Segments photos, and compares their documents with them in several programs.

    Args:
        checkpoint: Checkpoint of the features.
        photos: Files; a bare name is a photo that scikit-image ships.
        crops_of_each: Number of crops of each file. Each has 8 bits once and 16 bits once.
        size: Pixels of the long side of a crop.
        layers: Number of layers K.
        seed: Random seed of the crops.

    Returns:
        Result with one row per program, document and number of bits.
    """
    shipped = Path(skimage.__file__).parent / "data"
    files = [Path(p) if Path(p).is_file() else shipped / p for p in photos]
    samples = list(crops(files, crops_of_each, size, seed))
    readers = {
        name: read for name, (need, read) in READERS.items() if shutil.which(need) or _module(need)
    }
    differences, in_p3 = defaultdict(list), defaultdict(list)
    segmenter = Segmenter(checkpoint, layers=layers, size=size)
    with TemporaryDirectory() as folder:
        for number, sample in enumerate(track(samples, "documents")):
            file, output = Path(folder) / "photo.tif", Path(folder) / str(number)
            sample.write(file)
            # Half of the PSDs have masks, the others baked transparency.
            segmenter(file).save(output, masks=number % 4 < 2)
            bits = 8 * sample.pixels.itemsize
            for name, read in readers.items():
                if name[1] == "Krita" and sample.profile is not None:
                    continue  # it exports sRGB
                shown = read(output, sample.pixels.shape[:2])
                differences[*name, bits].append(levels(shown, sample))
                if sample.profile == _P3:
                    in_p3[*name, bits].append(colour_differences(shown, sample))
            shutil.rmtree(output)
    return {
        "title": "Documents against their photos",
        "rows": [
            {
                "document": document,
                "program": program,
                "bits": bits,
                "photos": len(of_photos),
                "largest difference": round(max(float(d.max()) for d in of_photos), 2),
                "mean difference": round(float(np.mean([d.mean() for d in of_photos])), 3),
            }
            for (document, program, bits), of_photos in sorted(differences.items())
        ],
        "tables": {
            "Photos in Display P3: dE2000 to the photo": [
                {
                    "document": document,
                    "program": program,
                    "bits": bits,
                    "photos": len(of_photos),
                    **_statistics(np.concatenate(of_photos)),
                }
                for (document, program, bits), of_photos in sorted(in_p3.items())
            ]
        },
        "ratios": {},
        "settings": {
            "features": Path(checkpoint).stem,
            "layers": layers,
            "size": size,
            "differences": "in levels of 255, of colours times alpha and of alpha",
            "dE2000": "of opaque pixels, rounded to the bits of the document",
            "not installed": ", ".join(sorted({p for _, p in READERS.keys() - readers})) or "none",
        },
    }


def _module(name: str) -> bool:
    return find_spec(name) is not None


def _statistics(values: NDArray[np.floating]) -> dict[str, float]:
    return {
        "mean": round(float(values.mean()), 3),
        "99th percentile": round(float(np.quantile(values, 0.99)), 3),
        "largest": round(float(values.max()), 3),
    }
