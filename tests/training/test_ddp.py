"""Two processes train as one does with the joint batch; the tests share a run of each system."""

import csv
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from softfeat.commands.train import train
from softfeat.data.datamodule import SegmentationData
from softfeat.data.layouts import Folder
from softfeat.imaging.slic import Superpixels
from tests.helpers.datasets import make_folder
from tests.helpers.trainings import TINY, compose_train

# A process has fewer photos than the other, and in val and test, 2 photos a batch, a batch less.
COUNTS = {"train": 5, "val": 5, "test": 5}
ROOT = Path(__file__).parents[2]


@dataclass
class Runs:
    """The same training by two processes, of 2 photos a step each, and by one, of 4."""

    folder: Path
    said: str

    @property
    def pair(self) -> Path:
        (run,) = self.folder.glob("outputs/*/*")  # the default of run_dir, which has the time in it
        return run

    @property
    def single(self) -> Path:
        return self.folder / "single"

    def probes(self, processes: int) -> list[dict[str, Any]]:
        folder = self.folder / f"probe_{processes}"
        return [torch.load(folder / f"rank_{rank}.pt") for rank in range(processes)]


def run_both(folder: Path, *overrides: str) -> Runs:
    """Trains by command with two processes, and within this one."""
    root = make_folder(folder / "folder", counts=(COUNTS["train"], COUNTS["val"], COUNTS["test"]))

    def options(processes: int) -> list[str]:
        return [
            *overrides,
            *TINY,
            f"data.root={root}",
            f"data.cache_dir={folder}/cache_{processes}",
            f"data.batch_size={4 // processes}",
            "data.steps_per_epoch=3",
            "trainer.max_epochs=2",
            "model.warmup_steps=0",
            "model.optimizer._target_=torch.optim.SGD",  # Adam makes much of small differences
            "model.optimizer.lr=0.5",
            "+callbacks.probe._target_=tests.helpers.ddp_probe.Probe",
            f"+callbacks.probe.folder={folder}/probe_{processes}",
        ]

    result = subprocess.run(
        [sys.executable, "-m", "src.train", "trainer=ddp", "trainer.devices=2", *options(2)],
        cwd=folder,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        timeout=1200,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    single = [o for o in options(1) if not o.startswith("logger")]
    train(compose_train(*single, f"run_dir={folder}/single", "run_id=abc"))
    return Runs(folder, result.stdout + result.stderr)


@pytest.fixture(scope="module")
def soft(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    classifier = ("model.classifier_weight=0.5", "model.class_weights=frequency")
    return run_both(tmp_path_factory.mktemp("soft"), "experiment=softfeat_camvid", *classifier)


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return run_both(
        tmp_path_factory.mktemp("hard"),
        "experiment=hardseg_camvid",
        "model.features_checkpoint=null",
        "logger=wandb",
        "logger.mode=offline",
    )


@pytest.fixture(params=["soft", "hard"])
def runs(request: pytest.FixtureRequest) -> Runs:
    return request.getfixturevalue(request.param)


def test_gradients_are_those_of_the_joint_batch(runs: Runs) -> None:
    """Of hard segmentation, too, whose processes have unequal numbers of labelled pixels."""
    first, second = (probe["gradients"] for probe in runs.probes(2))
    (joint,) = (probe["gradients"] for probe in runs.probes(1))
    assert len(first) == len(second) == len(joint) == 6
    for step in range(6):
        assert first[step].keys() == second[step].keys() == joint[step].keys()
        for name, gradient in joint[step].items():
            assert torch.equal(first[step][name], second[step][name]), name
            error = (first[step][name] - gradient).abs().max()
            assert error <= 1e-4 * gradient.abs().max() + 1e-7, (step, name)


def test_scores_are_those_of_one_process(runs: Runs) -> None:
    pair, single = (json.loads((r / "metrics.json").read_text()) for r in (runs.pair, runs.single))
    assert pair.keys() == single.keys()
    scores = {k for k in pair if k.startswith(("val/", "test/"))}
    assert scores >= {"val/loss"}
    assert scores & {"val/pair_auc", "val/miou"}
    for key in scores:
        assert pair[key] == pytest.approx(single[key], rel=1e-4, abs=1e-6, nan_ok=True), key


def test_every_photo_is_seen_once(runs: Runs) -> None:
    processes = [probe["photos"] for probe in runs.probes(2)]
    for split, times in (("val", 2), ("test", 1)):  # two validations, one test
        seen = Counter(path for photos in processes for path in photos[split])
        assert len(seen) == COUNTS[split]
        assert set(seen.values()) == {times}
        assert all(photos[split] for photos in processes)
    (single,) = (probe["photos"]["train"] for probe in runs.probes(1))
    assert Counter(processes[0]["train"] + processes[1]["train"]) == Counter(single)


def test_a_run_has_one_directory(runs: Runs) -> None:
    run = runs.pair  # there is but one
    files = {path.name for path in run.iterdir()} - {"wandb"}
    assert files == {path.name for path in runs.single.iterdir()}
    assert files > {"config.yaml", "metrics.csv", "metrics.json", "checkpoints"}
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    tables = []
    for directory in (run, runs.single):
        with (directory / "metrics.csv").open() as file:
            tables.append([(r["step"], *(k for k in r if r[k])) for r in csv.DictReader(file)])
    assert tables[0] == tables[1]  # as many rows, of the same metrics


def test_there_is_one_run_in_wandb(hard: Runs) -> None:
    assert len(list(hard.pair.glob("wandb/offline-run-*"))) == 1


def test_maps_and_features_are_computed_once(runs: Runs, request: pytest.FixtureRequest) -> None:
    for split, count in COUNTS.items():
        assert runs.said.count(f"superpixels ({split})") == 1
        assert f"{count}/{count}" in runs.said
    first, second = (probe["features"] for probe in runs.probes(2))
    assert first == second
    assert all((Path(store) / "index.json").is_file() for store in first)
    if runs.folder.name.startswith("hard"):
        assert len(first) == 2
        assert runs.said.count("features (train)") == runs.said.count("features (val)") == 1


def test_nothing_is_said_that_is_not_for_the_user(runs: Runs) -> None:
    assert "Warning" not in runs.said
    assert "sync_dist" not in runs.said


def test_more_processes_than_photos_are_refused(folder_root: Path, tmp_path: Path) -> None:
    """One without any would leave the others waiting for its scores."""
    slic = Superpixels(count=10)
    data = SegmentationData(Folder, folder_root, tmp_path / "cache", (32, 32), superpixels=slic)
    data.prepare_data()
    data.setup("validate")
    data.trainer = SimpleNamespace(global_rank=0, world_size=3)  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"2 photos for 3 processes: set trainer\.devices=2"):
        data.val_dataloader()
