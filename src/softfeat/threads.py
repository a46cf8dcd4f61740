"""How many threads a command computes with.

This module imports nothing slow: libraries read these settings when they are imported.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_GROUPS = Path("/proc/self/cgroup")  # `hierarchy:controllers:path` in each line
_MOUNT = Path("/sys/fs/cgroup")
_COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def usable_cores() -> int:
    """Counts the cores that this process may use: by its affinity, and by the quota of its group.

    Containers have such quotas. A quota of one and a half cores counts as one.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # not everywhere
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, int(min([cores, *_quotas()])))


def _quotas() -> Iterator[float]:
    """The limits of this process's control group and of those around it, in cores."""
    try:
        groups = [line.split(":", 2) for line in _GROUPS.read_text().splitlines()]
    except OSError:  # not Linux
        return
    for _, controllers, path in groups:
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = _MOUNT / controllers if controllers else _MOUNT  # of version 1, or of version 2
        folder = mount / path.lstrip("/")
        # In a container, the path may be that of the host, and the group itself is the mount.
        for each in (folder, *folder.parents):
            with suppress(OSError, ValueError):
                yield _quota(each)
            if each == mount:
                break


def _quota(folder: Path) -> float:
    """The limit of one control group, in cores.

    Raises:
        OSError, ValueError: It has none.
    """
    with suppress(FileNotFoundError):
        quota, period = (folder / "cpu.max").read_text().split()
        return int(quota) / int(period)  # ValueError for "max"
    quota, period = ((folder / f"cpu.cfs_{n}_us").read_text() for n in ("quota", "period"))
    if int(quota) <= 0:
        raise ValueError("no limit")
    return int(quota) / int(period)


def limit_threads(count: int | None = None) -> None:
    """Chooses the number of threads of the libraries that are imported afterwards.

    Threads that have nothing to do sleep. Waiting actively, as they would by default, takes the
    cores of each other where other programs run, too.

    Args:
        count: Number of threads. None for one per core that this process may use, or what
            `OMP_NUM_THREADS` says.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # NumPy's products are small here. More threads would wait for each other.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for name in _COUNTS:
        if count is not None:
            os.environ[name] = str(count)
        else:
            os.environ.setdefault(name, os.environ.get("OMP_NUM_THREADS") or str(usable_cores()))
