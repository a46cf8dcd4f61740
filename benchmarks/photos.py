"""Photos that benchmarks run on: four that scikit-image ships."""

from collections.abc import Sequence

import numpy as np
import torch
from skimage import data as photos
from torch import Tensor

from softfeat.imaging.images import resize_image
from softfeat.imaging.slic import Superpixels


def photo_batch(
    batch_size: int, image_size: Sequence[int], num_superpixels: int
) -> tuple[Tensor, Tensor]:
    """Makes a batch of photos and their superpixels; the four photos are repeated.

    Args:
        batch_size: B.
        image_size: (H, W).
        num_superpixels: S.

    Returns:
        images: (B,3,H,W) float32, RGB in [0,1].
        superpixels: (B,H,W) int64, ids 0..S-1.
    """
    height, width = image_size
    readers = [photos.astronaut, photos.coffee, photos.chelsea, photos.rocket][:batch_size]
    segment = Superpixels(num_superpixels)
    pictures = [resize_image(read(), (height, width)) for read in readers]
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
    maps = torch.from_numpy(np.stack([segment(p) for p in pictures]).astype(np.int64))
    index = torch.arange(batch_size) % len(pictures)
    return images[index].contiguous(), maps[index]
