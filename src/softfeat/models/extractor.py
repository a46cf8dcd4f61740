"""Feature extractors: networks whose stages are read out as a linear hypercolumn (Fig. 1).

Legend: B images, H W pixels, D feature channels, D_l channels of level l, h_l w_l its size.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from softfeat.checks import number, one_of, whole, whole_numbers
from softfeat.models import efficientnet
from softfeat.models.checkpoints import read_checkpoint
from softfeat.models.convolutions import ReLU6, SameConv2d
from softfeat.ops.sizes import ceil_div

# Mean and standard deviation of the colours of photos in [0,1], measured on ImageNet
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
_TwoContexts = tuple[AbstractContextManager[None], AbstractContextManager[None]]
_READOUT_START = 0.1  # factor of the readouts' first weights: distances of features start near 1
_TINY = 1e-6  # added to the mean square of a feature, which is about 1 in training
BatchNormMode = Literal["batch", "running", "frozen"]


class Extractor(nn.Module):
    """Base class of the networks that compute soft semantic features F of a photo.

    A network is a sequence of stages, each of which halves the resolution. Each stage is read out
    into a level of a pyramid. F is the concatenation of the bilinearly upsampled levels. Since
    upsampling is linear, superpixels can be pooled at the resolution of each level (`ops.pyramid`).

    Subclasses create `stages` and implement `encode` and `read`. If levels depend on each other,
    they also override `decode`.

    Args:
        low_channels: Channels of the first stage's output.
        level_channels: Channels of each level, finest first. D is their sum.
        mean: Mean (3,) of each colour channel of photos in [0,1].
        std: Standard deviation (3,) of each colour channel.
        level_norm: Exponent p in 0..1 of the normalisation y / rms(y)^p of every pixel y of a
            level. 0 leaves the levels as they are. 1 gives all pixels of all levels the same length
            (as in ParseNet, Liu et al. 2015). Used in eval mode only. It helps with photos that
            differ from the training photos, where lengths are misleading.
        recompute: Number of first stages whose activations are computed again in the backward pass
            instead of being stored. The first stage has by far the largest activations and is
            cheap. Gradients do not change. Ignored if the network is compiled, since the compiler
            decides what to store.

    Raises:
        ValueError: If `level_norm` or `recompute` is out of range.
    """

    network: str
    stages: nn.ModuleList
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        low_channels: int,
        level_channels: Sequence[int],
        mean: Sequence[float],
        std: Sequence[float],
        level_norm: float,
        recompute: int,
    ) -> None:
        super().__init__()
        number("extractor.level_norm", level_norm, 0, 1)
        whole("extractor.recompute", recompute, 0, len(level_channels))
        self.recompute = recompute
        self.low_channels = low_channels
        self.level_channels = tuple(map(int, level_channels))
        self.dim = sum(self.level_channels)
        # Arguments of `build_extractor` for this network, stored in checkpoints as plain values
        self.hparams: dict[str, Any] = {"network": self.network, "level_norm": float(level_norm)}
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def encode(self, index: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """Run one stage.

        Args:
            index: Number of the stage, from 0.
            x: Input (B,C,h,w) from the previous stage. For stage 0 the normalised photo.

        Returns:
            Output of the stage (B,C_l,h_l,w_l), and the input of the next stage.
        """
        raise NotImplementedError

    def read(self, index: int, stage: Tensor) -> Tensor:
        """Read out a stage.

        Args:
            index: Number of the stage, from 0.
            stage: Output (B,C,h_l,w_l) of the stage.

        Returns:
            Readout (B,C',h_l,w_l), the input of `decode`. By default it is the level itself.
        """
        raise NotImplementedError

    def decode(self, laterals: list[Tensor]) -> list[Tensor]:
        """Compute the levels from the readouts of all stages.

        Args:
            laterals: Results of `read`, finest first.

        Returns:
            Levels (B,D_l,h_l,w_l), finest first.
        """
        return laterals

    def encoder_parameters(self) -> list[nn.Parameter]:
        """List the parameters that may be pretrained.

        Returns:
            Parameters of the stages.
        """
        return list(self.stages.parameters())

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """Compute the levels of F, each at its own resolution.

        Args:
            image: Photos (B,3,H,W) RGB in [0,1] of any size.

        Returns:
            Levels (B,D_l,h_l,w_l), finest first, with h_l = ceil(H / 2^(l+1)) and l from 0.
        """
        return self.decode([lateral for _, lateral in self._stages_and_laterals(image)])

    def pyramid_and_low(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """Compute the levels of F, and low-level features.

        Args:
            image: Photos (B,3,H,W) RGB in [0,1] of any size.

        Returns:
            levels: Levels, see `pyramid`.
            low: Output (B,C,h_0,w_0) of the first stage.
        """
        stages, laterals = zip(*self._stages_and_laterals(image), strict=True)
        return self.decode(list(laterals)), stages[0]

    def _stages_and_laterals(self, image: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the output and the readout of each stage."""
        backward = self.training and torch.is_grad_enabled()
        recompute = self.recompute if backward and not torch.compiler.is_compiling() else 0
        x = image
        for index in range(len(self.stages)):
            if index < recompute:
                stage, lateral, x = checkpoint(
                    self._stage,
                    index,
                    x,
                    use_reentrant=False,
                    preserve_rng_state=False,  # stages use no random numbers
                    context_fn=self._contexts,
                )
            else:
                stage, lateral, x = self._stage(index, x)
            yield stage, lateral

    def _stage(self, index: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the output of a stage, its readout, and the input of the next stage."""
        if index == 0:
            x = (x - self.mean) / self.std
        stage, passed_on = self.encode(index, x)
        return stage, self.read(index, stage), passed_on

    def _contexts(self) -> _TwoContexts:
        """Create the contexts of a stage's first computation and of its second one."""
        return nullcontext(), _WithoutRecording(self)

    def shorten(self, level: Tensor) -> Tensor:
        """Normalise the pixels of a level by `level_norm`, in eval mode only.

        Args:
            level: Level (B,D_l,h_l,w_l).

        Returns:
            Level (B,D_l,h_l,w_l).
        """
        power = self.hparams["level_norm"]
        if not power or self.training:
            return level
        return level * (level.square().mean(1, keepdim=True) + _TINY) ** (-power / 2)

    def level_sizes(self, image_size: Sequence[int]) -> list[tuple[int, int]]:
        """Compute the sizes of the levels.

        Args:
            image_size: Height H and width W of the photos, in pixels.

        Returns:
            Sizes (h_l, w_l), finest first.
        """
        height, width = image_size
        scales = [2**power for power in range(1, len(self.stages) + 1)]
        return [(ceil_div(height, scale), ceil_div(width, scale)) for scale in scales]

    def forward(self, image: Tensor) -> Tensor:
        """Compute the feature map F.

        Args:
            image: Photos (B,3,H,W) RGB in [0,1] of any size.

        Returns:
            Features (B,D,H,W), the concatenation of the bilinearly upsampled levels.
        """
        size = image.shape[-2:]
        return torch.cat(
            [
                F.interpolate(level, size=size, mode="bilinear", align_corners=False)
                for level in self.pyramid(image)
            ],
            1,
        )


class Bottleneck(nn.Module):
    """Narrowing 1x1, 3x3 and widening 1x1 convolutions, added to the input (He et al. 2016)."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        inner = channels // 4
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, inner, 3, padding=1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.shortcut: nn.Module = (
            nn.Identity()
            if in_channels == channels
            else nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, bias=False), nn.BatchNorm2d(channels)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        # In place, because no backward pass needs the sum or the output of the last batch norm.
        return F.relu(self.body(x).add_(self.shortcut(x)), inplace=True)


class BottleneckExtractor(Extractor):
    """The paper's network: cascaded ResNet bottlenecks with max pooling between them (Fig. 1).

    Args:
        widths: Channels of each stage.
        blocks: Number of bottlenecks in each stage.
        dim: Channels D of F, divided evenly among the stages.
        readout_scale: First standard deviation of the features. A batch norm without weights after
            each projection gives all features the same standard deviation, which is learned as one
            number. So no level can be switched off. None uses the projections alone, as in the text
            of the paper.
        level_norm: Exponent of the normalisation of pixels, see `Extractor`.
        recompute: Number of stages that are computed again, see `Extractor`.

    Raises:
        ValueError: If `widths` and `blocks` differ in length, or if `dim` cannot be divided evenly.

    >>> levels = BottleneckExtractor().pyramid(torch.rand(1, 3, 50, 70))
    >>> [tuple(level.shape[1:]) for level in levels]
    [(32, 25, 35), (32, 13, 18), (32, 7, 9), (32, 4, 5)]
    """

    network = "bottleneck"

    def __init__(
        self,
        widths: Sequence[int] = (64, 128, 256, 512),
        blocks: Sequence[int] = (1, 2, 6, 11),
        dim: int = 128,
        readout_scale: float | None = 0.01,
        level_norm: float = 0.0,
        recompute: int = 1,
    ) -> None:
        whole_numbers("extractor.widths", widths, 4, 65536)
        whole_numbers("extractor.blocks", blocks, 1, 1000)
        whole("extractor.dim", dim, 1, 65536)
        if readout_scale is not None:
            number("extractor.readout_scale", readout_scale, above=0)
        if len(widths) != len(blocks) or dim % len(widths):
            raise ValueError(
                f"extractor.widths={list(widths)} and extractor.blocks={list(blocks)} need one "
                f"entry per stage each, and extractor.dim={dim} must divide evenly among the stages"
            )
        channels = dim // len(widths)
        levels = [channels] * len(widths)
        super().__init__(widths[0], levels, _MEAN, _STD, level_norm, recompute)
        self.hparams |= {
            "widths": [int(w) for w in widths],
            "blocks": [int(b) for b in blocks],
            "dim": int(dim),
            "readout_scale": readout_scale,
        }
        self.stem = nn.Sequential(
            nn.Conv2d(3, 32, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(inplace=True),
        )
        self.stages = nn.ModuleList()
        self.readouts = nn.ModuleList()
        in_channels = 32
        for width, depth in zip(widths, blocks, strict=True):
            cascade = [Bottleneck(in_channels if i == 0 else width, width) for i in range(depth)]
            self.stages.append(nn.Sequential(*cascade))
            self.readouts.append(
                nn.Sequential(nn.Conv2d(width, channels, 1))
                if readout_scale is None
                else nn.Sequential(
                    nn.Conv2d(width, channels, 1, bias=False),
                    nn.BatchNorm2d(channels, affine=False),
                )
            )
            in_channels = width
        self.scale = (
            None if readout_scale is None else nn.Parameter(torch.tensor(float(readout_scale)))
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def encoder_parameters(self) -> list[nn.Parameter]:
        return [*self.stem.parameters(), *self.stages.parameters()]

    def encode(self, index: int, x: Tensor) -> tuple[Tensor, Tensor]:
        stage = self.stages[index](self.stem(x) if index == 0 else x)
        last = index == len(self.stages) - 1
        return stage, stage if last else F.max_pool2d(stage, 2, ceil_mode=True)

    def read(self, index: int, stage: Tensor) -> Tensor:
        level = self.shorten(self.readouts[index](stage))
        return level if self.scale is None else self.scale * level


class EfficientNetExtractor(Extractor):
    """EfficientNet-Lite0 with a small feature pyramid network (Lin et al. 2017).

    The encoder can start from ImageNet weights. The pyramid network carries information from coarse
    to fine levels, so that fine levels can use what the coarse ones recognised.

    Args:
        weights: First weights. "imagenet" uses the published ones (needs the extra `imagenet`). A
            path ending in .pth is a file of the same format. Anything else is a checkpoint of this
            project (file, run directory or name of shipped weights) of the same network. None uses
            random weights.
        level_channels: Channels of each level, finest first. D is their sum.
        top_down: Channels of the pyramid network. With 0 there is none, and each level is a linear
            map of its own stage.
        batch_norm: Mode of the encoder's batch norms in training. "batch" normalises by the batch
            and updates the running statistics. "running" normalises by the running statistics
            without updating them, and trains scale and shift. "frozen" does not train these either.
        frozen_stages: Number of first stages that are not trained. They need no backward pass.
        level_norm: Exponent of the normalisation of pixels, see `Extractor`.
        recompute: Number of stages that are computed again, see `Extractor`.

    Raises:
        ValueError: If an argument is out of range, or if the weights belong to another network.
        ImportError: If `weights` is "imagenet" and the package with these weights is missing.

    >>> levels = EfficientNetExtractor().pyramid(torch.rand(1, 3, 50, 70))
    >>> [tuple(level.shape[1:]) for level in levels]
    [(16, 25, 35), (16, 13, 18), (32, 7, 9), (32, 4, 5), (32, 2, 3)]
    """

    network = "efficientnet_lite0"

    def __init__(
        self,
        weights: str | Path | None = None,
        level_channels: Sequence[int] = (16, 16, 32, 32, 32),
        top_down: int = 64,
        batch_norm: BatchNormMode = "running",
        frozen_stages: int = 0,
        level_norm: float = 0.0,
        recompute: int = 0,
    ) -> None:
        stage_channels = efficientnet.STAGE_CHANNELS
        whole_numbers(
            "extractor.level_channels", level_channels, 1, 65536, count=len(stage_channels)
        )
        whole("extractor.top_down", top_down, 0, 65536)
        one_of("extractor.batch_norm", batch_norm, ("batch", "running", "frozen"))
        whole("extractor.frozen_stages", frozen_stages, 0, len(stage_channels))
        mean = [efficientnet.MEAN] * 3
        std = [efficientnet.STD] * 3
        super().__init__(stage_channels[0], level_channels, mean, std, level_norm, recompute)
        self.hparams |= {"level_channels": list(self.level_channels), "top_down": int(top_down)}
        self.stages = efficientnet.stages()
        self.batch_norm = batch_norm
        self.frozen_stages = frozen_stages
        widths = [top_down or channels for channels in stage_channels]
        self.laterals = nn.ModuleList(
            SameConv2d(channels, top_down, 1, bias=True) if top_down else nn.Identity()
            for channels in stage_channels
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(
                SameConv2d(top_down, top_down, 3, groups=top_down, bias=True),
                ReLU6(),
                SameConv2d(top_down, top_down, 1, bias=True),
            )
            for _ in range(len(stage_channels) if top_down else 0)
        )
        self.readouts = nn.ModuleList(
            SameConv2d(width, channels, 1, bias=True)
            for width, channels in zip(widths, level_channels, strict=True)
        )
        with torch.no_grad():
            for readout in self.readouts:
                readout.weight.mul_(_READOUT_START)  # type: ignore[operator]
        self.stages[:frozen_stages].requires_grad_(False)
        if batch_norm == "frozen":
            for norm in _norms(self.stages):
                norm.requires_grad_(False)
        if weights is not None:
            self._load(str(weights))
        self.train()

    def _load(self, weights: str) -> None:
        """Load the first weights, see the class."""
        if weights == "imagenet":
            path = efficientnet.imagenet_file()
            efficientnet.check_imagenet(path)
            efficientnet.load_published(self.stages, path)
        elif weights.endswith(".pth"):
            efficientnet.load_published(self.stages, Path(weights))
        else:
            try:
                content = read_checkpoint(weights)
            except FileNotFoundError as error:
                raise FileNotFoundError(f"extractor.weights={weights}: {error}") from error
            _load_weights(self, content)

    def train(self, mode: bool = True) -> "EfficientNetExtractor":
        """Set the mode, except for batch norms of the encoder that keep their statistics."""
        super().train(mode)
        constant = self.stages[: self.frozen_stages] if self.batch_norm == "batch" else self.stages
        for norm in _norms(constant):
            norm.eval()
        return self

    def encode(self, index: int, x: Tensor) -> tuple[Tensor, Tensor]:
        stage = self.stages[index](x)
        return stage, stage

    def read(self, index: int, stage: Tensor) -> Tensor:
        lateral: Tensor = self.laterals[index](stage)
        return lateral

    def decode(self, laterals: list[Tensor]) -> list[Tensor]:
        if self.blocks:
            laterals = self._coarse_to_fine(laterals)
        levels = zip(self.readouts, laterals, strict=True)
        return [self.shorten(readout(x)) for readout, x in levels]

    def _coarse_to_fine(self, laterals: list[Tensor]) -> list[Tensor]:
        """Add to each stage's readout the results of the coarser ones. Finest first."""
        result: list[Tensor] = []
        for block, lateral in zip(reversed(self.blocks), reversed(laterals), strict=True):
            x = lateral
            if result:
                size = lateral.shape[2:]
                x = x + F.interpolate(result[-1], size, mode="bilinear", align_corners=False)
            result.append(x + block(x))
        return result[::-1]


def _norms(modules: nn.Module) -> list[nn.BatchNorm2d | nn.SyncBatchNorm]:
    """List all batch norms in a module."""
    kinds = nn.BatchNorm2d | nn.SyncBatchNorm
    return [module for module in modules.modules() if isinstance(module, kinds)]


class _WithoutRecording(AbstractContextManager[None]):
    """Context in which batch norms use the statistics of the batch without recording them again.

    A graph that is kept (`retain_graph`) enters the context once for each backward pass.
    """

    def __init__(self, modules: nn.Module) -> None:
        self.norms = _norms(modules)

    def __enter__(self) -> None:
        self.saved = [(norm.momentum, norm.num_batches_tracked) for norm in self.norms]
        for norm in self.norms:
            batches = norm.num_batches_tracked
            norm.momentum = 0.0
            norm.num_batches_tracked = None if batches is None else batches.clone()

    def __exit__(self, *_: object) -> None:
        for norm, (momentum, batches) in zip(self.norms, self.saved, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked = batches


NETWORKS: dict[str, type[Extractor]] = {
    network.network: network for network in (BottleneckExtractor, EfficientNetExtractor)
}


def build_extractor(hparams: Mapping[str, Any]) -> Extractor:
    """Create an extractor with random weights.

    Args:
        hparams: Arguments, as in `Extractor.hparams` of an extractor of the same shape.

    Returns:
        Extractor in training mode.

    Raises:
        ValueError: If there is no network of this name.
    """
    arguments = dict(hparams)
    network = arguments.pop("network")
    if network not in NETWORKS:
        raise ValueError(f"unknown network {network!r}: this version has {', '.join(NETWORKS)}")
    return NETWORKS[network](**arguments)


def _load_weights(extractor: Extractor, content: Mapping[str, Any]) -> None:
    """Copy the extractor's weights from the result of `read_checkpoint`.

    Raises:
        ValueError: If the weights belong to another network, such as one of an earlier version.
    """
    prefix = "extractor."
    state = content["state_dict"].items()
    weights = {k.removeprefix(prefix): v for k, v in state if k.startswith(prefix)}
    try:
        extractor.load_state_dict(weights)
    except RuntimeError as error:
        raise _misfit(content) from error


def _misfit(content: Mapping[str, Any]) -> ValueError:
    return ValueError(
        f"{content.get('file', 'the checkpoint')}: the weights do not fit this network: choose the "
        "extractor= that they were trained with, train again, or use weights of this version"
    )


def extractor_of(content: Mapping[str, Any]) -> Extractor:
    """Create the extractor that `read_checkpoint` has read.

    Args:
        content: Result of `read_checkpoint`.

    Returns:
        Extractor in eval mode, on the CPU.

    Raises:
        ValueError: If the weights belong to another network.
    """
    _check_sizes(content)
    extractor = build_extractor(content["extractor"])
    _load_weights(extractor, content)
    return extractor.eval()


def _check_sizes(content: Mapping[str, Any]) -> None:
    """Compare the network with the weights, before it takes memory: its sizes come from a file.

    Raises:
        ValueError: If the weights belong to another network.
    """
    state = content["state_dict"]
    try:
        with torch.device("meta"):  # shapes without values
            planned = build_extractor(content["extractor"]).state_dict()
    except (RuntimeError, TypeError, ValueError) as error:
        file = content.get("file", "the checkpoint")
        raise ValueError(f"{file} describes no network: {error}. Get the file again") from error
    for name, tensor in planned.items():
        weights = state.get(f"extractor.{name}")
        if weights is None and name.endswith("num_batches_tracked"):  # not exported
            continue
        same = weights is not None and weights.shape == tensor.shape
        if not same or weights.is_floating_point() != tensor.is_floating_point():
            raise _misfit(content)


def load_extractor(checkpoint: str | Path) -> Extractor:
    """Load the extractor of a checkpoint.

    Args:
        checkpoint: File, run directory or name of shipped weights, see `read_checkpoint`.

    Returns:
        Extractor in eval mode, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not one of this project, or is damaged.
    """
    return extractor_of(read_checkpoint(checkpoint))
