"""Pixels sampled by label, as Aksoy et al. 2018 train on: what superpixels are compared with."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from softfeat.ops.labels import IGNORE

_LABEL_IDS = 256  # label maps are 8-bit


def sample_pixels(
    label: Tensor,
    num_classes: int = 3,
    num_samples: int = 1000,
    repetitions: int = 10,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Draws classes of each image, and pixels of each class, with replacement.

    Nothing here waits for the device.

    Args:
        label: (B,H,W) int64 ids in 0..255. Pixels with IGNORE are never drawn.
        num_classes: N_inst, distinct classes a repetition, of those in the image.
        num_samples: N_samp, pixels of each class.
        repetitions: N_iter draws of each image.
        generator: of the label's device; torch's global one if absent.

    Returns:
        pixels: (B,R,N) int64 in 0..H*W-1, with N = num_classes * num_samples.
        labels: (B,R,N) int64, their labels. Where an image has fewer classes than `num_classes`,
            the draws that are missing have the label IGNORE.

    >>> pixels, labels = sample_pixels(torch.tensor([[[7, 7, 255, 2]]]), 2, 3, 1)
    >>> sorted(set(labels.flatten().tolist())), 2 in pixels
    ([2, 7], False)
    """
    flat = label.flatten(1)
    batch, shape = len(flat), (len(label), repetitions, num_classes)
    by_label = flat.argsort(dim=1)
    counts = flat.new_zeros(batch, _LABEL_IDS).scatter_add_(1, flat, torch.ones_like(flat))
    starts = counts.cumsum(1) - counts
    # Random keys above 0 for the labels in the image: the largest are a fair draw among them.
    present = (counts > 0) & (torch.arange(_LABEL_IDS, device=label.device) != IGNORE)
    random = partial(torch.rand, device=label.device, generator=generator)
    keys = random(batch, repetitions, _LABEL_IDS) + 1
    key, chosen = (keys * present[:, None]).topk(num_classes)
    first, count = (x.gather(1, chosen.flatten(1)).view(shape) for x in (starts, counts))
    draw = random(*shape, num_samples)
    nth = (draw * count[..., None]).long().minimum((count[..., None] - 1).clamp(min=0))
    place = (first[..., None] + nth).clamp(max=flat.shape[1] - 1)
    pixels = by_label.gather(1, place.flatten(1)).view(batch, repetitions, -1)
    labels = torch.where(key > 0, chosen, IGNORE)[..., None].expand_as(place).reshape_as(pixels)
    return pixels, labels


def pyramid_at_pixels(
    pyramid: Sequence[Tensor], pixels: Tensor, image_size: tuple[int, int]
) -> Tensor:
    """The concatenated bilinear upsamplings at some pixels, without building them.

    Args:
        pyramid: levels (B,C_l,h_l,w_l) of any sizes; half precision is sampled in float32.
        pixels: (B,...) int64 in 0..H*W-1.
        image_size: (H, W).

    Returns:
        (B,...,sum of C_l).

    >>> pyramid_at_pixels([torch.tensor([[[[4.0, 8.0]]]])], torch.tensor([[0, 1, 3]]), (1, 4))
    tensor([[[4.],
             [5.],
             [8.]]])
    """
    height, width = image_size
    x, y = (2 * (pixels % width) + 1) / width - 1, (2 * (pixels // width) + 1) / height - 1
    grid = torch.stack([x, y], -1).flatten(1, -2)[:, None]  # pixel centres in [-1,1]
    sampled = []
    for level in pyramid:
        wide = level.to(torch.promote_types(level.dtype, torch.float32))
        values = F.grid_sample(wide, grid.to(wide), padding_mode="border", align_corners=False)
        sampled.append(values[:, :, 0])
    return torch.cat(sampled, 1).mT.unflatten(1, pixels.shape[1:])
