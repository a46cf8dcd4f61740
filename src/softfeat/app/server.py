"""Starts and ends the server of the page."""

import os
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from softfeat.memory import limit_arenas

if TYPE_CHECKING:
    from softfeat.segmenter import Segmenter

MAX_MEGABYTES = 60
_CHECKED_EVERY = 60.0  # seconds
# Scripts, fonts and pictures of the page itself only, even if Gradio names others.
_POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; object-src 'none'; "
    "base-uri 'self'; form-action 'self'"
)


def prepare_gradio(folder: Path) -> None:
    """Sets what Gradio reads when it is imported: its folder, and no messages to elsewhere."""
    os.environ |= {
        "GRADIO_TEMP_DIR": str(folder),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_RUN_HISTORY": "False",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


class _Guarded:
    """Adds headers to each answer: nothing is fetched from elsewhere, no address leaks.

    Args:
        app: The application.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    (b"content-security-policy", _POLICY.encode()),
                    (b"referrer-policy", b"no-referrer"),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        await self.app(scope, receive, guarded if scope["type"] == "http" else send)


class Server:
    """The page, served until `close`, or until a `with` block ends.

    Args:
        load: Function that returns the segmenter. It runs in the background, so that the page is
            there at once.
        host: Address to listen on.
        port: Port; 0 for any that is free.
        share: Whether to open a public link through a server of Gradio.
        megapixels: Largest photo, as the page says it.
        max_megabytes: Largest file that is read.

    Raises:
        ImportError: Gradio is not installed.
        OSError: The port is in use.
    """

    def __init__(
        self,
        load: Callable[[], "Segmenter"],
        host: str = "127.0.0.1",
        port: int = 7860,
        share: bool = False,
        megapixels: float = 24,
        max_megabytes: int = MAX_MEGABYTES,
    ) -> None:
        if find_spec("gradio") is None:
            raise ImportError('the page needs Gradio: pip install "softfeat[app]"')
        root = Path(tempfile.mkdtemp(prefix="softfeat-"))
        prepare_gradio(root)
        limit_arenas()  # Gradio runs events in many threads
        from softfeat.app.events import Events
        from softfeat.app.page import Page
        from softfeat.app.sessions import Sessions

        self._ended = threading.Event()
        self.loading: Future[Segmenter] = Future()
        self.sessions = Sessions(root)
        events = Events(self.sessions, self.loading.result, int(max_megabytes * 1e6))
        limits = f"At most {megapixels:.0f} megapixels and {max_megabytes} MB."
        self._page = Page(events, limits).build()
        try:
            _, self.url, self.public_url = self._launch(host, port, share, max_megabytes)
        except BaseException:
            self.close()
            raise
        # Not earlier: its imports would delay the page.
        threading.Thread(target=self._load, args=(load,), daemon=True).start()
        threading.Thread(target=self._watch, daemon=True).start()

    def _launch(
        self, host: str, port: int, share: bool, max_megabytes: int
    ) -> tuple[Any, str, str | None]:
        from starlette.middleware import Middleware

        from softfeat.app.page import CSS, HEAD, theme
        from softfeat.app.sessions import MOST_SESSIONS

        return self._page.launch(
            server_name=host,
            server_port=port or None,
            share=share,
            theme=theme(),
            css=CSS,
            head=HEAD,
            prevent_thread_lock=True,
            quiet=True,
            show_error=False,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            state_session_capacity=MOST_SESSIONS,  # Gradio's own data of pages, never deleted
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            max_file_size=int(max_megabytes * 1e6),
            app_kwargs={
                "middleware": [Middleware(_Guarded)],
                "docs_url": None,
                "redoc_url": None,
                "openapi_url": None,
            },
        )

    def __enter__(self) -> "Server":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def wait(self) -> None:
        """Waits for the weights, and then for ever.

        Raises:
            ValueError, OSError, ImportError: The weights cannot be loaded.
        """
        self.loading.result()
        self._ended.wait()

    def close(self) -> None:
        """Ends the server and deletes the data of all pages."""
        self._ended.set()
        self._page.close(verbose=False)
        self.sessions.close_all()

    def _load(self, load: Callable[[], "Segmenter"]) -> None:
        try:
            self.loading.set_result(load())
        except BaseException as error:
            self.loading.set_exception(error)

    def _watch(self) -> None:
        while not self._ended.wait(_CHECKED_EVERY):
            self.sessions.expire()
