"""Heads that turn the extractor's features into class scores (Fig. 7)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def head_inputs(levels: Sequence[Tensor], low: Tensor) -> list[Tensor]:
    """What the heads read: F and the low-level features, nothing finer than a fourth of the photo.

    Heads work at the pyramid's own resolutions; the finest level and the low-level features are
    brought from half to a fourth, where they cost a fourth to store and to work on.

    Args:
        levels: (B,D/L,h_l,w_l), finest first, at least two.
        low: (B,C,h_1,w_1) of the first stage.

    Returns:
        low (B,C,h_2,w_2), then L levels, of which the first two have size (h_2,w_2).
    """
    finest = F.avg_pool2d(levels[0], 2, ceil_mode=True, count_include_pad=False)
    return [F.max_pool2d(low, 2, ceil_mode=True), finest, *levels[1:]]


def _block(in_channels: int, channels: int, size: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, size, padding=size // 2, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )


def _resize(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)


class Decoder(nn.Module):
    """Convolutions and batch norms from the coarsest level of F to the finest.

    The inputs are standardised without weights, for their spreads differ by orders of magnitude;
    so nothing is carried back to them, and a training step costs only what learns.

    Args:
        channels: of the inputs, in the order of `head_inputs`.
        num_classes: K.
        width: channels inside.
    """

    def __init__(self, channels: Sequence[int], num_classes: int, width: int = 64) -> None:
        super().__init__()
        low, *levels = channels
        self.norms = nn.ModuleList([nn.BatchNorm2d(n, affine=False) for n in channels])
        self.coarsest = nn.Sequential(_block(levels[-1], 2 * width, 3), _block(2 * width, width, 3))
        self.coarse = nn.ModuleList([_block(width + n, width, 3) for n in levels[-2:1:-1]])
        # One convolution of low, the two fine levels and the coarse result, joined; it is carried
        # out in two parts because the coarse one is cheaper before it is enlarged.
        self.join_fine = nn.Conv2d(low + sum(levels[:2]), width, 1, bias=False)
        self.join_coarse = nn.Conv2d(width, width, 1, bias=False)
        self.fine = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
            _block(width, width, 1),
        )
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Scores (B,K,h_2,w_2) from `head_inputs`."""
        low, *levels = [norm(x) for norm, x in zip(self.norms, inputs, strict=True)]
        x = self.coarsest(levels[-1])
        for block, level in zip(self.coarse, levels[-2:1:-1], strict=True):
            x = block(torch.cat([_resize(x, level), level], 1))
        joined = self.join_fine(torch.cat([low, *levels[:2]], 1))
        x = self.fine(joined + _resize(self.join_coarse(x), low))
        return self.classifier(x)


class LinearProbe(nn.Module):
    """One linear map from F to the scores: what F holds without any further learning.

    Each level is mapped at its own resolution and the results are added up, which is the linear map
    of the upsampled, concatenated F.

    Args:
        channels: of the inputs, in the order of `head_inputs`; the low-level features are not read.
        num_classes: K.
    """

    def __init__(self, channels: Sequence[int], num_classes: int) -> None:
        super().__init__()
        # Standardised, without weights: makes the problem well conditioned and stays linear.
        self.norms = nn.ModuleList([nn.BatchNorm2d(n, affine=False) for n in channels[1:]])
        self.maps = nn.ModuleList([nn.Conv2d(n, num_classes, 1) for n in channels[1:]])

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Scores (B,K,h_2,w_2) from `head_inputs`."""
        levels = inputs[1:]
        scores = [m(n(x)) for m, n, x in zip(self.maps, self.norms, levels, strict=True)]
        return torch.stack([_resize(score, levels[0]) for score in scores]).sum(0)
