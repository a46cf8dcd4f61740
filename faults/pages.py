"""Several pages of `softfeat app` at once: no error, and no memory that stays."""

import http.client
import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from faults import samples
from faults.cases import Case, Outcome

_STARTS_WITHIN = 180.0  # seconds
_SETTLES_WITHIN = 30.0  # seconds after the last page was closed
_API = "/gradio_api"


class Pages:
    """Opens pages of one server. Each uploads photos, clicks, edits layers and takes the files.

    Args:
        pages: Pages at once.
        seconds: Time for which they work.
        tolerance: Growth of the server's memory, as a share of that at the start, that still counts
            as none. It starts after one page was open and closed.
        limit: Seconds that one event may take.
    """

    title = "Pages at once"

    def __init__(self, pages: int, seconds: float, tolerance: float, limit: float) -> None:
        self.pages, self.seconds, self.tolerance, self.limit = pages, seconds, tolerance, limit

    def cases(self, seed: int) -> Sequence[Case]:  # noqa: ARG002, which decides the photos only
        """Lists two runs: pages that are closed in order, and pages that disappear in mid-work."""
        return [
            Case(name, name, {"abrupt": name.endswith("disappear")})
            for name in ("pages that are closed", "pages that disappear")
        ]

    def attempt(self, case: Case, seed: int, folder: Path) -> Outcome:
        """Works with all pages at once and compares the memory of the server."""
        photos = sorted(samples.write_photos(folder / "photos", 8, seed, (150, 200)).iterdir())
        weights = samples.write_checkpoint(folder / "tiny.ckpt", seed, clicks=True)
        errors: list[str] = []
        with _server(weights, folder / "log") as (process, url):
            _work(url, photos, 0, self.limit, abrupt=False)  # everything is imported now
            before = _settled_memory(process.pid)
            due = time.monotonic() + self.seconds
            counts = [0] * self.pages

            def visit(number: int) -> None:
                rng = np.random.default_rng([seed, number])
                while time.monotonic() < due and not errors:
                    try:
                        abrupt = case.settings["abrupt"] and bool(rng.integers(2))
                        turn = int(rng.integers(1000))
                        _work(url, photos, turn, self.limit, abrupt)
                        counts[number] += 1
                    except Exception as error:
                        errors.append(f"{type(error).__name__}: {error}")

            threads = [threading.Thread(target=visit, args=(n,)) for n in range(self.pages)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            after = _settled_memory(process.pid)
            if process.poll() is not None:
                errors.append(f"the server ended with {process.returncode}")
        log = (folder / "log").read_text("utf-8", "replace")
        if "Traceback" in log:
            errors.append(log.strip().splitlines()[-1])
        grown = after / before - 1
        values = {"visits": sum(counts), "before": before, "after": after, "grown": grown}
        verdict = "used"
        if errors:
            verdict = "crash"
        elif grown > self.tolerance:
            verdict = "grows"
        detail = errors[0] if errors else f"memory {before:.0f} to {after:.0f} MB"
        return Outcome(case.name, case.fault, verdict, detail, values=values)

    def summary(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Makes a row per run."""
        rows = [
            {
                "run": outcome.name,
                "pages at once": self.pages,
                "photos": outcome.values["visits"],
                "memory at the start, MB": f"{outcome.values['before']:.0f}",
                "at the end, MB": f"{outcome.values['after']:.0f}",
                "growth": f"{outcome.values['grown']:.0%}",
                "errors": "none" if outcome.verdict != "crash" else outcome.detail,
            }
            for outcome in outcomes
        ]
        failed = sum(outcome.verdict != "used" for outcome in outcomes)
        return {"rows": rows, "tables": {}, "failed": failed}


@contextmanager
def _server(weights: Path, log: Path) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    """The command `softfeat app` with a tiny network, at a free port."""
    script = "from softfeat.cli import main; main()"
    options = ["--port", "0", "--weights", str(weights), "--size", "64", "--threads", "1"]
    command = [sys.executable, "-c", script, "app", *options]
    with log.open("wb") as file, subprocess.Popen(command, stderr=file, stdout=file) as process:
        try:
            yield process, _address(process, log)
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()


def _address(process: "subprocess.Popen[bytes]", log: Path) -> str:
    due = time.monotonic() + _STARTS_WITHIN
    while time.monotonic() < due and process.poll() is None:
        for line in log.read_text().splitlines():
            if line.startswith("the page is at "):
                return line.split()[4]
        time.sleep(0.2)
    raise RuntimeError(f"the server did not start: {log.read_text()[-200:]}")


def _settled_memory(pid: int) -> float:
    """The lowest resident memory in MB, from now until it no longer falls."""
    lowest, due = float("inf"), time.monotonic() + _SETTLES_WITHIN
    for _ in range(int(_SETTLES_WITHIN)):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        now = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
        if now >= lowest - 0.5 and time.monotonic() > due - 0.8 * _SETTLES_WITHIN:
            break
        lowest = min(lowest, now)
        time.sleep(1)
    return lowest


class Visitor:
    """An open page, without a browser.

    Args:
        url: Address of the server.
        limit: Seconds that one event may take.
    """

    def __init__(self, url: str, limit: float) -> None:
        parts = urlsplit(url)
        self.host, self.port, self.limit = parts.hostname or "", parts.port, limit
        self.key = secrets.token_hex(8)
        config = json.loads(self._request("GET", "/config"))
        self.controls = {part["props"].get("elem_id"): part["id"] for part in config["components"]}
        self.events = config["dependencies"]
        self.heart = self._connect()  # its end tells the server that the page was closed
        self.heart.request("GET", f"{_API}/heartbeat/{self.key}")
        self.beat = self.heart.getresponse()

    def event(self, control: str, kind: str, data: Sequence[Any], select: Any = None) -> list[Any]:
        """Starts an event and returns its last result.

        Args:
            control: Id of the element that starts it.
            kind: Such as "click".
            data: Values of its inputs.
            select: What was selected.

        Raises:
            RuntimeError: The page would show an error.
        """
        target = [self.controls[control], kind]
        number = next(event["id"] for event in self.events if target in event["targets"])
        return self.call(number, data, select)

    def after(self, control: str, kind: str, data: Sequence[Any]) -> list[Any]:
        """Starts the event that follows another one, and waits; see `event`."""
        return self.call(self._number_after(control, kind), data)

    def start_after(self, control: str, kind: str, data: Sequence[Any]) -> None:
        """Starts the event that follows another one, as a page does that then disappears."""
        self._start(self._number_after(control, kind), data)

    def call(self, number: int, data: Sequence[Any], select: Any = None) -> list[Any]:
        """Starts the event with this number and waits; see `event`."""
        self._start(number, data, select)
        connection = self._connect()
        connection.request("GET", f"{_API}/queue/data?session_hash={self.key}")
        for line in connection.getresponse():
            if not line.startswith(b"data:"):
                continue
            message = json.loads(line[5:])
            if message["msg"] == "process_completed":
                connection.close()
                if not message["success"]:
                    raise RuntimeError(str(message["output"]))
                return message["output"]["data"]
        raise RuntimeError("the server ended the connection")

    def upload(self, file: Path) -> dict[str, Any]:
        """Sends a file and returns what events take for it."""
        mark = secrets.token_hex(8)
        head = f'--{mark}\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        body = head.encode() + file.read_bytes() + f"\r\n--{mark}--\r\n".encode()
        kind = f"multipart/form-data; boundary={mark}"
        (path,) = json.loads(self._request("POST", f"{_API}/upload", body, kind))
        return {"path": path, "meta": {"_type": "gradio.FileData"}}

    def fetch(self, file: dict[str, Any]) -> bytes:
        """Takes a file that the page offers."""
        return self._request("GET", f"{_API}/file={file['path']}")

    def close(self) -> None:
        """Closes the page."""
        self.beat.close()
        self.heart.close()

    def _number_after(self, control: str, kind: str) -> int:
        target = [self.controls[control], kind]
        first = next(event["id"] for event in self.events if target in event["targets"])
        return next(e["id"] for e in self.events if e.get("trigger_after") == first)

    def _start(self, number: int, data: Sequence[Any], select: Any = None) -> None:
        body = {"data": list(data), "fn_index": number, "session_hash": self.key}
        body |= {"event_data": select, "trigger_id": None}
        self._request("POST", f"{_API}/queue/join", json.dumps(body).encode())

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host, self.port, timeout=self.limit)

    def _request(
        self, method: str, path: str, body: bytes | None = None, kind: str = "application/json"
    ) -> bytes:
        connection = self._connect()
        connection.request(method, path, body, {"Content-Type": kind})
        response = connection.getresponse()
        content = response.read()
        connection.close()
        if response.status != 200:
            raise RuntimeError(f"{path}: status {response.status}: {content[:200]!r}")
        return content


def _work(url: str, photos: Sequence[Path], turn: int, limit: float, abrupt: bool) -> None:
    """Does with one photo what a user does.

    Args:
        url: Address of the server.
        photos: Photos to choose from.
        turn: Decides which photo it is.
        limit: Seconds that one event may take.
        abrupt: Whether the page disappears while layers are found.
    """
    visitor = Visitor(url, limit)
    try:
        visitor.event("source", "upload", [visitor.upload(photos[turn % len(photos)])])
        if abrupt:
            visitor.start_after("source", "upload", [3 + turn % 3, False])
            time.sleep(turn % 10 / 5)  # seconds: before the layers are found, meanwhile, or after
            return
        visitor.after("source", "upload", [3 + turn % 3, False])
        visitor.event("photo", "select", ["include"], {"index": [30, 20], "value": None})
        visitor.event("photo", "select", ["exclude"], {"index": [2, 40], "value": None})
        visitor.event("add", "click", [])
        visitor.event("kind", "input", ["white", "#ff8800"])
        visitor.event("divide", "click", [2, False])
        for kind, start in (("cutout", b"\x89PNG"), ("psd", b"8BPS"), ("zip", b"PK")):
            _, button = visitor.event(f"make-{kind}", "click", [])
            if not visitor.fetch(button["value"]).startswith(start):
                raise RuntimeError(f"the file {kind} is damaged")
    finally:
        visitor.close()
