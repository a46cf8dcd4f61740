"""kill -9 at random points: what is run again must equal what was never interrupted, bit by bit.

Every other kill comes at a random time. The others come just before a random write, because a
process spends little time in the moments in which files are incomplete.
"""

import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np

from faults import commands, samples
from faults.cases import SKIPPED, Case, Outcome, fault_summary
from faults.processes import Ended, last_line, run

Results = dict[str, str]


@dataclass(frozen=True)
class Scenario:
    """A command that is killed.

    Attributes:
        start: Starts it in a folder.
        again: Continues it after a kill, as the documents say.
        results: Reads its results.
    """

    start: Callable[[Path], Callable[[], None]]
    again: Callable[[Path], Callable[[], None]]
    results: Callable[[Path], Results]


class Kills:
    """Kills commands and runs them again.

    Args:
        total: Number of kills of the full form.
        limit: Seconds after which a command counts as hanging.
    """

    title = "Killed at random points"

    def __init__(self, total: int, limit: float) -> None:
        self.total, self.limit = total, limit
        self._world: World | None = None

    def cases(self, seed: int) -> Sequence[Case]:  # noqa: ARG002, which decides the data only
        """Lists the kills; the commands take turns."""
        names = list(SCENARIOS)
        return [
            Case(f"{names[n % len(names)]} {n}", f"kill -9: {names[n % len(names)]}", {"number": n})
            for n in range(self.total)
        ]

    def attempt(self, case: Case, seed: int, folder: Path) -> Outcome:
        """Kills a command, runs it again and compares the results."""
        if self._world is None or self._world.seed != seed:
            self._world = World(seed, self.limit)
        name, number = case.name.rpartition(" ")[0], case.settings["number"]
        scenario, reference = self._world.scenario(name), self._world.reference(name)
        share = float(np.random.default_rng((seed, number)).uniform(0.02, 1))
        at_write = (number // len(SCENARIOS)) % 2 == 1
        for shorter in (1, 0.5, 0.2, 0.05):  # times vary: it may end before it is killed
            work = self._world.fresh()
            options: dict[str, Any] = (
                {"kill_at_write": 1 + int(shorter * share * reference.ended.writes)}
                if at_write
                else {"kill_after": shorter * share * reference.ended.seconds}
            )
            killed = run(scenario.start(work), work, folder / "killed", self.limit, **options)
            if killed.code == -signal.SIGKILL:
                break
        else:
            return Outcome(case.name, case.fault, SKIPPED, "it ended before it was killed")
        point = f"write {options['kill_at_write']}" if at_write else f"{killed.seconds:.2f} s"
        ended = run(scenario.again(work), work, folder / "again", self.limit)
        verdict, detail = judge(ended, reference.results, scenario.results, work)
        return Outcome(case.name, case.fault, verdict, f"killed at {point}: {detail}")

    def summary(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Counts what survived."""
        return fault_summary(outcomes)


def judge(
    ended: Ended, expected: Results, results: Callable[[Path], Results], work: Path
) -> tuple[str, str]:
    """The verdict on a command that was run again, and what happened."""
    if ended.crash:
        return ended.crash.partition(":")[0], ended.crash.partition(": ")[2]
    if ended.code:
        return "lost", f"run again, it ends with {last_line(ended.err or ended.out)!r}"
    different = commands.difference(expected, results(work))
    return ("lost", f"differs in {different}") if different else ("used", "equal")


@dataclass(frozen=True)
class Reference:
    """An uninterrupted run: how it ended, and its results."""

    ended: Ended
    results: Results


class World:
    """Data that all kills share, and uninterrupted runs to compare with.

    Args:
        seed: Random seed of the data.
        limit: Seconds that a command may take.
    """

    def __init__(self, seed: int, limit: float) -> None:
        self.seed, self.limit = seed, limit
        self.folder = Path(mkdtemp(prefix="softfeat-faults-"))
        self.set = samples.write_set(self.folder / "set", seed)
        self.photos = samples.write_photos(self.folder / "photos", 4, seed)
        self.checkpoint = samples.write_checkpoint(self.folder / "tiny.ckpt", seed)
        self._references: dict[str, Reference] = {}

    def __del__(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def scenario(self, name: str) -> Scenario:
        """The scenario of this name, on the shared data."""
        return SCENARIOS[name](self)

    def fresh(self) -> Path:
        """Makes an empty working folder, always at the same path, which results may hold."""
        work = self.folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        return work

    def reference(self, name: str) -> Reference:
        """Runs a scenario without a kill, once."""
        if name not in self._references:
            scenario, work = self.scenario(name), self.fresh()
            ended = run(scenario.start(work), work, self.folder / "log", self.limit)
            if ended.code:
                raise RuntimeError(f"{name} fails without a kill, too: {ended.err[-2000:]}")
            self._references[name] = Reference(ended, scenario.results(work))
        return self._references[name]


def _store(world: World, *more: str) -> Scenario:
    def start(work: Path) -> Callable[[], None]:
        arguments = commands.precompute_arguments(world.set, work / "cache", *more)
        return commands.command("precompute", arguments)

    return Scenario(start, start, lambda work: commands.stores(work / "cache"))


def _training(arguments: Callable[[Path], list[str]]) -> Scenario:
    def start(work: Path) -> Callable[[], None]:
        return commands.command("train", arguments(work))

    def again(work: Path) -> Callable[[], None]:
        if (work / "run" / "checkpoints" / "last.ckpt").is_file():
            return commands.command("train", [f"resume={work / 'run'}"])
        return start(work)  # nothing to resume: the same command

    return Scenario(start, again, lambda work: commands.run_results(work / "run"))


def _features(world: World) -> Scenario:
    def arguments(work: Path) -> list[str]:
        return commands.train_arguments(world.set, work / "cache", work / "run")

    return _training(arguments)


def _head(world: World) -> Scenario:
    def arguments(work: Path) -> list[str]:
        return commands.head_arguments(world.set, work / "cache", work / "run", world.checkpoint)

    return _training(arguments)


def _evaluation(world: World) -> Scenario:
    def start(work: Path) -> Callable[[], None]:
        data = ["data=folder", f"data.root={world.set}", f"data.cache_dir={work / 'cache'}"]
        size = ["data.image_size=[32,32]", "data.batch_size=2", "data.num_workers=0"]
        options = [f"checkpoint={world.checkpoint}", "probe_steps=3", f"output={work / 'scores'}"]
        return commands.command("evaluate", [*data, *size, *options])

    return Scenario(start, start, lambda work: commands.evaluation(work / "scores"))


def _segment(world: World) -> Scenario:
    def start(work: Path) -> Callable[[], None]:
        arguments = commands.segment_arguments(world.photos, work / "layers", world.checkpoint)
        return commands.softfeat(*arguments)

    return Scenario(start, start, lambda work: commands.layers(work / "layers"))


def _sweep(world: World) -> Scenario:
    seeds = (0, 1)

    def arguments(work: Path) -> list[str]:
        return commands.train_arguments(world.set, work / "cache", work / "sweep")

    def start(work: Path) -> Callable[[], None]:
        return commands.command("train", ["-m", *arguments(work), f"seed={seeds[0]},{seeds[1]}"])

    def again(work: Path) -> Callable[[], None]:
        """Finishes the jobs that are unfinished, one by one."""

        def finish() -> None:
            for number, seed in enumerate(seeds):
                job = work / "sweep" / str(number)
                if (job / "metrics.json").is_file():
                    continue
                own = commands.train_arguments(world.set, work / "cache", job, f"seed={seed}")
                last = job / "checkpoints" / "last.ckpt"
                options = [f"resume={job}"] if last.is_file() else own
                ended = run(commands.command("train", options), work, work / "log", world.limit)
                print(ended.out)
                if ended.code:
                    raise SystemExit(ended.err)

        return finish

    def results(work: Path) -> Results:
        jobs = {str(n): commands.run_results(work / "sweep" / str(n)) for n in range(len(seeds))}
        return {f"{job}/{k}": v for job, content in jobs.items() for k, v in content.items()}

    return Scenario(start, again, results)


SCENARIOS: dict[str, Callable[[World], Scenario]] = {
    "superpixels": lambda world: _store(world, "data.num_workers=0"),
    "superpixels in workers": lambda world: _store(world, "data.num_workers=2"),
    "packed photos": lambda world: _store(world, "data.num_workers=0", "data.pack=true"),
    "training": _features,
    "stored features and head": _head,
    "evaluation": _evaluation,
    "softfeat segment": _segment,
    "sweep": _sweep,
}
