"""The benchmark of the colours of layers, with tiny settings."""

import numpy as np
import pytest

from benchmarks.blends import blend_of_known_layers, blend_of_photos
from benchmarks.colours import colours, copied, errors


def test_true_colours_have_no_error_and_copied_ones_have() -> None:
    known = blend_of_known_layers(np.uint16, 3, (48, 64))
    photo, alphas, truth = known
    assert errors(truth, known, [(0, 255, 0)]) == [0, 0]
    own, over = errors(copied(photo, alphas), known, [(0, 255, 0), (9, 9, 9)])
    assert own > over > 1
    # 257 steps of 16 bits are one level of 255.
    assert errors(truth + 257, known, [(0, 0, 0)])[0] == pytest.approx(1)


def test_photos_blend_to_a_photo() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (2, 40, 50, 3)).astype(np.uint8)
    photo, alphas, truth = blend_of_photos(pictures)
    assert photo.pixels.dtype == np.uint8
    np.testing.assert_allclose(alphas.sum(0), 1, atol=1e-6)
    assert np.abs((alphas[..., None] * truth).sum(0) - photo.pixels).max() <= 0.501
    assert ((alphas > 0.1) & (alphas < 0.9)).any()


def test_ours_are_compared_with_copies_and_pymatting() -> None:
    pytest.importorskip("pymatting")
    result = colours([2], [48, 64], [[0, 255, 0]], repeats=1)
    table = {(row["layers"], row["colours"]): row for row in result["rows"]}
    assert len(table) == 6
    for kind in ("smooth", "photos"):
        ours, copies = table[f"2, {kind}", "ours"], table[f"2, {kind}", "the photo's own"]
        for column in ("error of the colours", "error over new backgrounds"):
            assert float(ours[column]) < 0.7 * float(copies[column])
    assert list(result["ratios"]) == ["seconds, pymatting / ours, 2 layers"]
