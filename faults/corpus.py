"""Bad and odd files by rule: each is used rightly, or reported with its name and a remedy."""

import json
import re
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from faults import commands, labelled, pictures, samples
from faults.cases import Case, Outcome, fault_summary
from faults.processes import Ended, last_line, run
from softfeat.data.layouts import Folder
from softfeat.data.records import read_record
from softfeat.imaging.photo import read_photo

# Verbs that tell what to do, and reasons that need no further word.
_REMEDY = re.compile(
    r"\b(add|check|choose|convert|correct|crop|delete|export|free|get|give|install|lower|make|mark"
    r"|must|need|needs|no such file|raise|remove|rename|replace|run|save|set|shorten|shorter|start"
    r"|use|write)\b"
)
_RANDOM = ("truncated", "bytes flipped", "zeros at the end", "label file")  # tried most often


class Corpus:
    """Generates files and gives them to `softfeat segment` and `precompute`.

    Args:
        total: Number of files of the full form.
        limit: Seconds after which a command counts as hanging.
    """

    title = "Bad and odd files"

    def __init__(self, total: int, limit: float) -> None:
        self.total, self.limit = total, limit

    def cases(self, seed: int) -> Sequence[Case]:
        """Lists every rule once, in mixed order, then random damage more often than the rest."""
        rules = pictures.RULES | labelled.RULES
        order = [list(rules)[n] for n in np.random.default_rng(seed).permutation(len(rules))]
        often = [name for name in order if rules[name][0] in _RANDOM]
        cases: list[Case] = []
        for turn in count():
            for name in order if turn % 4 == 0 else often:
                if len(cases) == self.total:
                    return cases
                settings = {"rule": name, "turn": turn}
                cases.append(Case(f"{name}, {turn}", rules[name][0], settings))
        return cases

    def attempt(self, case: Case, seed: int, folder: Path) -> Outcome:
        """Generates a file, runs the command on it and judges the end."""
        name, turn = case.settings["rule"], case.settings["turn"]
        rng = np.random.default_rng([seed, turn, *name.encode()])
        if name in pictures.RULES:
            verdict, detail = self._photo(pictures.RULES[name][1], rng, folder)
        else:
            verdict, detail = self._set(labelled.RULES[name][1], rng, folder)
        return Outcome(case.name, case.fault, verdict, detail)

    def summary(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Counts what survived."""
        return fault_summary(outcomes)

    def _photo(
        self, rule: pictures.Rule, rng: np.random.Generator, folder: Path
    ) -> tuple[str, str]:
        """Segments a photo by its name, or in a folder next to a good one."""
        photos = folder / "photos"
        odd_folder = photos / "in"
        odd_folder.mkdir(parents=True)
        odd = rule(rng, odd_folder)
        # Hidden files in folders are left out, as documented.
        in_folder = bool(rng.integers(2)) and not odd.path.name.startswith(".")
        if in_folder:
            samples.write_photos(photos / "good", 1, 0)
            (photos / "good" / "0.png").rename(odd_folder / "good.png")
        checkpoint = samples.write_checkpoint(folder / "tiny.ckpt", 0)
        given = odd_folder if in_folder else odd.path
        arguments = commands.segment_arguments(given, folder / "out", checkpoint, "--json")
        ended = run(commands.softfeat(*arguments), folder, folder / "log", self.limit)
        if ended.crash:
            return _crashed(ended)
        lines = [json.loads(line) for line in ended.out.splitlines() if line.startswith("{")]
        if in_folder and not any(
            line["photo"].endswith("good.png") and line["status"] == "segmented" for line in lines
        ):
            return "lost", f"the good photo next to it was not segmented: {last_line(ended.err)}"
        own = [line for line in lines if pictures.MARK in line["photo"]]
        segmented = [line for line in own if line["status"] == "segmented"]
        if not segmented:
            return _message(ended, pictures.MARK)
        if ended.code:
            return "wrong", f"segmented, and yet the exit status is {ended.code}"

        def read() -> None:
            np.save(folder / "read.npy", read_photo(odd.path).srgb)

        again = run(read, folder, folder / "log", self.limit)
        if again.code:
            return "wrong", f"segmented, and yet read_photo fails: {last_line(again.err)}"
        pixels = np.load(folder / "read.npy")
        if segmented[0]["size"] != [pixels.shape[1], pixels.shape[0]]:
            return "wrong", f"layers of {segmented[0]['size']} for a photo of {pixels.shape}"
        return _compare(pixels, odd)

    def _set(self, rule: labelled.Rule, rng: np.random.Generator, folder: Path) -> tuple[str, str]:
        """Checks a data set, and reads the marked record if the set is good."""
        root = folder / "set"
        odd = rule(rng, root)
        arguments = commands.precompute_arguments(root, folder / "cache", "data.num_workers=0")
        ended = run(commands.command("precompute", arguments), folder, folder / "log", self.limit)
        if ended.crash:
            return _crashed(ended)
        if ended.code:
            return _message(ended, odd.named)

        def read() -> None:
            layout = Folder(root)
            marked = [r for r in layout.records("train") if pictures.MARK in r.image.name]
            np.save(folder / "label.npy", read_record(marked[0])[1])
            (folder / "classes.json").write_text(json.dumps(layout.class_names))

        again = run(read, folder, folder / "log", self.limit)
        if again.code:
            return "wrong", f"checked, and yet it cannot be read: {last_line(again.err)}"
        names = tuple(json.loads((folder / "classes.json").read_text()))
        if names != odd.classes:
            return "wrong", f"the classes are {str(names)[:80]}"
        labels = np.load(folder / "label.npy")
        if odd.expected is None:
            return "wrong", "used as if nothing were wrong"
        if not np.array_equal(labels, odd.expected):
            return "wrong", "the labels are not those that were written"
        return "used", "the labels are those that were written"


def _crashed(ended: Ended) -> tuple[str, str]:
    kind, _, detail = ended.crash.partition(": ")
    return kind, detail


def _message(ended: Ended, name: str) -> tuple[str, str]:
    """Judges what was said of a file that was not used."""
    text = " ".join(ended.err.split())
    place = text.find(name)
    if not ended.code and place < 0:
        return "lost", "left out without a word"
    if place < 0:
        return "unclear", f"the message does not name the file: {last_line(ended.err)}"
    if not _REMEDY.search(text):
        return "unclear", f"no remedy in: {text[-160:]}"
    return "reported", text[max(0, place - 40) : place + 120]


def _compare(pixels: pictures.Pixels, odd: pictures.Odd) -> tuple[str, str]:
    """Judges the picture that was read."""
    if odd.may_differ:
        return "used", "no right picture is known"
    if odd.expected is None:
        return "wrong", f"used, as a photo of {pixels.shape[1]}x{pixels.shape[0]}"
    if pixels.shape != odd.expected.shape:
        return "wrong", f"{pixels.shape} in place of {odd.expected.shape}"
    off = int(np.abs(pixels.astype(int) - odd.expected).max())
    if off > odd.tolerance:
        return "wrong", f"pixels differ by up to {off} levels from the right picture"
    return "used", f"pixels differ by at most {off} levels"
