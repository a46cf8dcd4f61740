"""Test segments, groups, alphas and the selection of layers."""

import numpy as np
import pytest
import torch

from softfeat.matting.layers import (
    SegmentTree,
    normalise_alphas,
    select,
    upsample_alphas,
)

RNG = np.random.default_rng(0)
CLOUDS = np.concatenate([c + 0.02 * RNG.standard_normal((20, 3)) for c in (0.1, 0.4, 0.9)])


def test_cuts_find_the_clouds_and_nest() -> None:
    tree = SegmentTree(CLOUDS)
    cut = tree.cut(3)
    assert [len(set(cut[20 * k : 20 * k + 20])) for k in range(3)] == [1, 1, 1]
    assert sorted(set(cut)) == [0, 1, 2]
    for coarse in range(1, 8):
        pairs = set(zip(tree.cut(coarse + 1).tolist(), tree.cut(coarse).tolist(), strict=True))
        assert len(pairs) == coarse + 1  # each finer segment lies in one coarser one


def test_best_count_is_that_of_the_clouds() -> None:
    assert SegmentTree(CLOUDS).best_count() == 3
    assert SegmentTree(CLOUDS[:40]).best_count() == 2
    assert SegmentTree(1e3 * CLOUDS).best_count() == 3
    assert SegmentTree(1e-3 * CLOUDS).best_count() == 2  # plain, in the unit of the features


def test_few_superpixels() -> None:
    line = np.array([[0.0], [0.1], [1.0], [1.1]])
    assert [SegmentTree(line[:n]).best_count() for n in (1, 2, 3, 4)] == [1, 2, 2, 2]
    assert sorted(SegmentTree(line).cut(5)) == [0, 1, 2, 3]


def test_best_count_does_not_depend_on_the_number_of_superpixels() -> None:
    assert SegmentTree(CLOUDS.repeat(20, axis=0)).best_count() == 3


def test_best_count_leaves_faint_patterns_of_a_thing_together() -> None:
    things = np.repeat(np.eye(2) * 4, 30, axis=0)  # (60,2)
    pattern = things + np.resize([[0.0, 0.0], [0.5, 0.5]], things.shape)
    assert SegmentTree(pattern).best_count() == 2


def test_best_count_of_a_plain_photo_is_small() -> None:
    noise = 0.05 * np.random.default_rng(0).standard_normal((500, 8))
    assert SegmentTree(noise).best_count() == 2


def test_best_count_is_at_most_eight() -> None:
    assert SegmentTree(3 * np.eye(12).repeat(5, axis=0)).best_count() == 8


@pytest.mark.parametrize("features", [np.full((9, 3), 0.5), np.full((1, 3), 0.5)])
def test_equal_superpixels_are_one_segment(features: np.ndarray) -> None:
    tree = SegmentTree(features)
    assert tree.cut(5).tolist() == [0] * len(features)
    assert tree.best_count() == 1


def test_normalise() -> None:
    alphas = torch.tensor([[0.5, 0.25], [-1.0, 2.0], [0.5, 2.0], [0.0, 0.0], [-0.1, -0.2]])
    expected = torch.tensor([[2 / 3, 1 / 3], [0.0, 1.0], [1 / 3, 2 / 3], [0.5, 0.5], [0.5, 0.5]])
    torch.testing.assert_close(normalise_alphas(alphas), expected)


def test_upsampled_alphas_follow_the_photo() -> None:
    small = torch.zeros(2, 16, 16)
    small[0, :, :8] = 1
    small[1] = 1 - small[0]
    image = torch.full((3, 80, 80), 0.2)
    image[:, :, 42:] = 0.8  # the photo's edge is slightly off the edge of the alphas
    large = upsample_alphas(small, image)
    assert large.shape == (2, 80, 80)
    torch.testing.assert_close(large.sum(0), torch.ones(80, 80))
    assert large.min() >= 0
    blurred = torch.nn.functional.interpolate(small[None], size=(80, 80), mode="bilinear")[0, 0]
    # the alpha drops at the photo's edge, and more steeply than when upsampled without the photo
    steps = (large[0, 40, 1:] - large[0, 40, :-1]).abs()
    assert steps.argmax() == 41
    assert steps.max() > 2 * (blurred[40, 1:] - blurred[40, :-1]).abs().max()
    assert large[0, :, :20].min() > 0.98
    assert large[0, :, 60:].max() < 0.02


@pytest.mark.parametrize("factor", [1.5, 2, 4])
def test_upsampling_prefers_no_side(factor: float) -> None:
    generator = torch.Generator().manual_seed(0)
    size = (round(24 * factor), round(20 * factor))
    image = torch.rand(3, *size, generator=generator)
    alphas = torch.rand(3, 24, 20, generator=generator).softmax(0)
    straight = upsample_alphas(alphas, image)
    for axis in (1, 2):
        mirrored = upsample_alphas(alphas.flip(axis), image.flip(axis)).flip(axis)
        torch.testing.assert_close(mirrored, straight, atol=1e-4, rtol=0)


def test_a_photo_without_detail_adds_nothing_to_bilinear_upsampling() -> None:
    alphas = torch.rand(3, 6, 5).softmax(0)
    large = upsample_alphas(alphas, torch.full((3, 15, 20), 0.4))
    expected = torch.nn.functional.interpolate(alphas[None], (15, 20), mode="bilinear")[0]
    torch.testing.assert_close(large, expected)


def test_nothing_to_upsample() -> None:
    alphas = torch.rand(2, 5, 6)
    assert upsample_alphas(alphas, torch.rand(3, 5, 6)) is alphas


def test_upsampling_takes_photos_of_whole_numbers() -> None:
    alphas = torch.rand(3, 5, 6).softmax(0)
    photo = torch.randint(0, 256, (15, 20, 3), dtype=torch.uint8).permute(2, 0, 1)
    expected = upsample_alphas(alphas, photo / 255)
    torch.testing.assert_close(upsample_alphas(alphas, photo), expected, rtol=0, atol=1e-6)


ALPHAS = np.zeros((3, 10, 20), np.float32)
ALPHAS[0, :, :8], ALPHAS[1, :, 12:], ALPHAS[2, 2:5, 2:6] = 1, 1, 0.6
ALPHAS[0, 2:5, 2:6] = 0.4
ALPHAS[0, :, 8:12], ALPHAS[1, :, 8:12] = 0.9, 0.1


def test_select_by_point() -> None:
    np.testing.assert_array_equal(select(ALPHAS, point=(15, 3)), ALPHAS[1])
    np.testing.assert_array_equal(select(ALPHAS, point=(9, 3)), ALPHAS[0])
    np.testing.assert_allclose(select(ALPHAS, point=(3, 3)), ALPHAS[0] + ALPHAS[2])


def test_select_by_several_points() -> None:
    np.testing.assert_array_equal(select(ALPHAS, point=[(15, 3)]), ALPHAS[1])
    both = select(ALPHAS, point=[(15, 3), (9, 3)])
    np.testing.assert_allclose(both, ALPHAS[0] + ALPHAS[1], rtol=1e-6)
    with pytest.raises(ValueError, match="outside"):
        select(ALPHAS, point=[(15, 3), (20, 3)])


def test_a_point_selects_layers_from_a_fifth_on() -> None:
    alphas = np.array([0.5, 0.2, 0.19, 0.11])[:, None, None] * np.ones((4, 3, 5))
    np.testing.assert_allclose(select(alphas, point=(4, 2)), 0.7)
    even = np.full((10, 3, 5), 0.1)
    np.testing.assert_allclose(select(even, point=(0, 0)), 0.1)  # the first of the largest


@pytest.mark.parametrize("point", [(0, 0), (19, 0), (0, 9), (19, 9)])
def test_corners_are_inside_the_photo(point: tuple[int, int]) -> None:
    layer = ALPHAS[0 if point[0] == 0 else 1]
    np.testing.assert_array_equal(select(ALPHAS, point=point), layer)
    for outside in ((20, 0), (0, 10), (-1, 0), (0, -1)):
        with pytest.raises(ValueError, match=r"choose x in 0\.\.19 and y in 0\.\.9"):
            select(ALPHAS, point=outside)


def test_a_box_of_the_whole_photo_selects_everything() -> None:
    np.testing.assert_allclose(select(ALPHAS, box=(0, 0, 20, 10)), 1)
    for box in ((-1, 0, 20, 10), (0, -1, 20, 10), (0, 0, 20, 11), (0, 4, 3, 4)):
        with pytest.raises(ValueError, match="empty or not inside"):
            select(ALPHAS, box=box)


def test_half_of_a_layer_in_a_box_is_not_enough() -> None:
    halves = np.zeros((2, 4, 8), np.float32)
    halves[0, :, :4], halves[1, :, 4:] = 1, 1
    np.testing.assert_array_equal(select(halves, box=(2, 0, 8, 4)), halves[1])


def test_select_by_box() -> None:
    np.testing.assert_array_equal(select(ALPHAS, box=(1, 1, 7, 6)), ALPHAS[2])
    np.testing.assert_array_equal(select(ALPHAS, box=(11, 0, 20, 10)), ALPHAS[1])
    # no layer has most of its area in this box: select the layer that covers most of the box
    np.testing.assert_array_equal(select(ALPHAS, box=(15, 2, 17, 4)), ALPHAS[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either point"),
        ({"point": (1, 1), "box": (0, 0, 2, 2)}, "either point"),
        ({"point": (20, 1)}, "outside the photo of 20x10 pixels"),
        ({"point": (-1, 1)}, "outside"),
        ({"box": (5, 1, 5, 3)}, "empty or not inside"),
        ({"box": (5, 1, 25, 3)}, "empty or not inside"),
    ],
)
def test_bad_selections(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select(ALPHAS, **arguments)
