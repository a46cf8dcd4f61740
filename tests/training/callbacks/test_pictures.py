from pathlib import Path

import torch
from PIL import Image

from softfeat.commands.train import train
from softfeat.models.extractor import BottleneckExtractor
from softfeat.ops.guided_filter import guided_filter
from softfeat.ops.pca import normalise, pca
from softfeat.ops.superpixels import superpixel_mean, superpixel_scatter
from softfeat.training.callbacks.pictures import feature_columns
from tests.helpers.trainings import tiny_hard_run, tiny_run


def test_features_are_seen_in_three_ways_with_and_without_the_filter() -> None:
    extractor = BottleneckExtractor(widths=[4, 4], blocks=[1, 1], dim=8).eval()
    image = torch.rand(2, 3, 24, 32)
    superpixels = (torch.arange(32) // 8).expand(2, 24, 32).clone()
    with torch.no_grad():
        features = extractor(image)
    filtered = guided_filter(features, image, kernel_size=5)
    columns = feature_columns(features, filtered, superpixels)
    assert list(columns) == [
        f"{kind}{ending}"
        for ending in ("", ", filtered")
        for kind in ("principal components", "random projection", "superpixel means")
    ]
    for column in columns.values():
        assert column.shape == (2, 3, 24, 32)
        assert column.min() >= 0
        assert column.max() <= 1
    torch.testing.assert_close(columns["principal components"], normalise(pca(features)))
    torch.testing.assert_close(columns["principal components, filtered"], normalise(pca(filtered)))
    means, _ = superpixel_mean(filtered, superpixels, 4)
    torch.testing.assert_close(
        columns["superpixel means, filtered"],
        normalise(pca(superpixel_scatter(means, superpixels))),
    )


def test_both_systems_draw_the_same_photos_after_every_validation(
    folder_root: Path, tmp_path: Path
) -> None:
    train(tiny_run(folder_root, tmp_path / "soft"))
    train(tiny_hard_run(folder_root, tmp_path / "hard", None))
    for run, columns in (("soft", 8), ("hard", 5)):
        files = sorted((tmp_path / run / "pictures").iterdir())
        assert [f.name for f in files] == ["step_000003.png", "step_000006.png", "test.png"]
        widths = {Image.open(f).size[0] for f in files}
        assert widths == {columns * 36}
