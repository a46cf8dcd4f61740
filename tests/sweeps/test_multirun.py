"""Sweeps by the command line, from the first job to the report."""

import csv
import subprocess
from pathlib import Path

import optuna
import pytest
from omegaconf import OmegaConf

from tests.helpers.commands import call_command, run_module
from tests.helpers.trainings import TINY


def sweep(root: Path, *arguments: str, process: bool = False) -> "subprocess.CompletedProcess[str]":
    """A sweep of trainings of two steps, in this process or in a new one."""
    options = [
        "experiment=softfeat_camvid",
        f"data.root={root}",
        f"data.cache_dir={root.parent / 'cache'}",
        *TINY,
        "data.steps_per_epoch=2",
        "trainer.max_epochs=1",
    ]
    if process:
        return run_module("src.train", "-m", *options, *arguments)
    return call_command("train", "-m", *options, *arguments)


def report(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "report.csv").open() as file:
        return {row["job"]: row for row in csv.DictReader(file)}


def test_a_failing_job_spares_the_others_and_is_named(folder_root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    counts = "data.superpixels.count=16,-5,8"
    wandb = ("logger=wandb", "logger.mode=offline")
    result = sweep(folder_root, counts, f"run_dir={folder}", *wandb)
    assert result.returncode == 1, result.stderr
    assert "job 1 failed with data.superpixels.count=-5: " in result.stdout
    assert "Traceback" not in result.stderr + result.stdout
    rows = report(folder)
    assert {job: row["status"] for job, row in rows.items()} == {
        "0": "ok", "1": "failed", "2": "ok",
    }  # fmt: skip
    assert {row["data.superpixels.count"] for row in rows.values()} == {"16", "-5", "8"}
    assert "Traceback" in (folder / "1" / "error.txt").read_text()
    assert (folder / "report.png").is_file()

    configs = [OmegaConf.load(folder / str(job) / "config.yaml") for job in range(3)]
    assert {cfg.logger.group for cfg in configs} == {"sweep"}
    assert len({cfg.logger.id for cfg in configs}) == 3
    for job in (0, 2):
        (run,) = (folder / str(job) / "wandb").glob("offline-run-*")
        assert run.name.endswith(configs[job].run_id)


def test_jobs_run_side_by_side_in_one_directory(folder_root: Path, tmp_path: Path) -> None:
    """Also where each would name it otherwise."""
    names = ("name=one,two", f"run_dir='{tmp_path}/${{name}}'")
    result = sweep(folder_root, "launcher=joblib", *names, process=True)
    assert result.returncode == 0, result.stderr
    rows = report(tmp_path / "softfeat_camvid")
    assert {(job, row["name"], row["status"]) for job, row in rows.items()} == {
        ("0", "one", "ok"), ("1", "two", "ok"),
    }  # fmt: skip
    assert not (tmp_path / "one").exists()


def test_a_search_is_continued(folder_root: Path, tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/db/study.db"
    lr = []
    for trials, jobs in ((2, 2), (3, 1)):
        folder = tmp_path / f"up_to_{trials}"
        result = sweep(
            folder_root,
            "sweep=optuna_softfeat",
            "+search.space.data.superpixels.count.choices=[8,16]",
            f"search.trials={trials}",
            f"search.storage={storage}",
            f"run_dir={folder}",
        )
        assert result.returncode == 0, result.stderr
        rows = report(folder)
        assert len(rows) == jobs
        lr += [OmegaConf.load(folder / job / "config.yaml").model.optimizer.lr for job in rows]
    (study,) = optuna.get_all_study_summaries(storage)
    assert study.study_name == "softfeat_camvid"
    trials = optuna.load_study(study_name=None, storage=storage).trials
    assert sorted(t.params["model.optimizer.lr"] for t in trials) == sorted(lr)
    assert len(set(lr)) == 3
    assert "3 of 3 trials" in result.stdout


@pytest.mark.slow
def test_a_ddp_job_has_one_directory_and_fails_alone(folder_root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    ddp = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
    result = sweep(
        folder_root,
        *ddp,
        "model.optimizer.lr=1e38,1e-3",
        "trainer.max_epochs=2",
        f"run_dir={folder}",
        process=True,
    )
    assert result.returncode == 1, result.stderr
    rows = report(folder)
    assert (rows["0"]["status"], rows["1"]["status"]) == ("failed", "ok")
    assert "is nan" in rows["0"]["error"]
    assert sorted(p.name for p in folder.iterdir() if p.is_dir()) == ["0", "1"]
    assert {p.name for p in tmp_path.iterdir()} <= {"cache", "folder", "sweep"}
