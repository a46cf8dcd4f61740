"""One training step, in the ways that the benchmarks compare."""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from softfeat.data.dataset import Batch
from softfeat.models.extractor import Extractor
from softfeat.ops.pyramid import PoolingWeights, pooling_weights
from softfeat.ops.superpixels import superpixel_majority, superpixel_mean
from softfeat.training.soft_features import SoftFeatureModule

Loss = Callable[[Tensor, Tensor], Tensor]  # of features (B,S,D) and labels (B,S)
MakeOptimizer = Callable[..., Optimizer]  # of the parameters


@dataclass(frozen=True)
class Way:
    """How a step is computed.

    Attributes:
        full_map: upsample the pyramid to the photo's size and pool that, in place of pooling the
            pyramid where it is.
        channels_last: memory layout of the convolutions.
        bf16: forward pass under autocast to bfloat16.
        keep: keep all that the backward pass reads, whatever the extractor would recompute.
        compile: mode of `torch.compile` for the network ("default", "reduce-overhead", ...); None
            to leave it as it is.
    """

    full_map: bool = False
    channels_last: bool = True
    bf16: bool = False
    keep: bool = False
    compile: str | None = None


def step_batch(
    images: Tensor, superpixels: Tensor, num_superpixels: int, sizes: Iterable[tuple[int, int]]
) -> Batch:
    """A batch as the loader would give it. Labels are eight bands of brightness.

    Args:
        images: (B,3,H,W) in [0,1].
        superpixels: (B,H,W).
        num_superpixels: S.
        sizes: (h, w) of the pyramid's levels.
    """
    weights = pooling_weights(superpixels, num_superpixels, list(sizes), images.dtype)
    label = (images.mean(1) * 8).long().clamp(max=7)
    return {"image": images, "label": label, "superpixels": superpixels, "pooling": weights}


def batch_to(batch: Batch, device: torch.device | str) -> Batch:
    """The batch of `step_batch` on a device."""
    pooling = [PoolingWeights(*(t.to(device) for t in level)) for level in batch["pooling"]]
    tensors = {k: v.to(device) for k, v in batch.items() if k != "pooling"}
    return tensors | {"pooling": pooling}


class Step:
    """A training step on one batch, of a network of its own: every call trains it on.

    Args:
        extractor: copied to the batch's device.
        loss: of features and labels.
        optimizer: made from the parameters.
        batch: of `step_batch`.
        num_superpixels: S.
        way: how it is computed.
    """

    def __init__(
        self,
        extractor: Extractor,
        loss: Loss,
        optimizer: MakeOptimizer,
        batch: Batch,
        num_superpixels: int,
        way: Way = Way(),
    ) -> None:
        self.device = batch["image"].device
        self.module = SoftFeatureModule(
            copy.deepcopy(extractor).to(self.device),
            loss,
            num_superpixels=num_superpixels,
        )
        self.extractor = self.module.extractor
        if not way.channels_last:
            self.extractor.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        if way.keep:
            self.extractor.recompute = 0
        self.optimizer = optimizer(self.extractor.parameters())
        self.batch, self.way = batch, way
        self.pyramid = self.extractor.pyramid
        if way.compile is not None:
            self.pyramid = torch.compile(self.pyramid, mode=way.compile)

    def pooled(self) -> tuple[Tensor, Tensor]:
        """Features (B,S,D) of the superpixels and their labels (B,S)."""
        if not self.way.full_map:
            return self.module.superpixel_features(self.batch, self.pyramid)
        superpixels, count = self.batch["superpixels"], self.module.num_superpixels
        labels = superpixel_majority(self.batch["label"], superpixels, count)
        features, _ = superpixel_mean(self.extractor(self.batch["image"]), superpixels, count)
        return features, labels

    def forward(self) -> tuple[Tensor, Tensor]:
        """The loss, and the features (B,S,D) that it is of."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.way.bf16):
            features, labels = self.pooled()
            return self.module.loss(features, labels), features

    def gradients(self) -> dict[str, Tensor]:
        """Loss, features (B,S,D) and all gradients (N,) of one pass; the weights stay."""
        loss, features = self.forward()
        loss.backward()
        parameters = list(self.extractor.parameters())
        gradient = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        self.optimizer.zero_grad()
        return {"loss": loss.detach(), "features": features.detach(), "gradients": gradient}

    def __call__(self) -> None:
        """Forward, pooling, loss, backward, optimiser."""
        self.forward()[0].backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def differences(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, float]:
    """Largest difference of each entry, relative to the largest value expected."""
    return {
        name: float((found[name].cpu().double() - value.cpu().double()).abs().max())
        / float(value.double().abs().max())
        for name, value in expected.items()
    }


def reason(error: Exception) -> str:
    """What a table says of a part that failed."""
    lines: list[Any] = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}".strip(": ")[:120]
