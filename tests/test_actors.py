"""Many items on a Ray cluster of two machines, both of them this one."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
from click.testing import CliRunner
from pyarrow import parquet

pytest.importorskip("ray", reason="needs ray: make install")

import ray
from ray.cluster_utils import Cluster

from softfeat import actors
from softfeat.actors import connect, map_in_actors
from softfeat.cli import main
from softfeat.interrupt import Interrupted, interruptible
from softfeat.memory import GIGABYTE
from softfeat.processes import ProcessDiedError
from tests.helpers.photos import picture, write_checkpoint
from tests.test_processes import fill, work


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head that does no work, and two machines with a core each."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    assert connect(cluster.address) == 2
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def numbers(results: Any) -> dict[int, int]:
    return {item: result[0] for item, result in results}


def test_no_cluster() -> None:
    with pytest.raises(
        ValueError, match=r"no Ray cluster at 127.0.0.1:1 .*refused.*ray start --head"
    ):
        connect("127.0.0.1:1")


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r'pip install "softfeat\[ray\]"'):
        connect()


@pytest.mark.usefixtures("cluster")
def test_each_item_once() -> None:
    results = list(map_in_actors(work, range(9), 2))
    assert len(results) == 9
    assert numbers(results) == {n: n * n for n in range(9)}
    assert os.getpid() not in {result[1] for _, result in results}  # type: ignore[index]


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("count", [1, 2])
def test_an_actor_that_dies_loses_one_item(count: int, capfd: pytest.CaptureFixture[str]) -> None:
    found = dict(map_in_actors(work, [1, 13, 2, 14, 3], count))
    died = {item for item, result in found.items() if isinstance(result, ProcessDiedError)}
    assert died == {13, 14}
    assert str(found[13]) == "its process died (3 times, by a crash or for lack of memory)"
    assert [found[item][0] for item in (1, 2, 3)] == [1, 4, 9]  # type: ignore[index]
    time.sleep(1)  # when Ray would say what it thinks of it
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("cluster")
def test_a_limit_of_the_memory() -> None:
    found = map_in_actors(fill, [10, 2000, 20], 1, memory=GIGABYTE)
    assert dict(found) == {10: "10000000", 2000: "too much", 20: "20000000"}


def once(folder: Path, item: int) -> str:
    """Dies at the first attempt."""
    try:
        (folder / str(item)).touch(exist_ok=False)
    except FileExistsError:
        return "done"
    os.kill(os.getpid(), signal.SIGKILL)
    return "never"


@pytest.mark.usefixtures("cluster")
def test_items_are_tried_again(tmp_path: Path) -> None:
    assert dict(map_in_actors(partial(once, tmp_path), [1, 2], 2)) == {1: "done", 2: "done"}


def wait(item: int) -> int:
    time.sleep(0.3)
    return item


def test_a_machine_that_fails(cluster: Cluster) -> None:
    node = cluster.add_node(num_cpus=1)
    Timer(1.5, cluster.remove_node, [node], {"allow_graceful": False}).start()
    results = list(map_in_actors(wait, range(30), 3))
    assert sorted(results) == [(n, n) for n in range(30)]


def _missing() -> Any:
    raise ModuleNotFoundError("no module named softfeat")


class NotThere:
    """A function of a package that the cluster does not have."""

    def __reduce__(self) -> Any:
        return _missing, ()


@pytest.mark.usefixtures("cluster")
def test_actors_that_cannot_start() -> None:
    with pytest.raises(ConnectionError, match=r"cannot start: (.|\n)*no module named softfeat"):
        list(map_in_actors(NotThere(), [1, 2], 2))  # type: ignore[arg-type]


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it(number: signal.Signals) -> None:
    Timer(2, os.kill, [os.getpid(), number]).start()
    start = time.monotonic()
    with interruptible(), pytest.raises(Interrupted) as caught:
        list(map_in_actors(work, [99, 99], 2))  # a minute each
    assert caught.value.signum == number
    assert time.monotonic() - start < 20


@pytest.mark.usefixtures("cluster")
def test_a_machine_that_is_too_small(capsys: pytest.CaptureFixture[str]) -> None:
    results = map_in_actors(work, [1], 1, memory=10**13)
    Timer(1, os.kill, [os.getpid(), signal.SIGINT]).start()
    with interruptible(), pytest.raises(Interrupted):
        next(results)
    assert "no machine of the cluster has 10000 GB" in capsys.readouterr().err


@pytest.mark.usefixtures("cluster")
def test_without_items_there_is_no_actor() -> None:
    assert list(map_in_actors(work, [], 2)) == []


@pytest.mark.parametrize("command", ["segment", "extract"])
def test_the_commands(
    command: str, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actors, "connect", lambda _: connect(cluster.address))
    weights = write_checkpoint(tmp_path / "weights.ckpt")
    (tmp_path / "in").mkdir()
    for number in range(3):
        picture(40, 32, seed=number).save(tmp_path / "in" / f"{number}.png")
    (tmp_path / "in" / "bad.jpg").write_bytes(b"\xff\xd8\xff no photo")
    options = ["--weights", str(weights), "--size", "48", "--engine", "ray", "--json"]
    call = [command, str(tmp_path / "in"), "-o", str(tmp_path / "out"), *options]
    done = {"segment": "segmented", "extract": "extracted"}[command]
    for status in (done, "skipped"):
        result = CliRunner().invoke(main, call)
        assert result.exit_code == 1, result.output
        lines = [json.loads(line) for line in result.stdout.splitlines()]
        assert sorted(line["status"] for line in lines) == sorted(["failed", *[status] * 3])
        table = parquet.read_table(tmp_path / "out" / "status.parquet").to_pylist()
        assert sorted(Path(row["photo"]).name for row in table) == [
            "0.png",
            "1.png",
            "2.png",
            "bad.jpg",
        ]
        (failed,) = (row for row in table if row["status"] == "failed")
        assert "unreadable" in failed["reason"]
        if status == done:
            assert all(row["seconds"] > 0 for row in table if row["status"] == done)
