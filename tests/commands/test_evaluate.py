import json
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from softfeat.commands.data_config import data_config
from softfeat.commands.evaluate import evaluate
from softfeat.commands.train import train
from softfeat.data.records import read_label
from softfeat.models.extractor import load_extractor
from softfeat.models.test_time_views import Views
from softfeat.training.hard_segmentation import HardSegmentationModule, load_hard_segmentation
from tests.helpers.trainings import tiny_hard_run, tiny_run

SOFT = ("pair_auc", "pair_auc_lab", "pair_auc_lab_position", "pair_auc_untrained")
HARD = ("pixel_accuracy", "class_accuracy", "miou", "fwiou")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.helpers.datasets import make_folder

    return make_folder(tmp_path_factory.mktemp("data") / "folder")


@pytest.fixture(scope="module")
def soft_run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    run = tmp_path_factory.mktemp("soft") / "run"
    return run, train(tiny_run(folder, run))


@pytest.fixture(scope="module")
def hard_run(
    folder: Path, soft_run: tuple[Path, dict], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict]:
    run = tmp_path_factory.mktemp("hard") / "run"
    return run, train(tiny_hard_run(folder, run, soft_run[0] / "checkpoints" / "best.ckpt"))


def scored(run: Path, split: str, output: Path, **options: object) -> dict[str, float]:
    checkpoint = run / "checkpoints" / "best.ckpt"
    config = data_config(OmegaConf.create({}), [], checkpoint)
    return evaluate(checkpoint, config, split, output, **options)  # type: ignore[arg-type]


def test_soft_features_score_as_training_tested(
    soft_run: tuple[Path, dict], tmp_path: Path
) -> None:
    run, trained = soft_run
    evaluated = scored(run, "test", tmp_path)
    for key in SOFT:
        assert evaluated[f"test/{key}"] == pytest.approx(trained[f"test/{key}"])
    assert json.loads((tmp_path / "metrics.json").read_text()) == pytest.approx(evaluated)
    assert "test/probe_miou" not in evaluated
    assert scored(run, "val", tmp_path)["val/pair_auc"] == pytest.approx(trained["val/pair_auc"])


@pytest.mark.parametrize("system", ["soft", "hard"])
def test_an_average_of_the_weights_is_kept_and_tested(
    folder: Path, tmp_path: Path, system: str
) -> None:
    average = ["callbacks/average=ema", "callbacks.average.decay=0.7"]
    run = tmp_path / "run"
    if system == "soft":
        trained = train(tiny_run(folder, run, *average, "model.optimizer.lr=0.1"))
    else:
        trained = train(tiny_hard_run(folder, run, None, *average))
    evaluated = scored(run, "test", tmp_path / "scores")
    for key in ("unequal_distance", "pair_auc") if system == "soft" else ("miou",):
        assert evaluated[f"test/{key}"] == pytest.approx(trained[f"test/{key}"])
    kept = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert kept["state_dict"].keys() == kept["current_model_state"].keys()
    assert any(
        not torch.equal(value, kept["current_model_state"][key])
        for key, value in kept["state_dict"].items()
    )


def test_a_linear_probe_is_trained_on_the_train_split(
    soft_run: tuple[Path, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    step, modules = HardSegmentationModule.training_step, []

    def recorded(self: HardSegmentationModule, batch: dict, index: int) -> torch.Tensor:
        seen.extend(batch["path"])
        modules.append(self)
        return step(self, batch, index)

    monkeypatch.setattr(HardSegmentationModule, "training_step", recorded)
    evaluated = scored(soft_run[0], "val", tmp_path, probe_steps=40)
    assert {Path(path).parent.name for path in seen} == {"train"}
    trained = load_extractor(soft_run[0]).state_dict()
    for name, value in modules[-1].extractor.state_dict().items():
        assert torch.equal(value, trained[name]), name
    few, many = (
        scored(soft_run[0], "train", tmp_path, probe_steps=steps)["train/probe_pixel_accuracy"]
        for steps in (1, 400)
    )
    assert many > few + 0.02
    assert all(0 <= evaluated[f"val/probe_{key}"] <= 1 for key in HARD)
    assert not list(soft_run[0].parent.rglob("*.f16"))


def test_a_contrast_class_has_scores_of_pairs_and_no_probe(
    soft_run: tuple[Path, dict], tmp_path: Path
) -> None:
    checkpoint = soft_run[0] / "checkpoints" / "best.ckpt"
    config = data_config(OmegaConf.create({}), [], checkpoint)
    config.layout.contrast = ["class 0"]
    evaluated = evaluate(checkpoint, config, "test", tmp_path, probe_steps=4)
    assert 0 < evaluated["test/pair_auc"] < 1
    assert evaluated["test/pair_auc"] != soft_run[1]["test/pair_auc"]
    assert not any("probe" in key for key in evaluated)


def test_hard_segmentation_scores_as_training_tested(
    hard_run: tuple[Path, dict], tmp_path: Path
) -> None:
    run, trained = hard_run
    evaluated = scored(run, "test", tmp_path)
    keys = [*HARD, "iou/class 0", "iou/class 1", "iou/class 2"]
    assert sorted(evaluated) == sorted(f"test/{key}" for key in keys)
    for key in keys:
        assert evaluated[f"test/{key}"] == pytest.approx(trained[f"test/{key}"])
    assert json.loads((tmp_path / "metrics.json").read_text()) == pytest.approx(evaluated)
    for name in ("confusion.png", "worst.png"):
        assert Image.open(tmp_path / name).size[0] > 90


def test_the_scores_are_those_of_the_files(
    folder: Path, hard_run: tuple[Path, dict], tmp_path: Path
) -> None:
    """By NumPy, from the label files and what the checkpoint says of the photos."""
    run = hard_run[0]
    evaluated = scored(run, "test", tmp_path)
    model = load_hard_segmentation(run / "checkpoints" / "best.ckpt")
    right = total = 0
    for path in sorted((folder / "images" / "test").iterdir()):
        photo = Image.open(path).resize((32, 32), Image.Resampling.BILINEAR)
        image = torch.tensor(np.asarray(photo)).movedim(-1, 0)[None].float() / 255
        with torch.no_grad():
            scores = model.scores(image)
        label = read_label(folder / "labels" / "test" / f"{path.stem}.png")
        assert label.shape == (40, 48)  # not what the network sees
        enlarged = torch.nn.functional.interpolate(scores, label.shape, mode="bilinear")
        counted = label != 255
        right += (enlarged.argmax(1)[0].numpy() == label)[counted].sum()
        total += counted.sum()
    assert evaluated["test/pixel_accuracy"] == pytest.approx(right / total, abs=2e-3)


def test_views_are_used(hard_run: tuple[Path, dict], tmp_path: Path) -> None:
    views = Views(window=(16, 16), flip=True, scales=(1.0, 1.5))
    one = scored(hard_run[0], "test", tmp_path / "one")
    many = scored(hard_run[0], "test", tmp_path / "many", views=views)
    assert many.keys() == one.keys()
    about = OmegaConf.load(tmp_path / "many" / "evaluation.yaml")
    assert (about.views.flip, list(about.views.window)) == (True, [16, 16])
    assert about.checkpoint.endswith("best.ckpt")
    assert any(many[key] != one[key] for key in one)


def test_other_data_than_the_trainings(hard_run: tuple[Path, dict], tmp_path: Path) -> None:
    from tests.helpers.datasets import make_folder

    other = make_folder(tmp_path / "other", num_classes=4)
    checkpoint = hard_run[0] / "checkpoints" / "best.ckpt"
    given = OmegaConf.create({"root": str(other), "batch_size": 1, "image_size": None})
    config = data_config(given, ["root", "batch_size"], checkpoint)
    assert (config.batch_size, list(config.image_size)) == (1, [32, 32])
    with pytest.raises(ValueError, match=r"4 classes and the model 3"):
        evaluate(checkpoint, config, "test", tmp_path / "out")
    names = make_folder(tmp_path / "names") / "classes.txt"
    names.write_text("class 1\nclass 0\nclass 2\n")
    config.root = str(names.parent)
    with pytest.raises(ValueError, match=r"class 1, class 0.*trained for class 0, class 1"):
        evaluate(checkpoint, config, "test", tmp_path / "out")
