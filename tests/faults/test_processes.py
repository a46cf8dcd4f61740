import faulthandler
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from faults.processes import Running, last_line, run


def write_three(folder: Path) -> None:
    for number in range(3):
        (folder / str(number)).write_text("x")


def test_an_orderly_end(tmp_path: Path) -> None:
    def function() -> None:
        print("out", Path.cwd())
        print("err", file=sys.stderr)
        write_three(tmp_path)
        sys.exit(3)

    ended = run(function, tmp_path, tmp_path / "log", 60)
    assert (ended.code, ended.out, ended.err) == (3, f"out {tmp_path}\n", "err\n")
    assert ended.writes == 3
    assert not ended.crash


def test_a_kill_while_the_number_of_writes_is_written(tmp_path: Path) -> None:
    def function() -> None:
        (tmp_path / "log" / "writes").touch()
        os.kill(os.getpid(), signal.SIGKILL)

    ended = run(function, tmp_path, tmp_path / "log", 60)
    assert (ended.code, ended.writes) == (-signal.SIGKILL, 0)


def test_an_exception_in_a_destructor_is_no_crash(tmp_path: Path) -> None:
    class Broken:
        def __del__(self) -> None:
            raise RuntimeError("ignored")

    def function() -> None:
        sys.unraisablehook = sys.__unraisablehook__  # without that of pytest
        Broken()

    ended = run(function, tmp_path, tmp_path / "log", 60)
    assert "Exception ignored in" in ended.err
    assert not ended.crash


def test_ends_that_count_as_crashes_and_hangs(tmp_path: Path) -> None:
    def fail() -> None:
        raise RuntimeError("no message for people")

    assert "crash: RuntimeError" in run(fail, tmp_path, tmp_path / "log", 60).crash

    def abort() -> None:
        faulthandler.disable()
        os.abort()

    signalled = run(abort, tmp_path, tmp_path / "log", 60)
    assert signalled.code == -signal.SIGABRT
    assert signalled.crash == "crash: signal SIGABRT"
    hanging = run(lambda: time.sleep(60), tmp_path, tmp_path / "log", 0.2)
    assert hanging.code is None
    assert hanging.crash.startswith("hang")


@pytest.mark.parametrize("write", [1, 2, 3])
def test_it_is_killed_before_a_write(tmp_path: Path, write: int) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    ended = run(lambda: write_three(folder), folder, tmp_path / "log", 60, kill_at_write=write)
    assert ended.code == -signal.SIGKILL
    assert len(list(folder.iterdir())) == write - 1


def test_what_it_started_is_killed_with_it(tmp_path: Path) -> None:
    def function() -> None:
        if os.fork() == 0:
            (tmp_path / "child").write_text(str(os.getpid()))
        time.sleep(60)

    running = Running(function, tmp_path, tmp_path / "log")
    while not (tmp_path / "child").is_file() or not (tmp_path / "child").read_text():
        time.sleep(0.01)
    ended = running.wait(60, kill_after=0)
    assert ended.code == -signal.SIGKILL
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and not ended_or_zombie(child):
        time.sleep(0.01)
    assert ended_or_zombie(child)


def ended_or_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_the_last_line_of_a_message() -> None:
    assert last_line("a\nb \n\n") == "b"
    assert last_line("") == "no message"
