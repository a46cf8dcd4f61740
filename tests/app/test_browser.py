"""The page, used by a person, in a browser."""

import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from psd_tools import PSDImage

from softfeat.app.examples import example_photos
from softfeat.segmenter import Segmenter
from tests.app import browser as chromium
from tests.app.browser import PHONE, Tab

pytest.importorskip("gradio", reason="needs gradio: make install")
pytest.importorskip("playwright", reason="needs playwright: make install")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(chromium.CHROMIUM is None, reason="needs Chromium: make browser"),
]
SIZE = (451, 300)  # of the cat


@pytest.fixture(scope="module")
def server(weights: Path) -> Iterator[Any]:
    def load() -> Segmenter:
        return Segmenter(weights, size=96, max_pixels=2_000_000)

    with chromium.serving(load, megapixels=2, max_megabytes=3) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium.browsing() as browser:
        yield browser


@pytest.fixture
def tab(browser: Any, server: Any) -> Iterator[Tab]:
    tab = Tab(browser, server.url)
    yield tab
    assert tab.hosts <= {"127.0.0.1", ""}
    assert tab.errors == []
    tab.page.close()


@pytest.fixture(scope="module")
def cat() -> Path:
    photos = example_photos()
    if "Cat" not in photos:
        pytest.skip("needs the photos of scikit-image")
    return photos["Cat"]


def test_a_session(tab: Tab, server: Any, cat: Path, tmp_path: Path) -> None:
    tab.open(cat)
    # click twice, exclude once
    tab.click(0.5, 0.5)
    assert "1 click" in tab.status
    tab.click(0.4, 0.6)
    assert "2 clicks" in tab.status
    tab.page.get_by_label("excludes").check()
    tab.click(0.95, 0.05)
    assert "3 clicks" in tab.status
    tab.changes(lambda: tab.page.click("#undo"))
    assert "2 clicks" in tab.status
    tab.page.get_by_label("includes", exact=True).check()
    tab.click(0.95, 0.05, shift=True)
    session = next(s for s in server.sessions._sessions.values() if s.opened is not None)
    assert [len(session.work.marks.include), len(session.work.marks.exclude)] == [2, 1]
    x, y = session.work.marks.include[0]
    assert abs(x - SIZE[0] / 2) < 6  # where the click was
    assert abs(y - SIZE[1] / 2) < 6
    # layers
    tab.changes(lambda: tab.page.click("#add"))
    tab.tab("Layers")
    shown = tab.page.locator("#shown input")
    count = shown.count()
    assert count == len(session.work.entries) >= 2
    assert session.work.names()[-1] == "selection 1"
    tab.changes(lambda: shown.nth(0).uncheck())
    assert not session.work.entries[-1].shown
    tab.changes(lambda: shown.nth(0).check())
    tab.changes(lambda: tab.page.click("#solo"))
    assert "1 of" in tab.status
    tab.changes(lambda: tab.page.click("#solo"))
    tab.changes(lambda: tab.page.click("#down"))
    assert session.work.names()[-2] == "selection 1"
    tab.page.fill("#name textarea, #name input", "the cat")
    tab.changes(lambda: tab.page.click("#rename"))
    assert session.work.names()[-2] == "the cat"
    # the background
    tab.tab("View")
    tab.changes(lambda: tab.page.get_by_label("white").check())
    tab.changes(lambda: tab.page.get_by_label("superpixels").check())
    tab.changes(lambda: tab.page.get_by_label("features").check())
    tab.changes(lambda: tab.page.set_input_files("#backdrop input[type=file]", str(cat)))
    assert session.background.kind == "photo"
    # all files, opened again
    with Image.open(tab.download("cutout", tmp_path)) as picture:
        assert (picture.mode, picture.size) == ("RGBA", SIZE)
    with Image.open(tab.download("background", tmp_path)) as picture:
        assert (picture.mode, picture.size) == ("RGB", SIZE)
    document = PSDImage.open(tab.download("psd", tmp_path))
    assert document.size == SIZE
    assert [layer.name for layer in document] == session.work.names()
    for kind, pictures in (("ora", count + 2), ("zip", count)):
        with zipfile.ZipFile(tab.download(kind, tmp_path)) as archive:
            assert archive.testzip() is None
            assert sum(name.endswith(".png") for name in archive.namelist()) == pictures
    assert {path.name for path in tmp_path.iterdir()} == {
        "cutout.png",
        "cutout_over_background.png",
        "layers.psd",
        "layers.ora",
        "layers.zip",
    }


def test_another_number_of_layers(tab: Tab, cat: Path) -> None:
    tab.open(cat)
    tab.tab("Layers")
    tab.page.fill("#count input[type=number]", "2")
    tab.page.press("#count input[type=number]", "Tab")
    tab.page.click("#divide")
    tab.wait_for("2 layers.")
    assert tab.page.locator("#shown input").count() == 2


def test_an_example(tab: Tab, server: Any) -> None:
    tab.page.get_by_role("button", name="Try: cat").click()
    tab.wait_for("layers. Click")


@pytest.mark.parametrize("kind", ["text", "cut", "large", "heavy"])
def test_files_that_are_refused(tab: Tab, cat: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "secret name.png"
    if kind == "text":
        path.write_text("no photo")
    elif kind == "cut":
        path.write_bytes(cat.read_bytes()[:1000])
    elif kind == "large":
        Image.new("1", (10_000, 10_000)).save(path)
    else:
        path.write_bytes(bytes(3_100_000))
    tab.drop(path)
    message = tab.message()
    text = {"large": "megapixels", "heavy": "exceed"}.get(kind, "the photo")
    assert text in message
    assert "/" not in message
    tab.open(cat)  # the page goes on


def test_two_tabs_at_once(browser: Any, server: Any, cat: Path) -> None:
    tabs = [Tab(browser, server.url) for _ in range(2)]
    for tab in tabs:
        tab.drop(cat)
    for tab in tabs:
        tab.wait_for("layers. Click")
    tabs[0].click(0.5, 0.5)
    assert "1 click" in tabs[0].status
    assert "layers. Click" in tabs[1].status
    for tab in tabs:
        assert tab.errors == []
        tab.page.close()


def test_a_reload_in_mid_work(tab: Tab, server: Any, cat: Path) -> None:
    tab.drop(cat)
    tab.wait_for("Finding layers")
    tab.page.reload()
    tab.wait_for("Choose a photo")
    assert tab.page.locator("#photo img").count() == 0
    tab.open(cat)
    tab.click(0.5, 0.5)


def test_a_closed_page_leaves_nothing(browser: Any, server: Any, cat: Path) -> None:
    tab = Tab(browser, server.url)
    tab.open(cat)
    before = len(server.sessions)
    tab.page.close()
    left = threading.Event()
    for _ in range(200):
        if len(server.sessions) < before:
            break
        left.wait(0.2)
    assert len(server.sessions) < before


def test_a_phone(browser: Any, server: Any, cat: Path) -> None:
    tab = Tab(browser, server.url, PHONE)
    tab.open(cat)
    for name in ("Select", "Layers", "View", "Download"):
        tab.tab(name)
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
    tab.tab("Select")
    tab.click(0.5, 0.5)
    tab.page.close()


def test_the_keyboard_and_names(tab: Tab, cat: Path) -> None:
    tab.open(cat)
    page = tab.page
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('button, input, textarea, img')]
        .filter(e => e.offsetParent && !(e.labels?.length || e.innerText || e.title || e.alt
          || e.ariaLabel || e.closest('label') || e.querySelector('img[alt]')))
        .map(e => e.outerHTML)"""
    )
    assert unnamed == []
    assert page.get_attribute("#status", "aria-live") == "polite"
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.closest('[id]')?.id"))
    assert {"undo", "clear", "subject", "add"} <= reached
    page.get_by_role("button", name="Points by numbers").click()
    page.fill("#x input", "20")
    page.fill("#y input", "20")
    tab.changes(lambda: page.focus("#point") or page.keyboard.press("Enter"))
    assert "1 click" in tab.status


def test_the_picture_is_the_photo(tab: Tab, cat: Path, tmp_path: Path) -> None:
    tab.open(cat)
    response = tab.page.request.get(tab.page.evaluate("document.querySelector('#photo img').src"))
    path = tmp_path / "shown.png"
    path.write_bytes(response.body())
    with Image.open(path) as shown, Image.open(cat) as photo:
        small = photo.convert("RGB").resize(shown.size, Image.Resampling.BOX)
        assert np.abs(np.asarray(shown).astype(int) - np.asarray(small)).mean() < 12
