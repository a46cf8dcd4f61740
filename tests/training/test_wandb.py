"""What a run leaves for W&B, read back from its file; and that W&B never asks for anything."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb
from omegaconf import OmegaConf
from PIL import Image

from softfeat.revision import revision
from tests.conftest import make_folder
from tests.helpers.wandb_offline import OfflineRun, read


@pytest.fixture(scope="session")
def logged(wandb_run: Path) -> OfflineRun:
    return read(wandb_run / "wandb")


def series(logged: OfflineRun, key: str) -> dict[int, float]:
    """Values by step."""
    return {row["trainer/global_step"]: row[key] for row in logged.rows(key)}


@pytest.mark.parametrize(
    ("key", "steps"),
    [
        ("train/loss", range(6)),
        ("train/lr", range(6)),
        ("system/images_per_s", range(6)),
        ("system/data_wait", range(6)),
        ("val/loss", (2, 5)),
        ("val/pair_auc", (2, 5)),
        ("test/pair_auc", (6,)),
        ("test/pair_auc_untrained", (6,)),
    ],
)
def test_scalars_have_their_step(logged: OfflineRun, key: str, steps: range) -> None:
    assert list(series(logged, key)) == list(steps)
    assert all(isinstance(value, int | float) for value in series(logged, key).values())
    assert logged.metrics["*"].step_metric == "trainer/global_step"


def test_throughput_is_plausible(logged: OfflineRun) -> None:
    assert all(value > 0 for value in series(logged, "system/images_per_s").values())
    assert all(0 <= value < 1 for value in series(logged, "system/data_wait").values())


def test_the_summary_has_the_best_validation(logged: OfflineRun) -> None:
    best = max(series(logged, "val/pair_auc").values())
    assert logged.summary["val/pair_auc"] == {"max": best}
    for key in ("val/pair_auc", "val/miou"):
        assert logged.metrics[key].summary.max
        assert logged.metrics[key].step_metric == "trainer/global_step"


def test_the_size_of_the_model_is_logged_once(logged: OfflineRun, wandb_run: Path) -> None:
    metrics = json.loads((wandb_run / "metrics.json").read_text())
    assert series(logged, "model/parameters") == {0: metrics["parameters"]}
    assert series(logged, "model/trainable_parameters") == {0: metrics["parameters"]}
    assert series(logged, "model/gflops") == {0: pytest.approx(metrics["gflops"])}
    assert metrics["gflops"] > 0


def test_the_whole_configuration_is_in_it(logged: OfflineRun, wandb_run: Path) -> None:
    config = {k: v for k, v in logged.config.items() if k not in ("_wandb", "machine")}
    saved = OmegaConf.load(wandb_run / "config.yaml")
    assert config == OmegaConf.to_container(saved, resolve=True)
    assert config["model"]["optimizer"]["lr"] == 3e-3
    assert config["data"]["superpixels"]["count"] == 16
    assert config["revision"] == revision()
    assert logged.config["machine"] == json.loads((wandb_run / "machine.json").read_text())


def test_the_run_is_named_grouped_and_finished(logged: OfflineRun) -> None:
    run = logged.run
    assert (run.run_id, run.project) == ("abc", "softfeat")
    assert (run.display_name, run.run_group) == ("job 3", "sweep")
    assert logged.exit_code == 0


def test_pictures_of_every_validation_are_in_it(logged: OfflineRun) -> None:
    assert list(series(logged, "val/features")) == [2, 5]
    for row in logged.rows("val/features"):
        panel = row["val/features"]
        assert panel["_type"] == "image-file"
        assert Image.open(logged.media[panel["path"]]).size == (panel["width"], panel["height"])


NAMES = ["class 0", "class 1", "class 2"]


@pytest.fixture(scope="module")
def hard(hard_wandb_run: Path) -> OfflineRun:
    return read(hard_wandb_run / "wandb")


@pytest.mark.parametrize("split", ["val", "test"])
def test_hard_segmentation_logs_its_scores_and_those_of_classes(
    hard: OfflineRun, split: str
) -> None:
    steps = [2, 5] if split == "val" else [6]
    for key in ("pixel_accuracy", "class_accuracy", "miou", "fwiou"):
        assert list(series(hard, f"{split}/{key}")) == steps
    for name in NAMES:
        assert series(hard, f"{split}/iou/{name}")
    assert hard.metrics["val/miou"].summary.max
    best = max(series(hard, "val/miou").values())
    assert hard.summary["val/miou"]["max"] == pytest.approx(best)


def test_the_iou_table_has_every_class(hard: OfflineRun) -> None:
    rows = hard.rows("val/iou_table")
    assert [row["trainer/global_step"] for row in rows] == [2, 5]
    table = json.loads(hard.media[rows[-1]["val/iou_table"]["path"]].read_text())
    assert table["columns"] == ["class", "IoU", "accuracy", "pixels"]
    assert [line[0] for line in table["data"]] == NAMES
    for name, iou, *_ in table["data"]:
        assert iou == pytest.approx(series(hard, f"val/iou/{name}")[5])


def test_the_confusion_matrix_is_a_picture(hard: OfflineRun) -> None:
    row = hard.rows("val/confusion")[-1]["val/confusion"]
    picture = np.asarray(Image.open(hard.media[row["path"]]))
    assert picture.shape[2] == 3
    assert picture.std() > 5


def test_photos_have_masks_of_prediction_and_truth(hard: OfflineRun) -> None:
    panel = hard.rows("val/segmentation")[-1]["val/segmentation"]
    assert len(panel["filenames"]) == 2
    for masks in panel["all_masks"]:
        for kind in ("prediction", "ground_truth"):
            mask = np.asarray(Image.open(hard.media[masks[kind]["path"]]))
            assert mask.shape == (32, 32)
            assert set(np.unique(mask)) <= {0, 1, 2, 255}


def test_the_feature_sheet_is_there_too(hard: OfflineRun) -> None:
    assert list(series(hard, "val/features")) == [2, 5]
    assert series(hard, "system/images_per_s")


def test_the_reader_joins_the_pieces_of_long_records(tmp_path: Path) -> None:
    """Records longer than a block, and tables and masks as history has them."""
    text = "".join(chr(97 + i % 26) for i in range(100_000))
    mask = {"mask_data": np.eye(2, dtype=np.uint8), "class_labels": {0: "sky", 1: "sea"}}
    with wandb.init(mode="offline", dir=tmp_path, project="p") as run:
        for number in range(20):
            run.log({"text": text[number:], "number": number})
        run.log({"table": wandb.Table(columns=["class", "IoU"], data=[["sky", 0.5]])})
        run.log({"image": wandb.Image(Image.new("RGB", (2, 2)), masks={"labels": mask})})
    logged = read(tmp_path / "wandb")
    assert [row["text"] for row in logged.rows("number")] == [text[i:] for i in range(20)]
    (table,) = (row["table"] for row in logged.rows("table"))
    assert table["_type"] == "table-file"
    assert json.loads(logged.media[table["path"]].read_text())["data"] == [["sky", 0.5]]
    (image,) = (row["image"] for row in logged.rows("image"))
    assert image["_type"] == "image-file"
    assert image["masks"]["labels"]["path"] in logged.media


def no_account(home: Path) -> dict[str, str]:
    """An environment without credentials, in which W&B is not told to be offline."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("WANDB") and k != "NETRC"}
    return kept | {"HOME": str(home), "COLUMNS": "400"}


def test_nothing_is_asked_even_in_a_terminal(tmp_path: Path) -> None:
    script = (
        "from softfeat.training.loggers import finish_wandb, make_wandb_logger\n"
        f"make_wandb_logger({str(tmp_path)!r}, 'softfeat', 'abc').experiment\n"
        "finish_wandb()"
    )
    terminal, end = pty.openpty()
    options: Any = dict.fromkeys(("stdin", "stdout", "stderr"), end)
    # W&B would wait for an answer here.
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=no_account(tmp_path),
        timeout=60,
        check=False,
        **options,
    )
    os.close(end)
    os.close(terminal)
    assert done.returncode == 0
    assert read(tmp_path / "wandb").exit_code == 0


def test_online_without_an_account_is_refused(tmp_path: Path) -> None:
    options = ["experiment=softfeat_camvid", f"data.root={make_folder(tmp_path / 'folder')}"]
    options += [f"run_dir={tmp_path / 'run'}", "logger=wandb", "logger.mode=online"]
    done = subprocess.run(
        [sys.executable, "-m", "src.train", *options],
        env=no_account(tmp_path),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "needs credentials" in done.stderr
    assert "Traceback" not in done.stderr
