"""From pixels to superpixels and back (Eqs. 1, 3, 6 and 7 of Verma, Nagar, Raman).

A superpixel map holds ids 0..S-1; any other id (-1 in padding) belongs to no superpixel.
"""

import torch
from torch import Tensor

from softfeat.ops.labels import IGNORE

NO_SUPERPIXEL = -1
_LABEL_IDS = 256  # label maps are 8-bit


def batch_index(superpixels: Tensor, num_superpixels: int) -> Tensor:
    """Gives every pixel its row in a table of all superpixels of a batch.

    Args:
        superpixels: (B,H,W) integer ids.
        num_superpixels: S, rows per image.

    Returns:
        (B*H*W,) int64 in 0..B*(S+1)-1: image b owns rows b*(S+1)..b*(S+1)+S, the last of which
        collects the pixels of no superpixel.
    """
    ids = superpixels.flatten(1).long()
    ids = torch.where((ids >= 0) & (ids < num_superpixels), ids, num_superpixels)
    first_row = torch.arange(len(ids), device=ids.device)[:, None] * (num_superpixels + 1)
    return (ids + first_row).flatten()


def superpixel_counts(superpixels: Tensor, num_superpixels: int) -> Tensor:
    """Counts the pixels of each superpixel.

    Args:
        superpixels: (B,H,W) integer ids.
        num_superpixels: S.

    Returns:
        (B,S) int64.
    """
    rows = batch_index(superpixels, num_superpixels)
    counts = rows.new_zeros(len(superpixels) * (num_superpixels + 1))
    counts.scatter_add_(0, rows, torch.ones_like(rows))
    return counts.unflatten(0, (-1, num_superpixels + 1))[:, :num_superpixels]


def superpixel_mean(
    features: Tensor, superpixels: Tensor, num_superpixels: int
) -> tuple[Tensor, Tensor]:
    """Mean feature of each superpixel's pixels (Eq. 3).

    Args:
        features: (B,D,H,W); half precision is summed and returned in float32.
        superpixels: (B,H,W) integer ids.
        num_superpixels: S.

    Returns:
        means: (B,S,D), zero where a superpixel has no pixel.
        counts: (B,S) int64, pixels of each superpixel.

    >>> means, counts = superpixel_mean(
    ...     torch.tensor([[[[1.0, 3.0, 8.0]]]]), torch.tensor([[[0, 0, 1]]]), 3)
    >>> means.flatten().tolist(), counts.flatten().tolist()
    ([2.0, 8.0, 0.0], [2, 1, 0])
    """
    if features.shape[-2:] != superpixels.shape[-2:] or len(features) != len(superpixels):
        raise ValueError(
            f"features {tuple(features.shape)} and superpixels {tuple(superpixels.shape)} "
            "do not share batch and pixel sizes: upsample the features, or pool the pyramid with "
            "pyramid_superpixel_mean"
        )
    batch, channels = features.shape[:2]
    values = features.flatten(2).transpose(1, 2).flatten(0, 1)
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    rows = batch_index(superpixels, num_superpixels)
    sums = values.new_zeros(batch * (num_superpixels + 1), channels).index_add(0, rows, values)
    sums = sums.unflatten(0, (batch, num_superpixels + 1))[:, :num_superpixels]
    counts = superpixel_counts(superpixels, num_superpixels)
    return sums / counts.clamp(min=1)[..., None], counts


def superpixel_majority(labels: Tensor, superpixels: Tensor, num_superpixels: int) -> Tensor:
    """Majority label of each superpixel (Eq. 1), ignored pixels left out.

    Args:
        labels: (B,H,W) integer ids in 0..255. Pixels with IGNORE do not vote.
        superpixels: (B,H,W) integer ids.
        num_superpixels: S.

    Returns:
        (B,S) int64. Ties go to the smallest id. IGNORE where no pixel votes.

    >>> superpixel_majority(torch.tensor([[[7, 7, 2, 255]]]), torch.tensor([[[0, 0, 0, 1]]]), 2)
    tensor([[  7, 255]])
    """
    rows = batch_index(superpixels, num_superpixels)
    flat = labels.flatten().long()
    votes = rows.new_zeros(len(labels) * (num_superpixels + 1) * _LABEL_IDS)
    votes.scatter_add_(0, rows * _LABEL_IDS + flat, (flat != IGNORE).long())
    votes = votes.unflatten(0, (-1, num_superpixels + 1, _LABEL_IDS))[:, :num_superpixels]
    # One maximum finds count and id: argmax promises no order among ties.
    id_last = _LABEL_IDS - 1 - torch.arange(_LABEL_IDS, device=votes.device)
    best = votes.mul_(_LABEL_IDS).add_(id_last).amax(-1)
    majority = _LABEL_IDS - 1 - best % _LABEL_IDS
    return torch.where(best >= _LABEL_IDS, majority, IGNORE)


def superpixel_scatter(values: Tensor, superpixels: Tensor) -> Tensor:
    """Gives every pixel the value of its superpixel (Eqs. 6 and 7).

    Args:
        values: (B,S,D).
        superpixels: (B,H,W) integer ids.

    Returns:
        (B,D,H,W); zero where a pixel has no superpixel.

    >>> superpixel_scatter(torch.tensor([[[2.0], [8.0]]]), torch.tensor([[[1, 0, -1]]]))
    tensor([[[[8., 2., 0.]]]])
    """
    num_superpixels = values.shape[1]
    table = torch.nn.functional.pad(values, (0, 0, 0, 1)).flatten(0, 1)
    pixels = table[batch_index(superpixels, num_superpixels)]
    return pixels.unflatten(0, superpixels.shape).movedim(-1, 1)
