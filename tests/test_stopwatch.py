import time

import pytest

from softfeat.stopwatch import Stopwatch


def test_stages_add_up_in_their_order() -> None:
    watch = Stopwatch()
    for stage in ("b", "a", "b"):
        with watch(stage):
            time.sleep(0.01)
    assert list(watch.seconds) == ["b", "a"]
    assert watch.seconds["b"] >= 0.02
    with pytest.raises(KeyError), watch("failed"):
        raise KeyError
    assert watch.seconds["failed"] >= 0
