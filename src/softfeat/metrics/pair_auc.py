"""Pair AUC, which measures how well feature distances separate different classes.

Legend: B images, S superpixels, D feature channels, P = S (S - 1) / 2 pairs of superpixels.
"""

import torch
from torch import Tensor
from torchmetrics import Metric

from softfeat.ops.distance import pairwise_distance
from softfeat.ops.labels import CONTRAST, IGNORE


def pair_auc(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute for each image how often a pair with different labels is farther apart.

    Pair AUC is the probability that a pair of superpixels with different labels has a larger
    distance than a pair with equal labels. Ties count one half (Mann-Whitney statistic). It is the
    area under the ROC curve of the distance as a detector of different labels. Pairs are unordered
    and within an image. A pair of two superpixels with the label CONTRAST counts neither as equal
    nor as different.

    Args:
        features: Features (B,S,D).
        labels: Integer labels (B,S). Superpixels with IGNORE do not take part.

    Returns:
        auc: Pair AUC (B,) in [0,1]. NaN for an image without both kinds of pairs.
        equal_distance: Mean distance (B,) of pairs with equal labels. NaN if there are none.
        unequal_distance: Mean distance (B,) of pairs with different labels. NaN if there are none.
        active: Share (B,) of pairs with different labels that are closer than the mean pair with
            equal labels. The loss has yet to separate these. NaN without both kinds of pairs.

    >>> auc, *_ = pair_auc(torch.tensor([[[0.0], [0.1], [9.0]]]), torch.tensor([[1, 1, 2]]))
    >>> auc
    tensor([1.])
    """
    first, second = torch.triu_indices(
        labels.shape[1], labels.shape[1], offset=1, device=labels.device
    ).unbind()
    distance = pairwise_distance(features)[:, first, second]  # (B,P)
    one = labels[:, first]  # (B,P)
    other = labels[:, second]  # (B,P)
    pair = (one != IGNORE) & (other != IGNORE) & ((one != CONTRAST) | (other != CONTRAST))
    equal = pair & (one == other)  # (B,P)
    unequal = pair & (one != other)  # (B,P)
    num_equal = equal.sum(1).double()  # (B,)
    num_unequal = unequal.sum(1).double()  # (B,)

    equal_distance = torch.where(equal, distance, 0.0).double().sum(1) / num_equal
    unequal_distance = torch.where(unequal, distance, 0.0).double().sum(1) / num_unequal
    close = (unequal & (distance < equal_distance[:, None])).sum(1) / num_unequal
    auc = _wins(distance, equal, unequal) / (num_equal * num_unequal)
    return (
        auc.float(),
        equal_distance.float(),
        unequal_distance.float(),
        torch.where(num_equal > 0, close, torch.nan).float(),
    )


def _wins(distance: Tensor, equal: Tensor, unequal: Tensor) -> Tensor:
    """Count for each image (B,) how often an unequal pair is farther apart than an equal pair.

    Args:
        distance: Distances (B,P).
        equal: Whether a pair has equal labels (B,P).
        unequal: Whether a pair has different labels (B,P).

    Returns:
        Counts (B,) in double precision, with ties as one half.
    """
    # Sort the pairs by distance. Pairs of neither kind go to the end, where they add nothing.
    ordered, order = torch.where(equal | unequal, distance, torch.inf).sort(dim=1)  # (B,P) each
    sorted_equal = equal.gather(1, order).double()
    sorted_unequal = unequal.gather(1, order)

    # Mark the first and the last pair of each run of equal distances.
    starts = torch.ones_like(sorted_unequal)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    ends = starts.roll(-1, 1)

    # For each pair, count the equal pairs with a smaller distance (below) and those with at most
    # the same distance (through). Their mean is the number of wins.
    up_to = sorted_equal.cumsum(1)  # (B,P)
    below = torch.where(starts, up_to - sorted_equal, 0.0).cummax(1).values
    through = torch.where(ends, up_to, torch.inf).flip(1).cummin(1).values.flip(1)
    return torch.where(sorted_unequal, (below + through) / 2, 0.0).sum(1)


class PairAUC(Metric):
    """Mean of `pair_auc` over the images of a data set, with the distances that show a collapse.

    `compute` returns `pair_auc`, `equal_distance`, `unequal_distance` and `active_pairs`. Each is
    the mean over the images for which it is defined, or NaN if there are none.
    """

    full_state_update = False
    total: Tensor
    images: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(4, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros(4, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add the images of a batch. For the shapes see `pair_auc`."""
        scores = torch.stack(pair_auc(features.detach(), labels)).double()
        self.total += scores.nansum(1)
        self.images += (~scores.isnan()).sum(1)

    def compute(self) -> dict[str, Tensor]:
        """Compute the means over the images so far."""
        means = (self.total / self.images).float()
        names = ("pair_auc", "equal_distance", "unequal_distance", "active_pairs")
        return dict(zip(names, means, strict=True))
