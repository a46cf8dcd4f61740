import threading
import time

import pytest
import torch

from softfeat.thread_pool import map_in_threads


@pytest.mark.parametrize("threads", [1, 3])
def test_results_are_in_order(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    seen = set()

    def slower_first(item: int) -> int:
        seen.add(threading.get_ident())
        time.sleep(0.002 * (10 - item))
        return item**2

    assert map_in_threads(slower_first, range(10)) == [item**2 for item in range(10)]
    assert len(seen) == threads
    assert map_in_threads(slower_first, []) == []


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_stops_the_rest(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    started = []

    def fails(item: int) -> None:
        started.append(item)
        time.sleep(0.01)
        if item == 2:
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        map_in_threads(fails, range(50))
    assert len(started) < 10
