"""Wrong changes of the product's code: does a test notice each of them?

A sample of all small changes of some modules is tried in a copy of the project. Each change sees
only the tests that mirror its module, and the examples in the module itself.
"""

import gc
import hashlib
import math
import os
import re
import resource
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from faults.cases import Case, Outcome
from faults.intervals import wilson
from faults.mutator import changed, list_changes
from faults.processes import Ended, run

ROOT = Path(__file__).parents[1]
_COPIED = ("src", "tests", "conf", "weights", "benchmarks", "faults", "docs", "pyproject.toml")
# Imported once; every trial is a fork.
_HEAVY = (
    "torch", "torch.utils.data", "pytorch_lightning", "torchmetrics", "kornia", "hydra", "numpy",
    "scipy.sparse.linalg", "scipy.ndimage", "skimage.segmentation", "skimage.data", "PIL.Image",
    "matplotlib.figure", "pymatting", "psd_tools", "rich.progress", "pytest", "hypothesis",
    "_hypothesis_pytestplugin", "scipy.cluster.hierarchy", "tifffile", "imagecodecs",
)  # fmt: skip
_OWN = ("softfeat", "tests", "benchmarks", "src")
_MEMORY = 12 << 30  # bytes of address space that a change may take in addition
_PATIENCE = 10
_DURATION = re.compile(r"^([\d.]+)s (?:setup|call|teardown)\s+(\S.*)$", re.MULTILINE)


class Mutants:
    """Changes modules and runs their tests.

    Args:
        modules: Modules or folders of modules, relative to `src/softfeat`.
        total: Number of changes in the sample.
        wanted: Smallest share of changes that tests have to notice.
        slower: A change is noticed if the tests compute this many times as long as without it.
        seconds: Shortest limit of that, in seconds.
    """

    title = "Wrong changes that tests notice"

    def __init__(
        self, modules: Sequence[str], total: int, wanted: float, slower: float, seconds: float
    ) -> None:
        self.modules, self.total, self.wanted = list(modules), total, wanted
        self.slower, self.seconds = slower, seconds
        self._limits: dict[str, float] = {}

    def cases(self, seed: int) -> Sequence[Case]:
        """Draws the sample.

        The order depends on each change alone, so a change of one module leaves the sample of the
        others as it was.
        """
        package = ROOT / "src" / "softfeat"
        files: list[Path] = []
        for name in self.modules:
            path = package / name
            files += sorted(path.rglob("*.py")) if path.is_dir() else [path]
        drawn = []
        for file in files:
            module = file.relative_to(package).as_posix()
            source, seen = file.read_text("utf-8"), dict[str, int]()
            for number, change in enumerate(list_changes(source)):
                seen[change.key] = seen.get(change.key, 0) + 1  # the same change on an equal line
                name = f"{module} {change.key} {seen[change.key]}"
                order = hashlib.sha256(f"{seed} {name}".encode()).hexdigest()
                where = f"line {change.line}, {' '.join(change.text.split())[:160]}"
                drawn.append((order, Case(name, module, {"number": number, "where": where})))
        return [case for _, case in sorted(drawn, key=lambda pair: pair[0])[: self.total]]

    def attempt(self, case: Case, seed: int, folder: Path) -> Outcome:  # noqa: ARG002
        """Runs the tests of a module with one change."""
        module = case.fault
        tests = mirror_of(module)
        if not tests:
            return Outcome(case.name, module, "survived", case.settings["where"])
        if module not in self._limits:
            ended = self._copy.run_tests(module, tests, folder, 60 * 20)
            if ended.code:
                raise RuntimeError(f"{tests} fail without a change, too: {ended.out[-3000:]}")
            self._limits[module] = max(self.seconds, self.slower * ended.seconds)
            self._copy.durations[module] = _durations(ended.out)
        file = self._copy.folder / "src" / "softfeat" / module
        original = ROOT / "src" / "softfeat" / module
        source = original.read_text("utf-8")
        file.write_text(changed(source, case.settings["number"]), encoding="utf-8")
        try:
            ended = self._copy.run_tests(module, tests, folder, self._limits[module])
        finally:
            shutil.copy2(original, file)
        # Without the change the status is 0. Any other one is due to the change: failed tests, a
        # module or a conftest.py that cannot be imported, a signal, or None after the time limit.
        verdict = "survived" if ended.code == 0 else "killed"
        return Outcome(case.name, module, verdict, case.settings["where"])

    @cached_property
    def _copy(self) -> "_Copy":
        return _Copy()

    def summary(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Counts noticed changes by module, and lists the others."""
        modules = sorted({outcome.fault for outcome in outcomes})
        rows = [_row(m, [o for o in outcomes if o.fault == m]) for m in modules]
        survivors = [
            {"module": f"`{o.fault}`", "change": f"`{o.detail}`"}
            for o in sorted(outcomes, key=lambda o: (o.fault, o.detail))
            if o.verdict != "killed"
        ]
        total = _row("**all**", outcomes) if outcomes else {}
        enough = not outcomes or total["noticed"] >= self.wanted * total["changes"]
        return {
            "rows": [*rows, total] if rows else [],
            "tables": {"Not noticed": survivors} if survivors else {},
            "failed": 0 if enough else len(survivors),
        }


def _row(name: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    killed, count = sum(o.verdict == "killed" for o in outcomes), len(outcomes)
    low, high = wilson(killed, count)
    return {
        "module": name,
        "changes": count,
        "noticed": killed,
        "share": f"{100 * killed / count:.1f} %",
        "95 % interval": f"{100 * low:.1f} to {100 * high:.1f} %",
    }


def mirror_of(module: str) -> list[str]:
    """The tests that mirror a module: its own file, or else those of its package.

    Args:
        module: File relative to `src/softfeat`.

    Returns:
        Paths relative to the root, without the module itself.
    """
    path = Path("tests") / module
    own = path.with_name(f"test_{path.name}")
    if (ROOT / own).is_file():
        return [str(own)]
    return [str(path.parent)] if any((ROOT / path.parent).glob("test_*.py")) else []


class _Copy:
    """A copy of the project in which code may be wrong, and forks that test it."""

    def __init__(self) -> None:
        self.folder = Path(mkdtemp(prefix="softfeat-mutants-"))
        self.durations: dict[str, dict[str, float]] = {}  # seconds of tests, by module and test
        for name in _COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, self.folder / name)
            else:
                shutil.copy2(source, self.folder / name)
        for name in _HEAVY:
            __import__(name)

    def __del__(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def run_tests(self, module: str, tests: list[str], folder: Path, limit: float) -> Ended:
        """Runs tests up to the first failure, in a fork. Known quick tests come first.

        Args:
            module: Module whose examples are tested too.
            tests: Paths of tests.
            folder: Folder for their files.
            limit: Seconds of computing. A busy machine may take `_PATIENCE` times as long.
        """
        log = folder / "tests"
        temporary = folder / "tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        own = [f"src/softfeat/{module}"]
        options = ["-x", "-q", "-m", "not slow and not gpu", "-p", "no:cacheprovider"]
        options += ["--basetemp", str(temporary), "--durations=0", "--no-header", "--tb=line"]
        # The tests need no other plugin, and importing and collecting garbage takes a second.
        options += ["-p", "_hypothesis_pytestplugin", "-p", "no:unraisableexception"]
        order = _QuickFirst(self.durations.get(module, {}))
        tested = self._pytest([*options, *tests, *own], math.ceil(limit), order)
        return run(tested, self.folder, log, _PATIENCE * limit)

    def _pytest(self, arguments: list[str], limit: int, order: "_QuickFirst") -> Callable[[], None]:
        def call() -> None:
            import pytest
            import torch

            torch.set_num_threads(1)
            gc.freeze()  # what all trials share
            os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
            sys.dont_write_bytecode = True  # its time stamps are too coarse for quick changes
            used = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
            resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY, used + _MEMORY))
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
            for name in list(sys.modules):
                if name.partition(".")[0] in _OWN:
                    del sys.modules[name]
            sys.meta_path.insert(0, _Finder(self.folder))  # type: ignore[arg-type]
            sys.path[:] = [str(self.folder), *(p for p in sys.path if p not in ("", str(ROOT)))]
            os.environ["PYTHONPATH"] = f"{self.folder / 'src'}{os.pathsep}{self.folder}"
            raise SystemExit(int(pytest.main(arguments, [order])))

        return call


def _durations(out: str) -> dict[str, float]:
    r"""Reads the seconds of each test from the output of `pytest --durations=0`.

    >>> _durations("0.10s call     tests/a.py::test[b c]\n0.02s setup    tests/a.py::test[b c]")
    {'tests/a.py::test[b c]': 0.12}
    """
    seconds: dict[str, float] = {}
    for number, name in _DURATION.findall(out):
        seconds[name] = round(seconds.get(name, 0.0) + float(number), 3)
    return seconds


class _QuickFirst:
    """A plugin of pytest that puts quick tests first, because most changes fail many tests.

    Args:
        seconds: Seconds of the tests by their names. Others take no time.
    """

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """See pytest's reference of hooks."""
        items.sort(key=lambda item: self.seconds.get(item.nodeid, 0.0))


class _Finder:
    """Finds the packages of the product in a folder, before any other place."""

    def __init__(self, folder: Path) -> None:
        self.packages = {
            "softfeat": folder / "src" / "softfeat",
            "softfeat.conf": folder / "conf",
            "softfeat.weights": folder / "weights",
        }

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:  # noqa: ARG002
        """See `importlib.abc.MetaPathFinder`."""
        folder = self.packages.get(name)
        if folder is None:
            return None
        return spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
