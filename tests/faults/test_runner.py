import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from faults.cases import Case, Outcome, fault_summary
from faults.runner import choose, read_log, run_part


class Numbers:
    """Cases 0 to 5; those in `bad` fail."""

    title = "Numbers"

    def __init__(self, bad: set[str] = frozenset()) -> None:  # type: ignore[assignment]
        self.bad, self.tried = bad, list[str]()

    def cases(self, seed: int) -> Sequence[Case]:
        return [Case(str(n), "number") for n in range(6)]

    def attempt(self, case: Case, seed: int, folder: Path) -> Outcome:
        assert folder.is_dir()
        assert not any(folder.iterdir())
        (folder / "left").touch()
        self.tried.append(case.name)
        return Outcome(case.name, case.fault, "lost" if case.name in self.bad else "used")

    def summary(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        return fault_summary(outcomes)


def go(part: Numbers, output: Path, **options: Any) -> dict[str, Any]:
    defaults = {"seed": 0, "count": None, "minutes": None, "again": None, "revision": "r"}
    return run_part(part, "numbers", output=output, **(defaults | options))


def test_pieces_add_up_to_one_result(tmp_path: Path) -> None:
    part = Numbers(bad={"1"})
    first = go(part, tmp_path, count=2)
    assert first["settings"]["cases"] == "2 of 6"
    assert first["failed"] == 1
    whole = go(part, tmp_path)
    assert part.tried == ["0", "1", "2", "3", "4", "5"]
    assert whole["settings"]["cases"] == "6 of 6"
    assert whole["rows"][-1]["times tried"] == 6
    assert not (tmp_path / "numbers.work").exists()
    go(part, tmp_path, count=1)
    assert len(part.tried) == 6
    assert go(part, tmp_path, count=1)["rows"][-1]["times tried"] == 6  # nothing is forgotten


def test_the_time_ends_a_piece(tmp_path: Path) -> None:
    part = Numbers()
    assert go(part, tmp_path, minutes=0)["rows"][-1]["times tried"] == 0
    assert part.tried == []


def test_failed_cases_are_tried_again(tmp_path: Path) -> None:
    go(Numbers(bad={"1", "4"}), tmp_path)
    mended = Numbers()
    result = go(mended, tmp_path, again="failed", revision="s")
    assert mended.tried == ["1", "4"]
    assert result["failed"] == 0
    assert result["settings"]["revision"] == "r, s"
    go(mended, tmp_path, again="all")
    assert len(mended.tried) == 8


def test_another_seed_starts_afresh(tmp_path: Path) -> None:
    go(Numbers(), tmp_path)
    part = Numbers()
    go(part, tmp_path, seed=1)
    assert len(part.tried) == 6
    assert len(read_log(tmp_path / "numbers.jsonl", 0)) == 6


def test_a_half_written_line_is_ignored(tmp_path: Path) -> None:
    go(Numbers(), tmp_path, count=2)
    log = tmp_path / "numbers.jsonl"
    log.write_text(log.read_text()[:-20])
    assert list(read_log(log, 0)) == ["0"]


def test_cases_that_no_longer_exist_are_left_out() -> None:
    done = {"gone": Outcome("gone", "x", "used"), "a": Outcome("a", "x", "used")}
    todo, kept = choose([Case("a", "x"), Case("b", "x")], done, None, None)
    assert [case.name for case in todo] == ["b"]
    assert list(kept) == ["a"]
    assert json.dumps(kept["a"].to_dict())
