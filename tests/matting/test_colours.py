"""Colours of layers, scored on blends of known colours."""

import os
import time

import numpy as np
import pytest
import torch

from benchmarks.blends import blend_of_known_layers
from softfeat.imaging.photo import Photo
from softfeat.matting import colours as module
from softfeat.matting.colours import layer_colours, relax


def slow_relax(colours: np.ndarray, alphas: np.ndarray, target: np.ndarray) -> np.ndarray:
    """One round, pixel by pixel: the constrained minimum with the neighbours as they are."""
    count, _, height, width = colours.shape
    result = np.empty_like(colours)
    for y in range(height):
        for x in range(width):
            weights, sums = np.zeros(count), np.zeros((count, 3))
            for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
                if 0 <= y + dy < height and 0 <= x + dx < width:
                    w = 1e-3 + np.abs(alphas[:, y, x] - alphas[:, y + dy, x + dx])
                    weights += w
                    sums += w[:, None] * colours[:, :, y + dy, x + dx]
            a = alphas[:, y, x]
            # Lagrange's conditions: weights F + a lambda = sums, and a F = target
            system = np.zeros((count + 1, count + 1))
            system[:count, :count] = np.diag(weights)
            system[:count, count] = system[count, :count] = a
            solution = np.linalg.solve(system, np.vstack([sums, target[:, y, x]]))
            result[:, :, y, x] = solution[:count]
    return result.clip(0, 1)


def test_a_round_solves_every_pixel_under_the_constraint() -> None:
    rng = np.random.default_rng(0)
    alphas = rng.random((3, 5, 6))
    alphas /= alphas.sum(0)
    colours, target = rng.random((3, 3, 5, 6)), rng.random((3, 5, 6))
    expected = slow_relax(slow_relax(colours, alphas, target), alphas, target)
    found = relax(*(torch.from_numpy(x) for x in (colours, alphas, target)), rounds=2)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def error(colours: np.ndarray, alphas: np.ndarray, truth: np.ndarray) -> float:
    """Mean difference in levels of 255 where layers blend."""
    soft = (alphas > 0.1) & (alphas < 0.9)
    return float(np.abs(colours / 257 - truth / 257)[soft].mean())


def test_colours_are_those_of_the_layers_not_of_the_photo() -> None:
    for count in (2, 4):
        photo, alphas, truth = blend_of_known_layers(np.uint16, count)
        found = layer_colours(photo, alphas)
        copied = np.broadcast_to(photo.pixels, truth.shape).astype(float)
        assert error(found, alphas, truth) < 0.35 * error(copied, alphas, truth)
        # The cut-out over a new background, against the same of the true colours.
        new = np.array([0, 65535, 0])
        shown, wanted = (a * alphas[0, ..., None] + (1 - alphas[0, ..., None]) * new
                         for a in (found[0], truth[0]))  # fmt: skip
        fringes = copied[0] * alphas[0, ..., None] + (1 - alphas[0, ..., None]) * new
        assert np.abs(shown - wanted).mean() < 0.35 * np.abs(fringes - wanted).mean()


@pytest.mark.slow
def test_colours_and_speed_against_pymatting() -> None:
    os.environ.setdefault("NUMBA_THREADING_LAYER", "workqueue")
    pymatting = pytest.importorskip("pymatting")
    for count in (2, 4):
        photo, alphas, truth = blend_of_known_layers(np.uint16, count, size=(240, 320))
        image = photo.pixels.astype(np.float32) / 65535

        def theirs(image: np.ndarray = image, alphas: np.ndarray = alphas) -> np.ndarray:
            return np.stack([pymatting.estimate_foreground_ml(image, alpha) for alpha in alphas])

        ours = error(layer_colours(photo, alphas), alphas, truth)
        assert ours < error(theirs() * 65535, alphas, truth)
    seconds = {}
    for name, run in {"ours": lambda: layer_colours(photo, alphas), "theirs": theirs}.items():
        times = []
        for _ in range(3):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        seconds[name] = min(times)
    assert seconds["ours"] < 1.5 * seconds["theirs"]


def test_layers_add_up_to_the_photo() -> None:
    photo, alphas, _ = blend_of_known_layers(np.uint8, 4)
    mixed = (alphas[..., None] * layer_colours(photo, alphas)).sum(0)
    assert np.abs(mixed - photo.pixels).mean() < 0.5


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (5, 7)])
def test_coarser_levels_are_means_also_at_odd_borders(size: tuple[int, int]) -> None:
    maps = torch.rand(2, *size)
    half = module._half(maps)
    assert half.shape == (2, -(-size[0] // 2), -(-size[1] // 2))
    for y, x in np.ndindex(half.shape[1:]):
        block = maps[:, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
        torch.testing.assert_close(half[:, y, x], block.mean((1, 2)))


def test_tiles_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    photo, alphas, _ = blend_of_known_layers(np.uint8, 2)
    whole = layer_colours(photo, alphas)
    monkeypatch.setattr(module, "_TILE_ROWS", 32)
    monkeypatch.setattr(module, "_TILE_COLUMNS", 64)
    np.testing.assert_array_equal(layer_colours(photo, alphas), whole)


def test_a_tile_of_one_layer_is_the_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TILE_ROWS", 8)
    monkeypatch.setattr(module, "_TILE_COLUMNS", 8)
    rng = np.random.default_rng(0)
    photo = Photo(rng.integers(0, 256, (33, 40, 3), np.uint8))
    alphas = np.zeros((3, 33, 40), np.float32)
    alphas[0, :, :12], alphas[1, :, 12:20], alphas[2, :, 20:] = 1, 1, 1
    alphas[:2, :, 16] = 0.5
    alphas[2] += 1e-4  # invisible
    found = layer_colours(photo, alphas / alphas.sum(0))
    for layer, columns in enumerate((slice(0, 16), slice(17, 20), slice(20, 40))):
        wrong = np.abs(found[layer, :, columns].astype(int) - photo.pixels[:, columns])
        shown = alphas[layer, :, columns] == alphas[layer].max()
        assert wrong[shown].max() <= 1


def test_hidden_colours_of_the_photo_have_no_influence() -> None:
    photo, alphas, _ = blend_of_known_layers(np.uint8, 2, own_alpha=True)
    assert photo.alpha is not None
    found = layer_colours(photo, alphas)
    noise = np.random.default_rng(1).integers(0, 256, photo.pixels.shape, np.uint8)
    other = np.where(photo.alpha[..., None] > 0, photo.pixels, noise)
    np.testing.assert_array_equal(layer_colours(Photo(other, photo.alpha), alphas), found)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (40, 33)])
def test_a_layer_alone_and_an_empty_one(kind: type, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, np.iinfo(kind).max, (*size, 3)).astype(kind)
    alphas = np.stack([np.ones(size), np.zeros(size)]).astype(np.float32)
    found = layer_colours(Photo(pixels), alphas)
    assert found.dtype == kind
    np.testing.assert_array_equal(found[0], pixels)


def test_a_layer_too_faint_to_be_seen_takes_nothing_from_the_others() -> None:
    photo = Photo(np.full((70, 70, 3), 40_000, np.uint16))
    faint = np.full((70, 70), 1 / 1024, np.float32)
    colours = layer_colours(photo, np.stack([1 - faint, faint]))
    np.testing.assert_allclose(colours[0], 40_000, atol=2)


@pytest.mark.parametrize("own", [255, 128])
def test_many_faint_layers_leave_their_share_to_the_others(own: int) -> None:
    """39 layers with an alpha of 1/520 are 7.5 percent of the photo, and of any opacity."""
    pixels = np.full((40, 33, 3), [60, 128, 180], np.uint8)
    alphas = np.full((40, 40, 33), 1 / 520, np.float32)
    alphas[0] = 1 - 39 / 520
    photo = Photo(pixels, np.full((40, 33), own, np.uint8))
    found = layer_colours(photo, alphas)
    assert np.abs(found[0].astype(int) - pixels).max() <= 1


def test_a_flat_photo() -> None:
    pixels = np.full((50, 70, 3), [0, 255, 90], np.uint8)
    ramp = np.linspace(0, 1, 70, dtype=np.float32)[None].repeat(50, 0)
    found = layer_colours(Photo(pixels), np.stack([ramp, 1 - ramp]))
    assert np.abs(found.astype(int) - pixels).max() <= 1
