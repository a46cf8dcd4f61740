"""The server of the page, without a browser."""

import http.client
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.photos import picture

pytest.importorskip("gradio", reason="needs gradio: make install")

from faults.pages import Visitor
from softfeat.app.errors import UNKNOWN, message_of, safely
from softfeat.app.server import Server
from softfeat.app.sessions import MOST_SESSIONS
from softfeat.segmenter import Segmenter
from tests.app.browser import free_port, serving


@pytest.fixture(scope="module")
def server(weights: Path) -> Iterator[Server]:
    with serving(lambda: Segmenter(weights, size=48, max_pixels=10_000)) as server:
        yield server


@pytest.fixture
def visitor(server: Server) -> Iterator[Visitor]:
    visitor = Visitor(server.url, 120)
    yield visitor
    visitor.close()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    picture().save(tmp_path / "a.png")
    return tmp_path / "a.png"


def get(server: Server, path: str) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection(server.url.split("/")[2])
    connection.request("GET", path)
    response = connection.getresponse()
    return response, response.read()


def test_nothing_is_fetched_from_elsewhere(server: Server) -> None:
    response, body = get(server, "/")
    assert (response.getheader("content-security-policy") or "").startswith("default-src 'self'")
    addresses = re.findall(rb'<(?:script|link)[^>]*(?:src|href)="(https?:)?//', body)
    assert addresses == []
    config = json.loads(get(server, "/config")[1])
    assert config["analytics_enabled"] is False
    assert config["run_history"] is False
    assert config["theme_hash"]
    assert b"fonts.googleapis" not in get(server, "/theme.css")[1]


def test_clicks_and_files(visitor: Visitor, photo: Path) -> None:
    opened = visitor.event("source", "upload", [visitor.upload(photo)])
    assert visitor.fetch(opened[1]).startswith(b"\x89PNG")
    visitor.event("photo", "select", ["include"], {"index": [24, 18], "value": None})
    _, button = visitor.event("make-cutout", "click", [])
    assert button["value"]["path"].endswith("cutout.png")
    assert visitor.fetch(button["value"]).startswith(b"\x89PNG")


def test_gradio_forgets_pages_too(server: Server) -> None:
    for _ in range(MOST_SESSIONS + 2):
        visitor = Visitor(server.url, 120)
        visitor.event("kind", "input", ["white", "#ff8800"])
        visitor.close()
    kept = server._page.app.state_holder.session_data
    assert 0 < len(kept) <= MOST_SESSIONS


@pytest.mark.parametrize("control", ["source", "backdrop"])
@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../../etc/passwd", "", None, "https://example.org/a.png", "FILE:a"]
)
def test_paths_from_outside_are_not_followed(visitor: Visitor, control: str, path: Any) -> None:
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    with pytest.raises(RuntimeError) as error:
        visitor.event(control, "upload", [file])
    assert "passwd" not in str(error.value)
    if str(path).startswith("https"):  # it is not even asked for
        assert "the file is not here" in str(error.value)
    with pytest.raises(RuntimeError, match=r"status (403|404|405|307|500)"):
        visitor.fetch({"path": str(path)})


def test_messages_name_no_path(server: Server, visitor: Visitor, photo: Path) -> None:
    big = photo.with_name("big.png")
    picture(200, 200).save(big)
    bad = photo.with_name("bad.png")
    bad.write_bytes(photo.read_bytes()[:100])
    for path, text in ((big, "--max-megapixels|megapixel|pixels"), (bad, "the photo")):
        with pytest.raises(RuntimeError, match=text) as error:
            visitor.event("source", "upload", [visitor.upload(path)])
        assert "/" not in str(error.value)


def test_nothing_without_a_photo(visitor: Visitor) -> None:
    for kind in ("cutout", "psd"):
        with pytest.raises(RuntimeError, match="there is no photo here"):
            visitor.event(f"make-{kind}", "click", [])
    with pytest.raises(RuntimeError, match="there is no photo here"):
        visitor.event("undo", "click", [])


def test_a_closed_page_leaves_nothing(server: Server, photo: Path) -> None:
    visitor = Visitor(server.url, 120)
    visitor.event("source", "upload", [visitor.upload(photo)])
    session = server.sessions.get(visitor.key)
    assert session.folder.is_dir()
    visitor.close()
    due = time.monotonic() + 60
    while session.opened is not None and time.monotonic() < due:
        time.sleep(0.1)
    assert session.opened is None
    assert not session.folder.exists()


def test_only_texts_of_the_project_are_shown(caplog: pytest.LogCaptureFixture) -> None:
    import gradio as gr

    def foreign() -> None:
        int("/secret/path")

    def own() -> None:
        from softfeat.app.pictures import hex_colour

        hex_colour("no")

    with pytest.raises(gr.Error, match="this is no colour"):
        safely(own)()
    with caplog.at_level(logging.CRITICAL), pytest.raises(gr.Error) as error:
        safely(foreign)()
    assert error.value.message == UNKNOWN
    assert message_of(KeyError("a")) is None


@pytest.mark.slow
def test_the_command(weights: Path) -> None:
    """It serves, ends by SIGTERM, and leaves no files."""
    script = "from softfeat.cli import main; main()"
    options = ["--port", str(free_port()), "--weights", str(weights)]
    process = subprocess.Popen(
        [sys.executable, "-c", script, "app", *options], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    line = process.stderr.readline()
    assert line.startswith("the page is at http://127.0.0.1:"), line
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 143
    assert "stopped" in process.stderr.read()


@pytest.mark.slow
def test_wrong_weights_end_the_command(tmp_path: Path) -> None:
    script = "from softfeat.cli import main; main()"
    options = ["--port", str(free_port()), "--weights", str(tmp_path / "no.ckpt")]
    done = subprocess.run(
        [sys.executable, "-c", script, "app", *options],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=dict(os.environ),
    )
    assert done.returncode == 2
    assert "no.ckpt" in done.stderr


def test_a_port_in_use(server: Server, weights: Path) -> None:
    port = int(server.url.rstrip("/").rpartition(":")[2])
    with pytest.raises(OSError, match=str(port)):
        Server(lambda: Segmenter(weights), port=port)
