import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchmetrics.segmentation import MeanIoU

from softfeat.metrics.segmentation import SegmentationScores, confusion_matrix, segmentation_scores

SCORES = ("pixel_accuracy", "class_accuracy", "miou", "fwiou")


def reference(predictions: list[np.ndarray], labels: list[np.ndarray], k: int) -> dict[str, float]:
    """Compute the four scores with loops over classes, for all images together."""
    predicted = np.concatenate([p.ravel() for p in predictions])
    true = np.concatenate([t.ravel() for t in labels])
    predicted, true = predicted[true != 255], true[true != 255]
    accuracies, ious, weighted = [], [], 0.0
    for c in range(k):
        both = np.sum((predicted == c) & (true == c))
        either = np.sum((predicted == c) | (true == c))
        if np.any(true == c):
            accuracies.append(both / np.sum(true == c))
            weighted += np.mean(true == c) * both / either
        if either:
            ious.append(both / either)
    return {
        "pixel_accuracy": np.mean(predicted == true),
        "class_accuracy": np.mean(accuracies),
        "miou": np.mean(ious),
        "fwiou": weighted,
    }


def example(count: int = 5, k: int = 6) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Create scores and labels. Class 5 never occurs, and class 4 is never correct."""
    generator = torch.Generator().manual_seed(1)
    scores, labels = [], []
    for i in range(count):
        size = (20 + i, 30 - 2 * i)
        label = torch.randint(0, 2 + i % 4, size, generator=generator)
        score = torch.randn(k, *size, generator=generator) + 2 * F.one_hot(label, k).movedim(-1, 0)
        score[5] = -9
        label[torch.rand(size, generator=generator) < 0.1] = 255
        scores.append(score)
        labels.append(label)
    return scores, labels


def test_pixels_of_contrast_count_as_ignored_ones() -> None:
    scores, labels = example(count=1)
    label = labels[0].clone()
    label[:5] = 255
    contrast = label.clone()
    contrast[:5] = 254
    assert torch.equal(confusion_matrix(scores[0], contrast), confusion_matrix(scores[0], label))


def test_the_scores_are_those_of_the_whole_data_set() -> None:
    scores, labels = example()
    metric = SegmentationScores(6)
    for score, label in zip(scores, labels, strict=True):
        metric.update(confusion_matrix(score, label)[None])
    computed = metric.compute()
    expected = reference([s.argmax(0).numpy() for s in scores], [x.numpy() for x in labels], 6)
    for name in SCORES:
        assert computed[name].item() == pytest.approx(expected[name], rel=1e-6)
    assert computed["iou"][5].isnan()  # neither occurs nor is predicted: left out, not 0


def test_averages_over_images_are_something_else() -> None:
    """Compare with torchmetrics. Its MeanIoU differs from the usual mIoU."""
    scores, labels = example()
    predictions = [s.argmax(0) for s in scores]
    whole = reference([p.numpy() for p in predictions], [x.numpy() for x in labels], 6)["miou"]
    single = [reference([p.numpy()], [x.numpy()], 6)["miou"] for p, x in
              zip(predictions, labels, strict=True)]  # fmt: skip
    assert abs(np.mean(single) - whole) > 0.01
    theirs = MeanIoU(num_classes=6, input_format="index")
    for p, label in zip(predictions, labels, strict=True):
        theirs.update(p.where(label != 255, 0)[None], label.where(label != 255, 0)[None])
    assert abs(theirs.compute().item() - whole) > 0.01


def test_a_class_that_is_only_predicted_counts_as_zero() -> None:
    scores = segmentation_scores(torch.tensor([[4, 2], [0, 0]]))
    assert scores["iou"].tolist() == pytest.approx([4 / 6, 0.0])
    assert scores["miou"].item() == pytest.approx(1 / 3)
    assert scores["class_accuracy"].item() == pytest.approx(4 / 6)


def test_no_pixel_at_all_gives_nan() -> None:
    scores = segmentation_scores(torch.zeros(3, 3, dtype=torch.int64))
    assert all(scores[name].isnan() for name in ("pixel_accuracy", "class_accuracy", "miou"))
    all_ignored = torch.full((4, 4), 255)
    assert not confusion_matrix(torch.rand(3, 4, 4), all_ignored).any()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_scores_are_enlarged_to_the_label_and_not_the_other_way(dtype: torch.dtype) -> None:
    scores = torch.randn(3, 5, 6)
    label = torch.randint(0, 3, (41, 50)).to(dtype)
    label[:3] = 255
    enlarged = F.interpolate(scores[None], (41, 50), mode="bilinear", align_corners=False)[0]
    matrix = confusion_matrix(scores, label)
    assert matrix.sum() == (label != 255).sum()
    for true in range(3):
        for predicted in range(3):
            count = ((label == true) & (enlarged.argmax(0) == predicted)).sum()
            assert matrix[true, predicted] == count


def test_its_size_does_not_grow_with_the_images() -> None:
    metric = SegmentationScores(4)
    for _ in range(20):
        metric.update(torch.randint(0, 9, (2, 4, 4)))
    assert [v.shape for v in metric.metric_state.values()] == [(4, 4)]


def test_halves_add_up_to_the_whole() -> None:
    """Two processes sum their matrices."""
    matrices = torch.randint(0, 9, (6, 4, 4))
    whole, first, second = (SegmentationScores(4) for _ in range(3))
    whole.update(matrices)
    first.update(matrices[:2])
    second.update(matrices[2:])
    joined = SegmentationScores(4)
    joined.update(torch.stack([first.matrix, second.matrix]))
    first.merge_state(second)  # as torchmetrics does with the states of other processes
    for name in SCORES:
        assert joined.compute()[name] == first.compute()[name] == whole.compute()[name]


def test_a_photo_without_ignored_pixels_or_with_few_classes() -> None:
    scores = F.one_hot(torch.tensor([[0, 1, 1]]), 4).movedim(-1, 0).float()
    matrix = confusion_matrix(scores, torch.tensor([[0, 0, 1]]))
    assert matrix.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [0] * 4, [0] * 4]
