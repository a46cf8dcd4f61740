"""Soft segmentation end to end: layers of pictures whose layers are known, and of awkward ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.optimize import linear_sum_assignment
from torch.nn.functional import interpolate

from softfeat.data.scenes import make_scene
from softfeat.matting import soft_segmentation
from softfeat.matting.soft_segmentation import (
    REFERENCE,
    STAGES,
    SoftSegmentation,
    Solver,
    _sample_pixels,
    analyse,
    build_graph,
    compute_eigenvectors,
    find_segments,
    layers_of,
    preprocess_features,
    reduce_features,
    soft_segment,
    sparsify_constrained,
    sparsify_relaxed,
)
from softfeat.metrics.matte import best_union, matte_errors
from softfeat.ops.guided_filter import guided_filter
from softfeat.ops.pca import normalise, pca

SAMPLED = Solver(pixels=2_000)  # a sample of the pixels of `large` photos


def picture(height: int = 64, width: int = 72, blur: float = 1.5) -> tuple[np.ndarray, ...]:
    """A disc and a band that blend into a ground; features that know them, roughly.

    Returns:
        image (H,W,3), features (H,W,6), alphas (3,H,W).
    """
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width] / (height, width)[0]
    disc = gaussian_filter(((x - 0.4) ** 2 + (y - 0.35) ** 2 < 0.05).astype(float), blur)
    band = gaussian_filter((y > 0.8).astype(float), blur) * (1 - disc)
    alphas = np.stack([disc, band, 1 - disc - band])
    colours = np.array([[0.9, 0.5, 0.1], [0.1, 0.3, 0.1], [0.5, 0.7, 0.95]])
    image = np.einsum("khw,kc->hwc", alphas, colours)
    image = (image + 0.03 * gaussian_filter(rng.standard_normal(image.shape), (2, 2, 0))).clip(0, 1)
    coarse = np.stack([gaussian_filter(a, 2) for a in alphas], -1) @ rng.standard_normal((3, 6))
    return image, coarse + 0.02 * rng.standard_normal(coarse.shape), alphas


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference of layers, matched."""
    costs = np.abs(a[:, None] - b[None]).mean((2, 3))
    return costs[linear_sum_assignment(costs)].mean()


def tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    """Maps (1,C,H,W) of arrays (H,W,C)."""
    return [torch.tensor(a.transpose(2, 0, 1).copy()).float()[None] for a in arrays]


def test_reduced_features_are_mixtures_of_filtered_ones() -> None:
    """At full resolution, and with the published window of 11 pixels."""
    image, features, _ = picture(80, 97)
    guide, maps = tensors(image, features)
    found = preprocess_features(maps, guide).flatten(2)[0].T.double()  # (N,3)
    filtered = guided_filter(maps, guide, 11, 0.01).flatten(2)[0].T.double()  # (N,6)
    mixed = torch.cat([filtered, torch.ones(len(filtered), 1)], 1)
    residual = found - mixed @ torch.linalg.lstsq(mixed, found).solution
    assert residual.abs().max() < 1e-4
    other = guided_filter(maps, guide, 13, 0.01).flatten(2)[0].T.double()
    mixed = torch.cat([other, torch.ones(len(other), 1)], 1)
    assert (found - mixed @ torch.linalg.lstsq(mixed, found).solution).abs().max() > 1e-3


@pytest.mark.parametrize("side", ["bottom", "right"])
def test_reduced_features_see_all_rows_and_columns(side: str) -> None:
    """Also the last ones of sizes that four does not divide."""
    features = np.zeros((67, 67, 6))
    features[64:] = [2, -1, 0.5, 0, 0, 0]
    image = np.full((67, 67, 3), 0.1)
    image[64:] = 0.9
    if side == "right":
        image, features = image.transpose(1, 0, 2), features.transpose(1, 0, 2)
    guide, maps = tensors(image, features)
    found = preprocess_features(maps, guide)[0, 0]
    strip, rest = (found[-2:], found[:50]) if side == "bottom" else (found[:, -2:], found[:, :50])
    assert (strip.mean() - rest.mean()).abs() > 0.9


def test_number_of_superpixels_and_segments() -> None:
    """A superpixel has 16 pixels or more in small photos, and there are up to 40 segments."""
    rng = np.random.default_rng(0)
    image, features = rng.random((32, 40, 3)), rng.random((32, 40, 3))
    graph = build_graph(image, features)
    count = graph.superpixels.max() + 1
    assert 0.7 * 32 * 40 / 16 <= count <= 32 * 40 / 16
    assert graph.matting.shape == graph.laplacian.shape == (1280, 1280)
    _, segments = find_segments(graph.superpixels, features)
    assert sorted(set(segments)) == list(range(40))


def test_sampled_pixels_are_those_of_all_superpixels() -> None:
    superpixels = np.repeat(np.arange(5), [40, 80, 20, 200, 60]).reshape(20, 20).astype(np.uint16)
    sample = _sample_pixels(superpixels, 40)
    assert (np.diff(sample) > 0).all()
    shares = np.bincount(superpixels.ravel()[sample])
    assert shares.tolist() == [4, 8, 2, 20, 6]


def test_the_defaults_of_all_functions_agree() -> None:
    image, features, _ = picture(20, 24)
    analysis = analyse(image, features)
    whole = soft_segment(image, features)
    assert len(whole.alphas) == 5
    np.testing.assert_array_equal(layers_of(analysis).alphas, whole.alphas)
    np.testing.assert_array_equal(sparsify_relaxed(analysis), whole.alphas)
    graph = build_graph(image, analysis.features)
    values = compute_eigenvectors(image, graph).values
    np.testing.assert_array_equal(values, analysis.eigenvectors.values)
    assert analysis.solver == Solver()


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """The size of a photo for which the functions of superpixels are used, to save time."""
    monkeypatch.setattr(soft_segmentation, "_SMALL_ENOUGH", 2_000)
    monkeypatch.setattr(soft_segmentation, "_BASIS_SUPERPIXELS", 200)
    return 50, 52


@pytest.fixture(scope="module")
def segmented() -> tuple[SoftSegmentation, np.ndarray]:
    image, features, alphas = picture()
    return soft_segment(image, features, 3), alphas


def test_layers_are_found_softly(segmented: tuple[SoftSegmentation, np.ndarray]) -> None:
    found, truth = segmented
    assert found.alphas.shape == (3, 64, 72)
    for matte in truth:
        assert matte_errors(best_union(found.alphas, matte), matte).mse < 0.004
        soft = (matte > 0.2) & (matte < 0.8)
        layer = found.alphas[np.abs(found.alphas - matte).sum((1, 2)).argmin()]
        assert np.abs(layer[soft] - (matte[soft] > 0.5)).mean() > 0.15  # not a hard one


def test_absent_layers_have_alpha_zero(segmented: tuple[SoftSegmentation, np.ndarray]) -> None:
    found, truth = segmented
    pure = (truth > 0.999).any(0)  # pixels of one layer
    assert ((found.alphas[:, pure] == 0).sum(0) == 2).mean() > 0.97


def test_what_comes_along(segmented: tuple[SoftSegmentation, np.ndarray]) -> None:
    found = segmented[0]
    assert found.features.shape == (64, 72, 3)
    assert found.superpixels.shape == (64, 72)
    coverage = found.alphas.sum((1, 2))
    assert (np.diff(coverage) <= 0).all()  # largest first
    assert tuple(found.seconds) == STAGES


def test_the_same_every_time(large: tuple[int, int]) -> None:
    image, features, _ = picture(*large)
    first, second = (soft_segment(image, features, 3, 0, SAMPLED).alphas for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_superpixels_without_a_compiler(segmented: tuple[SoftSegmentation, np.ndarray]) -> None:
    image, features, _ = picture()
    found = soft_segment(image, features, 3, backend="skimage")
    assert not np.array_equal(found.superpixels, segmented[0].superpixels)
    assert distance(found.alphas, segmented[0].alphas) < 0.05


def test_another_seed_is_nearly_the_same(large: tuple[int, int]) -> None:
    image, features, _ = picture(*large)
    first, second = (soft_segment(image, features, 3, s, SAMPLED) for s in (0, 1))
    assert distance(first.alphas, second.alphas) < 0.01


@pytest.mark.parametrize("kind", ["scene", "noise"])
def test_alphas_add_up_to_one(kind: str) -> None:
    """Of 25 pictures each, with features that mean something and with noise."""
    for seed in range(25):
        rng = np.random.default_rng(seed)
        height, width = rng.integers(20, 48, 2)
        if kind == "scene":
            image = make_scene((9, seed), 64)[0][:height, :width] / 255
        else:
            image = rng.random((height, width, 3))
        features = rng.standard_normal((height, width, 4)) if seed % 2 else image[..., ::-1]
        alphas = soft_segment(image, features, int(rng.integers(1, 7))).alphas
        assert np.abs(alphas.sum(0, dtype=np.float64) - 1).max() < 1e-5
        assert alphas.min() >= 0
        assert alphas.max() <= 1


def test_superpixels_are_close_to_exact_eigenvectors() -> None:
    image, features, _ = picture(104, 104, blur=3)
    fast = analyse(image, features)
    exact = analyse(image, features, solver=Solver(eigenvectors="exact"))
    assert distance(layers_of(fast, 3).alphas, layers_of(exact, 3).alphas) < 0.02
    values = fast.eigenvectors.values - exact.eigenvectors.values
    assert np.abs(values).max() > 1e-8  # other ways indeed


def test_close_to_the_reference() -> None:
    image, features, _ = picture(30, 36)
    alike = {"iterations": 4, "floor": 1e-2}
    fast = soft_segment(image, features, 3, solver=replace(Solver(), **alike))
    slow = soft_segment(image, features, 3, solver=replace(REFERENCE, **alike))
    assert distance(fast.alphas, slow.alphas) < 0.01


def test_features_of_three_dimensions_are_taken_as_they_are() -> None:
    image, _, _ = picture()
    rgb = np.random.default_rng(0).random((*image.shape[:2], 3))
    np.testing.assert_allclose(soft_segment(image, rgb, 2).features, rgb)


def test_features_are_the_principal_components_of_filtered_ones() -> None:
    image, features, _ = picture(80, 96)
    guide, maps = tensors(image, features)
    found = preprocess_features(maps, guide)
    expected = normalise(pca(guided_filter(maps, guide, 11, 0.01)))
    torch.testing.assert_close(found.amin((2, 3)), torch.zeros(1, 3))
    torch.testing.assert_close(found.amax((2, 3)), torch.ones(1, 3))
    # the last component is that of the noise
    assert (found - expected)[:, :2].abs().max() < 0.05


@pytest.mark.parametrize("size", [(60, 82), (45, 61), (23, 31)])
def test_reduced_features_are_enlarged_bilinearly(size: tuple[int, int]) -> None:
    image, features, _ = picture(60, 82)
    guide, maps = tensors(image, features)
    small = interpolate(maps, size, mode="bilinear", align_corners=False)
    large = interpolate(small, (60, 82), mode="bilinear", align_corners=False)
    found, expected = preprocess_features(small, guide), preprocess_features(large, guide)
    assert (found - expected)[:, :2].abs().max() < 0.03  # the axes are those of a quarter
    ways = [
        analyse(image, maps[0].permute(1, 2, 0).numpy(), solver=SAMPLED) for maps in (small, large)
    ]
    means, others = (way.tree.features for way in ways)
    signs = np.sign((means * others).sum(0))
    np.testing.assert_allclose(means * signs, others, atol=1e-5)
    assert distance(layers_of(ways[0], 3).alphas, layers_of(ways[1], 3).alphas) < 0.01
    few = small[:, :3].clamp(0, 1)
    enlarged = interpolate(few, (60, 82), mode="bilinear", align_corners=False)
    torch.testing.assert_close(preprocess_features(few, guide), enlarged)


def test_wild_features_are_clamped() -> None:
    image, features, _ = picture()
    features[3, 4, 2] = 1e6
    assert distance(soft_segment(image, features, 3).alphas, soft_segment(
        image, features.clip(-5, 5), 3).alphas) < 1e-6  # fmt: skip


def test_as_many_layers_as_the_features_have() -> None:
    image, _, alphas = picture()
    features = np.einsum("khw,kd->hwd", alphas, np.eye(3, 6))  # each as far from each other
    assert len(soft_segment(image, features, "auto").alphas) == 3


@pytest.mark.parametrize("is_large", [False, True])
def test_every_number_of_layers_is_cut_from_one_analysis(
    large: tuple[int, int], is_large: bool
) -> None:
    image, features, _ = picture(*(large if is_large else (40, 48)))
    analysis = analyse(image, features, 0, SAMPLED)
    wholes = {count: soft_segment(image, features, count, 0, SAMPLED) for count in (2, 5, "auto")}
    for count, whole in wholes.items():
        cut = layers_of(analysis, count)
        np.testing.assert_array_equal(cut.alphas, whole.alphas)
        assert list(cut.seconds) == list(whole.seconds)
    again = layers_of(analysis, 2)  # cuts leave the analysis as it is
    np.testing.assert_array_equal(again.alphas, wholes[2].alphas)


def test_stages_can_be_called_alone(large: tuple[int, int]) -> None:
    image, features, _ = picture(*large)
    analysis = analyse(image, features, 0, SAMPLED)
    reduced = reduce_features(image, features)
    np.testing.assert_array_equal(reduced, analysis.features)
    graph = build_graph(image, reduced)
    np.testing.assert_array_equal(graph.superpixels, analysis.superpixels)
    assert (graph.laplacian != analysis.laplacian).nnz == 0
    eigenvectors = compute_eigenvectors(image, graph)
    np.testing.assert_array_equal(eigenvectors.values, analysis.eigenvectors.values)
    np.testing.assert_array_equal(eigenvectors.vectors, analysis.eigenvectors.vectors)
    _, segments = find_segments(graph.superpixels, features)
    np.testing.assert_array_equal(segments, analysis.segments)
    coefficients, survivors = sparsify_constrained(
        eigenvectors, segments, graph.superpixels, SAMPLED
    )
    torch.testing.assert_close(coefficients, analysis.coefficients, rtol=0, atol=0)
    assert torch.equal(survivors, analysis.survivors)
    alphas = sparsify_relaxed(analysis, 3)
    np.testing.assert_array_equal(alphas, layers_of(analysis, 3).alphas)


def test_superpixels_are_grouped_in_the_unit_of_the_features() -> None:
    """A component along which the features hardly differ counts little, unlike in the graph."""
    superpixels = np.arange(24).repeat(4).reshape(12, 8).astype(np.uint16)
    means = np.zeros((24, 16))
    means[:12, 0] = 3.0  # two things
    means[::2, 1] = 0.2  # and a pattern on both
    means += 0.01 * np.random.default_rng(0).standard_normal(means.shape)
    mixing = np.linalg.qr(np.random.default_rng(1).standard_normal((16, 16)))[0]
    features = (means @ mixing)[superpixels]
    tree, segments = find_segments(superpixels, features)
    assert len(set(segments)) == 24
    halves = tree.cut(2)
    assert len(set(halves[:12])) == len(set(halves[12:])) == 1 != len(set(halves))
    expected = 2 * (np.arange(24) < 12) + np.arange(24) % 2
    assert len({*zip(tree.cut(4).tolist(), expected.tolist(), strict=True)}) == 4


def test_a_cut_of_more_layers_than_there_may_be() -> None:
    image, features, _ = picture(20, 20)
    with pytest.raises(ValueError, match=r"choose 1\.\.40"):
        layers_of(analyse(image, features), 41)


@pytest.mark.parametrize("count", [1, 5, "auto"])
def test_a_constant_picture_is_one_layer(count: int | str) -> None:
    image = np.full((40, 40, 3), 0.3)
    padded = np.random.default_rng(0).random((40, 40, 8))  # a network sees its own padding
    for features in (np.full((40, 40, 8), 0.7), padded):
        alphas = soft_segment(image, features, count).alphas
        assert alphas.shape == (1, 40, 40)
        np.testing.assert_allclose(alphas, 1, atol=1e-6)


def test_no_layer_is_empty() -> None:
    """A pattern of single pixels, of which the relaxed stage takes one layer away."""
    image = np.repeat((np.indices((120, 160)).sum(0) % 2)[..., None], 3, 2).astype(float)
    alphas = soft_segment(image, image, 5).alphas
    assert 1 <= len(alphas) < 5
    assert (alphas.max((1, 2)) > 0).all()


@pytest.mark.parametrize("size", [(8, 8), (32, 32), (8, 400), (300, 9)])
def test_tiny_and_extreme_pictures(size: tuple[int, int]) -> None:
    image, features, _ = picture(*size)
    alphas = soft_segment(image, features, 3).alphas
    assert alphas.shape[1:] == size
    np.testing.assert_allclose(alphas.sum(0), 1, atol=1e-5)


IMAGE, FEATURES = np.full((16, 16, 3), 0.5), np.zeros((16, 16, 4))


@pytest.mark.parametrize(
    ("image", "features", "layers", "message"),
    [
        (IMAGE * 255, FEATURES, 2, "divide by 255"),
        (IMAGE * np.nan, FEATURES, 2, "NaN or infinity"),
        (IMAGE[..., 0], FEATURES, 2, r"\(H,W,3\)"),
        (IMAGE[:7], FEATURES[:7], 2, "8 or more"),
        (IMAGE, FEATURES[:8], 2, "of the whole image"),
        (IMAGE, FEATURES.repeat(2, 0).repeat(2, 1), 2, "at its size or reduced"),
        (IMAGE, FEATURES * np.nan, 2, "NaN"),
        (IMAGE, FEATURES[..., :2] - 0.1, 2, r"as they are: in \[0,1\]"),
        (IMAGE, FEATURES, 0, r"choose 1\.\.40"),
        (IMAGE, FEATURES, 41, r"choose 1\.\.40"),
    ],
)
def test_bad_arguments(image: np.ndarray, features: np.ndarray, layers: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        soft_segment(image, features, layers)
