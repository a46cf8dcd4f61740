"""Native superpixel pooling against upsampling the pyramid and pooling the full-resolution map.

The latter in three ways, which differ in how they add up the pixels of a superpixel.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.measure import Function, milliseconds, peak_memory, ratio, times_in_turn
from benchmarks.photos import photo_batch
from softfeat.ops.pyramid import PoolingWeights, pooling_weights, pyramid_superpixel_mean
from softfeat.ops.superpixels import batch_index, superpixel_counts, superpixel_mean

Pool = Callable[[Tensor, Tensor, int], Tensor]


def index_add_mean(features: Tensor, superpixels: Tensor, count: int) -> Tensor:
    """Means (B,S,D) of the pixels of (B,D,H,W), each added to the row of its superpixel."""
    return superpixel_mean(features, superpixels, count)[0]


def scatter_add_mean(features: Tensor, superpixels: Tensor, count: int) -> Tensor:
    """The same by `scatter_add`, with the index expanded to all features."""
    values = features.flatten(2).transpose(1, 2).flatten(0, 1)
    rows = batch_index(superpixels, count)[:, None].expand_as(values)
    sums = values.new_zeros(len(features) * (count + 1), values.shape[1])
    sums = sums.scatter_add(0, rows, values).unflatten(0, (-1, count + 1))[:, :count]
    return sums / superpixel_counts(superpixels, count).clamp(min=1)[..., None]


def segment_reduce_mean(features: Tensor, superpixels: Tensor, count: int) -> Tensor:
    """The same by `segment_reduce`, over pixels sorted by superpixel."""
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
    """Eq. 3 as written: upsample, concatenate, average."""
    size = superpixels.shape[1:]
    full = [F.interpolate(x, size=size, mode="bilinear", align_corners=False) for x in pyramid]
    return pool(torch.cat(full, 1), superpixels, count)


def pooling(
    batch_size: int = 4,
    image_size: Sequence[int] = (224, 224),
    num_superpixels: int = 500,
    strides: Sequence[int] = (2, 4, 8, 16),
    channels: int = 32,
    repeats: int = 15,
) -> dict[str, Any]:
    """Compares forward + backward of all ways on superpixels of real photos.

    Args:
        batch_size: B.
        image_size: (H, W).
        num_superpixels: S.
        strides: of the pyramid's levels.
        channels: of each level.
        repeats: counted rounds.

    Returns:
        `settings`, `rows` (one a way) and `ratios` (upsampled / native).
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    height, width = image_size
    superpixels = photo_batch(batch_size, image_size, num_superpixels)[1].to(device)
    torch.manual_seed(0)
    sizes = [(-(-height // s), -(-width // s)) for s in strides]
    pyramid = [
        torch.randn(batch_size, channels, *size, device=device, requires_grad=True)
        for size in sizes
    ]
    weights = pooling_weights(superpixels, num_superpixels, sizes)
    direction = torch.randn(batch_size, num_superpixels, channels * len(sizes), device=device)

    def gradients(means: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(means, pyramid, direction)

    def upsampled(pool: Pool) -> Tensor:
        return upsampled_mean(pool, pyramid, superpixels, num_superpixels)

    def native(weights: list[PoolingWeights] | None) -> Tensor:  # None: they are built within
        return pyramid_superpixel_mean(pyramid, superpixels, num_superpixels, weights)[0]

    means: dict[str, Callable[[], Tensor]] = {
        "upsample, then pool": partial(upsampled, index_add_mean),
        "upsample, scatter_add": partial(upsampled, scatter_add_mean),
        "upsample, sort, segment_reduce": partial(upsampled, segment_reduce_mean),
        "native, weights included": partial(native, None),
        "native, weights at hand": partial(native, weights),  # as from the loader's workers
    }
    results = []
    for mean in means.values():
        found = mean()
        results.append((found.detach(), torch.cat([g.flatten() for g in gradients(found)])))
    error = max(
        float((value - reference).abs().max() / reference.abs().max())
        for result in results[1:]
        for value, reference in zip(result, results[0], strict=True)
    )

    ways: dict[str, Function] = {
        name: lambda mean=mean: gradients(mean())  # type: ignore[misc]
        for name, mean in means.items()
    }
    ways["the weights alone"] = lambda: pooling_weights(superpixels, num_superpixels, sizes)
    seconds = times_in_turn(ways, repeats)
    memory = {name: peak_memory(way) for name, way in ways.items()}
    *slow, fast, ready, _ = ways
    return {
        "title": "Superpixel pooling of a feature pyramid, forward + backward",
        "settings": {
            "batch": batch_size,
            "image": f"{height}x{width}",
            "superpixels": num_superpixels,
            "levels": ", ".join(f"{h}x{w}x{channels}" for h, w in sizes),
            "rounds": repeats,
            "largest relative difference of means and gradients": f"{error:.1e}",
        },
        "rows": [
            {
                "way": name,
                **milliseconds(seconds[name]),
                "peak MB": round(memory[name] / 1e6, 1),
            }
            for name in ways
        ],
        "ratios": {
            **{
                f"time, {way} / {native}": ratio(seconds[way], seconds[native])
                for native in (fast, ready)
                for way in slow
            },
            **{f"memory, {way} / {fast}": {"median": memory[way] / memory[fast]} for way in slow},
        },
    }
