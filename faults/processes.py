"""Commands of the product in forks of this process, which may be killed at any point.

A fork has everything imported already and starts in milliseconds, so that hundreds of kills take
minutes. This process must therefore start no threads: it computes nothing with torch.
"""

import contextlib
import ctypes
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_WRITING = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link")
_PR_SET_PDEATHSIG = 1  # of prctl
_POLL_SECONDS = 0.004
_ERROR = re.compile(r"[\w.]*(Error|Exception|Interrupt|Exit)\b")  # the last line of a traceback
_REPORTED = 160  # characters of an error in a line


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: Exit status; negative for a signal; None if it ran past its limit.
        seconds: Time from its start to its end.
        out: What it wrote to standard output.
        err: What it wrote to standard error.
        writes: Number of files that it opened for writing, moved, made or removed.
    """

    code: int | None
    seconds: float
    out: str
    err: str
    writes: int = 0

    @property
    def crash(self) -> str:
        """The reason to call the end a crash or a hang; empty for an orderly end."""
        if self.code is None:
            return f"hang: not finished after {self.seconds:.0f} s"
        if self.code < 0:
            return f"crash: signal {signal.Signals(-self.code).name}"
        # Exceptions in destructors are printed and ignored.
        ignored = self.err.count("Exception ignored in")
        if self.err.count("Traceback (most recent call last)") > ignored:
            errors = [line for line in self.err.splitlines() if _ERROR.match(line)]
            return f"crash: {last_line(errors[-1] if errors else self.err)}"
        return ""


def last_line(text: str) -> str:
    """The last line of a text that is not empty, shortened."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:_REPORTED] if lines else "no message"


class Running:
    """A function in a fork of this process.

    Args:
        function: Function without arguments. Its `SystemExit` is the exit status.
        folder: Working folder, and the folder whose files count as writes.
        log: Folder for what it writes to standard output and standard error.
        kill_at_write: Number of the write before which the process kills itself; None for no kill.
    """

    def __init__(
        self,
        function: Callable[[], object],
        folder: Path,
        log: Path,
        kill_at_write: int | None = None,
    ) -> None:
        log.mkdir(parents=True, exist_ok=True)
        for name in ("out", "err"):  # it may be killed before it opens them
            (log / name).write_bytes(b"")
        self.log, self.started = log, time.monotonic()
        self._code: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _run_and_exit(function, folder, log, kill_at_write)

    @property
    def alive(self) -> bool:
        """Whether the process has not ended yet."""
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code is None

    def kill(self) -> None:
        """Kills the process and all that it started, as `kill -9` does."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        if self._code is None:  # it may not be the leader of its group yet
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def wait(self, limit: float, kill_after: float | None = None) -> Ended:
        """Waits for the end.

        Args:
            limit: Seconds after the start at which the process is killed and counts as hanging.
            kill_after: Seconds after the start at which it is killed on purpose.
        """
        due = limit if kill_after is None else kill_after
        while self.alive and time.monotonic() - self.started < due:
            time.sleep(_POLL_SECONDS)
        seconds = time.monotonic() - self.started
        hangs = self._code is None and kill_after is None
        self.kill()  # workers of a process that has ended, too
        while self.alive:
            time.sleep(_POLL_SECONDS)
        count = self.log / "writes"
        writes = count.read_text() if count.is_file() else ""
        return Ended(
            None if hangs else self._code,
            seconds,
            (self.log / "out").read_text("utf-8", "replace"),
            (self.log / "err").read_text("utf-8", "replace"),
            int(writes or 0),  # it may have been killed before it wrote the number
        )


def run(
    function: Callable[[], object],
    folder: Path,
    log: Path,
    limit: float,
    *,
    kill_after: float | None = None,
    kill_at_write: int | None = None,
) -> Ended:
    """Runs a function in a fork of this process and waits for its end; see `Running`."""
    return Running(function, folder, log, kill_at_write).wait(limit, kill_after)


def _run_and_exit(
    function: Callable[[], object], folder: Path, log: Path, kill_at_write: int | None
) -> None:
    """Runs a function in this process, which is a fork, and ends the process."""
    code = 1
    try:
        os.setsid()
        with contextlib.suppress(OSError, AttributeError):  # Linux: it ends with its parent
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        for descriptor, path in ((1, log / "out"), (2, log / "err")):
            opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(opened, descriptor)
            os.close(opened)
        empty = os.open(os.devnull, os.O_RDONLY)
        os.dup2(empty, 0)
        os.close(empty)
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
        os.chdir(folder)
        writes = _count_writes(str(folder), kill_at_write)
        try:
            function()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        (log / "writes").write_text(str(writes[0]))
    except BaseException:  # what Python itself would print at the end of a process
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _count_writes(folder: str, kill_at: int | None) -> list[int]:
    """Counts what this process writes below a folder, and kills it before a given write."""
    own, count = os.getpid(), [0]

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open":
            flags = arguments[2]
            if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event not in _WRITING:
            return
        path = arguments[0]
        if not isinstance(path, str | bytes | os.PathLike) or os.getpid() != own:
            return
        if os.path.abspath(os.fsdecode(path)).startswith(folder):  # noqa: PTH100
            count[0] += 1
            if count[0] == kill_at:
                os.killpg(own, signal.SIGKILL)

    sys.addaudithook(watch)
    return count
