from collections.abc import Callable
from pathlib import Path

from benchmarks.cached_features import cached_features
from benchmarks.tables import markdown
from softfeat.data.datamodule import SegmentationData
from softfeat.models.extractor import BottleneckExtractor


def test_both_sides_learn_the_same(
    tiny_data: Callable[..., SegmentationData], tmp_path: Path
) -> None:
    data = tiny_data(variants=1, native_labels=True, steps_per_epoch=4)
    result = cached_features(
        data, BottleneckExtractor(widths=[8, 16], blocks=[1, 1], dim=8), epochs=2, seeds=[0, 1]
    )
    computed, stored = (float(row["val mIoU at the end"]) for row in result["rows"])
    assert abs(computed - stored) < 0.02
    assert result["ratios"]["epoch time"]["median"] > 0
    assert "computed every time" in markdown(result | {"machine": {}})
    assert not (tmp_path / "cache" / "features").exists()  # nothing is left behind
