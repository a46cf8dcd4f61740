"""What a loss costs: over superpixels, and over sampled pixels (Table 1 of the paper, measured)."""

import math
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.measure import peak_memory, ratio, times_in_turn
from benchmarks.photos import photo_batch
from softfeat.imaging.slic import Superpixels
from softfeat.models.extractor import BottleneckExtractor
from softfeat.ops.npair import npair_loss
from softfeat.ops.pixels import pyramid_at_pixels, sample_pixels
from softfeat.ops.pyramid import pooling_weights, pyramid_superpixel_mean
from softfeat.ops.superpixels import superpixel_majority

_STRIDES = (2, 4, 8, 16)
_PARAMETERS_OF_AKSOY = 68_651_688  # counted from the layers of their code, batch norms included
_THINGS = 12  # regions that stand for labelled things


def plain_npair_loss(features: Tensor, labels: Tensor) -> Tensor:
    """The loss as one would write it down (symmetric, pairs), for autograd to differentiate.

    Args:
        features: (M,N,D).
        labels: (M,N).
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
        num_classes: N_inst.
        num_samples: N_samp.
        repetitions: N_iter.
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
            "superpixels": num_superpixels**2,
            "sampled pixels": repetitions * (num_classes * num_samples) ** 2,
        }
        images, superpixels = photo_batch(batch_size, self.size, num_superpixels)
        pictures = (255 * images).byte().permute(0, 2, 3, 1).numpy()
        things = [torch.from_numpy(Superpixels(_THINGS)(p).astype("int64")) for p in pictures]
        self.superpixels, self.label = superpixels.to(device), torch.stack(things).to(device)
        torch.manual_seed(0)
        sizes = [(-(-self.size[0] // s), -(-self.size[1] // s)) for s in _STRIDES]
        levels = [torch.randn(batch_size, dim // len(sizes), *s, device=device) for s in sizes]
        self.pyramid = [
            (0.1 * level).to(memory_format=torch.channels_last).requires_grad_() for level in levels
        ]
        self.weights = pooling_weights(self.superpixels, num_superpixels, sizes)

    def forget(self) -> None:
        """Frees the gradients, so that they count for every way."""
        for level in self.pyramid:
            level.grad = None

    def over_superpixels(self) -> None:
        """Pooling (its matrices at hand, as from the loader), labels, loss, backward."""
        features, _ = pyramid_superpixel_mean(
            self.pyramid, self.superpixels, self.num_superpixels, self.weights
        )
        labels = superpixel_majority(self.label, self.superpixels, self.num_superpixels)
        npair_loss(features, labels, "symmetric", "pairs").backward()

    def over_superpixels_with_weights(self) -> None:
        """The same, and the pooling matrices are built."""
        sizes = [(level.shape[2], level.shape[3]) for level in self.pyramid]
        pooling_weights(self.superpixels, self.num_superpixels, sizes)
        self.over_superpixels()

    def over_pixels(self) -> None:
        """Draw, sampling of the upsampled features, loss, backward: as `loss=pixel_npair`."""
        pixels, labels = sample_pixels(self.label, *self.draws)
        features = pyramid_at_pixels(self.pyramid, pixels, self.size).flatten(0, 1)
        npair_loss(features, labels.flatten(0, 1), "symmetric", "pairs").backward()

    def over_pixels_plainly(self) -> None:
        """The same by autograd, a repetition at a time, whose gradients are added up."""
        pixels, labels = sample_pixels(self.label, *self.draws)
        features = pyramid_at_pixels(self.pyramid, pixels, self.size)
        sampled = features.detach().requires_grad_()
        for repetition in range(pixels.shape[1]):
            loss = plain_npair_loss(sampled[:, repetition], labels[:, repetition])
            (loss / pixels.shape[1]).backward()
        features.backward(sampled.grad)


def _cost(way: Callable[[], None], sides: Sides, repeats: int) -> tuple[float, float]:
    """Median seconds and peak bytes."""
    seconds = times_in_turn({"way": way}, repeats)["way"]
    sides.forget()
    return median(seconds), peak_memory(way)


def loss(
    repeats: int,
    curves: dict[str, list[Any]],
    **sizes: Any,
) -> dict[str, Any]:
    """Compares forward + backward from the pyramid to its gradient.

    Args:
        repeats: counted rounds; of the sampled pixels in the curves, one.
        curves: values to vary, by the argument of `Sides`, the others as given.
        sizes: arguments of `Sides`.

    Returns:
        `settings`, `rows` (one a way), `tables` (the paper's Table 1, and the curves), `ratios`.
    """
    sides = Sides(**sizes)
    ways = {
        "superpixels": sides.over_superpixels,
        "superpixels, pooling matrices included": sides.over_superpixels_with_weights,
        "sampled pixels": sides.over_pixels,
        "sampled pixels, plain autograd": sides.over_pixels_plainly,
    }
    seconds = times_in_turn(ways, repeats)
    memory = {}
    for name, way in ways.items():
        sides.forget()
        memory[name] = peak_memory(way)
    # What every way gives, and no way can do without.
    gradient = sum(level.nbytes for level in sides.pyramid)
    batch = len(sides.label)
    pairs = {name: batch * sides.image_pairs[name.split(",")[0]] for name in seconds}

    total = math.prod(sides.draws)
    first, with_weights, slow, plain = ways
    parameters = sum(p.numel() for p in BottleneckExtractor().parameters())
    table_1 = [
        {
            "network": f"{_PARAMETERS_OF_AKSOY / 1e6:.1f} M parameters (published)",
            "method": "sampled pixels (Aksoy et al.)",
            "complexity, as printed": f"O({total}^2)",
            "pairs an image, as printed": f"{total**2:,}",
            "pairs an image, compared": f"{sides.image_pairs['sampled pixels']:,}",
            "loss on our pyramid, ms": f"{1e3 * median(seconds[slow]):.0f}",
            "its peak MB": f"{memory[slow] / 1e6:.0f}",
        },
        {
            "network": f"{parameters / 1e6:.1f} M parameters",
            "method": "superpixels",
            "complexity, as printed": f"O({sides.num_superpixels}^2) + O({math.prod(sides.size)})",
            "pairs an image, as printed": f"{sides.num_superpixels**2:,}",
            "pairs an image, compared": f"{sides.image_pairs[first]:,}",
            "loss on our pyramid, ms": f"{1e3 * median(seconds[first]):.0f}",
            "its peak MB": f"{memory[first] / 1e6:.0f}",
        },
    ]
    curve_rows = []
    for key, values in curves.items():
        for value in values:
            changed = Sides(**sizes | {key: value})
            shown = "x".join(map(str, value)) if isinstance(value, list | tuple) else value
            row = {"varied": f"{key} = {shown}"}
            compared = {first: (changed.over_superpixels, repeats), slow: (changed.over_pixels, 1)}
            for name, (way, rounds) in compared.items():
                if name == slow and key == "num_superpixels":  # nothing to them
                    row |= {f"{name}, ms": "", f"{name}, MB": ""}
                    continue
                time, peak = _cost(way, changed, rounds)
                row |= {f"{name}, ms": f"{1e3 * time:.0f}", f"{name}, MB": f"{peak / 1e6:.0f}"}
            curve_rows.append(row)
    return {
        "title": "The loss, from feature pyramid to gradient",
        "settings": {
            "batch": batch,
            "image": "x".join(map(str, sides.size)),
            "superpixels": sides.num_superpixels,
            "N_inst, N_samp, N_iter": ", ".join(map(str, sides.draws)),
            "D": sum(level.shape[1] for level in sides.pyramid),
            "rounds": repeats,
        },
        "rows": [
            {
                "way": name,
                "pairs": f"{pairs[name]:,}",
                "ms (median)": f"{1e3 * median(found):.1f}",
                "ms (min)": f"{1e3 * min(found):.1f}",
                "ms (max)": f"{1e3 * max(found):.1f}",
                "peak MB": f"{memory[name] / 1e6:.1f}",
                "beside the gradient": f"{(memory[name] - gradient) / 1e6:.1f}",
            }
            for name, found in seconds.items()
        ],
        "tables": {
            "Table 1 of the paper, with what was measured": table_1,
            "What it hangs on": curve_rows,
        },
        "ratios": {
            "time, sampled pixels / superpixels": ratio(seconds[slow], seconds[first]),
            "time, the same, matrices included": ratio(seconds[slow], seconds[with_weights]),
            "time, plain autograd / superpixels": ratio(seconds[plain], seconds[first]),
            "memory, sampled pixels / superpixels": {"median": memory[slow] / memory[first]},
            "memory, plain autograd / superpixels": {"median": memory[plain] / memory[first]},
            "memory beside the pyramid's gradient, sampled pixels / superpixels": {
                "median": (memory[slow] - gradient) / (memory[first] - gradient)
            },
            "memory beside the pyramid's gradient, plain autograd / superpixels": {
                "median": (memory[plain] - gradient) / (memory[first] - gradient)
            },
        },
    }
