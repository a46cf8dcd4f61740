"""The N-pair loss with L2 distances over all pairs of a set (Eq. 5)."""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from softfeat.ops.labels import CONTRAST, IGNORE

Negative = Literal["printed", "symmetric"]
Balance = Literal["none", "pairs", "classes"]

_LOG2 = math.log(2)
# Pairs worked on at a time: a few matrices of them stay in a processor's cache; a GPU wants more.
_PAIRS_ON_CPU, _PAIRS_ON_GPU = 2**18, 2**25


def npair_loss(
    features: Tensor,
    labels: Tensor,
    negative: Negative = "printed",
    balance: Balance = "none",
    across_images: bool = False,
) -> Tensor:
    """Pulls superpixels of one label together and pushes those of different labels apart (Eq. 5).

    With d = ||F_p - F_q||, a pair of equal labels costs log((1 + exp(d)) / 2), a pair of unequal
    ones log(1 + exp(-d) / 2). The paper prints ambiguous brackets for the second;
    `negative="symmetric"` reads log((1 + exp(-d)) / 2), which is 0 at d = 0 as the first is and
    pushes with gradient 1/2 there, as hard as the first pulls.

    Nothing here is about superpixels: sets of sampled pixels (`ops.pixels`) are compared by the
    same function. Value and gradient are computed together, for a block of pairs at a time, so that
    no matrix of all pairs is ever kept.

    Args:
        features: (B,S,D), B sets of S members; half precision runs in float32.
        labels: (B,S) integers. Only equal or unequal matters, within a set, except for two ids of
            `ops.labels`: members with IGNORE do not take part, and a pair of two members with
            CONTRAST counts neither as equal nor as unequal.
        negative: reading of the second term.
        balance: "none" sums over all ordered pairs and divides by |S|, the number of members of
            the set that take part, as printed. "pairs" averages each of the two sums over its own
            pairs (p != q), so that neither outweighs the other by its number. "classes" does the
            same with weights 1 / (n_p n_q), where n is the number of members of a label, so that
            small things count as much as large ones. There CONTRAST is one label more.
        across_images: compare all members of the batch with each other, as one set, where a label
            means the same in all of them; the paper compares within an image. Members in other
            processes of ddp are not compared.

    Returns:
        Scalar, mean over the sets. Without a pair it is a zero that still has a gradient (zero).

    >>> npair_loss(torch.zeros(1, 2, 4), torch.tensor([[3, 3]])).item()
    0.0
    """
    if negative not in ("printed", "symmetric"):
        raise ValueError(f"negative={negative!r}: choose 'printed' or 'symmetric'")
    if across_images:
        features, labels = features.flatten(0, 1)[None], labels.flatten(0, 1)[None]
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    labels = labels.long()
    members = (labels != IGNORE).to(features.dtype)  # (B,S)
    one_thing = (labels != CONTRAST).to(features.dtype)  # (B,S), whose equal pairs count
    size = members.sum(1)  # (B,)
    if balance == "none":
        positive_weight = negative_weight = 1 / size.clamp(min=1)
    elif balance == "pairs":
        same = _same_label(labels) * members  # (B,S)
        positive_weight = 1 / ((same - members) * one_thing).sum(1).clamp(min=1)
        negative_weight = 1 / (size.square() - same.sum(1)).clamp(min=1)
    elif balance == "classes":
        members = members / _same_label(labels)  # those of a label add up to 1
        num_labels, objects = members.sum(1).round(), members * one_thing
        equal = objects.sum(1).round() - objects.square().sum(1)  # weights of the pairs p != q
        positive_weight = 1 / torch.where(equal > 1e-6, equal, 1.0)
        negative_weight = 1 / (num_labels.square() - num_labels).clamp(min=1)
    else:
        raise ValueError(f"balance={balance!r}: choose 'none', 'pairs' or 'classes'")
    loss: Tensor = _NPair.apply(
        features,
        labels,
        members,
        positive_weight[:, None] * one_thing,
        negative_weight,
        negative,
    )
    return loss


def _same_label(labels: Tensor) -> Tensor:
    """(B,S): for each member how many members of its set have its label, itself included."""
    labels = labels.contiguous()
    ordered = labels.sort(1).values
    first = torch.searchsorted(ordered, labels)
    return torch.searchsorted(ordered, labels, right=True) - first


class _NPair(torch.autograd.Function):
    """Distances by the Gram trick in float64.

    In float32 it loses half the digits of a small distance to cancellation, and the gradient,
    divided by that distance, all of them. In float64 both products stay right to 1e-5 down to
    distances of 1e-5 of the features' spread.
    """

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx,
        features: Tensor,
        labels: Tensor,
        members: Tensor,
        positive_weight: Tensor,
        negative_weight: Tensor,
        negative: Negative,
    ) -> Tensor:
        """Computes the sum over pairs p, q, and its gradient.

        Equal pairs weigh members[p] * members[q] * positive_weight[p], unequal ones
        members[p] * members[q] * negative_weight.

        Args:
            ctx: carries the gradient to `backward`.
            features: (B,S,D), at least float32.
            labels: (B,S) int64.
            members: (B,S), 0 for members that do not take part.
            positive_weight: (B,S), the same for all members of a label.
            negative_weight: (B,).
            negative: reading of the second term.

        Returns:
            Scalar, mean over the sets.
        """
        (batch, size, _), dtype = features.shape, features.dtype
        gradient = torch.zeros_like(features) if ctx.needs_input_grad[0] else None
        total = features.new_zeros(batch)
        on_cpu = features.device.type == "cpu"
        pairs = _PAIRS_ON_CPU if on_cpu else _PAIRS_ON_GPU
        # As many whole sets as fit, else rows of one set: short rows multiply slowly.
        num_sets = max(1, pairs // max(1, size * size))
        num_rows = max(1, pairs // max(1, size * num_sets))
        if on_cpu:  # two halves need not all pairs; a GPU would wait for the launches
            num_rows = min(num_rows, max(1, -(-size // 2)))
        for start in range(0, batch, num_sets):
            sets = slice(start, start + num_sets)
            label, member = labels[sets], members[sets]
            inside = member[..., None] > 0
            x = torch.where(inside, features[sets].double(), 0.0)
            centre = x.sum(1, keepdim=True) / inside.sum(1, keepdim=True).clamp(min=1)
            x = torch.where(inside, x - centre, 0.0)
            square = x.square().sum(-1)
            positive = positive_weight[sets].to(dtype)[..., None]
            unequal = negative_weight[sets].to(dtype)[:, None, None]
            for row in range(0, size, num_rows):
                # d is symmetric: rows meet themselves and, for both, the members behind them.
                rows, behind = slice(row, row + num_rows), slice(row + num_rows, size)
                columns = slice(row, size)
                x_rows, x_columns = x[:, rows], x[:, columns]
                squared = torch.baddbmm(square[:, None, columns], x_rows, x_columns.mT, alpha=-2)
                squared += square[:, rows, None]
                # What is left of equal features is rounding: an exact zero, with gradient 0. (NaN
                # passes through: a diverged network must not look like a collapsed one.)
                equal = squared <= 2e-14 * square[:, rows, None]
                distance = (
                    squared.masked_fill_(equal, 0).sqrt_().to(dtype)
                )  # its square may overflow
                same = label[:, rows, None] == label[:, None, columns]
                # Of both terms, told apart by its sign.
                weight = torch.where(same, positive[:, rows], -unequal)
                weight *= member[:, rows, None]
                weight *= member[:, None, columns]
                # Both terms are one softplus: log(1 + exp(-d)/2) = softplus(-d - log 2).
                signed = torch.copysign(distance, weight)
                at_zero = same.to(dtype).mul_(_LOG2) if negative == "printed" else _LOG2
                if negative == "printed":
                    signed += at_zero
                    signed -= _LOG2
                cost = F.softplus(signed)
                cost -= at_zero
                cost *= weight.abs()
                total[sets] += cost.sum((1, 2)) + cost[:, :, num_rows:].sum((1, 2))
                if gradient is not None:
                    slope = signed.sigmoid_().mul_(weight)
                    # 0 has no direction to move in.
                    pull = slope.div_(distance).masked_fill_(distance == 0, 0).double().mul_(2)
                    gradient[sets, rows] += _towards(x_rows, x_columns, pull)
                    back = pull[:, :, num_rows:].mT
                    gradient[sets, behind] += _towards(x[:, behind], x_rows, back)
        ctx.save_for_backward(None if gradient is None else gradient.div_(batch))
        return total.mean()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, outer: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        (gradient,) = ctx.saved_tensors
        return outer * gradient, None, None, None, None, None


def _towards(x: Tensor, others: Tensor, pull: Tensor) -> Tensor:
    """(B,P,D): sums over q of pull[p, q] * (x[p] - others[q])."""
    return torch.baddbmm(pull.sum(-1, keepdim=True) * x, pull, others, alpha=-1)
