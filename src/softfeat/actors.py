"""A function for many items on the machines of a Ray cluster, none of which the others depend on.

Ray Data repeats a block of items for ever if one of them kills its process, or gives up all of the
block. Here each actor works on one item at a time, so it is known which item it was.
"""

import logging
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

from softfeat.interrupt import handling, interruptible
from softfeat.memory import GIGABYTE, limit_memory
from softfeat.processes import Item, ProcessDiedError, Result
from softfeat.threads import limit_threads

_ATTEMPTS = 3  # for an item whose actor dies, perhaps with its machine
_REACHED_WITHIN = 10  # seconds
_ADVICE = "start one by `ray start --head`"
_FAILED_STARTS = 3  # for each actor, one after the other, which more of them would not mend


def connect(address: str | None = None) -> int:
    """Connects to a Ray cluster, or starts one on this machine.

    Args:
        address: Address of the cluster, as "head:6379" or "auto". None for this machine.

    Returns:
        The number of cores of the cluster.

    Raises:
        ImportError: Ray is not installed. The message says how to install it.
        ValueError: There is no cluster at the address.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no messages to elsewhere
    ray = _ray()
    options: dict[str, Any] = {"include_dashboard": False} if address is None else {}
    if address is not None:
        _check_reachable(address)
    try:
        with interruptible():  # and the handlers of before afterwards, which Ray replaces
            ray.init(
                address or "local",  # None would look for a cluster that someone has started here
                ignore_reinit_error=True,
                log_to_driver=False,
                logging_level=logging.ERROR,
                **options,
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"no Ray cluster at {address} ({reason}): {_ADVICE}, or set RAY_AUTH_MODE=token if it "
            "asks for a token"
        ) from error
    # Ray prints to standard output when a process dies, whatever the options. We report that.
    with suppress(AttributeError):
        ray._private.worker._worker_logs_enabled = False
    return int(ray.cluster_resources().get("CPU", 1))


def _check_reachable(address: str) -> None:
    """Raises ValueError if nothing listens at an address, for which Ray would wait for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdecimal():
        return  # "auto", for example
    try:
        socket.create_connection((host, int(port)), _REACHED_WITHIN).close()
    except (OSError, OverflowError) as error:
        raise ValueError(f"no Ray cluster at {address} ({error}): {_ADVICE}") from error


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ImportError('clusters need Ray: pip install "softfeat[ray]"') from error
    return ray


class _Worker:
    """What runs on the cluster: a function, loaded once, for one item at a time.

    Args:
        shared: Reference to the function, in a list, so that it is loaded here and not before.
        memory: Bytes that the process may take.
    """

    def __init__(self, shared: list[Any], memory: int | None) -> None:
        limit_threads(1)  # before the libraries that read it are imported
        limit_memory(memory)
        self._function: Callable[[Any], Any] = _ray().get(shared[0])

    def start(self) -> None:
        """Returns once the actor has a place on the cluster."""

    def call(self, item: Any) -> Any:
        return self._function(item)


def map_in_actors(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    count: int,
    memory: int | None = None,
) -> Iterator[tuple[Item, Result | ProcessDiedError]]:
    """Calls a function for many items in actors of a Ray cluster; see `connect`.

    An actor that dies loses only the item it was working on, and another one takes its place. The
    item is tried twice more, since its machine may have been the reason.

    Args:
        function: Picklable function that does not raise.
        items: Picklable items.
        count: Number of actors, each with one core. Those for which the cluster has no room wait.
        memory: Bytes that an actor may take, see `limit_memory`. A machine gets no more actors than
            fit. None for no limit.

    Yields:
        Each item with its result, as they are finished, or with the reason why there is none.

    Raises:
        ConnectionError: Actors cannot start, for example because the cluster lacks this package.
    """
    ray = _ray()
    if memory is not None:
        _say_if_too_large(memory)
    options = {} if memory is None else {"memory": memory}
    actor_class = ray.remote(_Worker).options(num_cpus=1, max_restarts=0, **options)
    shared = ray.put(function)
    waiting = deque((item, 1) for item in items)
    working: dict[Any, tuple[Any, tuple[Item, int] | None]] = {}  # by what Ray will answer

    def add_actor() -> None:
        actor = actor_class.remote([shared], memory)
        working[actor.start.remote()] = actor, None

    failed_starts = 0
    try:
        for _ in range(min(count, len(items))):
            add_actor()
        while waiting or any(task is not None for _, task in working.values()):
            with _interruptible():
                ray.wait(list(working))
            answers, _ = ray.wait(list(working), num_returns=len(working), timeout=0)
            for answer in answers:
                actor, task = working.pop(answer)
                death: ProcessDiedError | None = None
                result: Any = None
                try:
                    result = ray.get(answer)
                    failed_starts = 0
                except ray.exceptions.RayError as error:
                    death = ProcessDiedError(_reason(error))
                    ray.kill(actor)
                    if task is None:
                        failed_starts += 1
                        if failed_starts >= _FAILED_STARTS * count:
                            raise ConnectionError(_start_error(error)) from error
                    elif task[1] < _ATTEMPTS:
                        waiting.append((task[0], task[1] + 1))
                        task = None
                if waiting and death is None:
                    new = waiting.popleft()
                    working[actor.call.remote(new[0])] = actor, new
                elif waiting:
                    add_actor()
                elif death is None:
                    ray.kill(actor)
                if task is not None:
                    yield task[0], result if death is None else death
    finally:
        for actor, _ in working.values():
            ray.kill(actor)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Lets signals end a call of Ray, which understands KeyboardInterrupt only."""
    received: list[int] = []

    def stop(number: int, _: FrameType | None) -> NoReturn:
        received.append(number)
        raise KeyboardInterrupt

    try:
        with handling(stop):
            yield
    except KeyboardInterrupt:
        for number in received:
            handler = signal.getsignal(number)  # that of before
            if callable(handler):
                handler(number, None)  # raises what the program wants to end with
        raise


def _say_if_too_large(memory: int) -> None:
    """Says so if no machine of the cluster has room for an actor, since Ray waits for one then."""
    sizes = [node["Resources"].get("memory", 0) for node in _ray().nodes() if node["Alive"]]
    if max(sizes, default=0) < memory:
        largest = max(sizes, default=0) / GIGABYTE
        print(
            f"no machine of the cluster has {memory / GIGABYTE:g} GB for a process "
            f"(the largest has {largest:.1f} GB): waiting for one",
            file=sys.stderr,
        )


def _start_error(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"actors of the cluster cannot start: {lines[-1] if lines else repr(error)}"


def _reason(error: Exception) -> str:
    """Why an actor died, in a few words, as far as Ray knows."""
    if isinstance(error, _ray().exceptions.OutOfMemoryError):
        return "its machine had no memory left"
    if "node has died" in str(error) or "node failure" in str(error):
        return "with its machine"
    return f"{_ATTEMPTS} times, by a crash or for lack of memory"
