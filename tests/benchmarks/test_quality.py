"""The linear probe of superpixel features."""

import torch

from benchmarks.quality import superpixel_probe


def test_the_probe_separates_linearly_separable_classes() -> None:
    labels = torch.randint(0, 3, (300,))
    centres = torch.tensor([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]])
    features = 1e-3 * (centres[labels] + torch.randn(300, 2)) + 7
    probe = superpixel_probe(features, labels, 3)
    assert (probe(features).argmax(1) == labels).float().mean() > 0.95


def test_the_probe_is_independent_of_a_mixing_of_the_channels() -> None:
    torch.manual_seed(0)
    plain = torch.randn(2000, 8)
    labels = (plain[:, :3] + 0.3 * torch.randn(2000, 3)).argmax(1)
    # Like trained features: the channels are correlated, and the small rest has the classes.
    spreads = torch.tensor([0.01] * 3 + [3.0] * 5)
    mixed = (plain * spreads) @ torch.linalg.qr(torch.randn(8, 8))[0] + 5
    expected = superpixel_probe(plain, labels, 3)(plain).softmax(1)
    actual = superpixel_probe(mixed, labels, 3)(mixed).softmax(1)
    torch.testing.assert_close(actual, expected, atol=0.02, rtol=0)


def test_the_probe_accepts_equal_features() -> None:
    probe = superpixel_probe(torch.full((6, 4), 2.0), torch.tensor([0, 0, 0, 0, 1, 1]), 2)
    shares = probe(torch.full((4,), 2.0)).softmax(0)
    torch.testing.assert_close(shares, torch.tensor([2 / 3, 1 / 3]), atol=1e-3, rtol=0)
