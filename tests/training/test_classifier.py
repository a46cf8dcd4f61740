import pytest
import torch
from torch.nn import functional as F

from softfeat.ops.labels import CONTRAST, IGNORE
from softfeat.training.classifier import SpacesClassifier

SIZES = [2, 3]


def inputs() -> tuple[torch.Tensor, ...]:
    features = torch.randn(3, 5, 8, dtype=torch.float64)
    labels = torch.tensor(
        [
            [IGNORE, 1, 1, 0, CONTRAST],
            [2, 0, 1, 2, 2],
            [0, IGNORE, CONTRAST, IGNORE, 1],
        ]
    )
    return features, labels, torch.tensor([0, 1, 0])


@pytest.mark.parametrize("weights", [None, [1.0, 5.0, 2.0, 0.5, 3.0]])
def test_loss_is_that_of_a_loop(weights: list[float] | None) -> None:
    given = None if weights is None else torch.tensor(weights)
    classifier = SpacesClassifier(8, SIZES, given).double()
    weight = torch.ones(5) if given is None else given
    features, labels, space = inputs()
    losses = []
    for b in range(3):
        start = sum(SIZES[: space[b]])
        classes = slice(start, start + SIZES[space[b]])
        each = [
            (
                weight[start + labels[b, p]],
                F.cross_entropy(
                    (classifier.map.weight[classes] @ F.layer_norm(features[b, p], [8]))
                    + classifier.map.bias[classes],
                    labels[b, p],
                ),
            )
            for p in range(5)
            if labels[b, p] not in (CONTRAST, IGNORE)
        ]
        losses.append(sum(w * e for w, e in each) / sum(w for w, _ in each))
    expected = torch.stack(losses).mean()
    torch.testing.assert_close(classifier.loss(features, labels, space), expected)


def test_gradient() -> None:
    features, labels, space = inputs()
    classifier = SpacesClassifier(8, SIZES).double()
    features.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: classifier.loss(x, labels, space), features)


def test_other_spaces_have_no_say() -> None:
    classifier = SpacesClassifier(8, SIZES)
    features, _, space = inputs()
    shares = classifier(features.float(), space).softmax(-1)
    assert (shares[space == 0][..., 2:] == 0).all()
    assert (shares[space == 1][..., :2] == 0).all()
    torch.testing.assert_close(shares.sum(-1), torch.ones(3, 5))


@pytest.mark.parametrize("label", [CONTRAST, IGNORE])
@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_no_target_is_zero_with_zero_gradient(spread: float, label: int) -> None:
    classifier = SpacesClassifier(8, SIZES)
    features = (spread * torch.randn(1, 5, 8)).requires_grad_()
    loss = classifier.loss(features, torch.full((1, 5), label), torch.tensor([1]))
    loss.backward()
    assert loss == 0
    assert features.grad is not None
    assert (features.grad == 0).all()


def test_equal_features_have_a_finite_gradient() -> None:
    classifier = SpacesClassifier(8, SIZES)
    features = torch.zeros(1, 5, 8, requires_grad=True)
    classifier.loss(features, torch.zeros(1, 5).long(), torch.tensor([0])).backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_half_precision() -> None:
    features, labels, space = inputs()
    classifier = SpacesClassifier(8, SIZES)
    expected = classifier.loss(features.float(), labels, space)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = classifier.loss(features.float(), labels, space)
    true = classifier.bfloat16().loss(features.float(), labels, space)
    for loss in (mixed, true):
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected, rtol=0.02, atol=0.02)
