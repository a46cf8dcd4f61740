from pathlib import Path

from src.benchmarks.cached_features import cached_features
from src.benchmarks.measure import markdown
from src.data.datamodule import SegmentationData
from src.data.dataset import Augmentation
from src.data.layouts import Folder
from src.data.slic import Superpixels
from src.models.extractor import Extractor


def test_both_sides_learn_the_same(folder_root: Path, tmp_path: Path) -> None:
    data = SegmentationData(
        Folder,
        folder_root,
        tmp_path / "cache",
        image_size=(32, 40),
        batch_size=2,
        superpixels=Superpixels(count=10),
        augmentation=Augmentation(scale=(0.8, 1.5)),
        variants=1,
        native_labels=True,
        steps_per_epoch=4,
        num_workers=0,
    )
    result = cached_features(data, Extractor(widths=[8, 16], blocks=[1, 1], dim=8), epochs=2)
    anew, stored = (float(row["val mIoU at the end"]) for row in result["rows"])
    assert abs(anew - stored) < 0.02
    assert result["ratios"]["epoch time"]["median"] > 0
    assert "computed anew" in markdown(result | {"machine": {}})
    assert not (tmp_path / "cache" / "features").exists()  # it cleans up behind itself
