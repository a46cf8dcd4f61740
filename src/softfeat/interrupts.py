"""Commands that are stopped: by Ctrl-C, by SIGTERM, or because nobody reads their output."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SAME = 0.5  # seconds; `timeout` and terminals may send one signal twice


class Stopped(SystemExit):
    """The user or the system stopped the command, which ends with 128 and the signal's number."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Raises `Stopped` at the first Ctrl-C or SIGTERM. A later one ends the process at once.

    Signals that the process was started to ignore stay ignored (`nohup`, jobs in the background).
    """
    first = 0.0

    def stop(number: int, _: FrameType | None) -> None:
        nonlocal first
        if not first:
            first = time.monotonic()
            raise Stopped(128 + number)
        if time.monotonic() - first > _SAME:
            os._exit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    heard = {n: handler for n, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for number in heard:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in heard.items():
            signal.signal(number, handler)


@contextmanager
def ending_in_order() -> Iterator[None]:
    """Ends a command without a traceback when it is stopped or its output is a closed pipe."""
    try:
        with stoppable():
            try:
                yield
            finally:
                sys.stdout.flush()
    except BrokenPipeError:
        end_of_output()


def end_of_output() -> NoReturn:
    """Exits with code 1 because nobody reads the output (`| head`)."""
    # Python writes what is left while it ends, and would complain.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)
