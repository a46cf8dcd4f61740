from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.loader import loader
from benchmarks.tables import markdown
from softfeat.data.datamodule import SegmentationData
from softfeat.models.extractor import BottleneckExtractor


def test_every_way_is_measured(
    tiny_data: Callable[..., SegmentationData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[bool, int, int]] = []
    real = SegmentationData.train_dataloader

    def watched(self: SegmentationData) -> object:
        batches = real(self)
        store = self.datasets["train"].store
        assert store is not None
        assert all("pooling" in batch for batch in batches)
        drawn.append(("image" in store[0], batches.num_workers, len(batches)))
        return batches

    monkeypatch.setattr(SegmentationData, "train_dataloader", watched)
    data = tiny_data()
    extractor = BottleneckExtractor(widths=[8, 16], blocks=[1, 1], dim=8)
    result = loader(data, extractor, [0, 1], rounds=2)
    assert drawn == [(pack, workers, 2) for pack in (False, True) for workers in (0, 1)]
    assert len(result["rows"]) == 5
    for row in result["rows"]:
        rates = [row[f"photos/s ({k})"] for k in ("min", "median", "max")]
        assert 0 < rates[0] <= rates[1] <= rates[2]
    assert set(result["ratios"]) == {
        f"packed, num_workers={n} / {other}" for n in (0, 1) for other in ("decoded", "one thread")
    }
    assert result["settings"]["files"].startswith("4 .jpg, the first 40x48")
    assert "| packed, num_workers=1 |" in markdown(result | {"machine": {}})
