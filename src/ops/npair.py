"""The N-pair loss with L2 distances over all superpixel pairs (Eq. 5)."""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from src.ops.distance import pairwise_distance

Negative = Literal["printed", "symmetric"]
Balance = Literal["none", "pairs"]


def superpixel_npair_loss(
    features: Tensor,
    labels: Tensor,
    valid: Tensor,
    negative: Negative = "printed",
    balance: Balance = "none",
) -> Tensor:
    """Pulls superpixels of one label together and pushes those of different labels apart (Eq. 5).

    With d = ||F_p - F_q||, a pair of equal labels costs log((1 + exp(d)) / 2), a pair of unequal
    ones log(1 + exp(-d) / 2). The paper prints ambiguous brackets for the second;
    `negative="symmetric"` reads log((1 + exp(-d)) / 2), which is 0 at d = 0 as the first is and
    pushes with gradient 1/2 there, as hard as the first pulls.

    Args:
        features: (B,S,D); half precision runs in float32.
        labels: (B,S) superpixel labels; only equal or unequal matters, within an image.
        valid: (B,S) bool, superpixels that take part.
        negative: reading of the second term.
        balance: "none" sums over all ordered pairs and divides by the image's number of valid
            superpixels |S|, as printed; "pairs" averages each of the two sums over its own pairs
            (p != q), so that neither outweighs the other by its mere number.

    Returns:
        Scalar, mean over the images. Without a valid pair a zero that still has a gradient (zero).

    >>> equal = superpixel_npair_loss(
    ...     torch.zeros(1, 2, 4), torch.tensor([[3, 3]]), torch.tensor([[True, True]]))
    >>> equal.item()
    0.0
    """
    distance = pairwise_distance(features)
    pair = valid[:, :, None] & valid[:, None, :]
    same = labels[:, :, None] == labels[:, None, :]
    # Both terms are one softplus: log(1 + exp(-d)/2) = softplus(-d - log 2).
    if negative == "printed":
        signed = torch.where(same, distance, -distance - math.log(2))
        cost = F.softplus(signed) - same * math.log(2)
    elif negative == "symmetric":
        cost = F.softplus(torch.where(same, distance, -distance)) - math.log(2)
    else:
        raise ValueError(f"negative={negative!r}: choose 'printed' or 'symmetric'")
    if balance == "none":
        cost = torch.where(pair, cost, 0.0)
        size = valid.sum(1).clamp(min=1)
        return (cost.sum((1, 2)) / size).mean()
    if balance != "pairs":
        raise ValueError(f"balance={balance!r}: choose 'none' or 'pairs'")
    other = ~torch.eye(labels.shape[1], dtype=torch.bool, device=labels.device)
    positive_pair, negative_pair = pair & same & other, pair & ~same
    weight = positive_pair / positive_pair.sum((1, 2), keepdim=True).clamp(min=1)
    weight = weight + negative_pair / negative_pair.sum((1, 2), keepdim=True).clamp(min=1)
    return (weight * cost).sum((1, 2)).mean()
