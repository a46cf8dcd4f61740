"""Memory of the server: what pages no longer need goes back to the system."""

import ctypes
import gc
from contextlib import suppress

_ARENA_MAX = -8  # M_ARENA_MAX of malloc.h
_ARENAS = 2


def limit_arenas() -> None:
    """Lets all threads share two heaps.

    Gradio runs events in many threads. By default each has a heap of its own, and memory that
    another thread could use stays there.
    """
    with suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL(None).mallopt(_ARENA_MAX, _ARENAS)


def release_memory() -> None:
    """Gives the memory of deleted objects back to the system."""
    gc.collect()
    with suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL(None).malloc_trim(0)
