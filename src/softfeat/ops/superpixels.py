"""From pixels to superpixels and back (Eqs. 1, 3, 6 and 7 of Verma, Nagar, Raman).

A superpixel map holds ids 0..S-1. Pixels with any other id (-1 in padding) belong to no superpixel.
"""

import torch
from torch import Tensor

from softfeat.ops.labels import IGNORE

NO_SUPERPIXEL = -1
_LABEL_IDS = 256  # label maps are 8-bit


def batch_index(superpixels: Tensor, num_superpixels: int) -> Tensor:
    """Find the row of every pixel in a table of all superpixels of a batch.

    Args:
        superpixels: Superpixel maps (B,H,W) of integer ids.
        num_superpixels: Number of superpixels S of each image.

    Returns:
        Rows (B*H*W,) int64 in 0..B*(S+1)-1. Image b has the rows b*(S+1)..b*(S+1)+S. The last of
        them collects the pixels of no superpixel.
    """
    ids = superpixels.flatten(1).long()  # (B,H*W)
    ids = torch.where((ids >= 0) & (ids < num_superpixels), ids, num_superpixels)
    first_row = torch.arange(len(ids), device=ids.device)[:, None] * (num_superpixels + 1)
    return (ids + first_row).flatten()


def superpixel_counts(superpixels: Tensor, num_superpixels: int) -> Tensor:
    """Count the pixels of each superpixel.

    Args:
        superpixels: Superpixel maps (B,H,W) of integer ids.
        num_superpixels: Number of superpixels S of each image.

    Returns:
        Counts (B,S) int64.
    """
    rows = batch_index(superpixels, num_superpixels)  # (B*H*W,)
    counts = rows.new_zeros(len(superpixels) * (num_superpixels + 1))
    counts.scatter_add_(0, rows, torch.ones_like(rows))
    return counts.unflatten(0, (-1, num_superpixels + 1))[:, :num_superpixels]


def superpixel_mean(
    features: Tensor, superpixels: Tensor, num_superpixels: int
) -> tuple[Tensor, Tensor]:
    """Average the features over the pixels of each superpixel (Eq. 3).

    Args:
        features: Features (B,D,H,W). Half precision is summed and returned in float32.
        superpixels: Superpixel maps (B,H,W) of integer ids.
        num_superpixels: Number of superpixels S of each image.

    Returns:
        means: Mean features (B,S,D), zero where a superpixel has no pixels.
        counts: Number of pixels (B,S) int64 of each superpixel.

    Raises:
        ValueError: If features and superpixels differ in batch or pixel size.

    >>> means, counts = superpixel_mean(
    ...     torch.tensor([[[[1.0, 3.0, 8.0]]]]), torch.tensor([[[0, 0, 1]]]), 3)
    >>> means.flatten().tolist(), counts.flatten().tolist()
    ([2.0, 8.0, 0.0], [2, 1, 0])
    """
    if features.shape[-2:] != superpixels.shape[-2:] or len(features) != len(superpixels):
        raise ValueError(
            f"features {tuple(features.shape)} and superpixels {tuple(superpixels.shape)} "
            "differ in batch or pixel size: upsample the features, or pool the pyramid with "
            "pyramid_superpixel_mean"
        )
    batch, channels = features.shape[:2]
    values = features.flatten(2).transpose(1, 2).flatten(0, 1)  # (B*H*W,D)
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    rows = batch_index(superpixels, num_superpixels)  # (B*H*W,)
    sums = values.new_zeros(batch * (num_superpixels + 1), channels).index_add(0, rows, values)
    sums = sums.unflatten(0, (batch, num_superpixels + 1))[:, :num_superpixels]  # (B,S,D)
    counts = superpixel_counts(superpixels, num_superpixels)  # (B,S)
    return sums / counts.clamp(min=1)[..., None], counts


def superpixel_majority(labels: Tensor, superpixels: Tensor, num_superpixels: int) -> Tensor:
    """Find the most frequent label of each superpixel (Eq. 1).

    Args:
        labels: Label maps (B,H,W) of integer ids in 0..255. Pixels with IGNORE are not counted.
        superpixels: Superpixel maps (B,H,W) of integer ids.
        num_superpixels: Number of superpixels S of each image.

    Returns:
        Labels (B,S) int64. Ties go to the smallest id. IGNORE where no pixel was counted.

    >>> superpixel_majority(torch.tensor([[[7, 7, 2, 255]]]), torch.tensor([[[0, 0, 0, 1]]]), 2)
    tensor([[  7, 255]])
    """
    rows = batch_index(superpixels, num_superpixels)  # (B*H*W,)
    flat = labels.flatten().long()  # (B*H*W,)
    # Count the labels of each row: votes[row, label].
    votes = rows.new_zeros(len(labels) * (num_superpixels + 1) * _LABEL_IDS)
    votes.scatter_add_(0, rows * _LABEL_IDS + flat, (flat != IGNORE).long())
    votes = votes.unflatten(0, (-1, num_superpixels + 1, _LABEL_IDS))[:, :num_superpixels]
    # argmax may return any of several equal counts. So encode each count and its id in one number,
    # count * 256 + (255 - id), whose maximum prefers the smallest id.
    reversed_ids = _LABEL_IDS - 1 - torch.arange(_LABEL_IDS, device=votes.device)  # (256,)
    best = votes.mul_(_LABEL_IDS).add_(reversed_ids).amax(-1)  # (B,S)
    majority = _LABEL_IDS - 1 - best % _LABEL_IDS  # (B,S)
    return torch.where(best >= _LABEL_IDS, majority, IGNORE)


def superpixel_scatter(values: Tensor, superpixels: Tensor) -> Tensor:
    """Give every pixel the value of its superpixel (Eqs. 6 and 7).

    Args:
        values: Values (B,S,D) of the superpixels.
        superpixels: Superpixel maps (B,H,W) of integer ids.

    Returns:
        Maps (B,D,H,W), zero where a pixel belongs to no superpixel.

    >>> superpixel_scatter(torch.tensor([[[2.0], [8.0]]]), torch.tensor([[[1, 0, -1]]]))
    tensor([[[[8., 2., 0.]]]])
    """
    num_superpixels = values.shape[1]
    # Each image gets one more row of zeros, for the pixels of no superpixel.
    table = torch.nn.functional.pad(values, (0, 0, 0, 1)).flatten(0, 1)  # (B*(S+1),D)
    pixels = table[batch_index(superpixels, num_superpixels)]  # (B*H*W,D)
    return pixels.unflatten(0, superpixels.shape).movedim(-1, 1)
