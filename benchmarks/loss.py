"""Cost of the loss over superpixels and over sampled pixels (Table 1 of the paper, measured)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.measure import Function, cells, peak_memory, ratio, times_in_turn
from benchmarks.photos import photo_batch
from benchmarks.tables import size_text
from softfeat.imaging.slic import Superpixels
from softfeat.models.extractor import BottleneckExtractor
from softfeat.ops.npair import npair_loss
from softfeat.ops.pixels import pyramid_at_pixels, sample_pixels
from softfeat.ops.pyramid import pooling_weights, pyramid_superpixel_mean
from softfeat.ops.sizes import ceil_div
from softfeat.ops.superpixels import superpixel_majority

_STRIDES = (2, 4, 8, 16)
_PARAMETERS_OF_AKSOY = 68_651_688  # counted in the layers of their code, batch norms included
_THINGS = 12  # regions that serve as labelled objects
_SUPERPIXELS, _WITH_WEIGHTS = "superpixels", "superpixels, pooling matrices included"
_PIXELS, _PLAIN = "sampled pixels", "sampled pixels, plain autograd"


def plain_npair_loss(features: Tensor, labels: Tensor) -> Tensor:
    """Computes the loss (symmetric, pairs) as one would write it down, differentiated by autograd.

    Args:
        features: (M,N,D).
        labels: (M,N).

    Returns:
        Scalar.
    """
    distance = torch.cdist(features, features)
    same = labels[:, :, None] == labels[:, None]
    cost = F.softplus(torch.where(same, distance, -distance)) - math.log(2)
    positive = (cost * same).sum((1, 2)) / (same.sum((1, 2)) - labels.shape[1]).clamp(min=1)
    negative = (cost * ~same).sum((1, 2)) / (~same).sum((1, 2)).clamp(min=1)
    return (positive + negative).mean()


class Sides:
    """The ways from a feature pyramid to its gradient, on a batch of real photos.

    Args:
        batch_size: B.
        image_size: (H, W).
        num_superpixels: S.
        dim: D.
        num_classes: N_inst, number of classes that pixels are sampled from.
        num_samples: N_samp, number of sampled pixels per class.
        repetitions: N_iter, number of draws.
    """

    def __init__(
        self,
        batch_size: int = 4,
        image_size: Sequence[int] = (224, 224),
        num_superpixels: int = 500,
        dim: int = 128,
        num_classes: int = 3,
        num_samples: int = 1000,
        repetitions: int = 10,
    ) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.size = (int(image_size[0]), int(image_size[1]))
        self.num_superpixels, self.draws = num_superpixels, (num_classes, num_samples, repetitions)
        self.image_pairs = {
            _SUPERPIXELS: num_superpixels**2,
            _PIXELS: repetitions * (num_classes * num_samples) ** 2,
        }
        images, superpixels = photo_batch(batch_size, self.size, num_superpixels)
        pictures = (255 * images).byte().permute(0, 2, 3, 1).numpy()
        things = [torch.from_numpy(Superpixels(_THINGS)(p).astype("int64")) for p in pictures]
        self.superpixels, self.label = superpixels.to(device), torch.stack(things).to(device)
        torch.manual_seed(0)
        sizes = [(ceil_div(self.size[0], s), ceil_div(self.size[1], s)) for s in _STRIDES]
        levels = [torch.randn(batch_size, dim // len(sizes), *s, device=device) for s in sizes]
        self.pyramid = [
            (0.1 * level).to(memory_format=torch.channels_last).requires_grad_() for level in levels
        ]
        self.weights = pooling_weights(self.superpixels, num_superpixels, sizes)

    def forget(self) -> None:
        """Frees the gradients, so that each way allocates them."""
        for level in self.pyramid:
            level.grad = None

    def over_superpixels(self) -> None:
        """Runs pooling, labels, loss and backward pass, with the loader's pooling matrices."""
        features, _ = pyramid_superpixel_mean(
            self.pyramid, self.superpixels, self.num_superpixels, self.weights
        )
        labels = superpixel_majority(self.label, self.superpixels, self.num_superpixels)
        npair_loss(features, labels, "symmetric", "pairs").backward()

    def over_superpixels_with_weights(self) -> None:
        """Does the same after building the pooling matrices."""
        sizes = [(level.shape[2], level.shape[3]) for level in self.pyramid]
        pooling_weights(self.superpixels, self.num_superpixels, sizes)
        self.over_superpixels()

    def over_pixels(self) -> None:
        """Draws pixels and runs sampling, loss and backward pass, like `loss=pixel_npair`."""
        pixels, labels = sample_pixels(self.label, *self.draws)
        features = pyramid_at_pixels(self.pyramid, pixels, self.size).flatten(0, 1)
        npair_loss(features, labels.flatten(0, 1), "symmetric", "pairs").backward()

    def over_pixels_plainly(self) -> None:
        """Does the same with autograd, adding up the gradients of one repetition after another."""
        pixels, labels = sample_pixels(self.label, *self.draws)
        features = pyramid_at_pixels(self.pyramid, pixels, self.size)
        sampled = features.detach().requires_grad_()
        for repetition in range(pixels.shape[1]):
            loss = plain_npair_loss(sampled[:, repetition], labels[:, repetition])
            (loss / pixels.shape[1]).backward()
        features.backward(sampled.grad)


@dataclass(frozen=True)
class _Cost:
    """Cost of a way.

    Attributes:
        seconds: Seconds of every counted round.
        memory: Peak bytes.
    """

    seconds: list[float]
    memory: int


def _costs(sides: Sides, ways: Mapping[str, Function], repeats: int) -> dict[str, _Cost]:
    """Times the ways alternately, then measures their memory."""
    seconds = times_in_turn(ways, repeats)
    costs = {}
    for name, way in ways.items():
        sides.forget()
        costs[name] = _Cost(seconds[name], peak_memory(way))
    return costs


def loss(
    repeats: int,
    curves: dict[str, list[Any]],
    **sizes: Any,
) -> dict[str, Any]:
    """Compares forward and backward pass, from the feature pyramid to its gradient.

    Args:
        repeats: Number of counted rounds. In the curves, sampled pixels have only one.
        curves: Values to vary, by the argument of `Sides`; the other arguments are `sizes`.
        sizes: Arguments of `Sides`.

    Returns:
        Result with one row per way.
    """
    sides = Sides(**sizes)
    ways = {
        _SUPERPIXELS: sides.over_superpixels,
        _WITH_WEIGHTS: sides.over_superpixels_with_weights,
        _PIXELS: sides.over_pixels,
        _PLAIN: sides.over_pixels_plainly,
    }
    costs = _costs(sides, ways, repeats)
    # Every way has to allocate the gradient.
    gradient = sum(level.nbytes for level in sides.pyramid)
    batch = len(sides.label)
    return {
        "title": "The loss, from feature pyramid to gradient",
        "settings": {
            "batch": batch,
            "image": size_text(sides.size),
            "superpixels": sides.num_superpixels,
            "N_inst, N_samp, N_iter": ", ".join(map(str, sides.draws)),
            "D": sum(level.shape[1] for level in sides.pyramid),
            "rounds": repeats,
        },
        "rows": [
            {
                "way": name,
                "pairs": f"{batch * sides.image_pairs[name.split(',')[0]]:,}",
                **cells([1e3 * s for s in cost.seconds], "ms", 1),
                "peak MB": f"{cost.memory / 1e6:.1f}",
                "beyond the gradient": f"{(cost.memory - gradient) / 1e6:.1f}",
            }
            for name, cost in costs.items()
        ],
        "tables": {
            "Table 1 of the paper, with what was measured": _table_1(sides, costs),
            "What it depends on": _curve_rows(sizes, curves, repeats),
        },
        "ratios": _ratios(costs, gradient),
    }


def _table_1(sides: Sides, costs: Mapping[str, _Cost]) -> list[dict[str, str]]:
    """Makes Table 1 of the paper with additional columns for what is computed and measured."""
    total = math.prod(sides.draws)
    parameters = sum(p.numel() for p in BottleneckExtractor().parameters())
    pixels = ("sampled pixels (Aksoy et al.)", f"O({total}^2)", total**2)
    ours = (
        "superpixels",
        f"O({sides.num_superpixels}^2) + O({math.prod(sides.size)})",
        sides.num_superpixels**2,
    )
    return [
        {
            "network": network,
            "method": method,
            "complexity, as printed": complexity,
            "pairs an image, as printed": f"{pairs:,}",
            "pairs an image, compared": f"{sides.image_pairs[way]:,}",
            "loss on our pyramid, ms": f"{1e3 * median(costs[way].seconds):.0f}",
            "its peak MB": f"{costs[way].memory / 1e6:.0f}",
        }
        for way, network, (method, complexity, pairs) in (
            (_PIXELS, f"{_PARAMETERS_OF_AKSOY / 1e6:.1f} M parameters (published)", pixels),
            (_SUPERPIXELS, f"{parameters / 1e6:.1f} M parameters", ours),
        )
    ]


def _curve_rows(
    sizes: Mapping[str, Any], curves: Mapping[str, list[Any]], repeats: int
) -> list[dict[str, str]]:
    """Measures both methods with one argument of `Sides` changed at a time."""
    rows = []
    for key, values in curves.items():
        for value in values:
            sides = Sides(**{**sizes, key: value})
            text = value if isinstance(value, int) else size_text(value)
            row = {"varied": f"{key} = {text}"}
            ways = {_SUPERPIXELS: (sides.over_superpixels, repeats)}
            if key != "num_superpixels":  # sampled pixels do not depend on it
                ways[_PIXELS] = (sides.over_pixels, 1)
            for name in (_SUPERPIXELS, _PIXELS):
                time = memory = ""
                if name in ways:
                    way, rounds = ways[name]
                    cost = _costs(sides, {name: way}, rounds)[name]
                    time = f"{1e3 * median(cost.seconds):.0f}"
                    memory = f"{cost.memory / 1e6:.0f}"
                row |= {f"{name}, ms": time, f"{name}, MB": memory}
            rows.append(row)
    return rows


def _ratios(costs: Mapping[str, _Cost], gradient: int) -> dict[str, dict[str, float]]:
    """Compares the ways with superpixels whose pooling matrices come from the loader."""
    ours = costs[_SUPERPIXELS]
    rivals = {_PIXELS: costs[_PIXELS], "plain autograd": costs[_PLAIN]}
    return {
        "time, sampled pixels / superpixels": ratio(costs[_PIXELS].seconds, ours.seconds),
        "time, the same, matrices included": ratio(
            costs[_PIXELS].seconds, costs[_WITH_WEIGHTS].seconds
        ),
        "time, plain autograd / superpixels": ratio(costs[_PLAIN].seconds, ours.seconds),
        **{
            f"memory, {name} / superpixels": {"median": cost.memory / ours.memory}
            for name, cost in rivals.items()
        },
        **{
            f"memory beyond the pyramid's gradient, {name} / superpixels": {
                "median": (cost.memory - gradient) / (ours.memory - gradient)
            }
            for name, cost in rivals.items()
        },
    }
