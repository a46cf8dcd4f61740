import numpy as np
import torch
from skimage.color import rgb2lab

from softfeat.ops.colour_features import colour_features


def test_colour_is_the_mean_lab_of_the_pixels() -> None:
    image, superpixels = torch.rand(2, 3, 6, 8), torch.randint(0, 4, (2, 6, 8))
    features = colour_features(image, superpixels, 4)
    for b in range(2):
        lab = rgb2lab(image[b].permute(1, 2, 0).numpy())
        for s in range(4):
            expected = lab[(superpixels[b] == s).numpy()].mean(0)
            assert np.allclose(features[b, s].numpy(), expected, atol=0.05)


def test_position_spans_its_weight() -> None:
    superpixels = torch.arange(48).view(1, 6, 8)
    features = colour_features(torch.zeros(1, 3, 6, 8), superpixels, 48, position_weight=50.0)
    assert features.shape == (1, 48, 5)
    torch.testing.assert_close(features[0, 0, 3:], torch.tensor([0.0, 0.0]))
    torch.testing.assert_close(features[0, -1, 3:], torch.tensor([50.0, 50.0]))
