import os

import pytest

from softfeat.data.parallel import map_in_workers, worker_count


def _whose(item: int) -> tuple[int, int]:
    return item, os.getpid()


def test_order_is_kept_and_few_items_are_shared_among_all_workers() -> None:
    for number in (4, 300):
        results = list(map_in_workers(_whose, range(number), 2, "test"))
        assert [item for item, _ in results] == list(range(number))
        processes = [process for _, process in results]
        assert len(set(processes)) == 2
        assert os.getpid() not in processes
        assert max(map(processes.count, set(processes))) <= number // 2 + 2


def test_without_workers_or_items() -> None:
    assert list(map_in_workers(_whose, [7], 0, "test")) == [(7, os.getpid())]
    assert list(map_in_workers(_whose, [], 2, "test")) == []


def test_there_is_a_worker_a_core_where_none_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(3)), raising=False)
    assert worker_count(None) == 3
    assert worker_count(0) == 0
    assert worker_count(40) == 40
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert worker_count(None) == 12
    monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.setattr("os.cpu_count", lambda: 5)
    assert worker_count(None) == 5
