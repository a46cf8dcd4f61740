"""The benchmark of soft segmentation, with tiny settings."""

from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import segment as module
from benchmarks.segment import layer_distance, photo_at, segment
from benchmarks.tables import markdown
from softfeat.matting.soft_segmentation import REFERENCE

RNG = np.random.default_rng(0)


def test_layer_distance_against_all_permutations() -> None:
    first, second = RNG.random((4, 5, 6)), RNG.random((3, 5, 6))
    padded = np.concatenate([second, np.zeros((1, 5, 6))])
    best = min(np.abs(first - padded[list(p)]).mean() for p in permutations(range(4)))
    assert layer_distance(first, second) == pytest.approx(best)
    assert layer_distance(second, first) == pytest.approx(best)
    assert layer_distance(first, first[::-1]) == 0


def test_photos_are_cut_to_four_by_three(tmp_path: Path) -> None:
    for size in ((200, 100), (90, 160)):
        Image.new("RGB", size, "red").save(tmp_path / "a.png")
        assert photo_at(tmp_path / "a.png", 64).shape == (48, 64, 3)


def test_the_default_is_compared_with_the_reference(
    checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = replace(REFERENCE, iterations=2, relaxed=(2, 5, 10))
    monkeypatch.setattr(module, "REFERENCE", short)
    monkeypatch.setattr(module, "_SAME_CONSTANTS", replace(short, floor=1e-2))
    result = segment(checkpoint, ["coffee.png"], [32, 48], [(0, 32)], layers=3, rounds=2)
    ways = [(row["photo"], row["way"]) for row in result["rows"]]
    assert ways == [
        ("coffee 32x24", "default"),
        ("coffee 32x24", "slow, our constants"),
        ("coffee 32x24", "published"),
        ("coffee 48x36", "default"),
    ]
    assert len(result["ratios"]) == 2
    assert all(0 <= float(row["distance"]) < 0.5 for row in result["rows"] if row["distance"])
    assert "published / default, coffee 32x24" in markdown({**result, "machine": {}})
