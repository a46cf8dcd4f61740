from pathlib import Path

import pytest

from benchmarks.linear_probe import linear_probe
from benchmarks.tables import markdown
from softfeat.imaging.slic import Superpixels
from tests.helpers.datasets import make_folder


def test_every_way_is_scored_below_what_superpixels_can_reach(
    tmp_path: Path, checkpoint: str
) -> None:
    root = make_folder(tmp_path / "some_set", counts=(6, 3, 2))
    result = linear_probe(
        root,
        {"ours": checkpoint},
        image_size=(32, 40),
        superpixels=Superpixels(count=60),
        cache_dir=tmp_path / "cache",
        num_workers=0,
    )
    *ways, bound = result["rows"]
    assert [row["features"] for row in ways] == [
        "ours", "untrained network", "Lab", "Lab + position",
    ]  # fmt: skip
    assert bound["features"] == "true classes of the superpixels"
    for row in ways:
        assert 0 < float(row["miou"]) < float(bound["miou"]) <= 100
    assert float(bound["pixel_accuracy"]) == pytest.approx(100, abs=25)
    assert result["settings"]["photos"] == "6 train, 3 val"
    assert "| ours |" in markdown(result | {"machine": {}})
