"""Layers for networks of thin convolutions, which need less time and memory than PyTorch's.

They have the same parameters and compute the same, up to rounding: see `ops.convolutions`.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softfeat.ops.convolutions import depthwise, pointwise, relu6


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's "SAME" padding.

    It gives ceil(n / stride) outputs for n inputs. At stride 2, an even size is padded by one pixel
    more at its end than at its start.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Odd size of the kernel.
        stride: 1 or 2.
        groups: Groups of channels, as in `nn.Conv2d`.
        bias: Whether there is a bias.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
    ) -> None:
        padding = kernel_size // 2 if stride == 1 else 0
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=bias
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.convolve(x, self.weight, self.bias)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Convolve with other weights than the layer's own.

        Args:
            x: Maps (B,C,h,w).
            weight: Weights of the shape of `self.weight`.
            bias: Bias (C',), or None.

        Returns:
            Maps (B,C',ceil(h/stride),ceil(w/stride)).
        """
        x = self.pad(x)
        if self.groups == self.in_channels == self.out_channels:
            return depthwise(x, weight, bias, self.stride[0], int(self.padding[0]))
        if self.kernel_size == self.stride == (1, 1) and self.groups == 1:
            return pointwise(x, weight, bias)
        return F.conv2d(x, weight, bias, self.stride, self.padding, groups=self.groups)

    def pad(self, x: Tensor) -> Tensor:
        """Pad maps for stride 2. For stride 1, the convolution itself pads.

        Args:
            x: Maps (B,C,h,w).

        Returns:
            Maps (B,C,h',w'), the same ones for stride 1 or a kernel of one pixel.
        """
        half = self.kernel_size[0] // 2
        if self.stride[0] == 1 or not half:
            return x
        if torch.compiler.is_exporting():
            return _shifted(F.pad(x, (half,) * 4))
        height, width = x.shape[2:]
        top = half - 1 + height % 2
        left = half - 1 + width % 2
        return F.pad(x, (left, half, top, half))


def _shifted(x: Tensor) -> Tensor:
    """Move every even dimension of maps (B,C,H,W) by one pixel towards its start.

    For even sizes, symmetric padding followed by this move equals "SAME" padding. The size of the
    result does not depend on whether the size is even. Exporters need this. Otherwise their
    formulas for sizes would grow with every stage, and so would the time of an export.
    """
    for dim in (2, 3):
        size = x.shape[dim]
        places = torch.arange(size, device=x.device) + (1 - size % 2)
        x = x.index_select(dim, places.clamp(max=size - 1))
    return x


class ReLU6(nn.Module):
    """min(max(x, 0), 6), see `relu6`."""

    def forward(self, x: Tensor) -> Tensor:
        return relu6(x)


class ConvolutionSequence(nn.Sequential):
    """Sequence that computes batch norms in eval mode within the convolutions before them.

    Such a batch norm multiplies each channel by a constant and adds another one, and so can the
    convolution. Its weights are small, so no map has to be read and kept for the batch norm. Hooks
    of the two layers do not run then. While a graph is compiled or exported, all layers run.
    """

    def forward(self, x: Tensor) -> Tensor:
        layers = iter(pairwise([*self, None]))
        for layer, following in layers:
            if _can_be_folded(layer, following):
                x = layer.convolve(x, *_folded(layer.weight, following))
                next(layers)
            else:
                x = layer(x)
        return x


def _can_be_folded(layer: Any, following: Any) -> bool:
    return (
        isinstance(following, nn.BatchNorm2d | nn.SyncBatchNorm)
        and not following.training
        and following.affine
        and following.track_running_stats
        and isinstance(layer, SameConv2d)
        and layer.bias is None
        and not torch.compiler.is_compiling()
    )


def _folded(weight: Tensor, norm: Any) -> tuple[Tensor, Tensor]:
    """Compute weights and bias of a convolution that includes the batch norm behind it."""
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    bias = norm.bias - norm.running_mean * scale
    return (weight * scale.view(-1, 1, 1, 1)).to(weight.dtype), bias.to(weight.dtype)
