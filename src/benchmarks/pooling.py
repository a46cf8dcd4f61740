"""Native superpixel pooling against upsampling the pyramid and pooling the full-resolution map."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from src.benchmarks.measure import milliseconds, peak_memory, ratio, times_in_turn
from src.benchmarks.photos import photo_batch
from src.ops.pyramid import pooling_weights, pyramid_superpixel_mean
from src.ops.superpixels import superpixel_mean


def reference_mean(pyramid: Sequence[Tensor], superpixels: Tensor, count: int) -> Tensor:
    """Eq. 3 as written: upsample, concatenate, average."""
    size = superpixels.shape[1:]
    full = [F.interpolate(x, size=size, mode="bilinear", align_corners=False) for x in pyramid]
    return superpixel_mean(torch.cat(full, 1), superpixels, count)[0]


def pooling(
    batch_size: int = 4,
    image_size: Sequence[int] = (224, 224),
    num_superpixels: int = 500,
    strides: Sequence[int] = (2, 4, 8, 16),
    channels: int = 32,
    repeats: int = 15,
) -> dict[str, Any]:
    """Compares forward + backward of both ways on superpixels of real photos.

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

    def upsampled() -> None:
        reference_mean(pyramid, superpixels, num_superpixels).backward(direction)

    def native() -> None:  # the weights are built within
        pyramid_superpixel_mean(pyramid, superpixels, num_superpixels)[0].backward(direction)

    def native_ready() -> None:  # built beforehand, as by the loader's workers
        means, _ = pyramid_superpixel_mean(pyramid, superpixels, num_superpixels, weights)
        means.backward(direction)

    def native_weights() -> None:
        pooling_weights(superpixels, num_superpixels, sizes)

    gradients = []
    for way in (upsampled, native):
        for level in pyramid:
            level.grad = None
        way()
        gradients.append(torch.cat([x.grad.flatten() for x in pyramid if x.grad is not None]))
    error = (gradients[0] - gradients[1]).abs().max() / gradients[0].abs().max()

    ways = {
        "upsample, then pool": upsampled,
        "native, weights included": native,
        "native, weights at hand": native_ready,
        "the weights alone": native_weights,
    }
    seconds = times_in_turn(ways, repeats)
    memory = {}
    for name, way in ways.items():
        for level in pyramid:  # the gradients of the pyramid count for every way
            level.grad = None
        memory[name] = peak_memory(way)
    slow, fast, ready = list(ways)[:3]
    return {
        "title": "Superpixel pooling of a feature pyramid, forward + backward",
        "settings": {
            "batch": batch_size,
            "image": f"{height}x{width}",
            "superpixels": num_superpixels,
            "levels": ", ".join(f"{h}x{w}x{channels}" for h, w in sizes),
            "rounds": repeats,
            "largest relative difference of the gradients": f"{float(error):.1e}",
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
            "time, weights included": ratio(seconds[slow], seconds[fast]),
            "time, weights at hand": ratio(seconds[slow], seconds[ready]),
            "memory, weights included": {"median": memory[slow] / memory[fast]},
        },
    }
