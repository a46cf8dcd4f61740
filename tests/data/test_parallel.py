import os
from typing import Any

import pytest
import torch

from softfeat.data.parallel import check_open_files, map_in_workers, share_memory, worker_count


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


def test_too_few_open_files_are_an_error_before_a_worker_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (128, 128))
    check_open_files(0)
    check_open_files(1)
    with pytest.raises(ValueError, match=r"2 worker processes need 192.*data\.num_workers=0"):
        check_open_files(2)


def test_a_worker_shares_the_tensors_of_a_batch_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    batch: dict[str, Any] = {
        "image": torch.ones(2),
        "native": [torch.ones(3), torch.ones(0)],
        "path": ["a"],
    }
    share_memory(batch)
    assert not batch["image"].is_shared()
    monkeypatch.setattr("softfeat.data.parallel.get_worker_info", object)
    share_memory(batch)
    assert batch["image"].is_shared()
    assert batch["native"][0].is_shared()
