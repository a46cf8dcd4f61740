import math

import pytest
import torch

from src.metrics.pair_auc import PairAUC, pair_auc


def reference(features: torch.Tensor, labels: torch.Tensor, valid: torch.Tensor) -> list[float]:
    """All comparisons of an unequal with an equal pair, one by one."""
    equal, unequal = [], []
    inside = [i for i in range(len(features)) if valid[i]]
    for a, p in enumerate(inside):
        for q in inside[a + 1 :]:
            d = float((features[p] - features[q]).norm())
            (equal if labels[p] == labels[q] else unequal).append(d)
    wins = sum((u > e) + 0.5 * (u == e) for u in unequal for e in equal)
    nan = math.nan
    mean_equal = sum(equal) / len(equal) if equal else nan
    mean_unequal = sum(unequal) / len(unequal) if unequal else nan
    auc = wins / (len(equal) * len(unequal)) if equal and unequal else nan
    active = sum(u < mean_equal for u in unequal) / len(unequal) if equal and unequal else nan
    return [auc, mean_equal, mean_unequal, active]


def inputs(kind: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    features, labels = torch.randn(3, 11, 4), torch.randint(0, 3, (3, 11))
    valid = torch.rand(3, 11) < 0.8
    if kind == "ties":
        features = torch.randint(0, 2, (3, 11, 1)).float()
    elif kind == "all equal":
        features = torch.ones(3, 11, 4)
    elif kind == "one class":
        labels[0] = 1
    elif kind == "no equal pair":
        labels[0] = torch.arange(11)
    elif kind == "one valid":
        valid[0] = False
        valid[0, 3] = True
    elif kind == "none valid":
        valid[0] = False
    return features, labels, valid


KINDS = ["plain", "ties", "all equal", "one class", "no equal pair", "one valid", "none valid"]


@pytest.mark.parametrize("kind", KINDS)
def test_equals_counting(kind: str, device: str) -> None:
    features, labels, valid = inputs(kind)
    scores = torch.stack(pair_auc(features.to(device), labels.to(device), valid.to(device))).cpu()
    expected = torch.tensor(
        [reference(*image) for image in zip(features, labels, valid, strict=True)]
    ).T
    torch.testing.assert_close(scores, expected, equal_nan=True)


def test_equal_features_are_worth_one_half() -> None:
    auc, *_ = pair_auc(*inputs("all equal"))
    torch.testing.assert_close(auc, torch.full((3,), 0.5))


def test_order_and_label_names_do_not_matter() -> None:
    features, labels, valid = inputs("plain")
    auc = torch.stack(pair_auc(features, labels, valid))
    order = torch.randperm(11)
    moved = pair_auc(features[:, order], 200 - labels[:, order], valid[:, order])
    torch.testing.assert_close(torch.stack(moved), auc)


@pytest.mark.parametrize("kind", ["plain", "one class", "none valid"])
def test_metric_is_the_mean_of_the_images_however_batched(kind: str) -> None:
    features, labels, valid = inputs(kind)
    together, alone = PairAUC(), PairAUC()
    together.update(features, labels, valid)
    for i in range(3):
        alone.update(features[i : i + 1], labels[i : i + 1], valid[i : i + 1])
    expected = torch.stack(pair_auc(features, labels, valid)).nanmean(1)
    values = together.compute()
    assert list(values) == ["pair_auc", "equal_distance", "unequal_distance", "active_pairs"]
    torch.testing.assert_close(torch.stack(list(values.values())), expected)
    torch.testing.assert_close(alone.compute(), values)


def test_metric_without_an_image_is_nan() -> None:
    metric = PairAUC()
    metric.update(*(x[:1] for x in inputs("none valid")))
    assert metric.compute()["pair_auc"].isnan()
