"""Cases, what became of them, and tables of both."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

# The verdict on a case, and the column of the table that counts it.
SURVIVED = {
    "used": "used",  # with the right result
    "reported": "reported",  # an error, or a skipped file, with its name and a remedy
}
FAILED_LONG_RUNS = ("grows", "ended early")
FAILED = {
    "lost": "lost",  # the result of a run that is started again differs, or cannot be had
    "wrong": "silently wrong",  # another result than that of the undamaged file, and no error
    "crash": "crashes",  # a signal, or a traceback in place of a message
    "hang": "hangs",  # not finished in its time
    "unclear": "unclear errors",  # a message without the file or setting, or without a remedy
}
_FOLDERS = re.compile(r"(?:/[^\s/'\"]+)+/")
SKIPPED = "not tried"  # this machine does not permit it


@dataclass(frozen=True)
class Case:
    """One trial of a part.

    Attributes:
        name: Name of the case, unique in its part. With the seed it decides everything random.
        fault: Kind of fault, a row of the table.
        settings: Whatever else the part needs to try it.
    """

    name: str
    fault: str
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes:
        name: Name of the case.
        fault: Kind of fault.
        verdict: Key of `SURVIVED` or `FAILED`, or `SKIPPED`; parts may have verdicts of their own.
        detail: What happened, in a line.
        seconds: Time of the trial.
        values: Numbers that tables are made of.
        revision: Revision of the product that was tried.
    """

    name: str
    fault: str
    verdict: str
    detail: str = ""
    seconds: float = 0.0
    values: dict[str, Any] = field(default_factory=dict)
    revision: str = ""

    @property
    def failed(self) -> bool:
        """Whether the product failed the case."""
        return self.verdict in FAILED or self.verdict in FAILED_LONG_RUNS

    def to_dict(self) -> dict[str, Any]:
        """The outcome as plain values."""
        return asdict(self)


class Part(Protocol):
    """A part of the trials: `python -m faults part=NAME`."""

    title: str

    def cases(self, seed: int) -> Sequence[Case]:
        """Lists the cases of the full form, in the order in which they are tried."""

    def attempt(self, case: Case, seed: int, folder: Path) -> Outcome:
        """Tries one case.

        Args:
            case: The case.
            seed: Random seed.
            folder: Empty folder for its files; it is deleted afterwards.
        """

    def summary(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Makes the entries `rows` and `tables` of a result, and `failed`, a number."""


def table(outcomes: Iterable[Outcome]) -> list[dict[str, Any]]:
    """Counts verdicts by the kind of fault, with a last row for all.

    >>> table([Outcome("a", "kill", "used"), Outcome("b", "kill", "lost")])[0]["survived"]
    1
    """
    kinds: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        kinds.setdefault(outcome.fault, []).append(outcome)
    everything = [outcome for group in kinds.values() for outcome in group]
    return [
        _counts(fault, group) for fault, group in [*kinds.items(), ("**all**", everything)]
    ]  # fmt: skip


def _counts(fault: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    verdicts = [outcome.verdict for outcome in outcomes]
    columns = {name: sum(v == key for v in verdicts) for key, name in (SURVIVED | FAILED).items()}
    tried = len(verdicts) - verdicts.count(SKIPPED)
    survived = {"survived": sum(verdict in SURVIVED for verdict in verdicts)}
    return {"fault": fault, "times tried": tried} | survived | columns


def listing(outcomes: Iterable[Outcome]) -> list[dict[str, Any]]:
    """Makes a row for each given outcome; folders of this machine are left out."""
    return [
        {
            "case": f"`{outcome.name}`",
            "verdict": outcome.verdict,
            "what happened": _FOLDERS.sub(".../", outcome.detail),
        }
        for outcome in outcomes
    ]


def fault_summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Makes the summary of a part with the verdicts of this module; see `Part.summary`."""
    failed = [outcome for outcome in outcomes if outcome.failed]
    skipped = [outcome for outcome in outcomes if outcome.verdict == SKIPPED]
    tables = {"Not survived": listing(failed), "Not tried": listing(skipped)}
    return {
        "rows": table(outcomes),
        "tables": {title: rows for title, rows in tables.items() if rows},
        "failed": len(failed),
    }
