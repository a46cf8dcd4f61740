"""What a command says of many photos: a line for each, and a table at the end."""

from collections import Counter
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import track
from rich.table import Column, Table
from rich.text import Text

from softfeat.interrupt import Interrupted
from softfeat.names import printable
from softfeat.processes import ProcessDiedError
from softfeat.storage import Folder, RemotePhoto, parquet_bytes, parquet_library

_MOST_NAMED = 10  # files that are no photos, named in a line
_MOST_ROWS = 1000  # of a table; of more photos it shows those that failed
Source = Path | BytesIO | RemotePhoto


class Outcome(Protocol):
    """What became of a photo.

    Attributes:
        photo: The photo's path, or the name of an open file.
        status: "failed", or what was done, in a word.
        error: The reason of a failure.
        reason: The same in one line; empty without one.
        work: What was done, in a few words; empty after a failure.
        seconds: Seconds that it took; 0 after a failure.
        row: Cells of a table.
    """

    @property
    def photo(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def error(self) -> Exception | None: ...
    @property
    def reason(self) -> str: ...
    @property
    def work(self) -> str: ...
    @property
    def seconds(self) -> float: ...
    @property
    def row(self) -> tuple[str, ...]: ...

    def to_json(self) -> str:
        """The outcome as one line of JSON."""
        ...


def name_of(photo: Source) -> str:
    """The path or URL of a photo, or the name of an open file."""
    return str(photo) if isinstance(photo, Path | RemotePhoto) else photo.name


def opened(photo: Source) -> Path | BytesIO:
    """What a photo is read from.

    Raises:
        OSError: It is at a URL, and cannot be read.
    """
    return photo.read() if isinstance(photo, RemotePhoto) else photo


def reason_of(error: Exception | None, photo: str) -> str:
    """The reason of a failure in one line, without the name of the photo; empty without one."""
    if error is None:
        return ""
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return "not enough memory: allow more, or compute at a smaller --size"
    readable = isinstance(error, ValueError | OSError | ImportError | ProcessDiedError)
    text = str(error) if readable else repr(error)
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror  # without the path, which is the photo's
    return " ".join(text.removeprefix(f"{photo}: ").splitlines())


class StatusTable:
    """A table of the photos of a run as a Parquet file: photo, status, reason and seconds.

    Args:
        folder: Folder that gets the file `status.parquet`.

    Raises:
        ImportError: pyarrow is not installed.
    """

    def __init__(self, folder: Folder) -> None:
        parquet_library()
        self._folder = folder
        self._rows: list[tuple[str, str, str, float]] = []

    def add(self, outcome: Outcome) -> None:
        """Adds what became of a photo."""
        photo, reason = printable(outcome.photo), printable(outcome.reason)
        self._rows.append((photo, outcome.status, reason, outcome.seconds))

    def write(self) -> None:
        """Writes the file.

        Raises:
            OSError: It cannot be written.
        """
        import pyarrow

        photos, statuses, reasons, seconds = (
            zip(*self._rows, strict=True) if self._rows else [()] * 4
        )
        columns = {
            "photo": pyarrow.array(photos, pyarrow.string()),
            "status": pyarrow.array(statuses, pyarrow.string()).dictionary_encode(),
            "reason": pyarrow.array(reasons, pyarrow.string()),
            "seconds": pyarrow.array(seconds, pyarrow.float32()),
        }
        self._folder.write("status.parquet", parquet_bytes(pyarrow.table(columns)))


def report(
    results: Iterator[Outcome],
    count: int,
    columns: Sequence[str],
    doing: str,
    as_json: bool = False,
    others: Sequence[Path | str] = (),
    advice: str = "run the same command again to continue",
    statuses: "StatusTable | None" = None,
) -> int:
    """Reports results while they come in: progress and failures on stderr, a table on stdout.

    Without a terminal, progress is a line per photo. The table shows no more than 1,000 photos; of
    more, it shows those that failed.

    Args:
        results: Results for photos, as they come.
        count: Number of photos.
        columns: Titles of the columns of the table.
        doing: What the command does, for the progress bar.
        as_json: Whether to print one JSON object per photo in place of the table.
        others: Files that were left out because they are no photos.
        advice: What to do if the command is stopped.
        statuses: Table that gets a row for each photo as well.

    Returns:
        The number of failed photos.

    Raises:
        Interrupted: The command is stopped. What is finished is reported before.
    """
    errors = Console(stderr=True)
    table = Table(*(Column(name, overflow="fold") for name in columns))
    numbers = Counter[str]()
    stopped: Interrupted | None = None
    tracked = track(
        results,
        doing,
        count,
        console=errors,
        disable=not errors.is_terminal,
    )
    try:
        for result in tracked:
            numbers[result.status] += 1
            if result.error is not None:
                _say(errors, f"error: {result.photo}: {result.reason}")
            elif not as_json and not errors.is_terminal:
                _say(errors, f"{numbers.total()}/{count} {result.photo}: {result.work}")
            if as_json:
                print(result.to_json(), flush=True)
            if statuses is not None:
                statuses.add(result)
            if count <= _MOST_ROWS or (result.error is not None and table.row_count < _MOST_ROWS):
                table.add_row(*(Text(printable(cell)) for cell in result.row))
    except Interrupted as error:
        stopped = error
    finally:
        if statuses is not None:
            _write_statuses(statuses, errors)
    if not as_json and table.row_count:
        Console().print(table)
    if count > _MOST_ROWS:
        _say(errors, ", ".join(f"{number:,} {status}" for status, number in numbers.items()))
    if others:
        _say(errors, _list_others(others))
    if numbers["failed"]:
        _say(errors, f"{numbers['failed']} of {count} photos failed")
    if stopped is not None:
        done = numbers.total() - numbers["failed"]
        finished = f"{done} of {count} photos are finished; {advice}"
        raise Interrupted(stopped.signum, finished) from stopped
    return numbers["failed"]


def _write_statuses(statuses: StatusTable, console: Console) -> None:
    """Writes the table of all photos, or says that it cannot be written."""
    try:
        statuses.write()
    except OSError as error:
        _say(console, f"error: the table of all photos cannot be written: {error}")


def _say(console: Console, line: str) -> None:
    console.print(Text(printable(line)), soft_wrap=True)


def _list_others(others: Sequence[Path | str]) -> str:
    names = [str(path) for path in others[:_MOST_NAMED]]
    more = len(others) - len(names)
    what = "1 file is no photo" if len(others) == 1 else f"{len(others)} files are no photos"
    return f"{what}: {', '.join(names)}" + (f", and {more} more" if more else "")
