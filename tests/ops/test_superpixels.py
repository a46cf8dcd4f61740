import pytest
import torch

from softfeat.ops.superpixels import (
    NO_SUPERPIXEL,
    superpixel_counts,
    superpixel_majority,
    superpixel_mean,
    superpixel_scatter,
)

B, D, H, W, S = 3, 4, 7, 5, 6


def maps() -> torch.Tensor:
    """Create ids with an absent superpixel, padding, and ids out of range."""
    superpixels = torch.randint(0, S - 1, (B, H, W))
    superpixels[0, 0, :3] = -1
    superpixels[1, 1, 1] = S
    return superpixels


def test_mean_and_counts_equal_loops(device: str) -> None:
    features, superpixels = torch.randn(B, D, H, W, dtype=torch.float64), maps()
    means, counts = superpixel_mean(features.to(device), superpixels.to(device), S)
    for b in range(B):
        for s in range(S):
            inside = superpixels[b] == s
            assert counts[b, s] == inside.sum()
            expected = features[b, :, inside].mean(1) if inside.any() else torch.zeros(D)
            torch.testing.assert_close(means[b, s].cpu(), expected.double())
    assert torch.equal(counts, superpixel_counts(superpixels.to(device), S))


def test_mean_gradient() -> None:
    superpixels = maps()
    features = torch.randn(B, D, H, W, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f: superpixel_mean(f, superpixels, S)[0], features)


def test_mean_of_half_precision_is_summed_in_float32() -> None:
    features = torch.full((1, 1, 64, 64), 1.001, dtype=torch.bfloat16)
    means, _ = superpixel_mean(features, torch.zeros(1, 64, 64, dtype=torch.long), 1)
    assert means.dtype == torch.float32
    torch.testing.assert_close(means, torch.full((1, 1, 1), features[0, 0, 0, 0].item()))


def test_mean_rejects_features_of_another_size() -> None:
    with pytest.raises(ValueError, match="upsample"):
        superpixel_mean(torch.zeros(1, 2, 4, 4), torch.zeros(1, 8, 8, dtype=torch.long), 2)


def test_majority_equals_loops(device: str) -> None:
    superpixels = maps()
    labels = torch.randint(0, 3, (B, H, W)) * 50
    labels[torch.rand(B, H, W) < 0.3] = 255
    majority = superpixel_majority(labels.to(device), superpixels.to(device), S)
    for b in range(B):
        for s in range(S):
            votes = [v for v in labels[b][superpixels[b] == s].tolist() if v != 255]
            expected = min(set(votes), key=lambda v: (-votes.count(v), v)) if votes else 255
            assert majority[b, s] == expected


def test_majority_ties_go_to_the_smallest_id(device: str) -> None:
    labels = torch.tensor([[[9, 4, 9, 4, 200, 200]]], device=device)
    superpixels = torch.tensor([[[0, 0, 0, 0, 1, 1]]], device=device)
    assert superpixel_majority(labels, superpixels, 2).tolist() == [[4, 200]]


def test_majority_counts_contrast_as_any_class_and_ignored_pixels_never() -> None:
    labels = torch.tensor([[[254, 254, 3, 255, 255, 255, 255]]])
    superpixels = torch.tensor([[[0, 0, 0, 0, 0, 0, 1]]])
    assert superpixel_majority(labels, superpixels, 3).tolist() == [[254, 255, 255]]


def test_scatter_equals_loops_and_inverts_the_mean(device: str) -> None:
    values, superpixels = torch.randn(B, S, D), maps()
    pixels = superpixel_scatter(values.to(device), superpixels.to(device)).cpu()
    for b in range(B):
        for y in range(H):
            for x in range(W):
                s = superpixels[b, y, x]
                expected = values[b, s] if 0 <= s < S else torch.zeros(D)
                assert torch.equal(pixels[b, :, y, x], expected)
    means, counts = superpixel_mean(pixels, superpixels, S)
    torch.testing.assert_close(means[counts > 0], values[counts > 0])


def test_relabelling_superpixels_only_reorders() -> None:
    features, superpixels = torch.randn(B, D, H, W), torch.randint(0, S, (B, H, W))
    labels = torch.randint(0, 4, (B, H, W))
    order = torch.randperm(S)
    means, counts = superpixel_mean(features, superpixels, S)
    moved, moved_counts = superpixel_mean(features, order[superpixels], S)
    torch.testing.assert_close(moved[:, order], means)
    assert torch.equal(moved_counts[:, order], counts)
    majority = superpixel_majority(labels, superpixels, S)
    assert torch.equal(superpixel_majority(labels, order[superpixels], S)[:, order], majority)


def test_images_of_a_batch_do_not_touch() -> None:
    features, superpixels = torch.randn(B, D, H, W), maps()
    labels = torch.randint(0, 4, (B, H, W))
    together = superpixel_mean(features, superpixels, S)[0]
    majority = superpixel_majority(labels, superpixels, S)
    for b in range(B):
        one = slice(b, b + 1)
        assert torch.equal(superpixel_mean(features[one], superpixels[one], S)[0], together[one])
        assert torch.equal(superpixel_majority(labels[one], superpixels[one], S), majority[one])


def test_compiled_equals_eager() -> None:
    features, superpixels, labels = torch.randn(B, D, H, W), maps(), torch.randint(0, 4, (B, H, W))

    def run(f: torch.Tensor) -> tuple[torch.Tensor, ...]:
        means, counts = superpixel_mean(f, superpixels, S)
        majority = superpixel_majority(labels, superpixels, S)
        return means, counts, majority, superpixel_scatter(means, superpixels)

    for eager, compiled in zip(run(features), torch.compile(run)(features), strict=True):
        torch.testing.assert_close(eager, compiled)


def test_padding_belongs_to_no_superpixel() -> None:
    superpixels = torch.tensor([[[0, 1, NO_SUPERPIXEL]]])
    assert superpixel_counts(superpixels, 3).tolist() == [[1, 1, 0]]
    labels = torch.tensor([[[4, 5, 6]]])
    assert superpixel_majority(labels, superpixels, 3).tolist() == [[4, 5, 255]]
