"""The search asks, sets, and tells."""

import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from omegaconf import DictConfig, OmegaConf
from optuna.trial import TrialState

from softfeat.sweeps.search import Search, flat_space

SPACE = {
    "model": {"lr": {"low": 1e-3, "high": 1e-1, "log": True}, "layers": {"low": 1, "high": 4}},
    "loss": {"choices": ["a", "b"]},
}


def make(tmp_path: Path, trials: int = 3, space: Any = SPACE) -> Search:
    storage = f"sqlite:///{tmp_path}/somewhere/study.db"
    return Search(study="test", storage=storage, trials=trials, seed=0, space=space)


def config() -> DictConfig:
    return OmegaConf.create(
        {
            "optimized_metric": "score",
            "run_dir": "here",
            "model": {"lr": 0.0, "layers": 0, "total": "${model.layers}"},
            "loss": None,
        }
    )


def score(cfg: DictConfig) -> dict[str, float]:
    return {"score": float(cfg.model.lr)}


def test_a_trial_is_set_and_told(tmp_path: Path) -> None:
    search, cfg = make(tmp_path), config()
    value = search.run_trial(cfg, score)
    (trial,) = search.open().trials
    assert trial.state == TrialState.COMPLETE
    assert trial.value == value == cfg.model.lr
    assert trial.params == {
        "model.lr": cfg.model.lr, "model.layers": cfg.model.layers, "loss": cfg.loss,
    }  # fmt: skip
    assert 1e-3 <= cfg.model.lr <= 1e-1
    assert cfg.model.total == cfg.model.layers in (1, 2, 3, 4)
    assert cfg.loss in ("a", "b")
    assert trial.user_attrs == {"run_dir": "here"}


def test_a_study_goes_on_until_it_has_its_trials(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = [make(tmp_path, trials=2).run_trial(config(), score) for _ in range(3)]
    assert len(set(values[:2])) == 2
    assert values[2] is None
    assert "2 of 2 trials" in capsys.readouterr().out
    assert make(tmp_path, trials=3).run_trial(config(), score) is not None
    study = make(tmp_path).open()
    assert study.best_value == max(t.value for t in study.trials if t.value is not None)


def test_the_same_study_proposes_the_same(tmp_path: Path) -> None:
    first, second = (
        [make(tmp_path / name).run_trial(config(), score) for _ in range(3)] for name in "ab"
    )
    assert first == second


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_failed_and_killed_trials_are_no_obstacle(
    tmp_path: Path, kind: type[BaseException]
) -> None:
    def fail(cfg: DictConfig) -> dict[str, float]:
        raise kind("no")

    search = make(tmp_path, trials=1)
    search.open().ask()  # and its process was killed
    with pytest.raises(kind):
        search.run_trial(config(), fail)
    assert search.run_trial(config(), score) is not None
    states = [trial.state for trial in search.open().trials]
    assert states == [TrialState.RUNNING, TrialState.FAIL, TrialState.COMPLETE]


def test_settings_that_cannot_be_are_refused(tmp_path: Path) -> None:
    space = {"model": {"rl": {"choices": [1]}}}
    with pytest.raises(ValueError, match=r"no key model\.rl"):
        make(tmp_path, space=space).run_trial(config(), score)
    for domain in (3, {"low": 1}, {"low": 1, "high": 2, "step": 1}, {"choices": [1], "log": True}):
        with pytest.raises(ValueError, match="low and high"):
            flat_space({"model": {"lr": domain}})
    cfg = config()
    cfg.optimized_metric = "other"
    with pytest.raises(ValueError, match="optimized_metric=other is none of score"):
        make(tmp_path).run_trial(cfg, score)
    assert [t.state for t in make(tmp_path).open().trials] == [TrialState.FAIL]


def test_a_metric_that_is_no_number_fails_the_trial(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="nan"):
        make(tmp_path).run_trial(config(), lambda cfg: {"score": float("nan")})
    assert [t.state for t in make(tmp_path).open().trials] == [TrialState.FAIL]


def test_without_optuna_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert optuna
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r"pip install '.\[sweeps\]'"):
        make(tmp_path).open()
