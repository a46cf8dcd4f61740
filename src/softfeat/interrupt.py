"""Ctrl-C and SIGTERM: commands end with one line and the usual exit status, without a traceback."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
Handler = Callable[[int, FrameType | None], object]


class Interrupted(BaseException):
    """The user or the system asked the program to stop.

    Not an `Exception`, like KeyboardInterrupt: nothing that handles errors may swallow it.

    Args:
        signum: Number of the signal.
        advice: What the user can do next; may be empty.
    """

    def __init__(self, signum: int, advice: str = "") -> None:
        super().__init__(signum, advice)
        self.signum, self.advice = signum, advice

    @property
    def status(self) -> int:
        """Exit status of a program that such a signal ended: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.signum

    def __str__(self) -> str:
        name = "stopped" if self.signum == signal.SIGTERM else "interrupted"
        return f"{name}{self.advice and f': {self.advice}'}"


def stop_at_once(signum: int, _: FrameType | None) -> NoReturn:
    """Handles a signal by raising `Interrupted`."""
    raise Interrupted(signum)


def handle_signals(handler: Handler, *signals: signal.Signals) -> None:
    """Sets the handler of signals, by default of both, if this thread may do so."""
    if threading.current_thread() is threading.main_thread():
        for signum in signals or SIGNALS:
            signal.signal(signum, handler)


@contextmanager
def handling(handler: Handler) -> Iterator[None]:
    """Sets the handler of both signals within the block, if this thread may do so."""
    before = [signal.getsignal(signum) for signum in SIGNALS]
    handle_signals(handler)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for signum, earlier in zip(SIGNALS, before, strict=True):
                signal.signal(signum, earlier)


def interruptible() -> AbstractContextManager[None]:
    """Lets both signals raise `Interrupted` within the block."""
    return handling(stop_at_once)


def say(text: str) -> None:
    """Writes a line to standard error from a signal handler, where print could fail."""
    os.write(2, f"{text}\n".encode())


def leave_signals_to_parent(_worker: int = 0) -> None:
    """Prepares a worker process: its parent decides when it ends.

    A terminal sends Ctrl-C, and a batch system SIGTERM, to all processes at once. A worker that
    ended with a traceback of its own would also end the step that its parent wants to finish.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Ignored once only: the parent terminates a worker that hangs with the same signal.
    signal.signal(signal.SIGTERM, lambda signum, _: signal.signal(signum, signal.SIG_DFL))
