import json
from pathlib import Path

import pytest

from src.evaluate import evaluate
from src.train import train
from tests.conftest import tiny_run


def test_evaluation_repeats_what_training_tested(folder_root: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    trained = train(tiny_run(folder_root, run))
    evaluated = evaluate(run, "test")
    for key in ("pair_auc", "pair_auc_lab", "pair_auc_lab_position", "pair_auc_untrained", "loss"):
        assert evaluated[f"test/{key}"] == pytest.approx(trained[f"test/{key}"])
    assert json.loads((run / "test.json").read_text()) == pytest.approx(evaluated)


def test_another_split(folder_root: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    trained = train(tiny_run(folder_root, run))
    evaluated = evaluate(run, "val")
    assert evaluated["val/pair_auc"] == pytest.approx(trained["val/pair_auc"])


def test_a_missing_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run=RUN_DIR"):
        evaluate(tmp_path, "test")
