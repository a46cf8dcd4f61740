"""Scores of hard segmentation, all from one confusion matrix over the whole data set."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

from softfeat.ops.labels import CONTRAST


def confusion_matrix(scores: Tensor, label: Tensor) -> Tensor:
    """Counts what was predicted for each class, at the label's own resolution.

    Args:
        scores: (K,h,w) class scores of one image, enlarged bilinearly to the label.
        label: (H,W) integer ids, 0..K-1. Pixels with CONTRAST or IGNORE do not count.

    Returns:
        (K,K) int64, rows are the true classes, columns the predicted ones.
    """
    num_classes, scores = len(scores), scores.float()  # ties of half precision decide nothing
    if scores.shape[1:] != label.shape:
        size = tuple(label.shape)
        scores = F.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0]
    predicted, true = scores.argmax(0).flatten(), label.flatten().long()
    # One bin more takes what does not count, so that nothing depends on how many those are.
    cell = torch.where(true >= CONTRAST, num_classes**2, true * num_classes + predicted)
    counts = torch.bincount(cell, minlength=num_classes**2 + 1)
    return counts[:-1].view(num_classes, num_classes)


def segmentation_scores(matrix: Tensor) -> dict[str, Tensor]:
    """The four scores of the field, and those of each class.

    Args:
        matrix: (...,K,K) counts, rows are the true classes.

    Returns:
        pixel_accuracy: (...), share of the pixels that are right.
        class_accuracy: (...), mean over the classes that occur of the share of theirs.
        miou: (...), mean IoU over the classes that occur or were predicted.
        fwiou: (...), IoU weighted with the classes' shares of the pixels.
        iou: (...,K), NaN for a class that neither occurs nor was predicted.
        accuracy: (...,K), NaN for a class that does not occur.

        NaN where there is no pixel at all.

    >>> scores = segmentation_scores(torch.tensor([[3, 1, 0], [0, 4, 0], [0, 0, 0]]))
    >>> [round(scores[k].item(), 3) for k in ("pixel_accuracy", "class_accuracy", "miou", "fwiou")]
    [0.875, 0.875, 0.775, 0.775]
    """
    counts = matrix.double()
    right, true, predicted = counts.diagonal(dim1=-2, dim2=-1), counts.sum(-1), counts.sum(-2)
    total = true.sum(-1)
    iou = right / (true + predicted - right)
    scores = {
        "pixel_accuracy": right.sum(-1) / total,
        "class_accuracy": (right / true).nanmean(-1),
        "miou": iou.nanmean(-1),
        "fwiou": (true * iou).nansum(-1) / total,
        "iou": iou,
        "accuracy": right / true,
    }
    return {name: score.float() for name, score in scores.items()}


class SegmentationScores(Metric):
    """`segmentation_scores` of a data set; takes the room of one matrix, however long it is.

    Args:
        num_classes: K.
    """

    full_state_update = False
    matrix: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        zeros = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.add_state("matrix", zeros, dist_reduce_fx="sum")

    def update(self, matrices: Tensor) -> None:
        """Adds the matrices (B,K,K) of a batch's images."""
        self.matrix += matrices.sum(0)

    def compute(self) -> dict[str, Tensor]:
        """Scores of all images so far, and `matrix` (K,K)."""
        return segmentation_scores(self.matrix) | {"matrix": self.matrix.clone()}
