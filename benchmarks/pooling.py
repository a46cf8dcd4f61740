"""Superpixel pooling at native resolution compared with pooling the upsampled pyramid.

The upsampled map is pooled in three ways that differ in how they add up the pixels of a superpixel.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.measure import Function, milliseconds, peak_memory, ratio, times_in_turn
from benchmarks.photos import photo_batch
from benchmarks.tables import size_text
from softfeat.ops.pyramid import PoolingWeights, pooling_weights, pyramid_superpixel_mean
from softfeat.ops.sizes import ceil_div
from softfeat.ops.superpixels import batch_index, superpixel_counts, superpixel_mean

Pool = Callable[[Tensor, Tensor, int], Tensor]


def index_add_mean(features: Tensor, superpixels: Tensor, count: int) -> Tensor:
    """Averages (B,D,H,W) to (B,S,D), adding each pixel to the row of its superpixel."""
    return superpixel_mean(features, superpixels, count)[0]


def scatter_add_mean(features: Tensor, superpixels: Tensor, count: int) -> Tensor:
    """Does the same with `scatter_add` and an index expanded to all features."""
    values = features.flatten(2).transpose(1, 2).flatten(0, 1)
    rows = batch_index(superpixels, count)[:, None].expand_as(values)
    sums = values.new_zeros(len(features) * (count + 1), values.shape[1])
    sums = sums.scatter_add(0, rows, values).unflatten(0, (-1, count + 1))[:, :count]
    return sums / superpixel_counts(superpixels, count).clamp(min=1)[..., None]


def segment_reduce_mean(features: Tensor, superpixels: Tensor, count: int) -> Tensor:
    """Does the same with `segment_reduce` over pixels sorted by superpixel."""
    values = features.flatten(2).transpose(1, 2).flatten(0, 1)
    rows = batch_index(superpixels, count)
    lengths = rows.bincount(minlength=len(features) * (count + 1))
    means = torch.segment_reduce(
        values[rows.argsort()], "mean", lengths=lengths, unsafe=True, initial=0.0
    )
    return means.unflatten(0, (-1, count + 1))[:, :count]


def upsampled_mean(
    pool: Pool,
    pyramid: Sequence[Tensor],
    superpixels: Tensor,
    count: int,
) -> Tensor:
    """Computes Eq. 3 as written: upsample, concatenate, average."""
    size = superpixels.shape[1:]
    full = [F.interpolate(x, size=size, mode="bilinear", align_corners=False) for x in pyramid]
    return pool(torch.cat(full, 1), superpixels, count)


_UPSAMPLED: dict[str, Pool] = {
    "upsample, then pool": index_add_mean,
    "upsample, scatter_add": scatter_add_mean,
    "upsample, sort, segment_reduce": segment_reduce_mean,
}
_NATIVE = ("native, weights included", "native, weights at hand")  # the latter from the loader
_WEIGHTS = "the weights alone"


def pooling(
    batch_size: int = 4,
    image_size: Sequence[int] = (224, 224),
    num_superpixels: int = 500,
    strides: Sequence[int] = (2, 4, 8, 16),
    channels: int = 32,
    repeats: int = 15,
) -> dict[str, Any]:
    """Compares forward and backward pass of all ways on superpixels of real photos.

    Args:
        batch_size: B.
        image_size: (H, W).
        num_superpixels: S.
        strides: Strides of the pyramid's levels.
        channels: Channels of each level.
        repeats: Number of counted rounds.

    Returns:
        Result with one row per way.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    superpixels = photo_batch(batch_size, image_size, num_superpixels)[1].to(device)
    torch.manual_seed(0)
    sizes = [(ceil_div(image_size[0], s), ceil_div(image_size[1], s)) for s in strides]
    pyramid = [
        torch.randn(batch_size, channels, *size, device=device, requires_grad=True)
        for size in sizes
    ]
    direction = torch.randn(batch_size, num_superpixels, channels * len(sizes), device=device)

    def gradients(means: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(means, pyramid, direction)

    means = _ways(pyramid, superpixels, num_superpixels)
    error = _largest_difference(means, gradients)
    ways: dict[str, Function] = {
        name: lambda mean=mean: gradients(mean())  # type: ignore[misc]
        for name, mean in means.items()
    }
    ways[_WEIGHTS] = partial(pooling_weights, superpixels, num_superpixels, sizes)
    seconds = times_in_turn(ways, repeats)
    memory = {name: peak_memory(way) for name, way in ways.items()}
    return {
        "title": "Superpixel pooling of a feature pyramid, forward + backward",
        "settings": {
            "batch": batch_size,
            "image": size_text(image_size),
            "superpixels": num_superpixels,
            "levels": ", ".join(f"{h}x{w}x{channels}" for h, w in sizes),
            "rounds": repeats,
            "largest relative difference of means and gradients": f"{error:.1e}",
        },
        "rows": [
            {"way": name, **milliseconds(seconds[name]), "peak MB": round(memory[name] / 1e6, 1)}
            for name in ways
        ],
        "ratios": _ratios(seconds, memory),
    }


def _ratios(
    seconds: Mapping[str, list[float]], memory: Mapping[str, int]
) -> dict[str, dict[str, float]]:
    """Compares the upsampled ways with the native ones."""
    return {
        **{
            f"time, {way} / {native}": ratio(seconds[way], seconds[native])
            for native in _NATIVE
            for way in _UPSAMPLED
        },
        **{
            f"memory, {way} / {_NATIVE[0]}": {"median": memory[way] / memory[_NATIVE[0]]}
            for way in _UPSAMPLED
        },
    }


def _ways(
    pyramid: Sequence[Tensor], superpixels: Tensor, count: int
) -> dict[str, Callable[[], Tensor]]:
    """Makes the functions that pool the pyramid into means (B,S,D)."""
    sizes = [(level.shape[2], level.shape[3]) for level in pyramid]
    weights = pooling_weights(superpixels, count, sizes)

    def native(weights: list[PoolingWeights] | None) -> Tensor:
        return pyramid_superpixel_mean(pyramid, superpixels, count, weights)[0]

    included, from_loader = _NATIVE
    return {
        **{
            name: partial(upsampled_mean, pool, pyramid, superpixels, count)
            for name, pool in _UPSAMPLED.items()
        },
        included: partial(native, None),
        from_loader: partial(native, weights),
    }


def _largest_difference(
    means: Mapping[str, Callable[[], Tensor]], gradients: Callable[[Tensor], tuple[Tensor, ...]]
) -> float:
    """Compares means and gradients of all ways with those of the first, relative to the largest."""
    results = []
    for mean in means.values():
        value = mean()
        results.append((value.detach(), torch.cat([g.flatten() for g in gradients(value)])))
    return max(
        float((value - reference).abs().max() / reference.abs().max())
        for result in results[1:]
        for value, reference in zip(result, results[0], strict=True)
    )
