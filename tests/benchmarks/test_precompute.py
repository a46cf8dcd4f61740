import sys
from pathlib import Path

import pytest

from benchmarks.precompute import precompute
from benchmarks.tables import markdown
from softfeat.data.datamodule import SegmentationData
from softfeat.data.layouts import Folder
from softfeat.imaging.slic import Superpixels


def test_all_ways_are_compared_and_a_missing_one_is_explained(
    folder_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    slic = Superpixels(count=10)
    data = SegmentationData(Folder, folder_root, tmp_path / "c", (32, 40), superpixels=slic)
    result = precompute(data, photos=6, photos_slow=2, rounds=1)
    ways = [row["way"] for row in result["rows"]]
    assert ways == [
        "fast-slic, one thread",
        "fast-slic, one thread, labels checked",
        "fast-slic, store, 0 workers",
        "fast-slic, store, 1 workers",
        "fast-slic, store, 2 workers",
        "scikit-image, one thread",
        "scikit-image, store, 2 workers",
    ]
    assert "2 workers / ideal, percent" in result["ratios"]
    assert "fast-slic / scikit-image, store, 2 workers" in result["ratios"]
    assert "left out" in result["settings"]["OpenCV"]
    assert "| scikit-image, one thread |" in markdown(result | {"machine": {}})
    assert not (tmp_path / "c").exists()  # nothing is left behind
