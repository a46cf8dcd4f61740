"""Heads that turn the extractor's features into class scores (Fig. 7)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def head_inputs(levels: Sequence[Tensor], low: Tensor) -> list[Tensor]:
    """Reduce the pyramid and the low-level features to at most a fourth of the photo's resolution.

    Heads work at the resolutions of the pyramid. The finest level and the low-level features are
    reduced from half to a fourth of the photo, where they take a fourth of the memory and time.

    Args:
        levels: Levels (B,C_l,h_l,w_l) of F, finest first, at least two.
        low: Output (B,C,h_0,w_0) of the extractor's first stage.

    Returns:
        Low-level features (B,C,h_1,w_1), followed by the levels. The first two levels have the size
        (h_1,w_1).
    """
    finest = F.avg_pool2d(levels[0], 2, ceil_mode=True, count_include_pad=False)
    return [F.max_pool2d(low, 2, ceil_mode=True), finest, *levels[1:]]


def _block(in_channels: int, channels: int, size: int) -> nn.Sequential:
    """Create a convolution with a batch norm and a ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, size, padding=size // 2, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )


def _resize(x: Tensor, like: Tensor) -> Tensor:
    """Resize maps bilinearly to the size of other maps."""
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)


class Decoder(nn.Module):
    """Head of convolutions and batch norms, from the coarsest level of F to the finest.

    The inputs are standardised, because their standard deviations differ by orders of magnitude.
    These batch norms have no weights. So with a frozen extractor no gradient is needed for the
    inputs.

    Args:
        channels: Channels of the inputs, in the order of `head_inputs`.
        num_classes: Number of classes K.
        width: Channels of the hidden layers.
    """

    def __init__(self, channels: Sequence[int], num_classes: int, width: int = 64) -> None:
        super().__init__()
        low, *levels = channels
        self.norms = nn.ModuleList([nn.BatchNorm2d(n, affine=False) for n in channels])
        self.coarsest = nn.Sequential(_block(levels[-1], 2 * width, 3), _block(2 * width, width, 3))
        self.coarse = nn.ModuleList([_block(width + n, width, 3) for n in levels[-2:1:-1]])
        # Together these are one convolution of the low-level features, the two fine levels and the
        # upsampled coarse result. The coarse part is cheaper before upsampling.
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
        """Compute class scores (B,K,h_1,w_1) from the result of `head_inputs`."""
        low, *levels = [norm(x) for norm, x in zip(self.norms, inputs, strict=True)]
        x = self.coarsest(levels[-1])
        for block, level in zip(self.coarse, levels[-2:1:-1], strict=True):
            x = block(torch.cat([_resize(x, level), level], 1))
        joined = self.join_fine(torch.cat([low, *levels[:2]], 1))
        x = self.fine(joined + _resize(self.join_coarse(x), low))
        return self.classifier(x)


class LinearProbe(nn.Module):
    """Head with one linear map from F to the scores, to measure what F contains by itself.

    Each level is mapped at its own resolution, and the results are upsampled and added up. This
    equals a linear map of the upsampled, concatenated F.

    Args:
        channels: Channels of the inputs, in the order of `head_inputs`. The low-level features are
            not used.
        num_classes: Number of classes K.
    """

    def __init__(self, channels: Sequence[int], num_classes: int) -> None:
        super().__init__()
        # Standardised inputs make the problem well conditioned. The map stays linear.
        self.norms = nn.ModuleList([nn.BatchNorm2d(n, affine=False) for n in channels[1:]])
        self.maps = nn.ModuleList([nn.Conv2d(n, num_classes, 1) for n in channels[1:]])

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Compute class scores (B,K,h_1,w_1) from the result of `head_inputs`."""
        levels = inputs[1:]
        scores = [m(n(x)) for m, n, x in zip(self.maps, self.norms, levels, strict=True)]
        return torch.stack([_resize(score, levels[0]) for score in scores]).sum(0)
