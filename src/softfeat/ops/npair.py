"""The N-pair loss with L2 distances over all pairs of a set (Eq. 5 of Verma, Nagar, Raman).

Legend: B sets (images), S members of a set (superpixels or sampled pixels), D feature channels.
Within a block of pairs: b sets, R rows, C columns.
"""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from softfeat.checks import flag, one_of
from softfeat.ops.labels import CONTRAST, IGNORE
from softfeat.ops.sizes import ceil_div

Negative = Literal["printed", "symmetric"]
Balance = Literal["none", "pairs", "classes"]

_LOG2 = math.log(2)
# Pairs in a block: on a CPU a few such matrices stay in the cache, a GPU needs more to be busy.
_PAIRS_ON_CPU = 2**18
_PAIRS_ON_GPU = 2**25


def npair_loss(
    features: Tensor,
    labels: Tensor,
    negative: Negative = "printed",
    balance: Balance = "none",
    across_images: bool = False,
) -> Tensor:
    """Pull members with equal labels together and push members with different labels apart.

    This is Eq. 5. With d = ||F_p - F_q||, a pair with equal labels costs log((1 + exp(d)) / 2) and
    a pair with different labels costs log(1 + exp(-d) / 2). The brackets of the second term are
    ambiguous in the paper. `negative="symmetric"` uses log((1 + exp(-d)) / 2) instead. It is 0 at
    d = 0, like the first term, and pushes there with gradient 1/2, as hard as the first term pulls.

    A set holds the superpixels of an image, or pixels sampled from it (`ops.pixels`). The value
    and the gradient are computed together, one block of pairs at a time, so that the matrix of all
    pairs is never stored. `tests/ops/test_npair.py` has the same loss as a direct loop.

    The defaults are those of the paper. `loss=npair` of the experiments chooses "symmetric" and
    "pairs".

    Args:
        features: Features (B,S,D). Half precision is computed in float32.
        labels: Integer labels (B,S), compared within a set. Two ids of `ops.labels` are special:
            members with IGNORE do not take part, and a pair of two members with CONTRAST counts
            neither as equal nor as unequal.
        negative: Reading of the second term, "printed" or "symmetric".
        balance: Weights of the pairs. "none" is the paper's: the sum over all ordered pairs,
            divided by |S|, the number of members that take part. "pairs" averages each of the two
            sums over its own pairs with p != q, so that the more frequent kind does not dominate.
            "classes" does the same with weights 1 / (n_p n_q), where n is the number of members
            with the same label, so that small objects count as much as large ones. There,
            CONTRAST counts as one more label.
        across_images: Whether to compare all members of the batch with each other, as one set.
            Labels must then mean the same in all images. The paper compares within an image.
            Members in other DDP processes are never compared.

    Returns:
        Scalar loss, the mean over the sets. A set without pairs contributes a zero that is still
        attached to the graph.

    Raises:
        ValueError: If `negative` or `balance` is not one of the listed values.

    >>> npair_loss(torch.zeros(1, 2, 4), torch.tensor([[3, 3]])).item()
    0.0
    """
    one_of("loss.negative", negative, ("printed", "symmetric"))
    one_of("loss.balance", balance, ("none", "pairs", "classes"))
    flag("loss.across_images", across_images)
    if across_images:
        features = features.flatten(0, 1)[None]  # (1,B*S,D)
        labels = labels.flatten(0, 1)[None]  # (1,B*S)
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    labels = labels.long()
    weights = _pair_weights(labels, balance, features.dtype)
    loss: Tensor = _NPair.apply(features, labels, *weights, negative)
    return loss


def _pair_weights(
    labels: Tensor, balance: Balance, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Factor the weights of the pairs, so that no matrix of them is needed.

    A pair with equal labels has the weight member[p] * member[q] * positive[p], any other pair
    member[p] * member[q] * negative.

    Args:
        labels: Labels (B,S) int64.
        balance: See `npair_loss`.
        dtype: Type of the weights.

    Returns:
        member: Weights (B,S), 0 for members that do not take part.
        positive: Weights (B,S), the same for all members with a label.
        negative: Weights (B,).
    """
    member = (labels != IGNORE).to(dtype)  # (B,S)
    # Two CONTRAST members are not known to be equal: their pair has weight 0.
    comparable = (labels != CONTRAST).to(dtype)  # (B,S)
    if balance == "none":
        size = member.sum(1)  # (B,)
        positive = negative = 1 / size.clamp(min=1)  # (B,)
    elif balance == "pairs":
        # Count ordered pairs with p != q: of each member with its own label, and with the rest.
        size = member.sum(1)  # (B,)
        same = _same_label(labels) * member  # (B,S)
        positive = 1 / ((same - member) * comparable).sum(1).clamp(min=1)  # (B,)
        negative = 1 / (size.square() - same.sum(1)).clamp(min=1)  # (B,)
    else:
        # The members with one label add up to 1, so the weights of all pairs of two labels do too.
        member = member / _same_label(labels)  # (B,S)
        num_labels = member.sum(1).round()  # (B,)
        objects = member * comparable  # (B,S)
        # Sum of the weights of the equal pairs with p != q. It is 0 if no label has two members.
        equal = objects.sum(1).round() - objects.square().sum(1)  # (B,)
        positive = 1 / torch.where(equal > 1e-6, equal, 1.0)  # (B,)
        negative = 1 / (num_labels.square() - num_labels).clamp(min=1)  # (B,)
    return member, positive[:, None] * comparable, negative


def _same_label(labels: Tensor) -> Tensor:
    """Count for each member (B,S) the members of its set with its label, including itself."""
    labels = labels.contiguous()
    # In sorted order the members with one label are neighbours.
    ordered = labels.sort(1).values  # (B,S)
    first = torch.searchsorted(ordered, labels)  # (B,S)
    return torch.searchsorted(ordered, labels, right=True) - first


class _NPair(torch.autograd.Function):
    """The weighted sum over all pairs, with its gradient computed in the forward pass.

    Distances are computed in float64 from ||x - y||^2 = ||x||^2 + ||y||^2 - 2 x.y. In float32 this
    difference loses half of the digits of a small distance. The gradient, which is divided by the
    distance, then loses all of them. In float64 both are accurate to 1e-5 for distances down to
    1e-5 of the features' spread.
    """

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx,
        features: Tensor,
        labels: Tensor,
        member: Tensor,
        positive: Tensor,
        negative_weight: Tensor,
        negative: Negative,
    ) -> Tensor:
        """Compute the mean over the sets, and keep its gradient for `backward`.

        Features are (B,S,D) in float32 or float64. For the weights see `_pair_weights`.
        """
        batch, size, _ = features.shape
        dtype = features.dtype
        gradient = torch.zeros_like(features) if ctx.needs_input_grad[0] else None  # (B,S,D)
        total = features.new_zeros(batch)  # (B,)
        num_sets, num_rows = _block_shape(size, features.device.type == "cpu")
        for start in range(0, batch, num_sets):
            sets = slice(start, start + num_sets)
            x = _centred(features[sets], member[sets])  # (b,S,D)
            square = x.square().sum(-1)  # (b,S)
            equal_weight = positive[sets].to(dtype)[..., None]  # (b,S,1)
            unequal_weight = negative_weight[sets].to(dtype)[:, None, None]  # (b,1,1)
            for row in range(0, size, num_rows):
                # Distances are symmetric. So each block compares its rows with themselves and with
                # the members after them, and counts the latter pairs for both members.
                rows = slice(row, row + num_rows)
                after = slice(row + num_rows, size)
                columns = slice(row, size)
                distance = _distances(x, square, rows, columns).to(dtype)  # (b,R,C)
                same = labels[sets, rows, None] == labels[sets, None, columns]  # (b,R,C)

                # The sign of the weight says whether d or -d enters the cost.
                weight = torch.where(same, equal_weight[:, rows], -unequal_weight)  # (b,R,C)
                weight *= member[sets, rows, None]
                weight *= member[sets, None, columns]
                argument, offset = _softplus_argument(distance, same, weight, negative)
                cost = F.softplus(argument)  # (b,R,C)
                cost -= offset
                cost *= weight.abs()
                total[sets] += cost.sum((1, 2)) + cost[:, :, num_rows:].sum((1, 2))

                if gradient is not None:
                    # d(cost) / d(distance): the derivative of softplus is the sigmoid.
                    slope = argument.sigmoid_().mul_(weight)  # (b,R,C)
                    # d(distance) / d(x_p) = (x_p - x_q) / distance, and 0 where the distance is 0.
                    # The factor 2 counts the pairs (p, q) and (q, p).
                    pull = slope.div_(distance).masked_fill_(distance == 0, 0).double().mul_(2)
                    back = pull[:, :, num_rows:].mT  # (b,C-R,R)
                    gradient[sets, rows] += _towards(x[:, rows], x[:, columns], pull)
                    gradient[sets, after] += _towards(x[:, after], x[:, rows], back)
        ctx.save_for_backward(None if gradient is None else gradient.div_(batch))
        return total.mean()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, outer: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        (gradient,) = ctx.saved_tensors
        return outer * gradient, None, None, None, None, None


def _block_shape(size: int, on_cpu: bool) -> tuple[int, int]:
    """Choose how many sets of S = `size` members, and how many rows of each, make a block.

    A block has as many whole sets as fit. If not even one fits, it has some rows of one set.
    """
    num_pairs = _PAIRS_ON_CPU if on_cpu else _PAIRS_ON_GPU
    num_sets = max(1, num_pairs // max(1, size * size))
    num_rows = max(1, num_pairs // max(1, size * num_sets))
    if on_cpu:
        # Two halves save a quarter of the pairs. A GPU would spend more on the extra launches.
        num_rows = min(num_rows, max(1, ceil_div(size, 2)))
    return num_sets, num_rows


def _centred(features: Tensor, member: Tensor) -> Tensor:
    """Subtract the mean of each set (b,S,D), in float64, and set the other members to 0.

    Distances do not depend on the origin. Small numbers around the mean cancel less.
    """
    inside = member[..., None] > 0  # (b,S,1)
    x = torch.where(inside, features.double(), 0.0)  # (b,S,D)
    mean = x.sum(1, keepdim=True) / inside.sum(1, keepdim=True).clamp(min=1)  # (b,1,D)
    return torch.where(inside, x - mean, 0.0)


def _distances(x: Tensor, square: Tensor, rows: slice, columns: slice) -> Tensor:
    """Compute the distances (b,R,C) between two parts of the members.

    `x` is (b,S,D) and `square` (b,S) holds the squared lengths, both in float64.
    """
    squared = torch.baddbmm(square[:, None, columns], x[:, rows], x[:, columns].mT, alpha=-2)
    squared += square[:, rows, None]  # (b,R,C)
    # Between equal features only rounding is left. It becomes an exact 0, which has gradient 0.
    # The comparison is false for NaN, so a diverged network does not look like a collapsed one.
    rounding = squared <= 2e-14 * square[:, rows, None]  # (b,R,C)
    # The root is taken in float64: the squares may be too large or too small for float32.
    return squared.masked_fill_(rounding, 0).sqrt_()


def _softplus_argument(
    distance: Tensor, same: Tensor, weight: Tensor, negative: Negative
) -> tuple[Tensor, Tensor | float]:
    """Write both terms of Eq. 5 as softplus(argument) - offset, with softplus(a) = log(1 + e^a).

        equal labels:              log((1 + exp(d)) / 2)  = softplus(d)          - log 2
        unequal, as printed:       log(1 + exp(-d) / 2)   = softplus(-d - log 2) - 0
        unequal, symmetric:        log((1 + exp(-d)) / 2) = softplus(-d)         - log 2

    Args:
        distance: Distances d (b,R,C).
        same: Whether the labels are equal (b,R,C).
        weight: Weights (b,R,C), negative (-0.0 included) where the labels differ.
        negative: See `npair_loss`.

    Returns:
        The argument (b,R,C) and the offset, a number or (b,R,C).
    """
    argument = torch.copysign(distance, weight)  # (b,R,C)
    if negative == "symmetric":
        return argument, _LOG2
    offset = same.to(distance.dtype).mul_(_LOG2)  # (b,R,C)
    argument += offset
    argument -= _LOG2
    return argument, offset


def _towards(x: Tensor, others: Tensor, pull: Tensor) -> Tensor:
    """Sum pull[p,q] * (x[p] - others[q]) over q: (b,P,D), (b,Q,D), (b,P,Q) -> (b,P,D)."""
    return torch.baddbmm(pull.sum(-1, keepdim=True) * x, pull, others, alpha=-1)
