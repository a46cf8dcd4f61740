"""Faults on a Ray cluster of two machines, both of them this one, while photos are segmented."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from faults import samples
from faults.cases import SKIPPED, Case, Outcome
from faults.resources import NotPermittedError, mount, own_mounts
from softfeat.actors import connect, map_in_actors
from softfeat.batch import segment_photos
from softfeat.imaging.photo import Photo
from softfeat.memory import GIGABYTE
from softfeat.results import SUMMARY, read_summary
from softfeat.segmenter import Segmenter

_ROOT = Path(__file__).parents[1]
_PHOTOS = 24  # good ones
_CRASHES, _LARGE = "crashes.png", "large.png"
_POLL_SECONDS = 0.02
_MEMORY = 2 * GIGABYTE  # of an actor
FAULTS = {  # and the photo that cannot be segmented
    "a process is killed": None,
    "a machine is lost": None,
    "a photo that crashes its process": _CRASHES,
    "a photo that needs too much memory": _LARGE,
    "the disk of the results is full": None,
    "the command is killed": None,
}


class Cluster:
    """Segments photos on a cluster, with a fault, until all are finished.

    Args:
        repeats: Number of times of each fault, each at another moment.
        limit: Seconds after which a command counts as hanging.
    """

    title = "Faults on a cluster"

    def __init__(self, repeats: int, limit: float) -> None:
        self.repeats, self.limit = repeats, limit

    def cases(self, seed: int) -> Sequence[Case]:  # noqa: ARG002, which decides the moments only
        """Lists all faults, then all of them again."""
        return [
            Case(f"{fault}, {turn}", fault, {"fault": fault, "turn": turn})
            for turn in range(self.repeats)
            for fault in FAULTS
        ]

    def attempt(self, case: Case, seed: int, folder: Path) -> Outcome:
        """Tries a fault in a process of its own, which may have mounts of its own."""
        seeds = [seed, case.settings["turn"], *case.fault.encode()]
        arguments = [str(folder), case.fault, json.dumps(seeds), str(self.limit)]
        ended = _python("from faults.cluster import judge; judge(*sys.argv[1:])", *arguments)
        _, errors = ended.communicate()
        file = folder / "outcome.json"
        if not file.is_file():
            raise RuntimeError(f"{case.name} could not be judged: {errors[-3000:]}")
        return Outcome(case.name, case.fault, **json.loads(file.read_text("utf-8")))

    def summary(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Makes a row per fault."""
        rows = []
        for fault in FAULTS:
            tried = [o for o in outcomes if o.fault == fault and o.verdict != SKIPPED]
            counts = [outcome.values for outcome in tried]
            rows.append(
                {
                    "fault": fault,
                    "times tried": len(tried),
                    **{key: sum(c.get(key, 0) for c in counts) for key in _COUNTS},
                    "hangs": sum(outcome.verdict == "hang" for outcome in tried),
                }
            )
        failed = [outcome for outcome in outcomes if outcome.failed]
        listed = [{"case": f"`{o.name}`", "what happened": o.detail} for o in failed]
        tables = {"Not survived": listed} if listed else {}
        return {"rows": rows, "tables": tables, "failed": len(failed)}


_COUNTS = "photos", "lost", "done twice", "bad photos", "bad photos named"


class TrialSegmenter(Segmenter):
    """A segmenter for which some photos are bad: one kills the process, one needs 20 GB."""

    def read(self, source: Any) -> Photo:
        """Reads a photo."""
        name = Path(source).name
        if name == _CRASHES:
            os.kill(os.getpid(), signal.SIGSEGV)
        if name == _LARGE:
            np.ones(20 * GIGABYTE, np.uint8)
        return super().read(source)


def drive(folder: str, address: str) -> None:
    """Segments the photos of a folder on a cluster and logs what became of each."""
    connect(address)
    place = Path(folder)
    segmenter = TrialSegmenter(str(place / "tiny.ckpt"), size=32, layers=2)
    photos = sorted((place / "photos").iterdir())
    spread = partial(map_in_actors, count=2, memory=_MEMORY)
    with (place / "log").open("w") as log:
        for result in segment_photos(segmenter, photos, place / "out", map_photos=spread):
            log.write(result.to_json() + "\n")
            log.flush()


def _python(program: str, *arguments: str) -> "subprocess.Popen[str]":
    environment = os.environ | {"PYTHONPATH": str(_ROOT)}
    command = [sys.executable, "-c", f"import sys; {program}", *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


def judge(folder: str, fault: str, seeds: str, limit: str) -> None:
    """Tries a fault and writes what became of it."""
    trial = _Trial(Path(folder), fault, np.random.default_rng(json.loads(seeds)), float(limit))
    try:
        outcome = trial.run()
    except NotPermittedError as error:
        outcome = {"verdict": SKIPPED, "detail": str(error)}
    (Path(folder) / "outcome.json").write_text(json.dumps(outcome), "utf-8")


class _HangError(Exception):
    """A command took longer than its limit."""


class _Trial:
    """A cluster, photos, and a fault.

    Args:
        folder: Folder of the photos and of all results.
        fault: Key of `FAULTS`.
        rng: Random numbers that decide the moment.
        limit: Seconds that a command may take.
    """

    def __init__(self, folder: Path, fault: str, rng: np.random.Generator, limit: float) -> None:
        self.folder, self.fault, self.rng, self.limit = folder, fault, rng, limit
        self.output = folder / "out"
        self.written: dict[str, set[int]] = {}  # times at which a folder became finished

    def run(self) -> dict[str, Any]:
        """Segments the photos with the fault, then once more; returns the verdict."""
        os.environ["PYTHONPATH"] = str(_ROOT)  # of the machines
        samples.write_photos(self.folder / "photos", _PHOTOS, int(self.rng.integers(1 << 30)))
        samples.write_checkpoint(self.folder / "tiny.ckpt", 0)
        bad = FAULTS[self.fault]
        if bad is not None:
            photos = self.folder / "photos"
            (photos / bad).write_bytes((photos / "0.png").read_bytes())
        self.output.mkdir()
        full = self.fault == "the disk of the results is full"
        if full:
            own_mounts()
            mount(self.output, 4096 * int(self.rng.integers(60, 300)))
        with self._cluster() as (cluster, nodes), self._watched():
            try:
                self._first(cluster, nodes)
                if full:
                    mount(self.output, 1 << 28, again=True)
                statuses = self._finish(self._start(cluster))
            except _HangError:
                return {"verdict": "hang", "detail": "not finished in its time", "values": {}}
        return self._verdict(statuses, bad)

    @contextmanager
    def _cluster(self) -> Iterator[tuple[Any, list[Any]]]:
        from ray.cluster_utils import Cluster as Machines

        cluster = Machines(initialize_head=True, head_node_args={"num_cpus": 0})
        try:
            yield cluster, [cluster.add_node(num_cpus=1) for _ in range(2)]
        finally:
            cluster.shutdown()

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Notes each time at which a folder becomes finished."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(_POLL_SECONDS):
                self._look()

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self._look()

    def _look(self) -> None:
        for path in self.output.glob(f"[!.]*/{SUMMARY}"):
            try:
                changed = path.stat().st_mtime_ns
            except FileNotFoundError:  # it has just been replaced
                continue
            self.written.setdefault(path.parent.name, set()).add(changed)

    def _start(self, cluster: Any) -> "subprocess.Popen[str]":
        program = "from faults.cluster import drive; drive(*sys.argv[1:])"
        return _python(program, str(self.folder), cluster.address)

    def _first(self, cluster: Any, nodes: list[Any]) -> None:
        """Starts the command and does harm in the middle of it."""
        process = self._start(cluster)
        moment = int(self.rng.integers(1, _PHOTOS - 4))  # photos that are finished by then
        due = time.monotonic() + self.limit
        while len(self.written) < moment and process.poll() is None and time.monotonic() < due:
            time.sleep(_POLL_SECONDS)
        if self.fault == "a process is killed":
            for _ in range(2):
                _kill_actor(self.rng)
                time.sleep(self.rng.uniform(0, 3))
        elif self.fault == "a machine is lost":
            cluster.remove_node(nodes[int(self.rng.integers(2))], allow_graceful=False)
            cluster.add_node(num_cpus=1)
        elif self.fault == "the command is killed":
            process.kill()
        self._finish(process)

    def _finish(self, process: "subprocess.Popen[str]") -> dict[str, dict[str, Any]]:
        """What the command says of each photo, by name, when it has ended."""
        try:
            process.communicate(timeout=self.limit)
        except subprocess.TimeoutExpired:
            process.kill()
            raise _HangError from None
        lines = (self.folder / "log").read_text("utf-8").splitlines()
        told = [json.loads(line) for line in lines if line.endswith("}")]
        return {Path(entry["photo"]).name: entry for entry in told}

    def _verdict(self, statuses: dict[str, dict[str, Any]], bad: str | None) -> dict[str, Any]:
        finished = {
            read_summary(path).get("photo") for path in self.output.iterdir() if path.name[0] != "."
        }
        good = {f"{number}.png" for number in range(_PHOTOS)}
        lost = [
            n for n in sorted(good) if n not in finished or "error" in statuses.get(n, {"error": 1})
        ]
        twice = sorted(name for name, times in self.written.items() if len(times) > 1)
        named = bad is not None and bool(statuses.get(bad, {}).get("error"))
        values = {
            "photos": _PHOTOS,
            "lost": len(lost),
            "done twice": len(twice),
            "bad photos": int(bad is not None),
            "bad photos named": int(named),
        }
        verdict, detail = "used", "all photos are finished"
        if lost:
            verdict, detail = "lost", f"without results: {', '.join(lost)}"
        elif twice:
            verdict, detail = "wrong", f"done twice: {', '.join(twice)}"
        elif bad is not None:
            verdict = "reported" if named else "unclear"
            detail = f"{bad}: {statuses.get(bad, {}).get('error', 'no error')}"
        return {"verdict": verdict, "detail": detail, "values": values}


def _kill_actor(rng: np.random.Generator) -> None:
    actors = [p for p in psutil.process_iter(["cmdline"]) if _is_actor(p)]
    if actors:
        actors[int(rng.integers(len(actors)))].kill()


def _is_actor(process: psutil.Process) -> bool:
    """Whether a process is an actor of this process's cluster."""
    name = " ".join(process.info["cmdline"] or [])
    own = os.getpid()
    try:
        return "ray::_Worker" in name and own in {parent.pid for parent in process.parents()}
    except psutil.Error:
        return False
