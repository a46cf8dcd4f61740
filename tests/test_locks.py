"""Locks of files: one process at a time, and none after a process was killed."""

import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path

from softfeat.locks import holding

FORK = multiprocessing.get_context("fork")


def hold(file: Path, pipe: Connection) -> None:
    with holding(file):
        pipe.send("held")
        pipe.recv()


def test_others_wait_until_the_holder_ends_or_is_killed(tmp_path: Path) -> None:
    for kill in (False, True):
        ours, theirs = FORK.Pipe()
        process = FORK.Process(target=hold, args=(tmp_path / "lock", theirs))
        process.start()
        assert ours.recv() == "held"
        with holding(tmp_path / "lock", wait=False) as held:
            assert not held
        if kill:
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
            assert (tmp_path / "lock").exists()  # and still it is free
        else:
            ours.send("end")
        with holding(tmp_path / "lock") as held:
            assert held
        process.join()
        assert not list(tmp_path.iterdir())


def test_a_process_may_hold_a_lock_twice(tmp_path: Path) -> None:
    with holding(tmp_path / "lock"), holding(tmp_path / "lock", wait=False) as held:
        assert held
    assert not list(tmp_path.iterdir())


def count(folder: Path, times: int) -> None:
    number = folder / "number"
    for _ in range(times):
        with holding(folder / "lock"):
            number.write_text(str(int(number.read_text()) + 1))


def test_nobody_holds_a_lock_whose_file_is_gone(tmp_path: Path) -> None:
    (tmp_path / "number").write_text("0")
    processes = [FORK.Process(target=count, args=(tmp_path, 50)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert (tmp_path / "number").read_text() == "150"
