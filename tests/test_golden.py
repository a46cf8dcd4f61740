"""Results that must not change when the code is rearranged.

The values come from a tiny network with fixed random weights, so new shipped weights do not change
them. A change of the method does; then record them again: `python -m tests.test_golden`.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as photos

from softfeat.imaging.slic import Superpixels
from softfeat.matting.soft_segmentation import soft_segment
from softfeat.metrics.matte import matte_errors
from softfeat.metrics.pair_auc import pair_auc
from softfeat.metrics.segmentation import confusion_matrix, segmentation_scores
from softfeat.models.extractor import BottleneckExtractor
from softfeat.models.photo_features import features_of
from softfeat.ops.npair import npair_loss
from softfeat.ops.pyramid import pyramid_superpixel_mean
from softfeat.ops.superpixels import superpixel_majority

_FILE = Path(__file__).parent / "golden" / "values.npz"
_NUM_SUPERPIXELS = 60
_NUM_CLASSES = 4


def _extractor() -> BottleneckExtractor:
    """A tiny network whose weights come from NumPy, and so do not depend on torch's version."""
    extractor = BottleneckExtractor(widths=(16, 32), blocks=(1, 1), dim=16, readout_scale=None)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for parameter in extractor.parameters():
            spread = 1 / np.sqrt(max(1, parameter[0].numel()))
            parameter.copy_(torch.from_numpy(rng.normal(0, spread, parameter.shape)))
    return extractor.eval()


def _photo(name: str) -> np.ndarray:
    return np.asarray(Image.fromarray(getattr(photos, name)()).resize((120, 90)))


def _values() -> dict[str, np.ndarray]:
    extractor = _extractor()
    values = {}
    for name in ("astronaut", "chelsea"):
        photo = _photo(name)
        features = features_of(extractor, photo, (64, 96))
        result = soft_segment(photo / 255, features, num_layers=4)
        values[f"layers_{name}"] = (result.alphas * 255).round().astype(np.uint8)
        values[f"features_{name}"] = result.features[::8, ::8]

    batch = np.stack([_photo(name) for name in ("astronaut", "chelsea")])
    superpixels = torch.from_numpy(
        np.stack([Superpixels(_NUM_SUPERPIXELS)(photo) for photo in batch]).astype(np.int64)
    )  # (B,H,W)
    label = torch.from_numpy(batch.sum(3) // 192)  # (B,H,W), classes by brightness
    label[:, :4] = 255
    majority = superpixel_majority(label, superpixels, _NUM_SUPERPIXELS)  # (B,S)
    image = torch.from_numpy(batch).permute(0, 3, 1, 2) / 255  # (B,3,H,W)
    with torch.no_grad():
        pyramid = extractor.pyramid(image)
    pooled, _ = pyramid_superpixel_mean(pyramid, superpixels, _NUM_SUPERPIXELS)  # (B,S,D)
    pooled.requires_grad_()
    values |= {"majority": majority.numpy(), "pooled": pooled.detach().numpy()}
    for negative in ("printed", "symmetric"):
        loss = npair_loss(pooled, majority, negative)
        (gradient,) = torch.autograd.grad(loss, pooled)
        values[f"loss_{negative}"] = loss.detach().numpy()
        values[f"gradient_{negative}"] = gradient.numpy()

    values["pair_auc"] = torch.stack(pair_auc(pooled.detach(), majority)).numpy()
    scores = image.mean(1, keepdim=True) - torch.arange(_NUM_CLASSES).view(1, -1, 1, 1) / 4
    matrix = sum(map(confusion_matrix, -scores.abs(), label))
    values["confusion"] = matrix.numpy()
    values |= {f"score_{k}": v.numpy() for k, v in segmentation_scores(matrix).items()}
    alpha = values["layers_chelsea"].astype(np.float64) / 255
    errors = matte_errors(alpha[0], (alpha[0] > 0.5).astype(np.float64))
    values["matte_errors"] = np.array(list(vars(errors).values()), np.float64)
    return values


@pytest.fixture(scope="module")
def values() -> dict[str, np.ndarray]:
    return _values()


def test_nothing_was_added_or_lost(values):
    assert set(values) == set(np.load(_FILE))


@pytest.mark.parametrize("name", np.load(_FILE).files if _FILE.exists() else [])
def test_results_are_those_recorded(values, name):
    recorded = np.load(_FILE)[name]
    now = values[name]
    assert now.shape == recorded.shape
    if name.startswith("layers_"):
        # Processors round differently: a few pixels at borders then differ by more than a level.
        difference = np.abs(now.astype(int) - recorded.astype(int))
        assert (difference > 1).mean() <= 0.002
        assert difference.max() <= 8
    elif np.issubdtype(now.dtype, np.integer):
        np.testing.assert_array_equal(now, recorded)
    else:
        np.testing.assert_allclose(now, recorded, rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
    np.savez_compressed(_FILE, **_values())
