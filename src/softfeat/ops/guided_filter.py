"""The guided filter: smooths features along the edges of the photo they belong to."""

import torch
from kornia.filters import guided_blur
from torch import Tensor
from torch.nn import functional as F


def guided_filter(
    features: Tensor,
    image: Tensor,
    kernel_size: int = 11,
    eps: float = 0.01,
    subsample: int = 1,
    chunk: int = 16,
) -> Tensor:
    """Filters each channel with the photo as guide (He et al. 2013), by `kornia`'s `guided_blur`.

    Conventions, where others differ: `kernel_size` is the whole window 2r+1, not the radius; `eps`
    is added to the guide's variance, so it is in squared units of a guide in [0,1] (0.01 is
    MATLAB's default); all three colours guide every channel; borders are reflected.

    Args:
        features: (B,D,H,W), any range.
        image: (B,3,H,W) in [0,1].
        kernel_size: window, in pixels; cut down to what fits the photo.
        eps: the greater, the smoother.
        subsample: solve at 1/subsample of the resolution: close, and that much squared faster.
            The result then lies (subsample - 1) / 2 pixels aside: for pictures, not for mattes.
        chunk: channels filtered at a time, which bounds the memory: each takes about 20 maps.

    Returns:
        (B,D,H,W) float32.

    Raises:
        ValueError: features and image of different sizes; image not in [0,1]; sizes below 1.
    """
    if features.shape[-2:] != image.shape[-2:] or len(features) != len(image):
        raise ValueError(
            f"features {tuple(features.shape)} and image {tuple(image.shape)} do not share batch "
            "and pixel sizes: enlarge the features first"
        )
    if kernel_size < 1 or subsample < 1 or chunk < 1:
        raise ValueError(f"{kernel_size=}, {subsample=}, {chunk=}: each must be 1 or more")
    if image.is_floating_point() and image.amax() <= 1 + 1e-3 and image.amin() >= -1e-3:
        guide = image.float()
    else:
        raise ValueError("the guide must be a float image in [0,1]: divide by 255")
    # Reflection needs a border narrower than the (subsampled) photo.
    cells = max(1, min(image.shape[-2:]) // subsample)
    fitting = min(kernel_size, subsample * (2 * cells - 1))
    return torch.cat(
        [
            guided_blur(guide, part.float(), fitting, eps, subsample=subsample, separable=True)
            for part in features.split(chunk, 1)
        ],
        1,
    )


def guided_slopes(
    features: Tensor, image: Tensor, kernel_size: int = 11, eps: float = 0.01
) -> Tensor:
    """How filtered features change with the photo's colours.

    The guided filter gives a^T I + b at every pixel; these are the a, with which detail of a larger
    photo can be added to enlarged features.

    Args:
        features: (B,D,H,W).
        image: (B,3,H,W) in [0,1].
        kernel_size: window, in pixels, odd; cut down to what fits the photo.
        eps: as of `guided_filter`.

    Returns:
        (B,D,3,H,W).
    """
    radius = min(kernel_size // 2, min(image.shape[-2:]) - 1)
    height, width = image.shape[-2:]

    def mean(maps: Tensor) -> Tensor:
        padded = F.pad(maps.reshape(1, -1, height, width), (radius,) * 4, mode="reflect")
        return F.avg_pool2d(padded, 2 * radius + 1, 1).view(maps.shape)

    centre, level = mean(image), mean(features)
    products = mean(image[:, :, None] * image[:, None])
    covariance = products - centre[:, :, None] * centre[:, None]
    shared = mean(features[:, :, None] * image[:, None]) - level[:, :, None] * centre[:, None]
    covariance = covariance.movedim((1, 2), (3, 4)) + eps * torch.eye(3).to(image)
    slopes = torch.linalg.solve(covariance, shared.movedim((1, 2), (4, 3)))  # (B,H,W,3,D)
    return mean(slopes.movedim((4, 3), (1, 2)))
