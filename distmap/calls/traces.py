"""Tracebacks that show the user's code and nothing of distmap's.

Owns `gate`, which every public call goes through, and what is shown of an error that nobody caught. `DISTMAP_DEBUG=1`
shows everything, for whoever works on distmap. `failures.py` brings the frames of an item here.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar, cast

from distmap.errors import DistmapError, RemoteError
from distmap.tasks.failures import HIDDEN, shorten, users_frames

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


def gate(call: F) -> F:
    """Let errors leave a public call with the user's frames only; IPython and pytest hide the gate's own."""

    @functools.wraps(call)
    def through(*args: Any, **options: Any) -> Any:
        __tracebackhide__ = HIDDEN
        try:
            return call(*args, **options)
        except BaseException as error:
            raise clean(error)  # noqa: B904  (it is the one that was caught)

    return cast(F, through)


def clean(error: BaseException) -> BaseException:
    """An error on its way out of distmap, to be raised: without the frames behind it that are not the user's."""
    if not HIDDEN:
        return error
    if "IPython" in sys.modules:
        with contextlib.suppress(Exception):  # a class with ideas of its own
            error._render_traceback_ = RENDERED  # type: ignore[attr-defined]
    _hook()
    return shorten(error)


def is_told(error: BaseException) -> bool:
    """Whether the cause of an error, which is kept, has nothing to add to what is shown of the error itself."""
    cause = error.__cause__
    if isinstance(cause, RemoteError):
        return not cause
    # Why something does not pickle, say: the sentence tells it, and the frames are distmap's.
    told = isinstance(error, DistmapError) and cause is not None and str(cause) in str(error)
    return told and cause is not None and not users_frames(cause)


class _Rendered:
    """IPython's way to let an exception show itself; on an instance, as the class is somebody else's."""

    def __call__(self) -> list[str]:
        # The one that is being shown, or (`%tb`) was shown last: kept here it would keep itself alive.
        error = sys.exc_info()[1] or getattr(sys, "last_value", None)
        assert error is not None
        cause, tb = error.__cause__, None
        # A copy: whoever debugs it finds all frames. IPython would show the last one, too, which may be distmap's.
        for one in reversed(users_frames(error)):
            tb = TracebackType(tb, one.tb_frame, one.tb_lasti, one.tb_lineno)
        try:
            if is_told(error):
                error.__cause__ = None  # the context stays suppressed
            shell: Any = sys.modules["IPython"].get_ipython()
            lines: list[str] = shell.InteractiveTB.structured_traceback(type(error), error, tb)
            return lines
        finally:
            if error.__cause__ is not cause:
                error.__cause__ = cause

    def __reduce__(self) -> str:
        return "RENDERED"


RENDERED = _Rendered()


def _hook() -> None:
    """From now on scripts print errors as `show` does, unless somebody else has an idea of that."""
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = show
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = show_of_thread


def show(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """As `sys.excepthook`: print an error that nobody caught, what an item raised once."""
    told_once(error, lambda: sys.__excepthook__(kind, error, error.__traceback__))


def show_of_thread(args: threading.ExceptHookArgs) -> None:
    """As `threading.excepthook`."""
    error = args.exc_value
    if error is None:
        threading.__excepthook__(args)
        return

    def tell() -> None:
        threading.__excepthook__(threading.ExceptHookArgs((args.exc_type, error, error.__traceback__, args.thread)))

    told_once(error, tell)


def told_once(error: BaseException, tell: Callable[[], T]) -> T:
    """Call `tell` while the error and all that it is chained to are without distmap's frames and texts told twice."""
    if not HIDDEN:
        return tell()
    parts, hidden = [error], list[tuple[BaseException, BaseException]]()
    for part in parts:  # it grows
        shorten(part)
        if (cause := part.__cause__) is not None and is_told(part):
            hidden.append((part, cause))
            part.__cause__ = None  # the context stays suppressed
        parts += [
            linked
            for linked in (part.__cause__, part.__context__)
            if linked is not None and all(linked is not known for known in parts)
        ]
    try:
        return tell()
    finally:
        for part, cause in hidden:
            part.__cause__ = cause
