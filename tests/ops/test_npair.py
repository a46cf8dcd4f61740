import math

import pytest
import torch
from torch import Tensor

from src.ops.distance import pairwise_distance
from src.ops.npair import superpixel_npair_loss

VARIANTS = [(n, b) for n in ("printed", "symmetric") for b in ("none", "pairs", "classes")]


def reference(
    features: Tensor, labels: Tensor, valid: Tensor, negative: str, balance: str
) -> Tensor:
    """Eq. 5 by loops, distances by differences."""
    total = features.sum() * 0
    for f, label, v in zip(features, labels, valid, strict=True):
        inside = [i for i in range(len(f)) if v[i]]
        positive, unequal = [], []
        weights: dict[bool, list[float]] = {True: [], False: []}
        sizes = {int(k): sum(int(label[i] == k) for i in inside) for k in label.unique()}
        for p in inside:
            for q in inside:
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


def inputs(kind: str) -> tuple[Tensor, Tensor, Tensor]:
    features = torch.randn(3, 9, 6)
    labels = torch.randint(0, 3, (3, 9))
    valid = torch.rand(3, 9) < 0.8
    if kind == "equal features":
        features[0] = features[0, :1]
        features[1, 4:] = features[1, 3]
    elif kind == "one class":
        labels[:] = 5
    elif kind == "one valid":
        valid[0] = False
        valid[0, 2] = True
    elif kind == "far from the origin":
        features += 100
    elif kind == "nearly equal":
        features = features[:, :1] + 1e-4 * features
    elif kind == "far apart":
        features *= 100
    return features, labels, valid


KINDS = [
    "plain",
    "equal features",
    "one class",
    "one valid",
    "far from the origin",
    "nearly equal",
    "far apart",
]


@pytest.mark.parametrize(("negative", "balance"), VARIANTS)
@pytest.mark.parametrize("kind", KINDS)
def test_value_and_gradient_equal_the_loops(
    kind: str, negative: str, balance: str, device: str
) -> None:
    features, labels, valid = inputs(kind)
    x = features.clone().to(device).requires_grad_()
    loss = superpixel_npair_loss(x, labels.to(device), valid.to(device), negative, balance)  # type: ignore[arg-type]
    loss.backward()
    y = features.double().requires_grad_()
    expected = reference(y, labels, valid, negative, balance)
    expected.backward()
    torch.testing.assert_close(loss.cpu().double(), expected, rtol=1e-5, atol=1e-6)
    # relative to the gradient's size per image, for single entries may cancel to nothing
    size = y.grad.flatten(1).norm(dim=1)
    error = (x.grad.cpu().double() - y.grad).flatten(1).norm(dim=1)
    assert (error <= 1e-5 * size + 1e-12).all(), (error / size).tolist()


def test_many_superpixels_keep_their_precision() -> None:
    features = torch.randn(1, 400, 128)
    features[:, 100:200] = features[:, :100]  # exact copies
    labels, valid = torch.randint(0, 8, (1, 400)), torch.ones(1, 400, dtype=torch.bool)
    x, y = features.clone().requires_grad_(), features.double().requires_grad_()
    superpixel_npair_loss(x, labels, valid).backward()
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
    features, labels, valid = inputs("equal features")
    results = []
    for pairs in (2**20, 2 * 9 * 9, 9 * 2, 1):  # all, two sets, two rows, less than a row
        monkeypatch.setattr("src.ops.npair._PAIRS_ON_CPU", pairs)
        x = features.clone().requires_grad_()
        loss = superpixel_npair_loss(x, labels, valid, negative, balance)  # type: ignore[arg-type]
        loss.backward()
        results.append((loss.detach(), x.grad))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0])


def test_members_that_do_not_count_leave_the_precision_alone() -> None:
    torch.manual_seed(0)
    features = 1e3 + 1e-2 * torch.randn(1, 40, 8, dtype=torch.float64)
    labels, valid = torch.randint(0, 3, (1, 40)), torch.rand(1, 40) < 0.5
    x, y = features.clone().requires_grad_(), features[:, valid[0]].clone().requires_grad_()
    superpixel_npair_loss(x, labels, valid).backward()
    everything = torch.ones_like(valid[:, valid[0]])
    reference(y, labels[:, valid[0]], everything, "printed", "none").backward()
    assert (x.grad[:, valid[0]] - y.grad).norm() <= 1e-6 * y.grad.norm()


def test_labels_may_be_any_integers() -> None:
    features, labels, valid = inputs("plain")
    bytes_ = (labels + 253).byte()  # 255, too
    torch.testing.assert_close(
        superpixel_npair_loss(features, bytes_, valid, balance="pairs"),
        superpixel_npair_loss(features, labels, valid, balance="pairs"),
    )
    far = torch.tensor([-(10**12), 7, 10**12])[labels]
    torch.testing.assert_close(
        superpixel_npair_loss(features, far, valid, balance="pairs"),
        superpixel_npair_loss(features, labels, valid, balance="pairs"),
    )


def test_a_diverged_network_shows() -> None:
    features, labels, valid = inputs("plain")
    features[0, valid[0].nonzero()[0, 0]] = torch.nan
    assert superpixel_npair_loss(features, labels, valid).isnan()


@pytest.mark.parametrize(("negative", "balance"), VARIANTS)
def test_gradcheck(negative: str, balance: str) -> None:
    features, labels, valid = inputs("plain")
    x = features.double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda f: superpixel_npair_loss(f, labels, valid, negative, balance),  # type: ignore[arg-type]
        x,
    )


@pytest.mark.parametrize(("negative", "balance"), VARIANTS)
def test_no_valid_pair_gives_an_attached_zero(negative: str, balance: str) -> None:
    x = torch.randn(2, 5, 3, requires_grad=True)
    nothing = torch.zeros(2, 5, dtype=torch.bool)
    labels = torch.zeros(2, 5, dtype=torch.long)
    loss = superpixel_npair_loss(x, labels, nothing, negative, balance)  # type: ignore[arg-type]
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize(("negative", "balance"), VARIANTS)
def test_order_of_superpixels_and_masked_ones_do_not_matter(negative: str, balance: str) -> None:
    features, labels, valid = inputs("plain")
    options = (negative, balance)
    loss = superpixel_npair_loss(features, labels, valid, *options)  # type: ignore[arg-type]
    order = torch.randperm(9)
    moved = superpixel_npair_loss(features[:, order], labels[:, order], valid[:, order], *options)  # type: ignore[arg-type]
    torch.testing.assert_close(moved, loss)
    other = torch.where(valid[..., None], features, 1e3 * torch.randn_like(features))
    masked = superpixel_npair_loss(other, labels, valid, *options)  # type: ignore[arg-type]
    torch.testing.assert_close(masked, loss)


def test_loss_is_the_mean_of_the_images() -> None:
    features, labels, valid = inputs("plain")
    alone = [
        superpixel_npair_loss(features[i : i + 1], labels[i : i + 1], valid[i : i + 1])
        for i in range(3)
    ]
    together = superpixel_npair_loss(features, labels, valid)
    torch.testing.assert_close(together, torch.stack(alone).mean())


def test_copies_bias_the_loss_and_the_mask_does_not() -> None:
    """The paper fills up to N_s with repeated superpixels; a mask leaves the loss as it is."""
    features, labels = torch.randn(1, 6, 4), torch.tensor([[0, 0, 1, 1, 2, 2]])
    true = superpixel_npair_loss(features, labels, torch.ones(1, 6, dtype=torch.bool))
    repeated = torch.tensor([0, 1, 2, 3, 4, 5, 0, 0, 0])
    copies = superpixel_npair_loss(
        features[:, repeated], labels[:, repeated], torch.ones(1, 9, dtype=torch.bool)
    )
    assert abs(copies - true) > 0.1 * abs(true)
    padded = torch.cat([features, torch.randn(1, 3, 4)], 1)
    padded_labels = torch.cat([labels, torch.zeros(1, 3, dtype=torch.long)], 1)
    mask = torch.tensor([[True] * 6 + [False] * 3])
    torch.testing.assert_close(superpixel_npair_loss(padded, padded_labels, mask), true)


def test_values_at_zero_distance() -> None:
    features, valid = torch.zeros(1, 2, 3), torch.ones(1, 2, dtype=torch.bool)
    labels = torch.tensor([[0, 1]])
    printed = superpixel_npair_loss(features, labels, valid)
    torch.testing.assert_close(printed, torch.tensor(2 * math.log(1.5) / 2))
    assert superpixel_npair_loss(features, labels, valid, negative="symmetric").item() == 0


def test_half_precision_runs_in_float32() -> None:
    features, labels, valid = inputs("plain")
    x = features.bfloat16().requires_grad_()
    loss = superpixel_npair_loss(x, labels, valid)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(
        loss, superpixel_npair_loss(features.bfloat16().float(), labels, valid)
    )
    loss.backward()
    assert x.grad.dtype == torch.bfloat16


def test_large_distances_stay_finite() -> None:
    x = (1e4 * torch.randn(1, 8, 4)).requires_grad_()
    loss = superpixel_npair_loss(x, torch.arange(8)[None] % 2, torch.ones(1, 8, dtype=torch.bool))
    loss.backward()
    assert loss.isfinite()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("scale", [1e-24, 1e24])  # their squares are no float32
def test_distances_may_be_as_small_and_large_as_the_features(scale: float) -> None:
    features, labels, valid = inputs("plain")
    losses, gradients = [], []
    for dtype in (torch.float32, torch.float64):
        x = (scale * features).to(dtype).requires_grad_()
        loss = superpixel_npair_loss(x, labels, valid, "symmetric", "pairs")
        loss.backward()
        losses.append(loss.detach().double())
        gradients.append(x.grad.double())
    torch.testing.assert_close(*losses, rtol=1e-5, atol=0)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_features_of_one_label_cost_nothing(dtype: torch.dtype) -> None:
    features, valid = torch.ones(1, 5, 3, dtype=dtype), torch.ones(1, 5, dtype=torch.bool)
    labels = torch.zeros(1, 5, dtype=torch.long)
    for negative in ("printed", "symmetric"):
        assert superpixel_npair_loss(features, labels, valid, negative).item() == 0  # type: ignore[arg-type]


def test_unknown_options_are_refused() -> None:
    features, labels, valid = inputs("plain")
    with pytest.raises(ValueError, match="printed"):
        superpixel_npair_loss(features, labels, valid, negative="other")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pairs"):
        superpixel_npair_loss(features, labels, valid, balance="other")  # type: ignore[arg-type]


def test_compiled_equals_eager() -> None:
    features, labels, valid = inputs("equal features")
    x, y = features.clone().requires_grad_(), features.clone().requires_grad_()
    eager = superpixel_npair_loss(x, labels, valid, "symmetric", "pairs")
    compiled = torch.compile(superpixel_npair_loss)(y, labels, valid, "symmetric", "pairs")
    torch.testing.assert_close(eager, compiled)
    eager.backward()
    compiled.backward()
    torch.testing.assert_close(x.grad, y.grad)


def test_distances_equal_differences() -> None:
    x = torch.randn(2, 12, 5)
    x[0, 3] = x[0, 7]
    expected = (x[:, :, None] - x[:, None]).double().norm(dim=-1).float()
    distance = pairwise_distance(x)
    torch.testing.assert_close(distance, expected)
    assert distance[0, 3, 7] == 0
    assert not distance.diagonal(dim1=1, dim2=2).any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_features_that_are_no_numbers_show_in_the_loss(bad: float) -> None:
    features, labels, valid = inputs("plain")
    valid[:] = True
    features[1, 2, 3] = bad
    assert not superpixel_npair_loss(features, labels, valid).isfinite()


@pytest.mark.parametrize("balance", ["none", "pairs", "classes"])
def test_across_images_a_batch_is_one_set(balance: str) -> None:
    features, labels, valid = inputs("plain")
    across = superpixel_npair_loss(features, labels, valid, "symmetric", balance, True)  # type: ignore[arg-type]
    one = (x.flatten(0, 1)[None] for x in (features, labels, valid))
    torch.testing.assert_close(across, superpixel_npair_loss(*one, "symmetric", balance))  # type: ignore[arg-type, misc]
    torch.testing.assert_close(across, reference(
        features.flatten(0, 1)[None], labels.flatten(0, 1)[None], valid.flatten(0, 1)[None],
        "symmetric", balance,
    ))  # fmt: skip
