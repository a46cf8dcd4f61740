"""Many items in several processes."""

import os
import pickle
import signal
import time
from pathlib import Path

import psutil
import pytest

from softfeat.memory import GIGABYTE
from softfeat.processes import ProcessDiedError, map_here, map_in_processes


def work(item: int) -> tuple[int, int]:
    """Squares a number in this process, or ends it: by a signal for 13 and 15, by itself for 14."""
    if item == 13:
        os.kill(os.getpid(), signal.SIGSEGV)
    if item == 15:
        os.kill(os.getpid(), signal.SIGKILL)
    if item == 14:
        os._exit(3)
    if item == 99:
        time.sleep(60)
    return item * item, os.getpid()


def workers() -> list[psutil.Process]:
    """The processes that were started here, and not by other tests in this process."""
    children = psutil.Process().children()
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def test_each_item_once() -> None:
    found = dict(map_in_processes(work, range(12), 3))
    assert {item: result[0] for item, result in found.items()} == {n: n * n for n in range(12)}  # type: ignore[index]
    assert 1 <= len({result[1] for result in found.values()}) <= 3  # type: ignore[index]
    assert os.getpid() not in {result[1] for result in found.values()}  # type: ignore[index]
    assert not workers()


@pytest.mark.parametrize("count", [1, 2])
def test_a_process_that_dies_loses_one_item(count: int) -> None:
    found = dict(map_in_processes(work, [1, 13, 2, 14, 3], count))
    assert {item for item, result in found.items() if isinstance(result, ProcessDiedError)} == {
        13,
        14,
    }
    assert str(found[13]) == "its process died (SIGSEGV)"
    assert str(found[14]) == "its process died (exit status 3)"
    assert [found[item][0] for item in (1, 2, 3)] == [1, 4, 9]  # type: ignore[index]
    (_, killed), *_ = map_in_processes(work, [15], 1)
    assert str(killed) == "its process died (SIGKILL, perhaps for lack of memory)"


def test_without_items_there_is_no_process() -> None:
    assert list(map_in_processes(work, [], 2)) == []


def test_processes_end_with_the_iterator() -> None:
    results = map_in_processes(work, [1, 99, 99], 2)
    assert next(results)[0] == 1
    assert workers()
    results.close()  # type: ignore[attr-defined]
    assert not workers()


def fill(item: int) -> str:
    """Takes that many megabytes."""
    try:
        return str(len(bytearray(item * 1_000_000)))
    except MemoryError:
        return "too much"


def test_a_limit_of_the_memory() -> None:
    found = map_in_processes(fill, [10, 2000, 20], 1, memory=GIGABYTE)
    assert dict(found) == {10: "10000000", 2000: "too much", 20: "20000000"}


def test_in_this_process() -> None:
    assert list(map_here(str, [1, 2])) == [(1, "1"), (2, "2")]


def test_the_reason_of_a_death_is_pickled() -> None:
    error = pickle.loads(pickle.dumps(ProcessDiedError("SIGSEGV")))
    assert str(error) == "its process died (SIGSEGV)"


def note(item: Path) -> str:
    return item.read_text()


def test_items_and_results_are_pickled(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("content")
    assert list(map_in_processes(note, [tmp_path / "a"], 1)) == [(tmp_path / "a", "content")]
