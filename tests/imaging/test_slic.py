import builtins
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from skimage.measure import label

from softfeat.imaging import slic
from softfeat.imaging.slic import Superpixels

BACKENDS = ["fast_slic", "skimage"]
rng = np.random.default_rng(0)
NOISE = rng.integers(0, 256, (224, 224, 3)).astype(np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([y * 255 // height, x * 255 // width, (x + y) % 256], -1).astype(np.uint8)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "image",
    [smooth(224, 224), smooth(60, 90), NOISE, np.zeros((64, 64, 3), np.uint8)],
    ids=["smooth", "wide", "noise", "constant"],
)
def test_ids_have_no_gaps_and_are_connected(image: np.ndarray, backend: Any) -> None:
    superpixels = Superpixels(count=200, backend=backend)(image)
    assert superpixels.dtype == np.uint16
    assert superpixels.shape == image.shape[:2]
    found = superpixels.max() + 1
    assert found <= 200
    assert len(np.unique(superpixels)) == found
    pieces = label(superpixels.astype(int) + 1, connectivity=1).max()
    assert pieces == found


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (8, 8), (16, 16), (22, 22), (3, 400)])
def test_fewer_pixels_than_superpixels(size: tuple[int, int], backend: Any) -> None:
    """fast-slic by itself crashes with SIGFPE here."""
    superpixels = Superpixels(count=500, backend=backend)(smooth(*size))
    assert superpixels.max() < min(500, size[0] * size[1])


def test_the_same_photo_gives_the_same_map() -> None:
    make = Superpixels()
    first = make(NOISE)
    make(smooth(224, 224))
    assert np.array_equal(make(NOISE), first)


def test_strided_and_read_only_pictures_are_fine() -> None:
    image = smooth(80, 60)[:, ::-1]
    image.flags.writeable = False
    assert np.array_equal(Superpixels(100)(image), Superpixels(100)(np.ascontiguousarray(image)))


def test_more_than_int16_labels_do_not_wrap() -> None:
    superpixels = Superpixels(count=32767)(NOISE)
    assert superpixels.max() < 32767


def test_avx2_gives_the_maps_of_the_plain_variant() -> None:
    from fast_slic import Slic

    variant = slic._fast_slic_class()
    if variant is Slic:
        pytest.skip("this processor has no AVX2 variant")
    for image in (NOISE, smooth(224, 224), smooth(97, 131)):
        plain = Slic(num_components=300, compactness=10, num_threads=1).iterate(image, 10)
        fast = variant(num_components=300, compactness=10, num_threads=1).iterate(image, 10)
        assert np.array_equal(plain, fast)


@pytest.mark.parametrize(
    "image",
    [np.zeros((8, 8, 3), np.float32), np.zeros((8, 8), np.uint8), np.zeros((0, 8, 3), np.uint8)],
)
def test_other_pictures_are_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8 RGB"):
        Superpixels()(image)


@pytest.mark.parametrize(
    "options", [{"count": 0}, {"count": 40000}, {"backend": "magic"}, {"mode": "sometimes"}]
)
def test_bad_parameters_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"superpixels\."):
        Superpixels(**options)


def test_every_parameter_is_part_of_the_identity() -> None:
    variants = [
        Superpixels(),
        Superpixels(count=400),
        Superpixels(compactness=20),
        Superpixels(iterations=5),
        Superpixels(backend="skimage"),
    ]
    identities = [str(v.identity()) for v in variants]
    assert len(set(identities)) == len(variants)
    assert Superpixels(mode="online").identity() == Superpixels().identity()
    assert str(Superpixels(compactness=10).identity()) == str(Superpixels().identity())


def test_a_missing_fast_slic_names_the_repair_and_is_not_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real_import = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("fast_slic"):
            raise ImportError("No module named 'fast_slic'")
        return real_import(name, *args, **kwargs)

    slic._fast_slic_class.cache_clear()
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"--no-build-isolation fast-slic.*backend=skimage"):
        Superpixels()(smooth(20, 20))
    with pytest.raises(ImportError, match="--no-build-isolation"):
        Superpixels().check_backend()
    with pytest.raises(ImportError, match="--no-build-isolation"):
        Superpixels().identity()
    monkeypatch.undo()
    slic._fast_slic_class.cache_clear()


def test_the_wrapper_needs_neither_torch_nor_lightning() -> None:
    code = "import sys; import softfeat.imaging.slic; print('torch' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"
