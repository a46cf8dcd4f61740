"""What happens when the user does something: the events of the page.

Each takes the values of controls, changes the session, and returns what the controls show then.
What takes long to import is imported at its first use, so that the page is there at once.
"""

from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from softfeat.app.choices import EXCLUDE, Background, Kind, View
from softfeat.app.errors import safely
from softfeat.app.examples import example_photos
from softfeat.app.sessions import Session, Sessions

if TYPE_CHECKING:
    from softfeat.app.work import Direction, Work
    from softfeat.segmenter import Segmenter

Update = Any  # what Gradio accepts for a control
NO_FILE = "the file is not here any more: choose it again"


class Events:
    """The events of the page.

    Args:
        sessions: The data of all open pages.
        segmenter: Function that returns the segmenter, after it was loaded.
        max_bytes: Largest file that is read.
    """

    def __init__(
        self, sessions: Sessions, segmenter: Callable[[], "Segmenter"], max_bytes: int
    ) -> None:
        self.sessions, self.segmenter, self.max_bytes = sessions, segmenter, max_bytes

    # A photo

    @safely
    def open_file(self, uploaded: Any, request: gr.Request) -> Iterator[list[Update]]:
        """Opens the photo that was dropped; see `_open`."""
        if uploaded is None:
            return
        yield from self._open(self._take(uploaded), request)

    @safely
    def open_example(self, name: str, request: gr.Request) -> Iterator[list[Update]]:
        """Opens one of the example photos; see `_open`."""
        examples = example_photos()
        if name not in examples:
            raise ValueError("there is no such example")
        yield from self._open(examples[name].read_bytes(), request)

    def _open(self, content: bytes, request: gr.Request) -> Iterator[list[Update]]:
        """Computes features, stage by stage. Yields status, picture, view and no file."""
        session = self._session(request)
        with session.lock:
            session.opened = None  # its memory is needed
            session.view = "photo"
        yield [status("Loading the network"), None, "photo", None]
        segmenter = self.segmenter()
        yield [status("Reading the photo"), None, "photo", None]
        photo = segmenter.read(_named(content))
        yield [status("Computing features"), None, "photo", None]
        from softfeat.app.work import Work

        work = Work(segmenter.open(photo))
        with session.lock:
            if session.closed:
                return
            session.opened = work
            shown = self._picture(session)
        yield [status("Finding layers. You can click on things already"), shown, "photo", None]

    @safely
    def divide(self, count: int, automatic: bool, request: gr.Request) -> Iterator[list[Update]]:
        """Finds layers. Yields status, picture and the list of layers."""
        session = self._session(request)
        work = session.work
        unchanged = [gr.skip()] * 3
        yield [status("Finding layers. You can click on things already"), gr.skip(), *unchanged]
        found = work.find_layers("auto" if automatic else int(count))
        with session.lock:
            if session.closed or session.opened is not work:
                return
            work.use(found)
            text = f"{len(work.entries)} layers. Click on a thing to select it"
            updates = [status(text), self._picture(session), *self._layers(session, None)]
        # Not within the lock: what comes after a yield may run in another thread, which cannot
        # release it.
        yield updates

    def _take(self, uploaded: Any) -> bytes:
        """Reads a file that the page has sent. `Sessions.expire` deletes it.

        Not this function: the same photo from another page would be the same file.

        Raises:
            ValueError: It is too large, or none that the page has sent.
        """
        path = Path(str(uploaded.get("path", "") if isinstance(uploaded, dict) else "")).resolve()
        if not (path.is_relative_to(self.sessions.root.resolve()) and path.is_file()):
            raise ValueError(NO_FILE)
        if path.stat().st_size > self.max_bytes:
            megabytes = self.max_bytes / 1e6
            raise ValueError(f"the file has more than {megabytes:.0f} MB: choose a smaller one")
        return path.read_bytes()

    # The selection

    @safely
    def click(self, mode: str, request: gr.Request, event: gr.SelectData) -> list[Update]:
        """Adds the point at which the picture was clicked. Returns status, picture and view."""
        return self.point(*event.index, mode, request)

    @safely
    def point(self, x: float | None, y: float | None, mode: str, request: gr.Request) -> list[Any]:
        """Adds a point that was written as numbers."""
        if x is None or y is None:
            raise ValueError("write both numbers of the point, x and y")
        return self._select(request, lambda work: work.click(x, y, mode != EXCLUDE))

    @safely
    def undo(self, request: gr.Request) -> list[Update]:
        """Takes back the last click."""
        return self._select(request, lambda work: work.undo())

    @safely
    def clear(self, request: gr.Request) -> list[Update]:
        """Removes the selection."""
        return self._select(request, lambda work: work.clear())

    @safely
    def subject(self, request: gr.Request) -> list[Update]:
        """Selects the subject of the photo."""
        return self._select(request, lambda work: work.choose_subject())

    @safely
    def border(self, grow: float, feather: float, request: gr.Request) -> list[Update]:
        """Moves or blurs the border of the selection."""
        if self._session(request).opened is None:
            return [gr.skip()] * 3

        def change(work: "Work") -> None:
            work.grow, work.feather = float(grow), float(feather)

        return self._select(request, change)

    def _select(self, request: gr.Request, change: Callable[["Work"], None]) -> list[Update]:
        session = self._session(request)
        with session.lock:
            work = session.work
            change(work)
            try:
                matte = work.matte()
            except ValueError:  # the weights answer no clicks
                work.undo()
                raise
            if session.view == "layers":
                session.view = "photo"
            marks = work.marks
            number = len(marks.include) + len(marks.exclude)
            text = "Nothing is selected" if matte is None else f"Selected: {matte.mean():.0%}"
            if number:
                text += f" of the photo, by {number} {'click' if number == 1 else 'clicks'}"
            elif marks.subject:
                text += " of the photo, its subject"
            return [status(text), self._picture(session), session.view]

    # The view

    @safely
    def show_view(self, view: View, overlays: list[str], request: gr.Request) -> Update:
        """Changes what is shown. Returns the picture."""
        session = self._session(request)
        with session.lock:
            session.view, session.overlays = view, tuple(overlays)
            return self._picture(session)

    @safely
    def behind(self, kind: Kind, colour: str, request: gr.Request) -> list[Update]:
        """Changes the background. Returns status, picture and view."""
        session = self._session(request)
        with session.lock:
            photo = session.background.photo
            if kind == "photo" and photo is None:
                return [status("Drop a photo for the background"), gr.skip(), gr.skip()]
            from softfeat.app.pictures import behind

            wanted = Background(kind, colour, photo)
            behind(wanted)  # raises an error for a wrong colour
            return self._put_behind(session, wanted)

    @safely
    def behind_photo(self, uploaded: Any, request: gr.Request) -> list[Update]:
        """Takes a photo for the background. Returns also kind of background and no file."""
        session = self._session(request)
        if uploaded is None:
            return [gr.skip()] * 5
        photo = self.segmenter().read(_named(self._take(uploaded)))
        with session.lock:
            shown = self._put_behind(session, Background("photo", photo=photo))
        return [*shown, "photo", None]

    def _put_behind(self, session: Session, background: Background) -> list[Update]:
        session.background = background
        if session.opened is not None and session.view == "photo":
            session.view = "cut-out" if session.opened.marks else "layers"
        return [status(f"Background: {background.kind}"), self._picture(session), session.view]

    # The layers

    @safely
    def show_layers(self, keys: list[str], request: gr.Request) -> list[Update]:
        """Shows some layers and hides all others. Returns picture and view."""
        session = self._session(request)
        with session.lock:
            session.work.show(keys)
            session.view = "layers"
            return [self._picture(session), session.view]

    @safely
    def solo(self, key: str | None, request: gr.Request) -> list[Update]:
        """Shows one layer alone."""
        return self._edit(request, key, lambda work: work.solo(key))

    @safely
    def up(self, key: str | None, request: gr.Request) -> list[Update]:
        """Moves a layer up."""
        return self._move(request, key, "up")

    @safely
    def down(self, key: str | None, request: gr.Request) -> list[Update]:
        """Moves a layer down."""
        return self._move(request, key, "down")

    def _move(self, request: gr.Request, key: str | None, direction: "Direction") -> list[Update]:
        return self._edit(request, key, lambda work: work.move(key, direction))

    @safely
    def rename(self, key: str | None, name: str, request: gr.Request) -> list[Update]:
        """Gives a layer another name."""
        return self._edit(request, key, lambda work: work.rename(key, name))

    @safely
    def remove(self, key: str | None, request: gr.Request) -> list[Update]:
        """Removes a layer that was added."""
        return self._edit(request, None, lambda work: work.remove(key))

    @safely
    def add_layer(self, request: gr.Request) -> list[Update]:
        """Adds the selection as a layer."""
        session = self._session(request)
        with session.lock:
            entry = session.work.add_selection()
            session.view = "layers"
            layers = self._layers(session, entry.key)
            text = f"Added as {entry.name}. See the layers"
            return [status(text), self._picture(session), session.view, *layers]

    def _edit(
        self, request: gr.Request, key: str | None, change: Callable[["Work"], None]
    ) -> list[Update]:
        """Changes layers. Returns status, picture, view and the list of layers."""
        session = self._session(request)
        with session.lock:
            change(session.work)
            session.view = "layers"
            shown = sum(entry.shown for entry in session.work.entries)
            text = f"{shown} of {len(session.work.entries)} layers are shown"
            layers = self._layers(session, key)
            return [status(text), self._picture(session), session.view, *layers]

    @safely
    def choose(self, request: gr.Request, event: gr.SelectData) -> Update:
        """Chooses the layer whose small picture was clicked."""
        entries = self._session(request).work.entries
        return entries[::-1][int(event.index)].key

    # Files

    def export(self, kind: str) -> Callable[..., Any]:
        """The event that writes a file and offers it. Returns status and the button to save it."""

        @safely
        def event(request: gr.Request) -> list[Update]:
            session = self._session(request)
            with session.lock:
                session.work  # noqa: B018, which raises an error if there is no photo
                from softfeat.app.exports import WRITERS

                path = WRITERS[kind](session)
            button = gr.DownloadButton(f"Save {path.name}", value=str(path), visible=True)
            return [status(f"{path.name} is ready"), button]

        return event

    def leave(self, request: gr.Request) -> None:
        """Forgets the photo when the page is closed."""
        if request.session_hash:
            self.sessions.close(request.session_hash)

    # Parts

    def _session(self, request: gr.Request) -> Session:
        if not request.session_hash:
            raise ValueError("this page has no session: load it again")
        return self.sessions.get(request.session_hash)

    @staticmethod
    def _picture(session: Session) -> Update:
        """The picture of the session as it is to be seen now."""
        work = session.opened
        if work is None:
            return None
        from softfeat.app.pictures import draw

        return session.picture(draw(work, session.view, session.background, session.overlays))

    @staticmethod
    def _layers(session: Session, chosen: str | None) -> list[Update]:
        """Small pictures, the choice of those shown, and the choice of one; the top layer first."""
        from softfeat.app.pictures import thumbnails

        entries = session.work.entries[::-1]
        choices = [(entry.name, entry.key) for entry in entries]
        keys = [entry.key for entry in entries]
        pictures = [session.picture(picture) for picture in thumbnails(session.work, entries)]
        return [
            list(zip(pictures, session.work.names()[::-1], strict=True)),
            gr.CheckboxGroup(choices, value=[entry.key for entry in entries if entry.shown]),
            gr.Radio(choices, value=chosen if chosen in keys else keys[0]),
        ]


def status(text: str) -> str:
    """The line that says what happens."""
    return f"<p>{text}.</p>"


def _named(content: bytes) -> BytesIO:
    """A file whose name in messages is no path."""
    file = BytesIO(content)
    file.name = "the photo"
    return file
