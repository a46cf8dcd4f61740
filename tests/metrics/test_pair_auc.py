import math

import pytest
import torch

from softfeat.metrics.pair_auc import PairAUC, pair_auc
from softfeat.ops.labels import CONTRAST, IGNORE


def reference(features: torch.Tensor, labels: torch.Tensor) -> list[float]:
    """Compare each unequal pair with each equal pair, one by one."""
    equal, unequal = [], []
    inside = [i for i in range(len(features)) if labels[i] != IGNORE]
    for a, p in enumerate(inside):
        for q in inside[a + 1 :]:
            if labels[p] == labels[q] == CONTRAST:
                continue
            d = float((features[p] - features[q]).norm())
            (equal if labels[p] == labels[q] else unequal).append(d)
    wins = sum((u > e) + 0.5 * (u == e) for u in unequal for e in equal)
    nan = math.nan
    mean_equal = sum(equal) / len(equal) if equal else nan
    mean_unequal = sum(unequal) / len(unequal) if unequal else nan
    auc = wins / (len(equal) * len(unequal)) if equal and unequal else nan
    active = sum(u < mean_equal for u in unequal) / len(unequal) if equal and unequal else nan
    return [auc, mean_equal, mean_unequal, active]


def inputs(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    features, labels = torch.randn(3, 11, 4), torch.randint(0, 3, (3, 11))
    labels[torch.rand(3, 11) >= 0.8] = IGNORE
    if kind == "ties":
        features = torch.randint(0, 2, (3, 11, 1)).float()
    elif kind == "all equal":
        features = torch.ones(3, 11, 4)
    elif kind == "one class":
        labels[0, labels[0] != IGNORE] = 1
    elif kind == "no equal pair":
        labels[0] = torch.arange(11)
    elif kind == "one member":
        labels[0] = IGNORE
        labels[0, 3] = 1
    elif kind == "everything ignored":
        labels[0] = IGNORE
    elif kind == "contrast":
        labels[labels == 2] = CONTRAST
    elif kind == "contrast, ties":
        features = torch.randint(0, 2, (3, 11, 1)).float()
        labels[labels == 2] = CONTRAST
    elif kind == "only contrast":
        labels[0, labels[0] != IGNORE] = CONTRAST
    elif kind == "one class and contrast":
        labels[labels == 2] = 1
        labels[labels == 0] = CONTRAST
    elif kind == "one object and contrast":
        labels[0, labels[0] != IGNORE] = CONTRAST
        labels[0, 5] = 1
    return features, labels


KINDS = [
    "plain",
    "ties",
    "all equal",
    "one class",
    "no equal pair",
    "one member",
    "everything ignored",
    "contrast",
    "contrast, ties",
    "only contrast",
    "one class and contrast",
    "one object and contrast",
]


@pytest.mark.parametrize("kind", KINDS)
def test_equals_counting(kind: str, device: str) -> None:
    features, labels = inputs(kind)
    scores = torch.stack(pair_auc(features.to(device), labels.to(device))).cpu()
    expected = torch.tensor([reference(*image) for image in zip(features, labels, strict=True)]).T
    torch.testing.assert_close(scores, expected, equal_nan=True)


def test_without_an_object_pair_there_is_no_score() -> None:
    auc, equal_distance, unequal_distance, _ = pair_auc(*inputs("only contrast"))
    assert auc[0].isnan()
    assert equal_distance[0].isnan()
    assert unequal_distance[0].isnan()
    auc, equal_distance, unequal_distance, _ = pair_auc(*inputs("one object and contrast"))
    assert auc[0].isnan()
    assert equal_distance[0].isnan()
    assert unequal_distance[0] > 0


def test_equal_features_are_worth_one_half() -> None:
    auc, *_ = pair_auc(*inputs("all equal"))
    torch.testing.assert_close(auc, torch.full((3,), 0.5))


def test_order_and_label_names_do_not_matter() -> None:
    features, labels = inputs("plain")
    auc = torch.stack(pair_auc(features, labels))
    order = torch.randperm(11)
    renamed = torch.where(labels == IGNORE, IGNORE, 200 - labels)
    moved = pair_auc(features[:, order], renamed[:, order])
    torch.testing.assert_close(torch.stack(moved), auc)


@pytest.mark.parametrize("kind", ["plain", "one class", "everything ignored", "contrast"])
def test_metric_is_the_mean_of_the_images_however_batched(kind: str) -> None:
    features, labels = inputs(kind)
    together, alone = PairAUC(), PairAUC()
    together.update(features, labels)
    for i in range(3):
        alone.update(features[i : i + 1], labels[i : i + 1])
    expected = torch.stack(pair_auc(features, labels)).nanmean(1)
    values = together.compute()
    assert list(values) == ["pair_auc", "equal_distance", "unequal_distance", "active_pairs"]
    torch.testing.assert_close(torch.stack(list(values.values())), expected)
    torch.testing.assert_close(alone.compute(), values)


def test_metric_without_an_image_is_nan() -> None:
    metric = PairAUC()
    metric.update(*(x[:1] for x in inputs("everything ignored")))
    assert metric.compute()["pair_auc"].isnan()


def test_processes_add_their_images_up() -> None:
    features, labels = inputs("plain")
    whole, first, second = PairAUC(), PairAUC(), PairAUC()
    whole.update(features, labels)
    first.update(features[:1], labels[:1])
    second.update(features[1:], labels[1:])
    first.merge_state(second)  # as torchmetrics does with the states of other processes
    torch.testing.assert_close(first.compute(), whole.compute())
