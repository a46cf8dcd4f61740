"""One training step, computed in the ways that the benchmarks compare."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from benchmarks.photos import photo_batch
from softfeat.data.dataset import Batch
from softfeat.models.convolutions import ConvolutionSequence, ReLU6, SameConv2d
from softfeat.models.extractor import Extractor
from softfeat.ops.pyramid import PoolingWeights, pooling_weights
from softfeat.ops.superpixels import superpixel_majority, superpixel_mean
from softfeat.training.soft_features import SoftFeatureModule

Loss = Callable[[Tensor, Tensor], Tensor]  # features (B,S,D), labels (B,S) -> scalar
MakeOptimizer = Callable[..., Optimizer]  # called with the parameters


@dataclass(frozen=True)
class Way:
    """How a step is computed.

    Attributes:
        full_map: Whether to upsample the pyramid to the size of the photo and to pool the result,
            instead of pooling the pyramid at its own resolutions.
        channels_last: Whether convolutions use the channels-last memory layout.
        bf16: Whether the forward pass runs under autocast to bfloat16.
        keep: Whether to keep everything that the backward pass reads, even what the extractor would
            recompute.
        plain: Whether PyTorch's layers compute what those of `models.convolutions` would.
        compile: Mode of `torch.compile` for the network ("default", "reduce-overhead", ...); None
            for no compilation.
    """

    full_map: bool = False
    channels_last: bool = True
    bf16: bool = False
    keep: bool = False
    plain: bool = False
    compile: str | None = None


class Step:
    """A training step on one batch. It has its own network, and every call trains it further.

    Args:
        extractor: Network, copied to the device and the precision of the batch.
        loss: Loss function.
        optimizer: Constructor of the optimiser.
        batch: Batch of `Recipe.batch`.
        num_superpixels: S.
        way: How the step is computed.
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
        images = batch["image"]
        self.device = images.device
        self.module = SoftFeatureModule(
            copy.deepcopy(extractor).to(images.device, images.dtype),
            loss,
            num_superpixels=num_superpixels,
        )
        self.extractor = self.module.extractor
        if not way.channels_last:
            self.extractor.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        if way.keep:
            self.extractor.recompute = 0
        if way.plain:
            use_plain_layers(self.extractor)
        self.optimizer = optimizer(self.extractor.parameters())
        self.batch, self.way = batch, way
        self.pyramid = self.extractor.pyramid
        if way.compile is not None:
            self.pyramid = torch.compile(self.pyramid, mode=way.compile)

    def pooled(self) -> tuple[Tensor, Tensor]:
        """Computes features (B,S,D) and labels (B,S) of the superpixels."""
        if not self.way.full_map:
            return self.module.superpixel_features(self.batch, self.pyramid)
        superpixels, count = self.batch["superpixels"], self.module.num_superpixels
        labels = superpixel_majority(self.batch["label"], superpixels, count)
        features, _ = superpixel_mean(self.extractor(self.batch["image"]), superpixels, count)
        return features, labels

    def forward(self) -> tuple[Tensor, Tensor]:
        """Computes the loss and the features (B,S,D)."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.way.bf16):
            features, labels = self.pooled()
            return self.module.loss(features, labels), features

    def gradients(self) -> dict[str, Tensor]:
        """Computes the loss, the features (B,S,D) and all gradients (N,); the weights stay."""
        loss, features = self.forward()
        loss.backward()
        parameters = list(self.extractor.parameters())
        gradient = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        self.optimizer.zero_grad()
        return {"loss": loss.detach(), "features": features.detach(), "gradients": gradient}

    def __call__(self) -> None:
        """Runs forward pass, pooling, loss, backward pass and optimiser."""
        self.forward()[0].backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


class _PlainConv2d(SameConv2d):
    """Convolution by PyTorch."""

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(self.pad(x), weight, bias, self.stride, self.padding, groups=self.groups)


def use_plain_layers(network: nn.Module) -> None:
    """Replaces the layers of `models.convolutions` by those of PyTorch, with the same weights."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, ReLU6):
                setattr(module, name, nn.ReLU6(inplace=True))
            elif isinstance(child, SameConv2d):
                child.__class__ = _PlainConv2d
            elif isinstance(child, ConvolutionSequence):
                child.__class__ = nn.Sequential  # type: ignore[assignment]


@dataclass(frozen=True)
class Recipe:
    """What all steps and trainings of a benchmark share.

    Attributes:
        extractor: Network. Every step and module has a copy of it.
        loss: Loss function.
        optimizer: Constructor of the optimiser.
        image_size: (H, W).
        num_superpixels: S.
    """

    extractor: Extractor
    loss: Loss
    optimizer: MakeOptimizer
    image_size: tuple[int, int]
    num_superpixels: int

    def batch(self, size: int, device: torch.device | str, double: bool = False) -> Batch:
        """Makes a batch as the loader does. The labels are eight levels of brightness.

        Args:
            size: B.
            device: Device of the tensors.
            double: Whether photos are float64 instead of float32.
        """
        images, superpixels = photo_batch(size, self.image_size, self.num_superpixels)
        images = images.double() if double else images
        sizes = self.extractor.level_sizes(self.image_size)
        weights = pooling_weights(superpixels, self.num_superpixels, sizes, images.dtype)
        label = (images.mean(1) * 8).long().clamp(max=7)
        return {
            "image": images.to(device),
            "label": label.to(device),
            "superpixels": superpixels.to(device),
            "pooling": [PoolingWeights(*(t.to(device) for t in level)) for level in weights],
        }

    def step(self, batch: Batch, way: Way = Way()) -> Step:
        """Makes a step on a batch, in its precision."""
        return Step(self.extractor, self.loss, self.optimizer, batch, self.num_superpixels, way)

    def module(self, cuda_graph: bool, device: torch.device | str) -> SoftFeatureModule:
        """Makes a module for a training."""
        return SoftFeatureModule(
            copy.deepcopy(self.extractor),
            self.loss,
            self.optimizer,
            self.num_superpixels,
            cuda_graph=cuda_graph,
        ).to(device)


def differences(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, float]:
    """Computes the largest difference of each entry, relative to the largest expected value."""
    return {
        name: float((actual[name].cpu().double() - value.cpu().double()).abs().max())
        / float(value.double().abs().max())
        for name, value in expected.items()
    }


def reason(error: Exception) -> str:
    """Shortens an error to one line of a table."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}".strip(": ")[:120]
