from pathlib import Path

from faults.kills import SCENARIOS, Kills, World, judge
from faults.processes import Ended


def test_commands_take_turns() -> None:
    cases = Kills(100, 60).cases(0)
    assert len(cases) == 100
    assert {case.fault for case in cases[: len(SCENARIOS)]} == {f"kill -9: {n}" for n in SCENARIOS}


def test_results_are_compared(tmp_path: Path) -> None:
    expected = {"a": "1", "b": "2"}
    well, badly = Ended(0, 1, "", ""), Ended(1, 1, "", "error: no room")
    assert judge(well, expected, lambda _: dict(expected), tmp_path) == ("used", "equal")
    assert judge(well, expected, lambda _: {"a": "1", "b": "3"}, tmp_path)[1] == "differs in b"
    assert judge(well, expected, lambda _: {"a": "1"}, tmp_path)[0] == "lost"
    assert judge(badly, expected, lambda _: dict(expected), tmp_path)[0] == "lost"
    assert judge(Ended(None, 9, "", ""), expected, lambda _: {}, tmp_path)[0] == "hang"
    assert judge(Ended(-11, 9, "", ""), expected, lambda _: {}, tmp_path)[0] == "crash"


def test_a_killed_computation_of_superpixels_goes_on(tmp_path: Path) -> None:
    kills = Kills(100, 300)
    (case,) = [case for case in kills.cases(0) if case.name == "superpixels 8"]  # at a write
    outcome = kills.attempt(case, 0, tmp_path)
    assert outcome.verdict == "used", outcome.detail
    assert "write" in outcome.detail


def test_the_data_are_those_of_the_seed() -> None:
    one, other = World(0, 60), World(1, 60)
    name = Path("images/train/train_0.png")
    assert (one.set / name).read_bytes() != (other.set / name).read_bytes()
