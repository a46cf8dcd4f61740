"""The feature extractor: cascaded ResNet bottlenecks read out as a linear hypercolumn (Fig. 1)."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from src.models.checkpoints import read_checkpoint

# Mean and spread of natural photos in [0,1] (ImageNet's, the field's convention).
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
_TwoContexts = tuple[AbstractContextManager[None], AbstractContextManager[None]]
_TINY = 1e-6  # beside the square of a feature's spread, which is 1 in training


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


class Extractor(nn.Module):
    """Photo -> soft semantic features F.

    A stride-2 stem, then stages of bottlenecks with max pooling between them. Each stage is read
    out by a 1x1 projection; the levels' channels add up to `dim`. The projections (and their batch
    norm) are linear, so that superpixels can be pooled at the levels' own resolutions
    (`src.ops.pyramid`).

    Args:
        widths: channels of each stage.
        blocks: bottlenecks of each stage.
        dim: D, channels of F, divided evenly among the stages.
        readout_scale: spread of every feature at the start. A batch norm without weights behind
            each projection gives all features one spread, which is learned as one number: no
            level can be switched off. None for projections alone, as the paper's text has it.
        level_norm: how far every pixel of a level is brought to one length, p in y / rms(y)^p: 0
            leaves the levels as they are, 1 makes all pixels of all levels equally long (as in
            ParseNet, Liu et al. 2015). In eval mode only. Meant for photos unlike those of the
            training, where lengths mislead more than they tell.
        recompute: of how many first stages the backward pass computes anew what it reads, rather
            than keep it in memory from the forward pass. The first is the largest by far and
            computes little. Gradients are the same. Compiled, the network leaves it to the
            compiler what to keep.

    >>> levels = Extractor().pyramid(torch.rand(1, 3, 50, 70))
    >>> [tuple(level.shape[1:]) for level in levels]
    [(32, 25, 35), (32, 13, 18), (32, 7, 9), (32, 4, 5)]
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        widths: Sequence[int] = (64, 128, 256, 512),
        blocks: Sequence[int] = (1, 2, 6, 11),
        dim: int = 128,
        readout_scale: float | None = 0.01,
        level_norm: float = 0.0,
        recompute: int = 1,
    ) -> None:
        super().__init__()
        if len(widths) != len(blocks) or dim % len(widths):
            raise ValueError(
                f"widths={list(widths)} and blocks={list(blocks)} need one entry a stage each, "
                f"and dim={dim} must divide evenly among the stages"
            )
        if not 0 <= level_norm <= 1:
            raise ValueError(f"extractor.level_norm={level_norm}: choose 0 (as learned) to 1")
        if not 0 <= recompute <= len(widths):
            raise ValueError(
                f"extractor.recompute={recompute}: choose 0 to {len(widths)}, the number of stages"
            )
        self.recompute = recompute
        # What rebuilds this network; goes into checkpoints as plain numbers.
        self.hparams: dict[str, Any] = {
            "widths": [int(w) for w in widths],
            "blocks": [int(b) for b in blocks],
            "dim": int(dim),
            "readout_scale": readout_scale,
            "level_norm": float(level_norm),
        }
        self.register_buffer("mean", torch.tensor(_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(3, 1, 1), persistent=False)
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
            channels = dim // len(widths)
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

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """Feature levels at their own resolutions.

        Args:
            image: (B,3,H,W) RGB in [0,1], any size.

        Returns:
            Levels (B,D/L,h_l,w_l), h_l = ceil(H / 2^(l+1)), finest first.
        """
        return [level for _, level in self._stages_and_levels(image)]

    def pyramid_and_low(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """The levels of `pyramid` and, beside them, low-level features.

        Args:
            image: (B,3,H,W) RGB in [0,1], any size.

        Returns:
            levels: as `pyramid`.
            low: (B,C,h_1,w_1), the first stage's output.
        """
        stages, levels = zip(*self._stages_and_levels(image), strict=True)
        return list(levels), stages[0]

    def _stages_and_levels(self, image: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        backward = self.training and torch.is_grad_enabled()
        recompute = self.recompute if backward and not torch.compiler.is_compiling() else 0
        x = image
        for index in range(len(self.stages)):
            if index < recompute:
                stage, level, x = checkpoint(
                    self._stage,
                    index,
                    x,
                    use_reentrant=False,
                    preserve_rng_state=False,  # nothing is drawn
                    context_fn=partial(self._contexts, index),
                )
            else:
                stage, level, x = self._stage(index, x)
            yield stage, level

    def _stage(self, index: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A stage's output, its level, and what the next stage reads."""
        if index == 0:
            x = self.stem((x - self.mean) / self.std)
        stage = self.stages[index](x)
        level = self.readouts[index](stage)
        if (power := self.hparams["level_norm"]) and not self.training:
            square = level.square().mean(1, keepdim=True)
            level = level * (square + _TINY) ** (-power / 2)
        level = level if self.scale is None else self.scale * level
        last = index == len(self.stages) - 1
        return stage, level, stage if last else F.max_pool2d(stage, 2, ceil_mode=True)

    def _contexts(self, index: int) -> _TwoContexts:
        """Around a stage, and around the same computed anew."""
        parts = nn.ModuleList((self.stem, self.stages[index], self.readouts[index]))
        return nullcontext(), _StatisticsKept(parts)

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


class _StatisticsKept(AbstractContextManager[None]):
    """Within it batch norms go by their batch, but do not count it a second time.

    A graph that is kept (`retain_graph`) enters it once for each backward pass.
    """

    def __init__(self, modules: nn.Module) -> None:
        kinds = nn.BatchNorm2d | nn.SyncBatchNorm
        self.norms = [module for module in modules.modules() if isinstance(module, kinds)]

    def __enter__(self) -> None:
        self.kept = [(norm.momentum, norm.num_batches_tracked) for norm in self.norms]
        for norm in self.norms:
            batches = norm.num_batches_tracked
            norm.momentum = 0.0
            norm.num_batches_tracked = None if batches is None else batches.clone()

    def __exit__(self, *_: object) -> None:
        for norm, (momentum, batches) in zip(self.norms, self.kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches


def extractor_of(content: dict[str, Any]) -> Extractor:
    """Rebuilds the extractor of what `read_checkpoint` gave, in eval mode.

    Raises:
        ValueError: the weights are those of another network, as of an earlier version.
    """
    extractor = Extractor(**content["extractor"])
    state, prefix = content["state_dict"], "extractor."
    weights = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    try:
        extractor.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            "the checkpoint's weights do not fit this version's network: train again, or take "
            "weights of this version"
        ) from error
    return extractor.eval()


def load_extractor(checkpoint: str | Path) -> Extractor:
    """Rebuilds the extractor of a checkpoint of either system, in eval mode on the CPU.

    Raises:
        FileNotFoundError, ValueError: as `read_checkpoint`.
    """
    return extractor_of(read_checkpoint(checkpoint))
