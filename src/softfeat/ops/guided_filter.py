"""The guided filter, which smooths features along the edges of their photo (He et al. 2013)."""

import torch
from kornia.filters import guided_blur
from torch import Tensor
from torch.nn import functional as F

from softfeat.checks import number, whole


def check_filter(kernel_size: int, eps: float, subsample: int, chunk: int) -> None:
    """Check the parameters of `guided_filter`.

    Args:
        kernel_size: Side of the window.
        eps: Regularisation.
        subsample: Factor of the resolution.
        chunk: Channels at a time.

    Raises:
        ValueError: If one is out of range.
    """
    whole("guided_filter.kernel_size", kernel_size, 1, 9999)
    number("guided_filter.eps", eps, above=0, high=1e6)
    whole("guided_filter.subsample", subsample, 1, 9999)
    whole("guided_filter.chunk", chunk, 1)


def guided_filter(
    features: Tensor,
    image: Tensor,
    kernel_size: int = 11,
    eps: float = 0.01,
    subsample: int = 1,
    chunk: int = 16,
) -> Tensor:
    """Filter each channel with the photo as the guide, using kornia's `guided_blur`.

    All three colours guide every channel. Borders are reflected.

    Args:
        features: Features (B,D,H,W) of any range.
        image: Photos (B,3,H,W) in [0,1].
        kernel_size: Side of the whole window 2r+1 in pixels, not its radius r. Reduced for photos
            smaller than the window.
        eps: Regularisation that is added to the variance of the guide, so its unit is the square
            of a colour in [0,1]. Larger values smooth more. 0.01 is MATLAB's default.
        subsample: Factor by which the resolution is reduced to solve for the filter. The result is
            similar and takes 1/subsample^2 of the time. It is shifted by (subsample - 1) / 2
            pixels, which is acceptable for pictures but not for mattes.
        chunk: Number of channels filtered at a time. It bounds the memory, about 20 maps each.

    Returns:
        Filtered features (B,D,H,W) in float32.

    Raises:
        ValueError: If the sizes of features and image differ, if the image is not in [0,1], or if
            `kernel_size`, `subsample` or `chunk` is below 1.
    """
    if features.shape[-2:] != image.shape[-2:] or len(features) != len(image):
        raise ValueError(
            f"features {tuple(features.shape)} and image {tuple(image.shape)} differ in batch or "
            "pixel size: upsample the features first"
        )
    check_filter(kernel_size, eps, subsample, chunk)
    if image.is_floating_point() and image.amax() <= 1 + 1e-3 and image.amin() >= -1e-3:
        guide = image.float()
    else:
        raise ValueError("the guide must be a float image in [0,1]: divide by 255")
    # The reflected border must be narrower than the (subsampled) photo.
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
    """Compute how filtered features change with the colours of the photo.

    At every pixel the guided filter returns a^T I + b, where I is the photo's colour. This function
    returns a. With it, detail of a larger photo can be added to upsampled features.

    Args:
        features: Features (B,D,H,W).
        image: Photos (B,3,H,W) in [0,1].
        kernel_size: Side of the window in pixels, odd. Reduced for photos smaller than the window.
        eps: Regularisation, see `guided_filter`.

    Returns:
        Slopes a (B,D,3,H,W).
    """
    radius = min(kernel_size // 2, min(image.shape[-2:]) - 1)
    height, width = image.shape[-2:]

    def mean(maps: Tensor) -> Tensor:
        """Average over the window around each pixel; any leading dimensions."""
        padded = F.pad(maps.reshape(1, -1, height, width), (radius,) * 4, mode="reflect")
        return F.avg_pool2d(padded, 2 * radius + 1, 1).view(maps.shape)

    # Covariance of the colours with each other and with the features, in each window
    mean_colour = mean(image)  # (B,3,H,W)
    mean_feature = mean(features)  # (B,D,H,W)
    covariance = mean(image[:, :, None] * image[:, None])  # (B,3,3,H,W)
    covariance = covariance - mean_colour[:, :, None] * mean_colour[:, None]
    shared = mean(features[:, :, None] * image[:, None])  # (B,D,3,H,W)
    shared = shared - mean_feature[:, :, None] * mean_colour[:, None]

    # Linear regression of the features on the colours: a = (covariance + eps Id)^-1 shared
    covariance = covariance.movedim((1, 2), (3, 4))  # (B,H,W,3,3)
    covariance = covariance + eps * torch.eye(3).to(image)
    shared = shared.movedim((1, 2), (4, 3))  # (B,H,W,3,D)
    slopes = torch.linalg.solve(covariance, shared)  # (B,H,W,3,D)

    # A pixel lies in several windows: average their slopes.
    return mean(slopes.movedim((4, 3), (1, 2)))  # (B,D,3,H,W)
