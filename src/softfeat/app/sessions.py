"""The data of each open page, which lives an hour, or until the page is closed."""

import secrets
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from softfeat.app.choices import Background, View
from softfeat.memory import release_memory

if TYPE_CHECKING:
    from softfeat.app.work import Work

LIFETIME = 3600.0  # seconds
UPLOADS = 600.0  # seconds that files from browsers live; they are read within this time
MOST_SESSIONS = 16
_KEPT_PICTURES = 40  # files; a browser may still ask for the last ones
NO_PHOTO = "there is no photo here: choose one first (a photo is forgotten after an hour)"


@dataclass(eq=False)
class Session:
    """One open page.

    Attributes:
        folder: Folder for the pictures that it shows and the files that it offers.
        used: Time of the last use.
        opened: Work on the photo; None without one.
        background: What is seen behind cut-outs.
        view: What is shown.
        overlays: What is drawn over it.
        lock: Held by whoever changes or reads the work.
        closed: Whether the page was closed.
    """

    folder: Path
    used: float = 0.0
    opened: "Work | None" = None
    background: Background = field(default_factory=Background)
    view: View = "photo"
    overlays: tuple[str, ...] = ()
    lock: threading.RLock = field(default_factory=threading.RLock)
    closed: bool = False

    def __post_init__(self) -> None:
        self._pictures: list[Path] = []
        self._count = 0

    @property
    def work(self) -> "Work":
        """The work on the photo.

        Raises:
            ValueError: There is no photo.
        """
        if self.opened is None:
            raise ValueError(NO_PHOTO)
        return self.opened

    def picture(self, pixels: NDArray[np.uint8]) -> str:
        """Writes a picture (h,w,3) for the page and returns its file."""
        path = self.file(f"{self._count}.png")
        self._count += 1
        path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels), level=1))
        self._pictures.append(path)
        while len(self._pictures) > _KEPT_PICTURES:
            self._pictures.pop(0).unlink(missing_ok=True)
        return str(path)

    def file(self, name: str) -> Path:
        """A file of the session, in a folder that exists.

        Raises:
            ValueError: The page was closed.
        """
        if self.closed:
            raise ValueError(NO_PHOTO)
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / name

    def close(self) -> None:
        """Forgets the photo and deletes all files."""
        self.closed, self.opened, self.background = True, None, Background()
        shutil.rmtree(self.folder, ignore_errors=True)


class Sessions:
    """All open pages.

    Args:
        root: Folder for the files of all sessions, and for those that browsers have sent.
        lifetime: Seconds after its last use at which a session is closed.
        most: Largest number of sessions. Above it, the one that was unused for the longest time is
            closed.
        clock: Function that returns the time in seconds.
    """

    def __init__(
        self,
        root: Path,
        lifetime: float = LIFETIME,
        most: int = MOST_SESSIONS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.root, self.lifetime, self.most, self.clock = root, lifetime, most, clock
        self._folders = root / "sessions"
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def get(self, key: str) -> Session:
        """The session of a page. A new one has no photo."""
        with self._lock:
            session = self._sessions.get(key)
            if session is None:
                # A folder with a secret name: the key comes from the browser.
                session = Session(self._folders / secrets.token_urlsafe(24))
                self._sessions[key] = session
            session.used = self.clock()
            excess = sorted(self._sessions, key=lambda k: self._sessions[k].used)[: -self.most]
            ended = [self._sessions.pop(key) for key in excess]
        self._end(ended)
        return session

    def close(self, key: str) -> None:
        """Closes the session of a page, if it has one."""
        with self._lock:
            session = self._sessions.pop(key, None)
        self._end([] if session is None else [session])

    def expire(self) -> None:
        """Closes sessions that were not used for long, and deletes what browsers have sent."""
        now = self.clock()
        with self._lock:
            old = [k for k, s in self._sessions.items() if now - s.used > self.lifetime]
            ended = [self._sessions.pop(key) for key in old]
        self._end(ended)
        for path in self.root.rglob("*"):
            with suppress(OSError):
                old_file = time.time() - path.stat().st_mtime > UPLOADS
                if old_file and path.is_file() and not path.is_relative_to(self._folders):
                    path.unlink()

    def close_all(self) -> None:
        """Closes all sessions and deletes the folder."""
        with self._lock:
            ended = list(self._sessions.values())
            self._sessions.clear()
        self._end(ended)
        shutil.rmtree(self.root, ignore_errors=True)

    @staticmethod
    def _end(sessions: list[Session]) -> None:
        for session in sessions:
            session.close()
        if sessions:
            release_memory()
