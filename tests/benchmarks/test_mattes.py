"""The benchmark of mattes, with tiny settings."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.mattes import filtered, kmeans_layers, mattes, quartiles, scene_mattes
from benchmarks.tables import markdown
from softfeat.metrics.matte import best_union, matte_errors

RNG = np.random.default_rng(0)


def test_kmeans_layers_are_hard_and_filtered_ones_add_up() -> None:
    features = np.zeros((20, 24, 3))
    features[:, 12:] = 0.9
    hard = kmeans_layers(features + 0.01 * RNG.random(features.shape), 2, seed=0)
    assert set(np.unique(hard)) == {0, 1}
    np.testing.assert_array_equal(hard.sum(0), 1)
    assert hard[:, 0, 0].argmax() != hard[:, 0, 23].argmax()
    soft = filtered(hard, RNG.random((20, 24, 3)))
    np.testing.assert_allclose(soft.sum(0), 1, atol=1e-5)
    assert ((soft > 0.01) & (soft < 0.99)).any()


@pytest.mark.parametrize("kind", ["scenes", "photos"])
def test_mattes(kind: str, checkpoint: str, tmp_path: Path) -> None:
    root = None
    if kind == "photos":
        root = tmp_path / "set"
        for folder in ("images", "alphas"):
            (root / folder).mkdir(parents=True)
        for name in "ab":
            Image.fromarray(RNG.integers(0, 255, (60, 80, 3), np.uint8)).save(
                root / "images" / f"{name}.png"
            )
            Image.linear_gradient("L").resize((80, 60)).save(root / "alphas" / f"{name}.png")
    folder_of_photos = None if root is None else str(root)
    rivals = {"the same network": checkpoint}
    result = mattes(checkpoint, folder_of_photos, 1, 40, layers=3, seed=0, rivals=rivals)
    ours, *others = result["rows"]
    assert ours["way"] == "soft layers"
    assert len(others) == len(result["ratios"]) == 4
    assert others[-1] == ours | {"way": "soft layers of the same network"}
    assert result["settings"]["pictures"] == (1 if root is None else 2)
    assert all(float(row["MSE (1e-3)"]) >= 0 for row in result["rows"])
    for ratio in result["ratios"].values():
        assert ratio["q1"] <= ratio["median"] <= ratio["q3"]
    assert "| ratio | median | lower quartile | upper quartile |" in markdown(
        result | {"machine": {}}
    )


def test_quartiles_have_their_own_names() -> None:
    values = [9.0, 1.0, 2.0, 3.0, np.nan, 100.0]
    assert quartiles(values) == {"median": 3.0, "q1": 2.0, "q3": 9.0}


def test_true_layers_have_no_error() -> None:
    """The true layers of a scene join to its mattes without error."""
    photo, truths = next(scene_mattes(1, 48))
    assert photo.shape == (48, 48, 3)
    for truth in truths:
        union = best_union(np.stack(truths), truth)
        assert matte_errors(union, truth).sad < 1e-3
