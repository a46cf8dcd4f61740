import torch

from softfeat.ops.pca import normalise, pca, principal_axes, random_projection


def test_components_are_those_of_an_svd_per_image() -> None:
    features = torch.randn(2, 6, 5, 4, dtype=torch.float64).float()
    projected = pca(features)
    for image, result in zip(features, projected, strict=True):
        flat = image.flatten(1).T
        flat = flat - flat.mean(0)
        u, s, _ = torch.linalg.svd(flat, full_matrices=False)
        expected = (u * s)[:, :3].T
        torch.testing.assert_close(result.flatten(1).abs(), expected.abs(), rtol=1e-3, atol=1e-4)


def test_signs_are_fixed() -> None:
    features = torch.randn(1, 6, 5, 4)
    order = torch.randperm(20)
    shuffled = features.flatten(2)[..., order].unflatten(2, (5, 4))
    torch.testing.assert_close(
        pca(shuffled).flatten(2), pca(features).flatten(2)[..., order], rtol=1e-3, atol=1e-4
    )


def test_normalise_spans_the_range_and_survives_constants() -> None:
    maps = torch.randn(2, 3, 4, 4)
    maps[0, 1] = 7
    scaled = normalise(maps)
    assert not scaled[0, 1].any()
    assert scaled[1, 0].min() == 0
    assert scaled[1, 0].max() == 1


def test_random_projections_are_orthonormal_and_repeat() -> None:
    features = torch.randn(2, 8, 5, 6)
    first = random_projection(features)
    assert first.shape == (2, 3, 5, 6)
    assert torch.equal(first, random_projection(features))
    assert not torch.equal(first, random_projection(features, seed=1))
    axes = random_projection(torch.eye(8).view(1, 8, 8, 1))[0, :, :, 0]
    torch.testing.assert_close(axes @ axes.T, torch.eye(3), rtol=1e-5, atol=1e-5)


def test_the_largest_entry_of_an_axis_is_positive() -> None:
    features = torch.randn(4, 6, 5, 4)
    for sign in (1, -1):
        axes = principal_axes(sign * features)
        assert axes.shape == (4, 6, 3)
        torch.testing.assert_close(axes.mT @ axes, torch.eye(3).expand(4, 3, 3))
        largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
        assert (largest > 0).all()
    assert principal_axes(features, dim=2).shape == (4, 6, 2)


def test_signs_do_not_depend_on_the_sign_of_the_features() -> None:
    features = torch.randn(2, 6, 5, 4)
    torch.testing.assert_close(pca(-features), -pca(features), rtol=1e-3, atol=1e-4)
