"""The page in Debian's Chromium, driven by Playwright. Also draws the pictures of the documents:

python -m tests.app.browser docs/pictures
"""

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from softfeat.app.examples import example_photos
from softfeat.segmenter import Segmenter

CHROMIUM = shutil.which("chromium")
WINDOW, PHONE = (1280, 900), (390, 844)
_PATIENCE = 180  # seconds; the machine may be busy


@contextmanager
def serving(load: Callable[[], Segmenter], **options: Any) -> Iterator[Any]:
    """A server of the page at a free port."""
    from softfeat.app.server import Server

    with Server(load, port=free_port(), **options) as server:
        server.loading.result()
        yield server


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def browsing() -> Iterator[Any]:
    """A browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Tab:
    """An open page.

    Args:
        browser: The browser.
        url: Address of the page.
        size: Width and height of the window.
    """

    def __init__(self, browser: Any, url: str, size: tuple[int, int] = WINDOW) -> None:
        self.page = browser.new_page(viewport={"width": size[0], "height": size[1]})
        self.page.set_default_timeout(1e3 * _PATIENCE)
        self.hosts: set[str] = set()
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.hosts.add(_host(request.url)))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(url)
        self.wait_for("Choose a photo")

    @property
    def status(self) -> str:
        """What the page says."""
        return self.page.inner_text("#status p")

    def wait_for(self, text: str) -> None:
        """Waits until the page says something."""
        self.page.wait_for_function(
            "text => document.querySelector('#status p')?.innerText.includes(text)", arg=text
        )

    def message(self) -> str:
        """Waits for an error message and returns it."""
        toast = self.page.locator(".toast-body").first
        toast.wait_for()
        return toast.inner_text()

    def drop(self, file: Path) -> None:
        """Drops a file."""
        self.page.set_input_files("#source input[type=file]", str(file))

    def open(self, file: Path) -> None:
        """Drops a photo and waits for its layers."""
        self.drop(file)
        self.wait_for("layers. Click")

    def tab(self, name: str) -> None:
        """Shows a tab."""
        self.page.get_by_role("tab", name=name).click()

    @property
    def source(self) -> str | None:
        """Address of the picture that is shown."""
        return self.page.get_attribute("#photo img", "src")

    def changes(self, action: Callable[[], Any]) -> None:
        """Does something and waits until another picture is shown."""
        before = self.source
        action()
        self.page.wait_for_function(
            "before => { const now = document.querySelector('#photo img');"
            " return now && now.getAttribute('src') !== before && now.complete }",
            arg=before,
        )

    def click(self, x: float, y: float, shift: bool = False) -> None:
        """Clicks on the picture, at shares of its width and height, and waits for the answer."""

        def press() -> None:
            picture = self.page.locator("#photo img")
            box = picture.bounding_box()
            place = {"x": x * box["width"], "y": y * box["height"]}
            picture.click(position=place, modifiers=["Shift"] if shift else [])

        self.changes(press)

    def download(self, kind: str, folder: Path) -> Path:
        """Makes a file and saves it."""
        self.tab("Download")
        with self.page.expect_download() as waiting:
            self.page.click(f"#make-{kind}")
        path = folder / waiting.value.suggested_filename
        waiting.value.save_as(path)
        return path


def _host(url: str) -> str:
    parts = urlsplit(url)
    return "" if parts.scheme in ("data", "blob") else parts.hostname or ""


def draw_documents(folder: Path, weights: str = "general") -> None:
    """Draws the two pictures of the documents."""
    photo = example_photos()["Coffee"]
    with serving(lambda: Segmenter(weights)) as server, browsing() as browser:
        tab = Tab(browser, server.url, (1280, 1000))
        tab.open(photo)
        tab.click(0.5, 0.5)
        _draw(tab, folder / "app_select.png")
        tab.changes(lambda: tab.page.click("#add"))
        tab.tab("Layers")
        tab.changes(lambda: tab.page.click("#solo"))
        tab.page.wait_for_timeout(1000)
        _draw(tab, folder / "app_layers.png")


def _draw(tab: Tab, path: Path) -> None:
    """Writes what the window shows as a small PNG."""
    with Image.open(BytesIO(tab.page.screenshot())) as picture:
        picture.convert("RGB").quantize(128).save(path, optimize=True)


if __name__ == "__main__":
    draw_documents(Path(sys.argv[1]), *sys.argv[2:])
