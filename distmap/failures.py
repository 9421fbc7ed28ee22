"""What is told of an item that failed, and how the kernel raises it again.

Owns `Failure` (plain text and a pickled exception that travel instead of a result), `revive` and `short_repr`.
Must not know tasks, chunks or workers other than by the numbers it is given. Imported by task processes, so
everything that costs at import (traceback, reprlib, linecache) is imported when something has failed.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

from distmap.errors import PayloadError, RemoteError

if TYPE_CHECKING:
    from traceback import TracebackException

#: Frames of files in this folder are distmap's own and are not shown to users.
_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_REPR = 200
_MESSAGE = 2_000
#: A traceback longer than this (runaway recursion through several functions) loses its middle.
_TEXT = 32_000
#: Raised again as themselves they would end an iteration, a script or an event loop of the kernel, not report an item.
_NEVER_RAISED = (StopIteration, StopAsyncIteration)


class Failure(NamedTuple):
    """Why an item has no result; it stands in the result's place."""

    #: Name of the exception's type, with its module unless it is a builtin.
    type: str
    message: str
    #: The remote traceback as text: user frames only, causes and contexts included.
    text: str
    #: The exception itself, if it survived a round trip where it was raised.
    pickled: bytes | None
    #: Short repr of the item.
    item: str
    #: False if the item failed in the kernel already, because it does not pickle.
    sent: bool = True


def short_repr(obj: object) -> str:
    """A repr of at most 200 characters that never raises, however large or broken the object is."""
    import reprlib

    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 160
    short.maxlevel = 4
    try:
        text = short.repr(obj)
    except Exception:
        text = f"<{type(obj).__name__} whose repr fails>"
    text = " ".join(text.split())
    return text if len(text) <= _REPR else text[: _REPR - 3] + "..."


def type_name(kind: type[BaseException]) -> str:
    module = kind.__module__
    return kind.__qualname__ if module in ("builtins", "__main__") else f"{module}.{kind.__qualname__}"


def describe(
    exc: BaseException,
    item: str,
    dumps: Callable[[object], bytes] | None = None,
    traceback: TracebackType | None = None,
    *,
    sent: bool = True,
) -> Failure:
    """Make the Failure of an exception.

    Args:
        exc: What was raised.
        item: Short repr of the item that it was raised for.
        dumps: Pickles the exception; without it only the text travels.
        traceback: Where it was raised, if not in `exc.__traceback__`.
        sent: Whether the item had been sent to a worker.
    """
    pickled = None
    if dumps is not None:
        try:
            pickled = dumps(exc)
            # An exception whose __init__ takes other arguments than its `args` pickles but does not unpickle.
            if type(pickle.loads(pickled)) is not type(exc):
                pickled = None
        except Exception:
            pickled = None
    try:
        message = str(exc)[:_MESSAGE]
    except Exception:
        message = "<message not available: str() of the exception fails>"
    return Failure(type_name(type(exc)), message, _format(exc, traceback or exc.__traceback__), pickled, item, sent)


def _format(exc: BaseException, tb: TracebackType | None) -> str:
    from traceback import TracebackException

    try:
        report = TracebackException(type(exc), exc, tb, compact=True)
        _drop_own_frames(report)
        text = "".join(report.format())
    except Exception:
        return type_name(type(exc))
    if len(text) > _TEXT:
        text = text[: _TEXT // 2] + "\n  [... cut ...]\n" + text[-_TEXT // 2 :]
    return text.rstrip("\n")


def _drop_own_frames(report: TracebackException) -> None:
    """Leave the user's frames, here and in every cause, context and group member."""
    queue, seen = [report], set()
    while queue:
        part = queue.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        part.stack[:] = [frame for frame in part.stack if not frame.filename.startswith(_HERE)]
        queue += [linked for linked in (part.__cause__, part.__context__) if linked is not None]
        queue += part.exceptions or ()


def headline(failed: Failure | BaseException) -> str:
    """What went wrong in one line: the last one of its traceback."""
    if isinstance(failed, RemoteError):
        words = str(failed)
    elif isinstance(failed, Failure):
        words = f"{failed.type}: {failed.message}" if failed.message else failed.type
    else:
        try:
            message = str(failed)
        except Exception:
            message = ""
        words = type_name(type(failed)) + (f": {message}" if message else "")
    first = words.strip().partition("\n")[0]
    return first if len(first) <= _REPR else first[: _REPR - 3] + "..."


def revive(failure: Failure, *, index: int, worker: str, attempt: int) -> BaseException:
    """The exception to raise in the kernel for a failed item.

    It has the original type if that unpickles here, a note that names the item, the worker and the attempt, and a
    `RemoteError` with the remote traceback as its cause, but for one that was never sent. Otherwise it is a
    `RemoteError` with that text.
    Exceptions that would steer the kernel instead of reporting an item (`SystemExit`, `KeyboardInterrupt`,
    `GeneratorExit`, `StopIteration`) also come as `RemoteError`.
    """
    text = _with_source(failure.text)
    exc: BaseException | None = None
    if failure.pickled is not None:
        try:
            exc = pickle.loads(failure.pickled)
        except Exception:
            exc = None
    said = f"{failure.type}: {failure.message}" if failure.message else failure.type
    if not isinstance(exc, Exception) or isinstance(exc, _NEVER_RAISED):
        exc = RemoteError(f"{said}\n\n{text}")
    elif failure.sent:
        exc.__cause__ = RemoteError(f"\n{text}")
    where = f"on worker {worker}, attempt {attempt}" if failure.sent else "failed here, before it was sent to a worker"
    try:
        exc.add_note(f"item {index} ({failure.item}) {where}")
    except Exception:
        return PayloadError(f"{said}\n\n{text}")
    return exc


def _with_source(text: str) -> str:
    """Add the source lines that only the kernel knows: those of functions defined in notebook cells."""
    import linecache

    lines = text.split("\n")
    out = []
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        out.append(line)
        head, _, rest = line.lstrip().partition(", line ")
        number, _, name = rest.partition(", in ")
        if not (head.startswith('File "') and number.isdecimal() and name) or following.startswith("    "):
            continue
        source = linecache.getline(head[6:-1], int(number)).strip()
        if source:
            indent = line[: len(line) - len(line.lstrip())]
            out.append(f"{indent}  {source}")
    return "\n".join(out)


def shorten(error: BaseException) -> BaseException:
    """Take distmap's own frames out of the traceback so far, and leave those of the user's code."""
    frames, tb = [], error.__traceback__
    while tb is not None:
        if not tb.tb_frame.f_code.co_filename.startswith(_HERE):
            frames.append(tb)
        tb = tb.tb_next
    users = None
    for tb in reversed(frames):
        tb.tb_next, users = users, tb
    return error.with_traceback(users)


def failed_to_travel(what: str, exc: BaseException) -> PayloadError:
    """A PayloadError that says what did not pickle or unpickle; `exc` is its cause."""
    try:
        message = str(exc)[:_MESSAGE]
    except Exception:
        message = "(its message is not available)"
    error = PayloadError(f"{what}: {type_name(type(exc))}: {message}")
    error.__cause__ = exc
    return error
