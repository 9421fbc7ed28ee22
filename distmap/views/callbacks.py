"""Calls the user's callbacks, and shows what they raise where the call was made.

Owns `call_showing_errors` and `show_error`. Everything of the user's that is called beside the results (`callback=`,
`error_callback=`, `add_done_callback`, `progress=`) is called by `call_showing_errors`, from any thread: nobody waits
for these calls, so their errors would get lost.
"""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Callable
from contextvars import Context
from typing import Any

from distmap.calls.traces import told_once
from distmap.views.base import write_text

log = logging.getLogger("distmap")


def call_showing_errors(
    function: Callable[..., object],
    *args: Any,
    what: str,
    context: Context | None = None,
    write: Callable[[str, str], None] = write_text,
) -> bool:
    """Call a user's callback, and show what it raises; returns whether it raised nothing.

    Only a KeyboardInterrupt in the main thread is raised: there Python raises the user's own.

    Args:
        what: name of the callback, such as "callback= of score".
        context, write: as for `show_error`.
    """
    try:
        function(*args)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            raise
        show_error(error, what, context, write)
        return False
    return True


def show_error(
    error: BaseException,
    what: str,
    context: Context | None = None,
    write: Callable[[str, str], None] = write_text,
) -> None:
    """Write an exception to `sys.stderr`, as `threading.excepthook` does, but without distmap's frames.

    Args:
        error: the exception.
        what: where it was raised, as for `call_showing_errors`.
        context: of the cell to whose output it belongs; None: the current one.
        write: is called with the text and "stderr"; a `TextSink` gives its own.
    """
    from traceback import format_exception

    lines = told_once(error, lambda: format_exception(error))
    text = f"Exception in {what}; everything else goes on:\n{''.join(lines)}"
    try:
        # A copy, as a context cannot be entered while it is entered already.
        (context or contextvars.copy_context()).copy().run(write, text, "stderr")
    except Exception as failed:  # standard error is closed: there is no place to show it
        log.error("! %s; and standard error: %s: %s", text, type(failed).__name__, failed)
