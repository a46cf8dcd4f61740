from pathlib import Path
from types import SimpleNamespace

import pytest

from faults.cases import Outcome
from faults.mutants import Mutants, mirror_of
from faults.processes import Ended
from tests.helpers.paths import ROOT


def part(*modules: str, total: int = 5) -> Mutants:
    return Mutants(modules, total, wanted=0.85, slower=4, seconds=60)


def test_the_sample_depends_on_the_seed() -> None:
    names = [[case.name for case in part("ops").cases(seed)] for seed in (0, 0, 1)]
    assert names[0] == names[1] != names[2]
    assert len(names[0]) == 5
    everything = part("ops/sizes.py", "ops/labels.py", total=10_000).cases(0)
    assert {case.fault for case in everything} == {"ops/sizes.py", "ops/labels.py"}


def test_a_module_has_the_tests_that_mirror_it() -> None:
    assert mirror_of("ops/npair.py") == ["tests/ops/test_npair.py"]
    assert mirror_of("ops/sizes.py") == ["tests/ops"]  # no file of its own
    for folder in ("ops", "metrics", "matting", "data"):
        for file in (ROOT / "src/softfeat" / folder).glob("[a-z]*.py"):
            assert all((ROOT / path).exists() for path in mirror_of(f"{folder}/{file.name}"))


def test_too_few_noticed_changes_are_a_failure() -> None:
    outcomes = [Outcome(str(n), "ops/a.py", "killed") for n in range(8)]
    assert part().summary(outcomes)["failed"] == 0
    outcomes += [Outcome(str(n), "ops/a.py", "survived", "line 3") for n in range(2)]
    summary = part().summary(outcomes)
    assert summary["failed"] == 2
    assert summary["rows"][-1]["share"] == "80.0 %"
    assert summary["tables"]["Not noticed"][0]["change"] == "`line 3`"


@pytest.mark.parametrize(
    ("code", "verdict"),
    [(0, "survived"), (1, "killed"), (4, "killed"), (-9, "killed"), (None, "killed")],
)
def test_only_tests_that_pass_have_noticed_nothing(
    tmp_path: Path, code: int | None, verdict: str
) -> None:
    """pytest ends with 4 if a change keeps its conftest.py from being imported."""
    (tmp_path / "src/softfeat/ops").mkdir(parents=True)
    codes = [0, code]  # without the change, and with it
    mutants = part("ops/distance.py")
    mutants.__dict__["_copy"] = SimpleNamespace(
        folder=tmp_path, durations={}, run_tests=lambda *_: Ended(codes.pop(0), 1.0, "", "", 0)
    )
    case = mutants.cases(0)[0]
    assert mutants.attempt(case, 0, tmp_path).verdict == verdict


@pytest.mark.slow
def test_a_wrong_line_is_noticed_and_a_harmless_one_is_not(tmp_path: Path) -> None:
    mutants = part("ops/distance.py", total=10_000)
    file = ROOT / "src/softfeat/ops/distance.py"
    before = file.read_bytes()
    changes = {"torch.baddbmm(scale, wide, wide.mT)": "killed", " 1e-14 -> 2e-14": "survived"}
    for text, verdict in changes.items():
        (case,) = [c for c in mutants.cases(0) if c.settings["where"].endswith(text)]
        assert mutants.attempt(case, 0, tmp_path).verdict == verdict
    assert file.read_bytes() == before
