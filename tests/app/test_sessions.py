"""Data of pages: an hour at most, a limited number, nothing left on the disk."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from softfeat.app.sessions import Session, Sessions

PIXELS = np.zeros((4, 5, 3), np.uint8)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sessions(tmp_path: Path, clock: Clock) -> Sessions:
    return Sessions(tmp_path / "root", lifetime=100, most=2, clock=clock)


def files(sessions: Sessions) -> list[Path]:
    return [path for path in sessions.root.rglob("*") if path.is_file()]


def test_a_page_keeps_its_session(sessions: Sessions) -> None:
    assert sessions.get("a") is sessions.get("a")
    assert sessions.get("a") is not sessions.get("b")


def test_the_key_of_a_page_is_no_path(sessions: Sessions) -> None:
    session = sessions.get("../../etc")
    assert session.folder.resolve().is_relative_to(sessions.root.resolve())
    assert "etc" not in str(session.folder)


def test_closing_deletes_everything(sessions: Sessions) -> None:
    session = sessions.get("a")
    session.picture(PIXELS)
    assert files(sessions)
    sessions.close("a")
    sessions.close("unknown")
    assert not files(sessions)
    assert len(sessions) == 0
    with pytest.raises(ValueError, match="no photo here"):
        session.picture(PIXELS)  # what still runs writes nothing


def test_an_hour_later(sessions: Sessions, clock: Clock) -> None:
    sessions.get("a").picture(PIXELS)
    clock.now = 60
    sessions.get("b").picture(PIXELS)
    clock.now = 120
    sessions.expire()
    assert len(sessions) == 1
    assert len(files(sessions)) == 1


def test_what_browsers_have_sent_is_deleted(sessions: Sessions) -> None:
    shown = sessions.get("a").picture(PIXELS)
    uploaded = sessions.root / "hash" / "photo.jpg"
    uploaded.parent.mkdir(parents=True)
    uploaded.write_bytes(b"x")
    sessions.expire()
    assert uploaded.is_file()
    for path in (uploaded, shown):
        os.utime(path, times=(time.time() - 700,) * 2)
    sessions.expire()
    assert not uploaded.exists()
    assert Path(shown).exists()  # as long as the session


def test_the_one_unused_for_longest_is_closed(sessions: Sessions, clock: Clock) -> None:
    oldest = sessions.get("a")
    for key in "bac":
        clock.now += 1
        sessions.get(key)
    assert len(sessions) == 2
    assert not oldest.closed
    assert sessions.get("a") is oldest


def test_few_pictures_are_kept(sessions: Sessions) -> None:
    session = sessions.get("a")
    last = [session.picture(PIXELS) for _ in range(100)][-1]
    assert len(files(sessions)) == 40
    assert Path(last).is_file()


def test_no_photo() -> None:
    with pytest.raises(ValueError, match="there is no photo here"):
        Session(Path("unused")).work  # noqa: B018


def test_the_end(sessions: Sessions) -> None:
    sessions.get("a").picture(PIXELS)
    sessions.close_all()
    assert not sessions.root.exists()
