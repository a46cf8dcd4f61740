import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from softfeat.ops.labels import CONTRAST, IGNORE
from softfeat.ops.npair import npair_loss

VARIANTS = [(n, b) for n in ("printed", "symmetric") for b in ("none", "pairs", "classes")]


def reference(features: Tensor, labels: Tensor, negative: str, balance: str) -> Tensor:
    """Compute Eq. 5 with loops, and distances from differences."""
    total = features.sum() * 0
    for f, label in zip(features, labels, strict=True):
        inside = [i for i in range(len(f)) if label[i] != IGNORE]
        positive, unequal = [], []
        weights: dict[bool, list[float]] = {True: [], False: []}
        sizes = {int(k): sum(int(label[i] == k) for i in inside) for k in label.unique()}
        for p in inside:
            for q in inside:
                if label[p] == label[q] == CONTRAST:
                    continue
                difference = f[p] - f[q]
                square = (difference * difference).sum()
                d = square.sqrt() if square > 0 else square * 0
                if p != q or balance == "none":
                    small = 1 / (sizes[int(label[p])] * sizes[int(label[q])])
                    same = bool(label[p] == label[q])
                    weights[same].append(small if balance == "classes" else 1.0)
                if label[p] == label[q]:
                    if p != q or balance == "none":
                        positive.append(torch.log((1 + torch.exp(d)) / 2))
                elif negative == "printed":
                    unequal.append(torch.log(1 + torch.exp(-d) / 2))
                else:
                    unequal.append(torch.log((1 + torch.exp(-d)) / 2))
        if balance == "none":
            total = total + sum(positive + unequal, total * 0) / max(1, len(inside))
        else:
            for pairs, weight in ((positive, weights[True]), (unequal, weights[False])):
                mean = sum(c * w for c, w in zip(pairs, weight, strict=True)) / (sum(weight) or 1)
                total = total + mean
    return total / len(features)


def inputs(kind: str) -> tuple[Tensor, Tensor]:
    """Create features (3,9,6) and labels (3,9) of the classes 0..2, some of them ignored."""
    features = torch.randn(3, 9, 6)
    labels = torch.randint(0, 3, (3, 9))
    labels[torch.rand(3, 9) >= 0.8] = IGNORE
    if kind == "equal features":
        features[0] = features[0, :1]
        features[1, 4:] = features[1, 3]
    elif kind == "one class":
        labels[labels != IGNORE] = 5
    elif kind == "one member":
        labels[0] = IGNORE
        labels[0, 2] = 1
    elif kind == "contrast":
        labels[labels == 2] = CONTRAST
    elif kind == "contrast, equal features":
        labels[labels == 2] = CONTRAST
        features[0] = features[0, :1]
        features[1, 4:] = features[1, 3]
    elif kind == "only contrast":
        labels[labels != IGNORE] = CONTRAST
    elif kind == "one object and contrast":
        labels[labels != IGNORE] = CONTRAST
        labels[:, 4] = 1
    elif kind == "one object, one contrast":
        labels[:] = IGNORE
        labels[:, 4], labels[:, 7] = 1, CONTRAST
    elif kind == "one contrast member":
        labels[labels == 2] = 1
        labels[:, 4] = CONTRAST
    elif kind == "everything ignored":
        labels[0] = IGNORE
    elif kind == "far from the origin":
        features += 100
    elif kind == "nearly equal":
        features = features[:, :1] + 1e-4 * features
    elif kind == "far apart":
        features *= 100
    return features, labels


KINDS = [
    "plain",
    "equal features",
    "one class",
    "one member",
    "far from the origin",
    "nearly equal",
    "far apart",
    "contrast",
    "contrast, equal features",
    "only contrast",
    "one object and contrast",
    "one object, one contrast",
    "one contrast member",
    "everything ignored",
]


@pytest.mark.parametrize(("negative", "balance"), VARIANTS)
@pytest.mark.parametrize("kind", KINDS)
def test_value_and_gradient_equal_the_loops(
    kind: str, negative: str, balance: str, device: str
) -> None:
    features, labels = inputs(kind)
    x = features.clone().to(device).requires_grad_()
    loss = npair_loss(x, labels.to(device), negative, balance)  # type: ignore[arg-type]
    loss.backward()
    y = features.double().requires_grad_()
    expected = reference(y, labels, negative, balance)
    expected.backward()
    torch.testing.assert_close(loss.cpu().double(), expected, rtol=1e-5, atol=1e-6)
    # relative to the gradient of the image, because single entries may cancel to 0
    size = y.grad.flatten(1).norm(dim=1)
    error = (x.grad.cpu().double() - y.grad).flatten(1).norm(dim=1)
    assert (error <= 1e-5 * size + 1e-12).all(), (error / size).tolist()


def test_many_superpixels_keep_their_precision() -> None:
    features = torch.randn(1, 400, 128)
    features[:, 100:200] = features[:, :100]  # exact copies
    labels = torch.randint(0, 8, (1, 400))
    x, y = features.clone().requires_grad_(), features.double().requires_grad_()
    npair_loss(x, labels).backward()
    difference = y[:, :, None] - y[:, None]
    d = difference.square().sum(-1).add(1e-300).sqrt()
    same = labels[:, :, None] == labels[:, None]
    cost = torch.where(same, torch.log((1 + d.exp()) / 2), torch.log(1 + (-d).exp() / 2))
    (cost.sum() / 400).backward()
    expected = torch.nan_to_num(y.grad)
    assert (x.grad - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize(("negative", "balance"), VARIANTS)
def test_blocks_of_pairs_change_nothing(
    negative: str, balance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, labels = inputs("contrast, equal features")
    results = []
    for pairs in (2**20, 2 * 9 * 9, 9 * 2, 1):  # all, two sets, two rows, less than a row
        monkeypatch.setattr("softfeat.ops.npair._PAIRS_ON_CPU", pairs)
        x = features.clone().requires_grad_()
        loss = npair_loss(x, labels, negative, balance)  # type: ignore[arg-type]
        loss.backward()
        results.append((loss.detach(), x.grad))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0])


def test_members_that_do_not_count_leave_the_precision_alone() -> None:
    torch.manual_seed(0)
    features = 1e3 + 1e-2 * torch.randn(1, 40, 8, dtype=torch.float64)
    labels, inside = torch.randint(0, 3, (1, 40)), torch.rand(40) < 0.5
    x, y = features.clone().requires_grad_(), features[:, inside].clone().requires_grad_()
    npair_loss(x, torch.where(inside, labels, IGNORE)).backward()
    reference(y, labels[:, inside], "printed", "none").backward()
    assert (x.grad[:, inside] - y.grad).norm() <= 1e-6 * y.grad.norm()


def test_labels_may_be_any_integers() -> None:
    features, labels = inputs("plain")
    known = labels != IGNORE
    expected = npair_loss(features, labels, balance="pairs")
    bytes_ = torch.where(known, labels + 251, IGNORE).byte()
    torch.testing.assert_close(npair_loss(features, bytes_, balance="pairs"), expected)
    far = torch.tensor([-(10**12), 7, 10**12])[labels.clamp(max=2)].where(known, IGNORE)
    torch.testing.assert_close(npair_loss(features, far, balance="pairs"), expected)


@pytest.mark.parametrize(("negative", "balance"), VARIANTS)
def test_a_contrast_member_differs_from_all_and_equals_none(negative: str, balance: str) -> None:
    """A single one acts like a class of its own. Two of them do not attract each other."""
    features, labels = inputs("one contrast member")
    own_class = torch.where(labels == CONTRAST, 77, labels)
    torch.testing.assert_close(
        npair_loss(features, labels, negative, balance),  # type: ignore[arg-type]
        npair_loss(features, own_class, negative, balance),  # type: ignore[arg-type]
    )
    x = features.clone().requires_grad_()
    loss = npair_loss(x, torch.full_like(labels, CONTRAST), negative, balance)  # type: ignore[arg-type]
    loss.backward()
    assert loss == 0
    assert x.grad is not None
    assert not x.grad.any()


def test_a_diverged_network_shows() -> None:
    features, labels = inputs("plain")
    features[0, (labels[0] != IGNORE).nonzero()[0, 0]] = torch.nan
    assert npair_loss(features, labels).isnan()


class _NoValues(TorchDispatchMode):
    """Reject operators whose result or shape on the host depends on values on the device."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        reads = func.overloadpacket in (
            torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.masked_select
        )  # fmt: skip
        by_mask = func.overloadpacket == torch.ops.aten.index and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        assert not reads
        assert not by_mask
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("negative", "balance"), VARIANTS)
def test_a_gpu_is_not_waited_for(negative: str, balance: str) -> None:
    features, labels = inputs("contrast")
    x = features.requires_grad_()
    with pytest.raises(AssertionError), _NoValues():
        x[labels == CONTRAST].sum()
    with _NoValues():
        npair_loss(x, labels, negative, balance).backward()  # type: ignore[arg-type]


@pytest.mark.parametrize(("negative", "balance"), VARIANTS)
@pytest.mark.parametrize("kind", ["plain", "contrast", "one object and contrast"])
def test_gradcheck(kind: str, negative: str, balance: str) -> None:
    features, labels = inputs(kind)
    x = features.double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda f: npair_loss(f, labels, negative, balance),  # type: ignore[arg-type]
        x,
    )


@pytest.mark.parametrize(("negative", "balance"), VARIANTS)
@pytest.mark.parametrize("label", [IGNORE, CONTRAST])
def test_no_pair_gives_an_attached_zero(label: int, negative: str, balance: str) -> None:
    x = torch.randn(2, 5, 3, requires_grad=True)
    loss = npair_loss(x, torch.full((2, 5), label), negative, balance)  # type: ignore[arg-type]
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize(("negative", "balance"), VARIANTS)
@pytest.mark.parametrize("kind", ["plain", "contrast"])
def test_order_of_superpixels_and_ignored_ones_do_not_matter(
    kind: str, negative: str, balance: str
) -> None:
    features, labels = inputs(kind)
    options = (negative, balance)
    loss = npair_loss(features, labels, *options)  # type: ignore[arg-type]
    order = torch.randperm(9)
    moved = npair_loss(features[:, order], labels[:, order], *options)  # type: ignore[arg-type]
    torch.testing.assert_close(moved, loss)
    other = torch.where(labels[..., None] != IGNORE, features, 1e3 * torch.randn_like(features))
    masked = npair_loss(other, labels, *options)  # type: ignore[arg-type]
    torch.testing.assert_close(masked, loss)


def test_loss_is_the_mean_of_the_images() -> None:
    features, labels = inputs("plain")
    alone = [npair_loss(features[i : i + 1], labels[i : i + 1]) for i in range(3)]
    together = npair_loss(features, labels)
    torch.testing.assert_close(together, torch.stack(alone).mean())


def test_copies_bias_the_loss_and_ignored_members_do_not() -> None:
    """Padding with repeated superpixels, as in the paper, biases the loss. IGNORE does not."""
    features, labels = torch.randn(1, 6, 4), torch.tensor([[0, 0, 1, 1, 2, 2]])
    true = npair_loss(features, labels)
    repeated = torch.tensor([0, 1, 2, 3, 4, 5, 0, 0, 0])
    copies = npair_loss(features[:, repeated], labels[:, repeated])
    assert abs(copies - true) > 0.1 * abs(true)
    padded = torch.cat([features, torch.randn(1, 3, 4)], 1)
    padded_labels = torch.cat([labels, torch.full((1, 3), IGNORE)], 1)
    torch.testing.assert_close(npair_loss(padded, padded_labels), true)


def test_values_at_zero_distance() -> None:
    features, labels = torch.zeros(1, 2, 3), torch.tensor([[0, 1]])
    printed = npair_loss(features, labels)
    torch.testing.assert_close(printed, torch.tensor(2 * math.log(1.5) / 2))
    assert npair_loss(features, labels, negative="symmetric").item() == 0


def test_half_precision_runs_in_float32() -> None:
    features, labels = inputs("plain")
    x = features.bfloat16().requires_grad_()
    loss = npair_loss(x, labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, npair_loss(features.bfloat16().float(), labels))
    loss.backward()
    assert x.grad.dtype == torch.bfloat16


def test_large_distances_stay_finite() -> None:
    x = (1e4 * torch.randn(1, 8, 4)).requires_grad_()
    loss = npair_loss(x, torch.arange(8)[None] % 2)
    loss.backward()
    assert loss.isfinite()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("scale", [1e-24, 1e24])  # their squares overflow or underflow in float32
def test_distances_may_be_as_small_and_large_as_the_features(scale: float) -> None:
    features, labels = inputs("plain")
    losses, gradients = [], []
    for dtype in (torch.float32, torch.float64):
        x = (scale * features).to(dtype).requires_grad_()
        loss = npair_loss(x, labels, "symmetric", "pairs")
        loss.backward()
        losses.append(loss.detach().double())
        gradients.append(x.grad.double())
    torch.testing.assert_close(*losses, rtol=1e-5, atol=0)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_features_of_one_label_cost_nothing(dtype: torch.dtype) -> None:
    features, labels = torch.ones(1, 5, 3, dtype=dtype), torch.zeros(1, 5, dtype=torch.long)
    for negative in ("printed", "symmetric"):
        assert npair_loss(features, labels, negative).item() == 0  # type: ignore[arg-type]


def test_unknown_options_are_refused() -> None:
    features, labels = inputs("plain")
    with pytest.raises(ValueError, match="printed"):
        npair_loss(features, labels, negative="other")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pairs"):
        npair_loss(features, labels, balance="other")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="across_images=yes"):
        npair_loss(features, labels, across_images="yes")  # type: ignore[arg-type]


def test_compiled_equals_eager() -> None:
    features, labels = inputs("contrast, equal features")
    x, y = features.clone().requires_grad_(), features.clone().requires_grad_()
    eager = npair_loss(x, labels, "symmetric", "pairs")
    compiled = torch.compile(npair_loss)(y, labels, "symmetric", "pairs")
    torch.testing.assert_close(eager, compiled)
    eager.backward()
    compiled.backward()
    torch.testing.assert_close(x.grad, y.grad)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_features_that_are_no_numbers_show_in_the_loss(bad: float) -> None:
    features, labels = inputs("plain")
    labels[labels == IGNORE] = 0
    features[1, 2, 3] = bad
    assert not npair_loss(features, labels).isfinite()


@pytest.mark.parametrize("balance", ["none", "pairs", "classes"])
@pytest.mark.parametrize("kind", ["plain", "contrast"])
def test_across_images_a_batch_is_one_set(kind: str, balance: str) -> None:
    features, labels = inputs(kind)
    across = npair_loss(features, labels, "symmetric", balance, True)  # type: ignore[arg-type]
    one = features.flatten(0, 1)[None], labels.flatten(0, 1)[None]
    torch.testing.assert_close(across, npair_loss(*one, "symmetric", balance))  # type: ignore[arg-type]
    torch.testing.assert_close(across, reference(*one, "symmetric", balance))
