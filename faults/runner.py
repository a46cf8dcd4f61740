"""Runs the cases of a part, keeps what is done, and sums up.

Every outcome is appended to `<part>.jsonl` once it is known, so a run that stops, or that is given
a number of minutes, goes on where it was.
"""

import json
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Literal

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from faults.cases import Case, Outcome, Part

Again = Literal["failed", "all"] | None


def read_log(log: Path, seed: int) -> dict[str, Outcome]:
    """Reads the outcomes of earlier runs with the same seed, by the name of the case.

    A last line that a killed run left half written is ignored.
    """
    outcomes: dict[str, Outcome] = {}
    lines = log.read_text("utf-8").splitlines() if log.is_file() else []
    for line in lines:
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if values.pop("seed") == seed:
            outcomes[values["name"]] = Outcome(**values)
    return outcomes


def choose(
    cases: Sequence[Case], done: dict[str, Outcome], count: int | None, again: Again
) -> tuple[list[Case], dict[str, Outcome]]:
    """Chooses the cases that are still to be tried.

    Args:
        cases: Cases of the full form.
        done: Outcomes of earlier runs.
        count: Number of cases that are to be done in the end; None for all.
        again: Outcomes to try again: "failed" ones, "all" of them, or None.

    Returns:
        The cases to try, and the earlier outcomes that stay valid. Outcomes of cases that no longer
        exist are left out.
    """
    wanted = list(cases if count is None else cases[:count])
    repeated = {
        case.name
        for case in wanted
        if again == "all" or (again == "failed" and case.name in done and done[case.name].failed)
    }
    todo = [case for case in wanted if case.name not in done or case.name in repeated]
    names = {case.name for case in cases} - {case.name for case in todo}
    return todo, {name: outcome for name, outcome in done.items() if name in names}


def run_part(
    part: Part,
    name: str,
    *,
    seed: int,
    count: int | None,
    minutes: float | None,
    again: Again,
    output: Path,
    revision: str,
) -> dict[str, Any]:
    """Tries the cases of a part that are not done yet, and sums up all that are.

    Args:
        part: The part.
        name: Its name, which files are named by.
        seed: Random seed of the cases.
        count: Number of cases; None for all of the full form.
        minutes: Time after which no further case is started; None for no limit.
        again: Which cases to try once more, see `choose`.
        output: Folder of the log and of the files of the cases.
        revision: Revision of the product, noted with each outcome.

    Returns:
        The result: title, rows, tables, ratios and settings as in `benchmarks`, and `failed`, the
        number of failed cases.
    """
    output.mkdir(parents=True, exist_ok=True)
    log, work = output / f"{name}.jsonl", output / f"{name}.work"
    cases = part.cases(seed)
    todo, done = choose(cases, read_log(log, seed), count, again)
    for outcome in _attempts(part, name, todo, seed, minutes, work, _estimate(done.values())):
        done[outcome.name] = Outcome(**outcome.to_dict() | {"revision": revision})
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"seed": seed} | done[outcome.name].to_dict()) + "\n")
    shutil.rmtree(work, ignore_errors=True)
    outcomes = [done[case.name] for case in cases if case.name in done]
    seconds = _estimate(outcomes)
    summary = part.summary(outcomes)
    return {
        "title": part.title,
        "rows": summary["rows"],
        "tables": summary["tables"],
        "ratios": {},
        "settings": {
            "seed": seed,
            "cases": f"{len(outcomes)} of {len(cases)}",
            "seconds per case (median)": round(seconds or 0, 2),
            "revision": ", ".join(sorted({outcome.revision for outcome in outcomes})),
        },
        "failed": summary["failed"],
    }


def _estimate(outcomes: Iterable[Outcome]) -> float | None:
    seconds = [outcome.seconds for outcome in outcomes]
    return median(seconds) if seconds else None


def _attempts(
    part: Part,
    name: str,
    todo: Sequence[Case],
    seed: int,
    minutes: float | None,
    work: Path,
    seconds: float | None,
) -> Iterable[Outcome]:
    """Tries cases one by one until the time is over."""
    if seconds is not None and todo:
        print(f"{name}: {len(todo)} cases, about {len(todo) * seconds / 60:.0f} minutes")
    started = time.monotonic()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    # Without a thread that redraws: cases run in forks of this process.
    with Progress(*columns, auto_refresh=False) as progress:
        task = progress.add_task(name, total=len(todo))
        for case in todo:
            if minutes is not None and time.monotonic() - started > 60 * minutes:
                progress.console.print("the time is over; the same command goes on from here")
                return
            progress.update(task, description=f"{name}: {case.name[:50]}", refresh=True)
            shutil.rmtree(work / "case", ignore_errors=True)
            (work / "case").mkdir(parents=True)
            before = time.monotonic()
            outcome = part.attempt(case, seed, work / "case")
            took = round(time.monotonic() - before, 3)
            yield Outcome(**outcome.to_dict() | {"seconds": took})
            progress.advance(task)
