"""What the user is told about an error: texts of this project, and nothing of the machine."""

import functools
import inspect
import logging
from collections.abc import Callable, Generator
from typing import Any

import gradio as gr

_log = logging.getLogger(__name__)
UNKNOWN = "something went wrong; the log of the server has the details"


def message_of(error: Exception) -> str | None:
    """The text of an error that this project raised for people; None for any other error."""
    if not isinstance(error, ValueError | ImportError):
        return None
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))
    return str(error) if module.partition(".")[0] == "softfeat" else None


def _shown(error: Exception) -> gr.Error:
    text = message_of(error)
    if text is None:
        _log.error("an event of the page failed", exc_info=error)
    return gr.Error(text or UNKNOWN, duration=10, print_exception=False)


def safely(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turns the errors of an event into short messages on the page."""
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def stages(*args: Any, **kwargs: Any) -> Generator[Any, None, None]:
            try:
                yield from function(*args, **kwargs)
            except Exception as error:
                raise _shown(error) from None

        return stages

    @functools.wraps(function)
    def event(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            raise _shown(error) from None

    return event
