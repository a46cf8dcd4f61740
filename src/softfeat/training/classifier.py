"""A classifier in addition to the metric loss; used in training only."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softfeat.ops.labels import CONTRAST


def rarity(shares: Tensor) -> Tensor:
    """Computes class weights 1 / log(1.02 + p) that favour rare classes (Paszke et al. 2016).

    Args:
        shares: Share p of each class among the pixels, in [0,1].

    >>> rarity(torch.tensor([0.0, 0.98])).round(decimals=1)
    tensor([50.5000,  1.4000])
    """
    return 1 / torch.log(1.02 + shares)


class SpacesClassifier(nn.Module):
    """Classifies superpixels by one linear map of their features.

    The metric loss compares within a photo only. The classifier also teaches the features what is
    alike in two photos. Data sets with different label spaces share the features, not the classes:
    a superpixel is compared with the classes of its own label space only.

    Args:
        dim: D.
        num_classes: Number of classes of each label space.
        class_weights: (K,) weights of the classes of all label spaces; None for equal weights.

    Raises:
        ValueError: There are no classes.
    """

    space_of_class: Tensor
    first_class: Tensor
    class_weights: Tensor

    def __init__(
        self, dim: int, num_classes: Sequence[int], class_weights: Tensor | None = None
    ) -> None:
        super().__init__()
        if not sum(num_classes):
            raise ValueError("model.classifier_weight needs labels with classes: choose 0")
        # Only the direction of F counts here; its length is left to the metric loss.
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.map = nn.Linear(dim, sum(num_classes))
        nn.init.zeros_(self.map.weight)  # a convex problem needs no random start
        nn.init.zeros_(self.map.bias)
        sizes = torch.tensor(num_classes)
        spaces = torch.arange(len(sizes)).repeat_interleave(sizes)
        self.register_buffer("space_of_class", spaces, persistent=False)
        self.register_buffer("first_class", sizes.cumsum(0) - sizes, persistent=False)
        weights = torch.ones(len(spaces)) if class_weights is None else class_weights.float()
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, features: Tensor, space: Tensor) -> Tensor:
        """Computes class scores.

        Args:
            features: (B,S,D).
            space: (B,) int64, label space of each photo.

        Returns:
            (B,S,K) scores of the classes of all spaces, -inf outside of the photo's own space.
        """
        scores: Tensor = self.map(self.norm(features.to(self.map.weight.dtype)))
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        return scores.masked_fill((self.space_of_class != space[:, None])[:, None], -torch.inf)

    def loss(self, features: Tensor, labels: Tensor, space: Tensor) -> Tensor:
        """Computes the cross-entropy: the mean over photos of the weighted means over superpixels.

        Args:
            features: (B,S,D).
            labels: (B,S) classes within the photo's own space. Superpixels with CONTRAST or IGNORE
                have no class and do not take part.
            space: (B,) int64, label space of each photo.

        Returns:
            Scalar; a photo in which no superpixel has a class adds 0.
        """
        known = labels < CONTRAST
        target = torch.where(known, labels + self.first_class[space][:, None], -1)
        weight = torch.where(known, self.class_weights[target], 0.0)
        scores = self(features, space)
        each = F.cross_entropy(scores.mT, target, ignore_index=-1, reduction="none")
        return ((weight * each).sum(1) / weight.sum(1).clamp(min=1e-6)).mean()
