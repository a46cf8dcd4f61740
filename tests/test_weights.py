"""The weights that come with the project are what their cards say, and work where they are used."""

from pathlib import Path

import pytest
import torch

from benchmarks.pair_auc import pair_auc_of_sets
from benchmarks.report import fill
from softfeat.data.datamodule import SegmentationData
from softfeat.data.layouts import Folder
from softfeat.imaging.slic import Superpixels
from softfeat.metrics.segmentation import confusion_matrix, segmentation_scores
from softfeat.models.checkpoints import WEIGHTS, read_checkpoint, shipped
from softfeat.models.extractor import EfficientNetExtractor
from softfeat.training.hard_segmentation import load_hard_segmentation
from tests.helpers.datasets import real_data
from tests.helpers.paths import RESULTS

NAMES = ("general", "road")
NETWORKS = {
    "general": EfficientNetExtractor(level_norm=0.25),
    "road": EfficientNetExtractor(),
}


def test_all_are_listed() -> None:
    assert tuple(shipped()) == NAMES
    assert {p.name for p in WEIGHTS.glob("*.safetensors")} == {f"{n}.safetensors" for n in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_they_are_small_and_rebuild_their_networks(name: str) -> None:
    assert shipped()[name].stat().st_size <= 10_000_000
    content = read_checkpoint(name)  # checks the SHA-256
    assert content["extractor"] == NETWORKS[name].hparams
    assert content["about"]["revision"]
    assert "-dirty" not in content["about"]["revision"]


@pytest.mark.parametrize("name", NAMES)
def test_cards_are_up_to_date(name: str) -> None:
    text = (WEIGHTS / f"{name}.md").read_text()
    assert f"<!-- weights: {name} -->" in text
    assert fill(text, RESULTS) == text


def some_of(name: str, split: str, step: int, root: Path) -> Path:
    """A set with every `step`-th photo of a split."""
    source, target = real_data(name), root / name
    for kind in ("images", "labels"):
        (target / kind / split).mkdir(parents=True)
        for file in sorted((source / kind / split).iterdir())[::step]:
            (target / kind / split / file.name).symlink_to(file.absolute())
    (target / "classes.txt").write_text((source / "classes.txt").read_text())
    return target


def test_general_keeps_things_of_photos_apart(tmp_path: Path) -> None:
    sets = ["camvid", "clothing_coparsing"]
    for name in sets:
        some_of(name, "val", 8, tmp_path)
    result = pair_auc_of_sets(
        tmp_path,
        dict.fromkeys(sets, Folder),
        {"general": "general"},
        "val",
        (224, 224),
        Superpixels(),
        tmp_path / "c",
        0,
    )
    scores = {row["features"]: float(row["mean"]) for row in result["rows"]}
    assert scores["general"] > 0.95
    assert scores["general"] > 0.05 + max(v for k, v in scores.items() if k != "general")


def test_road_names_classes(tmp_path: Path) -> None:
    folder = some_of("camvid", "test", 12, tmp_path)
    model = load_hard_segmentation("road")
    data = SegmentationData(
        Folder,
        folder,
        tmp_path / "c",
        read_checkpoint("road")["about"]["data.image_size"],
        superpixels=Superpixels(mode="online", count=1),
        native_labels=True,
        num_workers=0,
    )
    assert tuple(model.class_names) == data.layout.class_names
    data.setup("test")
    matrix = torch.zeros(11, 11)
    with torch.inference_mode():
        for batch in data.test_dataloader():
            for scores, label in zip(model(batch["image"]), batch["native_label"], strict=True):
                matrix += confusion_matrix(scores, label)
    found = segmentation_scores(matrix)
    assert found["pixel_accuracy"] > 0.8
    assert found["miou"] > 0.45
