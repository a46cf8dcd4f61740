import os

from src.utils.parallel import map_in_workers


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
