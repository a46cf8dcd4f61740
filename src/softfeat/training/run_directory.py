"""The directory of a run: what it holds, who may write to it, and what a failed start leaves."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from omegaconf import DictConfig

from softfeat.atomic import PARTIAL, replaced
from softfeat.revision import revision
from softfeat.training.machine import machine
from softfeat.training.run_config import save_config

# What a training writes before its first checkpoint.
_ENTRIES = ("config.yaml", "machine.json", "metrics.csv", "error.txt", "pictures", "wandb")
_LOCK = "running.lock"


class RunDirectory:
    """The directory of one training.

    Args:
        path: The directory.
        keep: Keep the files of a start that failed, as the jobs of a sweep do for their report.
    """

    def __init__(self, path: Path, keep: bool = False) -> None:
        self.path, self.keep = path, keep

    @contextmanager
    def opened(self, cfg: DictConfig, resume: bool) -> Iterator[None]:
        """Writes the configuration and the machine, and keeps other trainings out of the block.

        If the block fails before a step was trained (see `keep`), everything it wrote is removed.

        Args:
            cfg: Configuration; gets the revision of the project.
            resume: Whether the run in the directory continues.

        Raises:
            ValueError: The directory holds a run that is not to be resumed, or that is in training.
        """
        checkpoints = (path.name for path in (self.path / "checkpoints").glob("*.ckpt"))
        if not resume and not all(name.startswith(PARTIAL) for name in checkpoints):
            raise ValueError(
                f"{self.path} holds a run: continue it with python -m src.train "
                f"resume={self.path}, or choose another run_dir"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        before = {entry.name for entry in self.path.iterdir()}
        with removed_if_empty(self.path), self._locked():
            for folder in (self.path, self.path / "checkpoints", self.path / "pictures"):
                for leftover in folder.glob(f"{PARTIAL}*"):  # of a process that was killed
                    leftover.unlink(missing_ok=True)
            if not resume:  # what a start that failed has left
                for name in ("metrics.csv", "error.txt"):
                    (self.path / name).unlink(missing_ok=True)
            try:
                cfg.revision = revision()
                save_config(cfg, self.path / "config.yaml")
                text = json.dumps(machine(), indent=1)
                with replaced(self.path / "machine.json") as partial:
                    partial.write_text(text + "\n", encoding="utf-8")
                (self.path / "error.txt").unlink(missing_ok=True)
                yield
            except BaseException:
                if not self.keep and not resume:
                    self._remove(set(_ENTRIES) - before)
                raise

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = FileLock(self.path / _LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(
                f"{self.path}: another training is running there. Wait for it, or choose another "
                "run_dir"
            ) from None
        try:
            yield
        finally:
            lock.release()
            (self.path / _LOCK).unlink(missing_ok=True)

    def _remove(self, names: set[str]) -> None:
        for name in names:
            entry = self.path / name
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
        with suppress(OSError):
            (self.path / "checkpoints").rmdir()


@contextmanager
def removed_if_empty(folder: Path) -> Iterator[None]:
    """Removes a folder if the block fails and leaves it empty.

    Empty folders above it are removed, too, below the current one.
    """
    try:
        yield
    except BaseException:
        here = Path.cwd()
        with suppress(OSError):
            folder.rmdir()
            for parent in folder.absolute().parents:
                if here not in parent.parents:
                    break
                parent.rmdir()
        raise
