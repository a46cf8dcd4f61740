"""Events whose steps run in different threads, as Gradio runs them."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

pytest.importorskip("gradio")

from softfeat.app.events import Events
from softfeat.app.sessions import Session


def test_each_step_of_an_event_may_have_its_own_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(tmp_path)
    used: list[str] = []
    session.opened = cast(
        Any,
        SimpleNamespace(find_layers=lambda count: "found", use=used.append, entries=[1, 2]),
    )
    monkeypatch.setattr(Events, "_session", lambda self, request: session)
    monkeypatch.setattr(Events, "_picture", lambda self, session: "picture")
    monkeypatch.setattr(Events, "_layers", lambda self, session, chosen: ["layers", "names"])
    events = Events(cast(Any, None), cast(Any, None), 1)
    steps = events.divide(2, False, cast(Any, None))
    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
        first.submit(next, steps).result()
        shown = first.submit(next, steps).result()
        assert used == ["found"]
        assert shown[1:] == ["picture", "layers", "names"]
        second.submit(steps.close).result()
        assert second.submit(session.lock.acquire, blocking=False).result()  # nobody holds it
