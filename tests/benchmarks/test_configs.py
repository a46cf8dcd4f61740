"""Every suite composes, and every key of it is read."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_module

from tests.helpers.configs import check_keys
from tests.helpers.paths import ROOT

SOURCES = "".join(p.read_text() for p in (ROOT / "benchmarks").glob("*.py"))
SUITES = sorted(p.stem for p in (ROOT / "benchmarks" / "conf" / "suite").glob("*.yaml"))


@pytest.mark.parametrize("suite", SUITES)
def test_every_suite_is_read(suite: str) -> None:
    with initialize_config_module("benchmarks.conf", version_base="1.3"):
        check_keys(compose("benchmark", overrides=[f"suite={suite}"]), SOURCES)


def test_the_report_is_read() -> None:
    with initialize_config_module("benchmarks.conf", version_base="1.3"):
        check_keys(compose("report"), SOURCES)


def test_pair_auc_scores_the_sets_of_the_training(mixture_root: Path) -> None:
    with initialize_config_module("softfeat.conf", version_base="1.3"):
        data = compose("train", overrides=["data=photos", "data.root=x"]).data
    with initialize_config_module("benchmarks.conf", version_base="1.3"):
        suite = compose("benchmark", overrides=["suite=pair_auc", "suite.root=x"]).suite
    assert suite.layouts == data.layout.layouts
    assert suite.sets is None
