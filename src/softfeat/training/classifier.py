"""A classifier beside the metric loss, in training alone."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softfeat.ops.labels import CONTRAST

ClassWeights = Literal["equal", "frequency"]


def check_class_weights(class_weights: str) -> None:
    """Raises a ValueError that names the key for anything but the two choices."""
    if class_weights not in ("equal", "frequency"):
        raise ValueError(f"model.class_weights={class_weights}: choose equal or frequency")


def rarity(shares: Tensor) -> Tensor:
    """Weights 1 / log(1.02 + p) of classes with shares p of the pixels (Paszke et al. 2016).

    >>> rarity(torch.tensor([0.0, 0.98])).round(decimals=1)
    tensor([50.5000,  1.4000])
    """
    return 1 / torch.log(1.02 + shares)


class SpacesClassifier(nn.Module):
    """Names the classes of superpixels by one linear map of their features.

    The metric loss compares within a photo only. This tells the features, too, what is alike in two
    photos. Data sets with label spaces of their own share the features, not the classes: a member
    is told apart from the classes of its own space.

    Args:
        dim: D.
        num_classes: of each label space.
        class_weights: (K,) of all spaces' classes; None for equal ones.
    """

    space_of_class: Tensor
    first_class: Tensor
    class_weights: Tensor

    def __init__(
        self, dim: int, num_classes: Sequence[int], class_weights: Tensor | None = None
    ) -> None:
        super().__init__()
        # The direction of F counts here, and its spread is left to the metric loss.
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.map = nn.Linear(dim, sum(num_classes))
        nn.init.zeros_(self.map.weight)  # a convex problem needs no chance to start
        nn.init.zeros_(self.map.bias)
        sizes = torch.tensor(num_classes)
        spaces = torch.arange(len(sizes)).repeat_interleave(sizes)
        self.register_buffer("space_of_class", spaces, persistent=False)
        self.register_buffer("first_class", sizes.cumsum(0) - sizes, persistent=False)
        weights = torch.ones(len(spaces)) if class_weights is None else class_weights.float()
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, features: Tensor, space: Tensor) -> Tensor:
        """Class scores (B,S,K) over all spaces' classes, -inf outside of the photo's own.

        Args:
            features: (B,S,D).
            space: (B,) int64.
        """
        scores: Tensor = self.map(self.norm(features.to(self.map.weight.dtype)))
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        return scores.masked_fill((self.space_of_class != space[:, None])[:, None], -torch.inf)

    def loss(self, features: Tensor, labels: Tensor, space: Tensor) -> Tensor:
        """Cross-entropy, a mean over photos of the weighted means over their members with a class.

        Args:
            features: (B,S,D).
            labels: (B,S) classes of the photo's own space. Members with CONTRAST or IGNORE have
                none and do not take part.
            space: (B,) int64.

        Returns:
            Scalar; a photo without a member with a class adds 0.
        """
        known = labels < CONTRAST
        target = torch.where(known, labels + self.first_class[space][:, None], -1)
        weight = torch.where(known, self.class_weights[target], 0.0)
        scores = self(features, space)
        each = F.cross_entropy(scores.mT, target, ignore_index=-1, reduction="none")
        return ((weight * each).sum(1) / weight.sum(1).clamp(min=1e-6)).mean()
