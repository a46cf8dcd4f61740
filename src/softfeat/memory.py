"""How much memory a process takes, and when it gives it back to the system."""

import ctypes
import gc
from contextlib import suppress

_ARENA_MAX = -8  # M_ARENA_MAX of malloc.h
_ARENAS = 2
GIGABYTE = 10**9


def limit_memory(size: int | None) -> None:
    """Lets this process take no more memory: what needs more raises an error.

    Args:
        size: Bytes of its data, with those that are in use already. None for no limit.
    """
    if size is not None:
        import resource  # not on Windows

        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        allowed = size if most == resource.RLIM_INFINITY else min(size, most)
        resource.setrlimit(resource.RLIMIT_DATA, (allowed, most))


def limit_arenas() -> None:
    """Lets all threads share two heaps.

    By default each thread has a heap of its own, and memory that another one could use stays there.
    """
    with suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL(None).mallopt(_ARENA_MAX, _ARENAS)


def release_memory() -> None:
    """Gives the memory of deleted objects back to the system, also of those in cycles."""
    gc.collect()
    trim_heap()


def trim_heap() -> None:
    """Gives free memory back to the system, which malloc would keep for later."""
    with suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL(None).malloc_trim(0)
