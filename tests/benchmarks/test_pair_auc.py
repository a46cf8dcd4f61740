from pathlib import Path

import pytest

from src.benchmarks.measure import markdown
from src.benchmarks.pair_auc import pair_auc_of_sets
from src.data.slic import Superpixels

SETS = ["camvid", "msrc_v2"]


def test_every_way_is_scored_on_every_set(
    mixture_root: Path, checkpoint: str, tmp_path: Path
) -> None:
    result = pair_auc_of_sets(
        mixture_root,
        SETS,
        {"ours": checkpoint},
        split="val",
        image_size=(32, 40),
        superpixels=Superpixels(count=20),
        cache_dir=tmp_path / "cache",
        num_workers=0,
    )
    ways = [row["features"] for row in result["rows"]]
    assert ways == ["ours", "untrained network", "Lab", "Lab + position"]
    for row in result["rows"]:
        scores = [float(row[name]) for name in SETS]
        assert all(0 < score < 1 for score in scores)
        assert float(row["mean"]) == pytest.approx(sum(scores) / 2, abs=1e-3)
    text = markdown(result | {"machine": {}})
    assert "| ours |" in text
    assert "ratio" not in text
