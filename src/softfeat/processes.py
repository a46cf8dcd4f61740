"""A function for many items, none of which the others depend on: here, or in several processes."""

import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol, TypeVar

from softfeat.interrupt import leave_signals_to_parent
from softfeat.memory import limit_memory

Item = TypeVar("Item")
Result = TypeVar("Result")


class ProcessDiedError(RuntimeError):
    """A process ended in the middle of an item, as after a lack of memory.

    Args:
        reason: How it ended, in a few words.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"its process died ({reason})")

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return type(self), (self.reason,)


class Map(Protocol):
    """Calls a function that does not raise for many items, one by one, wherever that may be."""

    def __call__(
        self, function: Callable[[Item], Result], items: Sequence[Item]
    ) -> Iterator[tuple[Item, Result | ProcessDiedError]]:
        """Yields each item with its result, or with the reason why there is none."""
        ...


def map_here(
    function: Callable[[Item], Result], items: Sequence[Item]
) -> Iterator[tuple[Item, Result | ProcessDiedError]]:
    """Calls a function for many items in this process, one after the other; see `Map`."""
    for item in items:
        yield item, function(item)


def _how_it_ended(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit status {code}"
    name = f"signal {-code}"
    with suppress(ValueError):
        name = signal.Signals(-code).name
    return name + (", perhaps for lack of memory" if code == -signal.SIGKILL else "")


class _Worker:
    """A process that answers one item after the other."""

    def __init__(self, function: Callable[[Any], Any], memory: int | None) -> None:
        context = get_context("spawn")  # a fork would copy the threads of libraries halfway
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(function, theirs, memory), daemon=True)
        self.process.start()
        theirs.close()  # so that the end of the process closes the pipe
        self.item: int | None = None

    def begin(self, number: int, item: Any) -> None:
        self.item = number
        with suppress(BrokenPipeError):  # it has died already, which `result` finds out
            self.connection.send(item)

    def result(self) -> Any:
        """The result of the current item. Raises ProcessDiedError instead of waiting forever."""
        try:
            result = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            raise ProcessDiedError(_how_it_ended(self.process.exitcode)) from None
        self.item = None
        return result

    def end(self) -> None:
        """Ends the process, at once if it is working."""
        self.connection.close()
        if self.item is not None:
            self.process.kill()
        self.process.join()


def _serve(function: Callable[[Any], Any], connection: Connection, memory: int | None) -> None:
    leave_signals_to_parent(0)
    limit_memory(memory)
    with suppress(EOFError):  # the parent has closed the pipe
        while True:
            connection.send(function(connection.recv()))


def map_in_processes(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    count: int,
    memory: int | None = None,
) -> Iterator[tuple[Item, Result | ProcessDiedError]]:
    """Calls a function for many items, in processes that live as long as this iterator.

    A process that dies loses only the item it was working on, and another one takes its place.

    Args:
        function: Picklable function that does not raise.
        items: Picklable items.
        count: Number of processes.
        memory: Bytes that a process may take, see `limit_memory`.

    Yields:
        Each item with its result, as they are finished, or with the reason why there is none.
    """
    waiting = deque(enumerate(items))
    workers: list[_Worker] = []
    try:
        while waiting or workers:
            while waiting and len(workers) < count:
                workers.append(_Worker(function, memory))
                workers[-1].begin(*waiting.popleft())
            ready = wait([worker.connection for worker in workers])
            for worker in [each for each in workers if each.connection in ready]:
                assert worker.item is not None
                item = items[worker.item]
                try:
                    result: Result | ProcessDiedError = worker.result()
                except ProcessDiedError as error:
                    result = error
                if waiting and not isinstance(result, ProcessDiedError):
                    worker.begin(*waiting.popleft())
                else:
                    workers.remove(worker)
                    worker.end()
                yield item, result
    finally:
        for worker in workers:
            worker.end()
