"""Stacks of rounded layers against their photo."""

import numpy as np
import pytest

from softfeat.imaging.photo import Photo
from softfeat.imaging.stacking import fit_colours, shares, stacking_alphas

SIZE = 140, 50  # more rows than a strip


def scene(kind: type, count: int, own: bool, flat: bool) -> tuple[Photo, np.ndarray, np.ndarray]:
    """A photo of noise with black and white, its alphas, and unrelated colours."""
    rng = np.random.default_rng(count)
    most = np.iinfo(kind).max
    alphas = rng.random((count, *SIZE)).astype(np.float32) ** 4
    alphas[:, :40] = alphas[:, :40] == alphas[:, :40].max(0)  # exactly 0 and 1
    alphas[:, 40:60] = 1  # all the same
    alphas /= alphas.sum(0)
    pixels = rng.integers(0, most + 1, (*SIZE, 3)).astype(kind)
    pixels[:, :9], pixels[:, 9:18] = most, 0
    if flat:
        pixels[:] = 77
    alpha = rng.integers(0, most + 1, SIZE).astype(kind) if own else None
    if alpha is not None:
        alpha[:, ::7], alpha[:, ::5], alpha[:, 1::5] = 0, most, 3
    return Photo(pixels, alpha), alphas, rng.integers(0, most + 1, (count, *SIZE, 3)).astype(kind)


def laid_over(colours: np.ndarray, stack: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Premultiplied colours (H,W,3) and alpha (H,W) of a stack, layer by layer."""
    most = np.iinfo(stack.dtype).max
    seen, covered = np.zeros(colours.shape[1:]), np.zeros(stack.shape[1:])
    for colour, opacity in zip(colours, stack / most, strict=True):
        seen = opacity[..., None] * colour + (1 - opacity[..., None]) * seen
        covered = opacity + (1 - opacity) * covered
    return seen, covered


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("count", [1, 2, 5, 12])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("flat", [False, True])
def test_the_stack_is_the_photo(kind: type, count: int, own: bool, flat: bool) -> None:
    photo, alphas, colours = scene(kind, count, own, flat)
    most = np.iinfo(kind).max
    stack = stacking_alphas(photo, alphas)
    fit_colours(photo, colours, stack)
    assert (stack.dtype, colours.dtype) == (kind, kind)
    seen, covered = laid_over(colours, stack)
    wanted = np.ones(SIZE) if photo.alpha is None else photo.alpha / most
    assert np.abs(covered - wanted).max() * most < 0.501
    visible = covered > 0
    straight = seen[visible] / covered[visible][:, None]
    assert np.abs(straight - photo.pixels[visible]).max() < 0.52
    # The layers keep their shares, up to the rounding of a few layers.
    share = shares(stack)
    np.testing.assert_allclose(share.sum(0), covered, atol=1e-6)
    assert np.abs(share - alphas * wanted).max() < 3 / most
    np.testing.assert_array_equal(stack[:, photo.alpha == 0] if own else stack[:, :0], 0)


def test_colours_change_little() -> None:
    photo, alphas, _ = scene(np.uint8, 5, own=False, flat=False)
    stack = stacking_alphas(photo, alphas)
    colours = np.broadcast_to(photo.pixels, (5, *photo.pixels.shape)).copy()
    fit_colours(photo, colours, stack)  # they are right already
    assert np.abs(colours.astype(int) - photo.pixels).max() <= 1
    colours[:] = (photo.pixels.astype(int) + 10).clip(0, 255)
    before = colours.copy()
    fit_colours(photo, colours, stack)
    change = np.abs(colours.astype(float) - before)
    share = shares(stack)
    assert change[share == 0].max() == 0
    assert change[share > 0.5].mean() > 2 * change[(share > 0) & (share < 0.1)].mean()
