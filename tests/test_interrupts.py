"""Stopped commands: exit codes, no traceback, a second signal that ends at once."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from softfeat.interrupts import Stopped, ending_in_order, stoppable

pytestmark = pytest.mark.usefixtures("heard_signals")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_what_runs_and_cleans_up(number: signal.Signals, code: int) -> None:
    before = signal.getsignal(number)
    cleaned = False
    with pytest.raises(Stopped) as stopped, stoppable():  # noqa: PT012
        try:
            signal.raise_signal(number)
        finally:
            cleaned = True
    assert stopped.value.code == code
    assert cleaned
    assert signal.getsignal(number) is before


def test_ignored_signals_stay_ignored_and_other_threads_change_nothing() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stoppable():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)

    def run() -> None:
        with stoppable():
            assert signal.getsignal(signal.SIGINT) is before

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


def python(code: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, text=True)


def test_a_second_signal_ends_at_once() -> None:
    code = """if 1:
        import time
        from softfeat.interrupts import ending_in_order
        with ending_in_order():
            try:
                print("ready", flush=True)
                time.sleep(60)
            finally:
                print("cleaning", flush=True)
                time.sleep(60)
    """
    process = python(code)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "cleaning\n"
    process.send_signal(signal.SIGINT)  # the same signal, sent twice
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.6)
    process.send_signal(signal.SIGTERM)
    assert process.communicate()[1] == ""
    assert process.returncode == 143


def test_a_closed_pipe_ends_quietly() -> None:
    code = """if 1:
        from softfeat.interrupts import ending_in_order
        with ending_in_order():
            print("a line")
    """
    read, write = os.pipe()
    os.close(read)
    process = python(code, write)
    os.close(write)
    assert process.communicate()[1] == ""
    assert process.returncode == 1


def test_nothing_happens_without_a_signal() -> None:
    with ending_in_order():
        pass
