"""Scores of hard segmentation, computed from one confusion matrix of the whole data set."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

from softfeat.ops.labels import CONTRAST


def confusion_matrix(scores: Tensor, label: Tensor) -> Tensor:
    """Count the predicted classes of each true class, at the resolution of the label.

    Args:
        scores: Class scores (K,h,w) of one image. They are upsampled bilinearly to the label.
        label: Label map (H,W) of integer ids 0..K-1. Pixels with CONTRAST or IGNORE are not
            counted.

    Returns:
        Counts (K,K) int64. Rows are true classes, columns are predicted classes.
    """
    num_classes = len(scores)
    # Half precision would make neighbouring scores equal after upsampling.
    scores = scores.float()
    if scores.shape[1:] != label.shape:
        size = tuple(label.shape)
        scores = F.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0]
    predicted = scores.argmax(0).flatten()  # (H*W,)
    true = label.flatten().long()  # (H*W,)
    # One more bin collects the pixels that are not counted. Selecting the others by a mask instead
    # would synchronise with the GPU.
    cell = torch.where(true >= CONTRAST, num_classes**2, true * num_classes + predicted)
    counts = torch.bincount(cell, minlength=num_classes**2 + 1)
    return counts[:-1].view(num_classes, num_classes)


def segmentation_scores(matrix: Tensor) -> dict[str, Tensor]:
    """Compute the four usual scores of segmentation, and two scores of each class.

    All scores are in [0,1], or NaN where no pixel was counted.

    Args:
        matrix: Counts (...,K,K). Rows are true classes, columns are predicted classes.

    Returns:
        pixel_accuracy: Share (...) of the pixels that are correct.
        class_accuracy: Mean accuracy (...) of the classes that occur.
        miou: Mean IoU (...) of the classes that occur or were predicted.
        fwiou: Mean IoU (...), weighted by the number of pixels of each class.
        iou: IoU (...,K) of each class, NaN for a class that neither occurs nor was predicted.
        accuracy: Accuracy (...,K) of each class, NaN for a class that does not occur.

    >>> scores = segmentation_scores(torch.tensor([[3, 1, 0], [0, 4, 0], [0, 0, 0]]))
    >>> [round(scores[k].item(), 3) for k in ("pixel_accuracy", "class_accuracy", "miou", "fwiou")]
    [0.875, 0.875, 0.775, 0.775]
    """
    counts = matrix.double()
    correct = counts.diagonal(dim1=-2, dim2=-1)  # (...,K)
    true = counts.sum(-1)  # (...,K)
    predicted = counts.sum(-2)  # (...,K)
    total = true.sum(-1)  # (...)
    iou = correct / (true + predicted - correct)
    scores = {
        "pixel_accuracy": correct.sum(-1) / total,
        "class_accuracy": (correct / true).nanmean(-1),
        "miou": iou.nanmean(-1),
        "fwiou": (true * iou).nansum(-1) / total,
        "iou": iou,
        "accuracy": correct / true,
    }
    return {name: score.float() for name, score in scores.items()}


class SegmentationScores(Metric):
    """`segmentation_scores` of a data set, with memory for one matrix only.

    Args:
        num_classes: Number of classes K.
    """

    full_state_update = False
    matrix: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        zeros = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.add_state("matrix", zeros, dist_reduce_fx="sum")

    def update(self, matrices: Tensor) -> None:
        """Add the confusion matrices (B,K,K) of a batch of images."""
        self.matrix += matrices.sum(0)

    def compute(self) -> dict[str, Tensor]:
        """Compute the scores of all images so far, and their confusion matrix `matrix` (K,K)."""
        return segmentation_scores(self.matrix) | {"matrix": self.matrix.clone()}
