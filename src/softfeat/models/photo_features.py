"""Features of whole photos, seen by the network at several sizes and mirrored."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from softfeat.imaging.convert import to_array, to_tensor
from softfeat.imaging.images import resize_image
from softfeat.models.extractor import Extractor

FEATURES_SIZES = (320, 448)  # small ones show large things whole, large ones show small things


@torch.inference_mode()
def features_of(
    extractor: Extractor, photo: NDArray[np.uint8], long_sides: Sequence[int] = FEATURES_SIZES
) -> NDArray[np.float32]:
    """Computes F of a photo: the mean over several sizes of the photo, and over its mirror image.

    Networks are trained on small photos, so they see a large photo best when it is reduced. Nothing
    is gained by features finer than the finest level of the network.

    Args:
        extractor: The network, in eval mode, on any device.
        photo: (H,W,3) RGB.
        long_sides: Lengths in pixels of the long side to which a larger photo is reduced.

    Returns:
        (h,w,D), at the size of the finest level of the network for the largest of the photos.
    """
    sides = photo.shape[:2]
    scales = sorted({min(1.0, side / max(sides)) for side in long_sides}, reverse=True)
    total: Tensor | None = None
    for scale in scales:
        height, width = (max(1, round(side * scale)) for side in sides)
        image = to_tensor(resize_image(photo, (height, width))).to(extractor.mean.device)
        levels = extractor.pyramid(torch.cat([image, image.flip(3)]))  # (2,D_l,h_l,w_l)
        # No level is finer than the first one of the largest photo.
        size = levels[0].shape[2:] if total is None else total.shape[2:]
        means = [(level[:1] + level[1:].flip(3)) / 2 for level in levels]  # (1,D_l,h_l,w_l)
        features = torch.cat([_resized(mean, size) for mean in means], 1)  # (1,D,h,w)
        total = features if total is None else total + features
    assert total is not None
    return to_array(total / len(scales))


def _resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    return interpolate(maps, tuple(size), mode="bilinear", align_corners=False)
