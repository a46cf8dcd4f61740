"""Pixels sampled by label, as in the training of Aksoy et al. 2018.

Superpixels replace this sampling. It is kept for comparison.

Legend: B images, H W pixels, R repetitions, C classes of a repetition, N pixels of a repetition.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from softfeat.checks import whole
from softfeat.ops.labels import IGNORE

_LABEL_IDS = 256  # label maps are 8-bit


def sample_pixels(
    label: Tensor,
    num_classes: int = 3,
    num_samples: int = 1000,
    repetitions: int = 10,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw classes of each image, and pixels of each class with replacement.

    Does not synchronise with the GPU.

    Args:
        label: Label maps (B,H,W) int64 with ids in 0..255. IGNORE is never drawn.
        num_classes: Number of distinct classes C in a repetition (N_inst in the paper), drawn from
            the classes of the image.
        num_samples: Number of pixels of each class (N_samp).
        repetitions: Number of draws R for each image (N_iter).
        generator: Random generator on the device of `label`. None uses torch's global generator.

    Returns:
        pixels: Pixel indices (B,R,N) int64 in 0..H*W-1, with N = num_classes * num_samples.
        labels: Labels (B,R,N) int64 of these pixels. Where an image has fewer than `num_classes`
            classes, the missing draws have the label IGNORE.

    >>> pixels, labels = sample_pixels(torch.tensor([[[7, 7, 255, 2]]]), 2, 3, 1)
    >>> sorted(set(labels.flatten().tolist())), 2 in pixels
    ([2, 7], False)
    """
    whole("model.sample_pixels.num_classes", num_classes, 1, _LABEL_IDS)
    whole("model.sample_pixels.num_samples", num_samples, 1, 10**6)
    whole("model.sample_pixels.repetitions", repetitions, 1, 10**6)
    flat = label.flatten(1)  # (B,H*W)
    batch, num_pixels = flat.shape
    shape = (batch, repetitions, num_classes)

    # Sort the pixels by label: those of label k are at starts[k] .. starts[k] + counts[k] - 1.
    by_label = flat.argsort(dim=1)  # (B,H*W)
    counts = flat.new_zeros(batch, _LABEL_IDS).scatter_add_(1, flat, torch.ones_like(flat))
    starts = counts.cumsum(1) - counts  # (B,256)

    # Draw classes without replacement: give a random key in [1,2) to each label of the image and
    # 0 to all others, and take the labels with the largest keys.
    ids = torch.arange(_LABEL_IDS, device=label.device)
    present = (counts > 0) & (ids != IGNORE)  # (B,256)
    keys = torch.rand(batch, repetitions, _LABEL_IDS, device=label.device, generator=generator) + 1
    key, classes = (keys * present[:, None]).topk(num_classes)  # (B,R,C)
    first = starts.gather(1, classes.flatten(1)).view(shape)  # (B,R,C)
    count = counts.gather(1, classes.flatten(1)).view(shape)  # (B,R,C)

    # Draw pixels with replacement. Classes without pixels get a valid index and the label IGNORE.
    draw = torch.rand(*shape, num_samples, device=label.device, generator=generator)
    last = (count[..., None] - 1).clamp(min=0)  # (B,R,C,1)
    nth = (draw * count[..., None]).long().minimum(last)  # (B,R,C,num_samples)
    place = (first[..., None] + nth).clamp(max=num_pixels - 1)
    pixels = by_label.gather(1, place.flatten(1)).view(batch, repetitions, -1)  # (B,R,N)
    labels = torch.where(key > 0, classes, IGNORE)[..., None].expand_as(place)
    return pixels, labels.reshape_as(pixels)


def pyramid_at_pixels(
    pyramid: Sequence[Tensor], pixels: Tensor, image_size: tuple[int, int]
) -> Tensor:
    """Sample the pyramid at some pixels, bilinearly, without upsampling its levels.

    Equals reading these pixels from the concatenation of all levels upsampled to the image size.

    Args:
        pyramid: Levels (B,C_l,h_l,w_l) of any sizes. Half precision is sampled in float32.
        pixels: Pixel indices (B,...) int64 in 0..H*W-1.
        image_size: Height H and width W in pixels.

    Returns:
        Features (B,...,D), where D is the sum of all C_l.

    >>> pyramid_at_pixels([torch.tensor([[[[4.0, 8.0]]]])], torch.tensor([[0, 1, 3]]), (1, 4))
    tensor([[[4.],
             [5.],
             [8.]]])
    """
    height, width = image_size
    # Pixel centres in [-1,1], the coordinates of grid_sample
    x = (2 * (pixels % width) + 1) / width - 1
    y = (2 * (pixels // width) + 1) / height - 1
    grid = torch.stack([x, y], -1).flatten(1, -2)[:, None]  # (B,1,N,2)
    sampled = []
    for level in pyramid:
        wide = level.to(torch.promote_types(level.dtype, torch.float32))
        values = F.grid_sample(wide, grid.to(wide), padding_mode="border", align_corners=False)
        sampled.append(values[:, :, 0])  # (B,C_l,N)
    return torch.cat(sampled, 1).mT.unflatten(1, pixels.shape[1:])
