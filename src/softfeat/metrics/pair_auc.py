"""Pair AUC: how well distances tell superpixels of different things from those of one thing."""

import torch
from torch import Tensor
from torchmetrics import Metric

from softfeat.ops.distance import pairwise_distance
from softfeat.ops.labels import CONTRAST, IGNORE


def pair_auc(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Area under the ROC curve of "far apart" as a sign of "unequal", per image.

    It is the probability that an unequal pair is farther apart than an equal one, ties counting
    one half (Mann-Whitney), over the unordered pairs of labelled superpixels of an image. A pair of
    two superpixels with the label CONTRAST counts neither as equal nor as unequal.

    Args:
        features: (B,S,D).
        labels: (B,S) integers. Superpixels with IGNORE do not take part.

    Returns:
        auc: (B,) in [0,1], NaN for an image without both kinds of pairs.
        equal_distance: (B,) mean distance of equal pairs, NaN without any.
        unequal_distance: (B,) likewise.
        active: (B,) share of unequal pairs that are closer than the mean equal pair, NaN likewise:
            those the loss still has to part.

    >>> auc, *_ = pair_auc(torch.tensor([[[0.0], [0.1], [9.0]]]), torch.tensor([[1, 1, 2]]))
    >>> auc
    tensor([1.])
    """
    first, second = torch.triu_indices(
        labels.shape[1], labels.shape[1], offset=1, device=labels.device
    ).unbind()
    distance = pairwise_distance(features)[:, first, second]
    one, other = labels[:, first], labels[:, second]  # (B,P) of the P pairs
    pair = (one != IGNORE) & (other != IGNORE) & ((one != CONTRAST) | (other != CONTRAST))
    equal, unequal = pair & (one == other), pair & (one != other)
    num_equal, num_unequal = equal.sum(1).double(), unequal.sum(1).double()

    # Pairs that do not count sort to the end, where they weigh nothing.
    ordered, order = torch.where(pair, distance, torch.inf).sort(dim=1)
    sorted_equal, sorted_unequal = equal.gather(1, order).double(), unequal.gather(1, order)
    up_to = sorted_equal.cumsum(1)
    starts = torch.ones_like(sorted_unequal)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    ends = starts.roll(-1, 1)
    below = torch.where(starts, up_to - sorted_equal, 0.0).cummax(1).values
    through = torch.where(ends, up_to, torch.inf).flip(1).cummin(1).values.flip(1)
    wins = torch.where(sorted_unequal, (below + through) / 2, 0.0).sum(1)

    equal_distance = torch.where(equal, distance, 0.0).double().sum(1) / num_equal
    unequal_distance = torch.where(unequal, distance, 0.0).double().sum(1) / num_unequal
    close = (unequal & (distance < equal_distance[:, None])).sum(1) / num_unequal
    auc = wins / (num_equal * num_unequal)
    return (
        auc.float(),
        equal_distance.float(),
        unequal_distance.float(),
        torch.where(num_equal > 0, close, torch.nan).float(),
    )


class PairAUC(Metric):
    """Mean `pair_auc` over the images of a data set, with the distances that show a collapse.

    `compute` gives `pair_auc`, `equal_distance`, `unequal_distance` and `active_pairs`, each the
    mean over the images where it is defined, NaN where there is none.
    """

    full_state_update = False
    total: Tensor
    images: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(4, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros(4, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Adds the images of a batch; shapes as in `pair_auc`."""
        scores = torch.stack(pair_auc(features.detach(), labels)).double()
        self.total += scores.nansum(1)
        self.images += (~scores.isnan()).sum(1)

    def compute(self) -> dict[str, Tensor]:
        """Means over the images seen so far."""
        means = (self.total / self.images).float()
        names = ("pair_auc", "equal_distance", "unequal_distance", "active_pairs")
        return dict(zip(names, means, strict=True))
