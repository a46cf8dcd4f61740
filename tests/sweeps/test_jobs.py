"""Reports of sweeps, from what jobs leave in their directories."""

import sys
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf

from softfeat.commands.sweep_callback import SweepCallback
from softfeat.sweeps.jobs import Sweep, train_apart
from tests.helpers.sweeps import COMPOSED, make_job, make_study, make_sweep


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return make_study(tmp_path / "sweep")


def test_jobs_stand_best_first(sweep: Path) -> None:
    rows = Sweep(sweep).rows()
    assert [row["job"] for row in rows] == ["2", "0", "1", "10", "11"]
    assert [row["status"] for row in rows] == ["ok", "ok", "failed", "unfinished", "ok"]
    assert rows[0] == {
        "job": "2", "data.count": 1000, "val/auc": 0.9, "test/auc": 0.5, "test/loss": 1.0,
        "minutes": 2.0, "status": "ok", "error": "",
    }  # fmt: skip
    assert rows[2]["error"] == "too | many"


def test_only_what_differs_and_was_chosen_is_compared(sweep: Path) -> None:
    assert Sweep(sweep).keys == ["data.count"]
    make_job(sweep / "12", count=100, loss="printed", auc=0.5)
    assert Sweep(sweep).keys == ["data.count", "loss.negative"]


def test_a_derived_key_set_by_hand_is_compared(sweep: Path) -> None:
    overrides = {"overrides": {"task": ["+model.count=1,2", "seed=0"]}}
    OmegaConf.save(COMPOSED | {"hydra": overrides}, sweep / "multirun.yaml")
    assert Sweep(sweep).keys == ["data.count", "model.count"]


def test_sweeps_side_by_side_are_one_report(tmp_path: Path) -> None:
    for name, auc in (("monday", 0.6), ("tuesday", 0.8)):
        folder = make_sweep(tmp_path / "study" / name)
        make_job(folder / "0", count=int(auc * 100), auc=auc)
    both = Sweep(tmp_path / "study")
    assert [job.name for job in both.jobs] == ["tuesday/0", "monday/0"]
    assert both.keys == ["data.count"]


@pytest.mark.parametrize("values", [[1, 1000], [1, 2, 3, 4, 5, 6, 7], ["a", "b"], [None, 0.1]])
def test_every_kind_of_setting_is_drawn(tmp_path: Path, values: list[Any]) -> None:
    folder = make_sweep(tmp_path / "sweep")
    for number, value in enumerate(values):
        make_job(folder / str(number), count=value, auc=0.5)
    Sweep(folder).write()
    assert (folder / "report.png").is_file()


def test_a_folder_is_printed_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_sweep(tmp_path / "[bold]x[/red] \x1b[31m")
    make_job(folder / "0", count=1, auc=0.5)
    Sweep(folder).write()
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "[bold]x[/red] \\x1b[31m" in printed.replace("\n", "")


def test_a_sweep_without_jobs_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Sweep(make_sweep(tmp_path / "sweep")).write()
    assert "no job has started" in capsys.readouterr().out


def composed(run_dir: Path | str) -> DictConfig:
    with initialize_config_module("softfeat.conf", version_base="1.3"):
        return compose("train", overrides=[f"run_dir='{run_dir}'"], return_hydra_config=True)


def test_all_jobs_get_the_directory_of_the_sweep(tmp_path: Path) -> None:
    cfg = composed(f"{tmp_path}/${{name}}")
    SweepCallback().on_multirun_start(cfg)
    assert cfg.hydra.overrides.hydra[-1] == f'hydra.sweep.dir="{tmp_path}/softfeat_scenes"'


def test_the_directory_of_a_sweep_is_not_used_twice(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        SweepCallback().on_multirun_start(composed(sweep))
    assert f"{sweep} holds a sweep" in capsys.readouterr().err


def test_the_exit_status_tells_of_failed_jobs(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        SweepCallback().on_multirun_end(composed(sweep))
    assert stopped.value.code == 1
    (sweep / "1" / "error.txt").unlink()  # killed before it could say why
    with pytest.raises(SystemExit) as stopped:
        SweepCallback().on_multirun_end(composed(sweep))
    assert stopped.value.code == 1
    assert "job 1 is unfinished" in capsys.readouterr().out
    for job in sweep.iterdir():
        if job.is_dir():
            (job / "metrics.json").write_text('{"seconds/fit": 60.0, "val/pair_auc": 0.5}')
    SweepCallback().on_multirun_end(composed(sweep))


def test_a_job_is_started_by_the_command_it_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = OmegaConf.create({"run_dir": str(tmp_path / "a run"), "last": "${run_dir}/last"})
    code = """if 1:
        import json, pathlib, sys
        folder = pathlib.Path(sys.argv[1].removeprefix("prepared=").strip('"'))
        assert "last: ${run_dir}/last" in (folder / "config.yaml").read_text()
        (folder / "metrics.json").write_text(json.dumps({"val/auc": 0.5}))
        print("a warning", file=sys.stderr)
    """
    assert train_apart(cfg, [sys.executable, "-c", code]) == {"val/auc": 0.5}
    assert "a warning" in capsys.readouterr().err
    failing = "import sys; print('error: no photos', file=sys.stderr); sys.exit(1)"
    with pytest.raises(ChildProcessError, match=r"^no photos \(exit status 1\)"):
        train_apart(cfg, [sys.executable, "-c", failing])
