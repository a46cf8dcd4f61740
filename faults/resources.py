"""Too little of everything, several at once, and numbers that are none."""

import ctypes
import json
import os
import re
import resource
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from faults import commands, samples
from faults.cases import SKIPPED, Case, Outcome, fault_summary
from faults.processes import Ended, Running, last_line, run

_CLONE_NEWNS, _CLONE_NEWUSER, _MS_REMOUNT, _MS_REC_PRIVATE = 0x20000, 0x10000000, 32, 0x44000
Verdict = tuple[str, str]
Function = Callable[[], object]


class Resources:
    """Tries each scenario several times.

    Args:
        repeats: Number of times of the full form, each with other random numbers.
        limit: Seconds after which a command counts as hanging.
    """

    title = "Scarce resources, several at once, numbers that are none"

    def __init__(self, repeats: int, limit: float) -> None:
        self.repeats, self.limit = repeats, limit

    def cases(self, seed: int) -> Sequence[Case]:  # noqa: ARG002, which decides the numbers only
        """Lists all scenarios, then all of them again."""
        return [
            Case(f"{name}, {turn}", kind, {"scenario": name, "turn": turn})
            for turn in range(self.repeats)
            for name, (kind, _) in SCENARIOS.items()
        ]

    def attempt(self, case: Case, seed: int, folder: Path) -> Outcome:
        """Tries a scenario in a process of its own, which may have mounts of its own."""
        name, turn = case.settings["scenario"], case.settings["turn"]
        trial = Trial(folder, np.random.default_rng([seed, turn, *name.encode()]), self.limit)
        file = folder / "verdict.json"

        def judge() -> None:
            try:
                verdict = SCENARIOS[name][1](trial)
            except NotPermittedError as error:
                verdict = SKIPPED, str(error)
            file.write_text(json.dumps(verdict))

        ended = run(judge, folder, folder / "judge", 12 * self.limit)
        if not file.is_file():
            raise RuntimeError(f"{case.name} could not be judged: {ended.err[-3000:]}")
        verdict, detail = json.loads(file.read_text())
        return Outcome(case.name, case.fault, verdict, detail)

    def summary(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Counts what survived."""
        return fault_summary(outcomes)


class NotPermittedError(Exception):
    """This machine does not let a process have such a fault."""


class Trial:
    """A folder with small data, and what scenarios do with commands on it.

    Args:
        folder: Folder of the data and of all results.
        rng: Random numbers of the scenario.
        limit: Seconds that a command may take.
    """

    def __init__(self, folder: Path, rng: np.random.Generator, limit: float) -> None:
        self.folder, self.rng, self.limit = folder, rng, limit
        self.seed = int(rng.integers(1 << 30))
        self.set, self.photos = folder / "set", folder / "photos"
        self.checkpoint = folder / "tiny.ckpt"
        self.cache, self.output, self.run_dir = folder / "cache", folder / "out", folder / "run"
        self._logs = 0

    def with_data(self) -> "Trial":
        """Writes a data set, photos and weights."""
        samples.write_set(self.set, self.seed)
        samples.write_photos(self.photos, 3, self.seed)
        samples.write_checkpoint(self.checkpoint, self.seed)
        return self

    def go(self, function: Function, **options: Any) -> Ended:
        """Runs a command to its end."""
        self._logs += 1
        return run(function, self.folder, self.folder / f"log{self._logs}", self.limit, **options)

    def start(self, function: Function) -> Running:
        """Starts a command."""
        self._logs += 1
        return Running(function, self.folder, self.folder / f"log{self._logs}")

    def command(self, name: str) -> tuple[Function, Path, Callable[[Path], dict[str, str]]]:
        """A command by its name, the folder that it fills, and what reads its results."""
        if name == "segment":
            arguments = commands.segment_arguments(self.photos, self.output, self.checkpoint)
            return commands.softfeat(*arguments), self.output, commands.layers
        if name == "train":
            arguments = commands.train_arguments(self.set, self.cache, self.run_dir)
            return commands.command("train", arguments), self.run_dir, commands.run_results
        if name == "head":
            arguments = commands.head_arguments(self.set, self.cache, self.run_dir, self.checkpoint)
            return commands.command("train", arguments), self.cache, commands.stores
        more = ("data.num_workers=2",) if name == "superpixels" else ("data.pack=true",)
        arguments = commands.precompute_arguments(self.set, self.cache, *more)
        return commands.command("precompute", arguments), self.cache, commands.stores

    def expected(self, name: str) -> dict[str, str]:
        """Runs a command without a fault and removes what it wrote."""
        function, folder, results = self.command(name)
        ended = self.go(function)
        if ended.code:
            raise RuntimeError(f"{name} fails without a fault, too: {ended.err[-2000:]}")
        content = results(folder)
        for path in (self.cache, self.output, self.run_dir):
            if path.exists():
                _remove(path)
        return content


def _remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


def judged(ended: Ended, names: str) -> Verdict | None:
    """The verdict on a command that a fault stopped; None if it ended well.

    Args:
        ended: How it ended.
        names: Regular expression of what the message has to name.
    """
    if ended.crash:
        kind, _, detail = ended.crash.partition(": ")
        return kind, detail
    if ended.code:
        lines = [line.strip() for line in ended.err.splitlines()]
        starts = [n for n, line in enumerate(lines) if line.lower().startswith("error:")]
        errors = lines[starts[0] :] if starts else lines  # an error may list details
        clear = [line for line in errors if re.search(names, line)]
        detail = clear[0] if clear else last_line("\n".join(errors))
        return "reported" if clear else "unclear", detail[:200]
    return None


def _equal(expected: dict[str, str], results: dict[str, str], kind: str = "lost") -> Verdict:
    different = commands.difference(expected, results)
    return (kind, f"differs in {different}") if different else ("used", "equal")


# Namespaces and mounts


def own_mounts() -> None:
    """Lets this process mount, without an effect on others.

    Raises:
        NotPermittedError: The kernel does not let it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    users, groups = os.getuid(), os.getgid()
    if libc.unshare(_CLONE_NEWNS) and libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS) == 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {users} 1")
        Path("/proc/self/gid_map").write_text(f"0 {groups} 1")
    if libc.mount(b"none", b"/", None, _MS_REC_PRIVATE, None):
        raise NotPermittedError(f"no mounts here: {os.strerror(ctypes.get_errno())}")


def mount(folder: Path, size: int, again: bool = False) -> None:
    """Mounts a small disk in memory on a folder, or changes its size.

    Raises:
        NotPermittedError: The kernel does not let it.
    """
    folder.mkdir(exist_ok=True)
    options = f"size={size}".encode()
    flags = _MS_REMOUNT if again else 0
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", flags, options):
        raise NotPermittedError(f"no mounts here: {os.strerror(ctypes.get_errno())}")


def _full_disk(name: str) -> Callable[[Trial], Verdict]:
    """The disk is full at a random point; with more room the same command ends as ever."""

    def scenario(trial: Trial) -> Verdict:
        expected = trial.with_data().expected(name)
        own_mounts()
        function, folder, results = trial.command(name)
        page = 4096
        size = page * int(trial.rng.integers(2, 30))
        if folder == trial.run_dir:
            trial.run_dir.mkdir()
        mount(folder, size)
        ended = trial.go(function)
        verdict = judged(ended, r"full|No space left|space")
        if verdict is None and _equal(expected, results(folder))[0] != "used":
            return "lost", f"a full disk of {size} bytes, and yet the exit status is 0"
        if verdict is not None and verdict[0] != "reported":
            return verdict
        mount(folder, 1 << 28, again=True)
        if name in ("train", "head"):
            last = trial.run_dir / "checkpoints" / "last.ckpt"
            if last.is_file():
                function = commands.command("train", [f"resume={trial.run_dir}"])
        again = trial.go(function)
        if again.code or again.crash:
            return "lost", f"with room again: {again.crash or last_line(again.err)}"
        kind, detail = _equal(expected, results(folder))
        return (verdict or ("used", "it fits")) if kind == "used" else (kind, detail)

    return scenario


def _few_descriptors(name: str) -> Callable[[Trial], Verdict]:
    """`ulimit -n` is low."""

    def scenario(trial: Trial) -> Verdict:
        expected = trial.with_data().expected(name)
        function, folder, results = trial.command(name)
        most = int(trial.rng.integers(12, 64))

        def limited() -> None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
            function()

        verdict = judged(trial.go(limited), r"Too many open files|ulimit|descriptor")
        if verdict is not None:
            return verdict[0], f"ulimit -n {most}: {verdict[1]}"
        return _equal(expected, results(folder))

    return scenario


def _small_shared_memory(trial: Trial) -> Verdict:
    """/dev/shm has 64 MB, as in a container, and batches of two workers need more."""
    trial.with_data()
    own_mounts()
    mount(Path("/dev/shm"), 64 << 20)
    arguments = commands.train_arguments(
        trial.set,
        trial.cache,
        trial.run_dir,
        "data.image_size=[448,448]",
        "data.batch_size=16",  # 90 MB
        "data.num_workers=2",
        "data.steps_per_epoch=2",
        "trainer.max_epochs=1",
    )
    ended = trial.go(commands.command("train", arguments))
    return judged(ended, r"shm|shared memory") or ("used", "it fits")


def _killed_worker(trial: Trial) -> Verdict:
    """A worker of `precompute` is killed, as by the kernel when memory is short."""
    name = "superpixels"
    expected = trial.with_data().expected(name)
    function, folder, results = trial.command(name)
    running = trial.start(function)
    killed = False
    while running.alive and not killed:
        time.sleep(0.003)
        workers = _children(running.pid)
        if len(workers) >= 2:
            time.sleep(float(trial.rng.uniform(0, 0.05)))
            try:
                os.kill(int(trial.rng.choice(workers)), signal.SIGKILL)
                killed = True
            except ProcessLookupError:
                break
    verdict = judged(running.wait(trial.limit), r"[Ww]orker|killed|memory")
    if verdict is not None and verdict[0] != "reported":
        return verdict
    again = trial.go(function)
    if again.code or again.crash:
        return "lost", f"started again: {again.crash or last_line(again.err)}"
    kind, detail = _equal(expected, results(folder))
    return (verdict or ("used", "it ended before")) if kind == "used" else (kind, detail)


def _children(pid: int) -> list[int]:
    file = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        return [int(child) for child in file.read_text().split()]
    except OSError:
        return []


def _eight_starts(name: str) -> Callable[[Trial], Verdict]:
    """Eight processes start at once on one empty store."""

    def scenario(trial: Trial) -> Verdict:
        expected = trial.with_data().expected(name)
        function, folder, results = trial.command(name)
        started = [trial.start(function) for _ in range(8)]
        for running in started:
            verdict = judged(running.wait(trial.limit), "$^")
            if verdict is not None:
                return ("lost" if verdict[0] == "unclear" else verdict[0]), verdict[1]
        return _equal(expected, results(folder))

    return scenario


def _two_at_once(name: str, may_refuse: str) -> Callable[[Trial], Verdict]:
    """Two commands write to one folder: the results are right, and at most one is refused."""

    def scenario(trial: Trial) -> Verdict:
        expected = trial.with_data().expected(name)
        function, folder, results = trial.command(name)
        first = trial.start(function)
        time.sleep(float(trial.rng.choice([0, trial.rng.uniform(0, 1)])))
        second = trial.start(function)
        both = [first.wait(trial.limit), second.wait(trial.limit)]
        verdicts = [judged(ended, may_refuse) for ended in both]
        for verdict in verdicts:
            if verdict is not None and verdict[0] != "reported":
                return verdict
        if all(verdicts):
            return "lost", "both were refused"
        kind, detail = _equal(expected, results(folder), "wrong")
        refused = [verdict for verdict in verdicts if verdict]
        return refused[0] if refused and kind == "used" else (kind, detail)

    return scenario


# Numbers


def _no_number_in_weights(value: float) -> Callable[[Trial], Verdict]:
    def scenario(trial: Trial) -> Verdict:
        trial.with_data()
        samples.write_checkpoint(trial.checkpoint, trial.seed, fill=value)
        verdict = judged(trial.go(trial.command("segment")[0]), "tiny|weights|finite|NaN|nan")
        return verdict or ("wrong", f"layers were made with a weight of {value}")

    return scenario


def _no_number_in_photo(value: float) -> Callable[[Trial], Verdict]:
    def scenario(trial: Trial) -> Verdict:
        trial.with_data()

        def segment() -> None:
            from softfeat import Segmenter

            pixels = np.full((40, 48, 3), 0.5)
            pixels[3, 4, 1] = value
            try:
                Segmenter(trial.checkpoint, layers=2, size=32)(pixels)
            except ValueError as error:
                raise SystemExit(str(error)) from error

        verdict = judged(trial.go(segment), "NaN")
        return verdict or ("wrong", f"layers were made of a photo with a value of {value}")

    return scenario


def _no_number_in_file(value: float) -> Callable[[Trial], Verdict]:
    def scenario(trial: Trial) -> Verdict:
        trial.with_data()
        pixels = np.full((40, 48), 0.5, np.float32)
        pixels[3, 4] = value
        Image.fromarray(pixels, "F").save(trial.photos / "nan.tif")
        ended = trial.go(trial.command("segment")[0])
        verdict = judged(ended, r"nan\.tif")
        return verdict or ("wrong", f"layers were made of a photo with a value of {value}")

    return scenario


def _no_number_in_loss(trial: Trial) -> Verdict:
    """A learning rate at which the loss leaves the range of numbers."""
    trial.with_data()
    more = ("model.optimizer.lr=1e30", "trainer.max_epochs=2")
    arguments = commands.train_arguments(trial.set, trial.cache, trial.run_dir, *more)
    verdict = judged(trial.go(commands.command("train", arguments)), "loss")
    return verdict or ("wrong", "trained to the end at a rate of 1e30")


def _odd_data(change: Callable[[Trial], None], *more: str) -> Callable[[Trial], Verdict]:
    """Data that are right and yet have nothing to learn: trained on, or refused."""

    def scenario(trial: Trial) -> Verdict:
        trial.with_data()
        change(trial)
        arguments = commands.train_arguments(trial.set, trial.cache, trial.run_dir, *more)
        ended = trial.go(commands.command("train", arguments))
        verdict = judged(ended, r"label|superpixel|classes|data\.")
        if verdict is not None:
            return verdict
        metrics = json.loads((trial.run_dir / "metrics.json").read_text())
        finite = all(np.isfinite(value) for value in metrics.values())
        return ("used", "trained") if finite else ("wrong", "metrics that are no numbers")

    return scenario


def _ignore_all(trial: Trial) -> None:
    for path in trial.set.glob("labels/*/*.png"):
        Image.fromarray(np.full((40, 48), 255, np.uint8)).save(path)


def _one_colour(trial: Trial) -> None:
    for path in trial.set.glob("images/*/*.png"):
        Image.fromarray(np.full((40, 48, 3), 90, np.uint8)).save(path)


def _flat_photos(trial: Trial) -> Verdict:
    """Photos of one colour, which have nothing to divide."""
    trial.with_data()
    for path in trial.photos.iterdir():
        level = int(trial.rng.choice([0, 90, 255]))
        Image.fromarray(np.full((40, 48, 3), level, np.uint8)).save(path)
    verdict = judged(trial.go(trial.command("segment")[0]), r"\.png")
    if verdict is not None:
        return verdict
    for folder in trial.output.iterdir():
        alphas = [np.asarray(Image.open(path), float) for path in folder.glob("alpha_*.png")]
        if not alphas or np.abs(sum(alphas) - 255).max() > len(alphas):
            return "wrong", "alphas do not add up to 1"
    return "used", "alphas add up to 1"


SCENARIOS: dict[str, tuple[str, Callable[[Trial], Verdict]]] = {
    **{
        f"full disk: {name}": ("full disk", _full_disk(name))
        for name in ("superpixels", "packed", "head", "train", "segment")
    },
    **{
        f"descriptors: {name}": ("few descriptors", _few_descriptors(name))
        for name in ("superpixels", "train", "segment")
    },
    "shared memory": ("64 MB of shared memory", _small_shared_memory),
    "killed worker": ("killed worker", _killed_worker),
    **{
        f"eight starts: {name}": ("eight starts on one store", _eight_starts(name))
        for name in ("superpixels", "packed")
    },
    "two trainings": ("two runs in one folder", _two_at_once("train", "holds a run|another")),
    "two segments": ("two runs in one folder", _two_at_once("segment", "another|other")),
    **{
        f"{value} in {place}": (f"NaN and infinity in {place}", make(value))
        for value in (float("nan"), float("inf"))
        for place, make in (
            ("weights", _no_number_in_weights),
            ("an array", _no_number_in_photo),
            ("a file", _no_number_in_file),
        )
    },
    "no number in the loss": ("NaN and infinity in the loss", _no_number_in_loss),
    "all labels ignored": ("nothing to learn", _odd_data(_ignore_all)),
    "one superpixel": (
        "nothing to learn",
        _odd_data(lambda _: None, "data.superpixels.count=1"),
    ),
    "identical pixels": ("nothing to learn", _odd_data(_one_colour)),
    "photos of one colour": ("nothing to learn", _flat_photos),
}
