"""Errors of items: how they are described where they happen, and raised again in the kernel.

Owns `Failure` (plain text and a pickled exception that travel instead of a result), `revive` and `short_repr`.
Must not know tasks, chunks or workers other than by the numbers it is given. Imported by task processes, so
everything that costs at import (traceback, reprlib, linecache) is imported when something has failed.
"""

from __future__ import annotations

import _pickle
import os
import sys
from collections.abc import Callable
from types import FrameType, TracebackType

from distmap.errors import PayloadError, RemoteError
from distmap.tasks._typing import TYPE_CHECKING, Any, NamedTuple
from distmap.tasks.caller import PACKAGE, users_frame

if TYPE_CHECKING:
    from traceback import TracebackException
    from typing import NoReturn

#: What a `__reduce__`, `__str__` or `__repr__` may raise to say that it does not work; KeyboardInterrupt is the user's.
BROKEN = (Exception, SystemExit, GeneratorExit)
_REPR = 200
_MESSAGE = 2_000
#: A traceback longer than this (runaway recursion through several functions) loses its middle.
_TEXT = 32_000
#: Raised again as themselves they would end an iteration, a script or an event loop of the kernel, not report an item.
_NEVER_RAISED = (StopIteration, StopAsyncIteration)


#: Begins the note of an error that a set-up raised before an item.
SET_UP = "raised by a set-up"


class _Hidden:
    """Whether debuggers and test runners pass over a frame: asked when a traceback is shown, not when it is made."""

    def __bool__(self) -> bool:
        return os.environ.get("DISTMAP_DEBUG", "") in ("", "0")


#: What `__tracebackhide__` is in distmap's functions: IPython and pytest then leave their frames out.
HIDDEN = _Hidden()


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
    """A repr of at most 200 characters that never raises, however large, slow or broken the object is."""
    from distmap.tasks.reprs import shown

    return shown(obj)


def type_name(kind: type[BaseException]) -> str:
    module = kind.__module__
    return kind.__qualname__ if module in ("builtins", "__main__") else f"{module}.{kind.__qualname__}"


def describe(
    exc: BaseException,
    item: str,
    dumps: Callable[..., bytes] | None = None,
    traceback: TracebackType | None = None,
    *,
    sent: bool = True,
) -> Failure:
    """Make the Failure of an exception.

    Args:
        exc: What was raised.
        item: Short repr of the item that it was raised for.
        dumps: Pickles the exception, with `careful=True` without those of its parts that do not come back; without it
            only the text travels.
        traceback: Where it was raised, if not in `exc.__traceback__`.
        sent: Whether the item had been sent to a worker.
    """
    pickled = None
    if dumps is not None:
        pickled = _round_trip(exc, dumps, careful=False) or _round_trip(exc, dumps, careful=True)
    try:
        message = str(exc)[:_MESSAGE]
    except BROKEN:
        message = f"<str() of it fails; its arguments: {short_repr(BaseException.__reduce__(exc)[1])}>"
    return Failure(type_name(type(exc)), message, _format(exc, traceback or exc.__traceback__), pickled, item, sent)


def _round_trip(exc: BaseException, dumps: Callable[..., bytes], *, careful: bool) -> bytes | None:
    """The pickled exception, if it comes back as what it is."""
    try:
        pickled = dumps(exc, careful=careful)
        return pickled if type(_pickle.loads(pickled)) is type(exc) else None
    except BROKEN:
        return None


def _format(exc: BaseException, tb: TracebackType | None) -> str:
    from traceback import TracebackException

    try:
        report = TracebackException(type(exc), exc, tb, compact=True)
        _drop_own_frames(report)
        text = "".join(report.format())
    except BROKEN:
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
        wanted = _users([frame.filename for frame in part.stack])
        part.stack[:] = [frame for frame, users in zip(part.stack, wanted, strict=True) if users]
        queue += [linked for linked in (part.__cause__, part.__context__) if linked is not None]
        queue += part.exceptions or ()


#: Where the standard library is; what is installed beside it is not of it.
_LIBRARY = os.path.dirname(os.__file__) + os.sep
_INSTALLED = ("site-packages", "dist-packages")
_PICKLER = os.sep + "cloudpickle" + os.sep


def _users(files: list[str]) -> list[bool]:
    """Which frames of a traceback, by their files, are the user's: not distmap's, nor what distmap called for itself.

    That is the standard library (a wait that was interrupted) and the pickler; what these call may be the user's again.
    """
    wanted, own = [], False
    for file in files:
        helps = _PICKLER in file or (file.startswith(_LIBRARY) and not any(part in file for part in _INSTALLED))
        own = file.startswith(PACKAGE) or (own and helps)
        wanted.append(not own)
    return wanted


def call_site() -> str:
    """Where the user's code is at this moment: "script.py:12", or "Cell In[3], line 2" in a notebook."""
    from contextlib import __file__ as helpers  # ExitStack and its kin

    frame, _ = users_frame(helpers)
    file, line = frame.f_code.co_filename, frame.f_lineno
    cell = _cell(file)
    return f"{file}:{line}" if cell is None else f"{cell}, line {line}"


def headline(failed: Failure | BaseException) -> str:
    """What went wrong in one line: the last one of its traceback."""
    if isinstance(failed, RemoteError):
        words = str(failed)
    elif isinstance(failed, Failure):
        words = f"{failed.type}: {failed.message}" if failed.message else failed.type
    else:
        try:
            message = str(failed)
        except BROKEN:
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
    text = with_source(failure.text)
    exc: BaseException | None = None
    if failure.pickled is not None:
        try:
            exc = _pickle.loads(failure.pickled)
        except BROKEN:
            exc = None
    said = f"{failure.type}: {failure.message}" if failure.message else failure.type
    if not isinstance(exc, Exception) or isinstance(exc, _NEVER_RAISED):
        exc = remote = RemoteError(f"{said}\n\n{text}")
        remote._text = failure.text
    elif failure.sent:
        remote = RemoteError(f"\n{text}")
        remote._text = failure.text
        # The text has the causes; as objects they are kept, but not shown a second time.
        remote.__context__ = exc.__context__ if exc.__cause__ is None else exc.__cause__
        remote.__suppress_context__ = True
        link(exc, exc.__cause__ if exc.__context__ is None else exc.__context__, remote)
    else:  # the message has it
        link(exc, exc.__cause__, None)
    where = f"on worker {worker}, attempt {attempt}" if failure.sent else "failed here, before it was sent to a worker"
    notes = vars(exc).get("__notes__")
    vars(exc)["__notes__"] = [
        *(notes if isinstance(notes, list) else ()),
        f"item {index} ({failure.item}) {where}",
    ]
    return exc


def link(error: BaseException, context: BaseException | None, cause: BaseException | None) -> None:
    """Set what an exception is shown with, also if its class forbids to set attributes, as frozen ones do."""
    base: Any = BaseException
    base.__context__.__set__(error, context)
    base.__cause__.__set__(error, cause)


def with_source(text: str) -> str:
    """Add what only the kernel knows of functions defined in its cells: their source, and the number of the cell."""
    import linecache

    lines = text.split("\n")
    out = []
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        frame = _frame_in(line)
        if frame is None:
            out.append(line)
            continue
        file, number, name = frame
        indent = line[: len(line) - len(line.lstrip())]
        cell = _cell(file)
        out.append(line if cell is None else f"{indent}{cell}, line {number}, in {name}")
        try:
            source = "" if following.startswith("    ") else linecache.getline(file, number).strip()
        except ValueError:  # a stranger's idea of a file name
            source = ""
        if source:
            out.append(f"{indent}  {source}")
    return "\n".join(out)


def _frame_in(line: str) -> tuple[str, int, str] | None:
    """File, line and function, if this is such a line of a traceback."""
    head, _, rest = line.lstrip().partition(", line ")
    number, _, name = rest.partition(", in ")
    if head.startswith('File "') and head.endswith('"') and number.isdecimal() and name:
        return head[6:-1], int(number), name
    return None


def _cell(file: str) -> str | None:
    """ "Cell In[3]", if that is what the file name of some code means in this notebook."""
    ipython: Any = sys.modules.get("IPython")
    try:
        found = ipython.get_ipython().compile.format_code_name(file)
        return None if found is None else f"{found[0]} {found[1]}"
    except AttributeError:  # no IPython, no shell, or an older one
        return None


#: The largest number of remote frames that are shown as if they had been called here.
_MOST_FRAMES = 30


def throw(error: BaseException, frames: TracebackType | None = None) -> NoReturn:
    """Raise what an item raised, as if its function had been called here.

    The frames that it had there stand at the end of the traceback: a reader finds the line that failed before anything
    of distmap's, and a notebook shows it with the lines around it. The cause, which tells the same as text, is then
    kept, but not printed a second time.

    Args:
        error: To be raised.
        frames: Where it was raised, if that was in this process.
    """
    __tracebackhide__ = HIDDEN
    remote = error if isinstance(error, RemoteError) else error.__cause__
    if isinstance(remote, RemoteError):
        try:
            frames = _frames(remote._text)
        except Exception:  # the text comes from elsewhere
            pass
        else:
            # Of a chain or a group only the last traceback is shown here; the text has all of them.
            remote._shown = remote is not error and remote._text.count("Traceback (most recent call last):") < 2
    raise error.with_traceback(frames)


def _frames(text: str) -> TracebackType | None:
    """The frames of the last traceback in the text, as a traceback of this process."""
    import ast
    import re

    # Those of a group; what its members say stands further to the right.
    last = re.split(r"(?m)^(?:  \+ Exception Group )?Traceback \(most recent call last\):\n", text)[-1]
    lines = [line.removeprefix("  | ") for line in last.split("\n")]
    found = [frame for line in lines if line.startswith('  File "') and (frame := _frame_in(line))]
    tb = None
    for file, number, name in reversed(found[-_MOST_FRAMES:]):
        first = _head(file, number, name)
        # There is no other way to a frame than to run something in it.
        tree = ast.parse("here = look()")
        for node in ast.walk(tree):
            if isinstance(node, ast.stmt | ast.expr):
                node.lineno = node.end_lineno = number - first + 1
                node.col_offset = node.end_col_offset = -1  # none, or the wrong columns would be underlined
        space: dict[str, Any] = {"look": lambda: sys._getframe(1)}
        code = compile(tree, file, "exec").replace(co_name=name, co_qualname=name, co_firstlineno=first)
        exec(code, space)
        frame = space["here"]
        space.clear()
        tb = TracebackType(tb, frame, frame.f_lasti, number)
    return tb


def _head(file: str, number: int, name: str) -> int:
    """The line on which the function begins that has this line: what shows source counts from there."""
    import linecache
    import re

    lines = linecache.getlines(file)
    # By its name, as another function may be defined above this line; else as `inspect` of Python 3.11 looks for it.
    named = re.compile(rf"\s*(async\s+)?def\s+{re.escape(name)}\b")
    head = re.compile(r"^(\s*def\s)|(\s*async\s+def\s)|(.*(?<!\w)lambda(:|\s))|^(\s*@)")
    above = range(min(number, len(lines)), 0, -1)
    return next((at for kind in (named, head) for at in above if kind.match(lines[at - 1])), 1)


def users_frames(error: BaseException) -> list[TracebackType]:
    """The traceback so far without what is distmap's own."""
    frames, tb = [], error.__traceback__
    while tb is not None:
        frames.append(tb)
        tb = tb.tb_next
    wanted = _users([_file(tb.tb_frame) for tb in frames])
    return [tb for tb, users in zip(frames, wanted, strict=True) if users]


def _file(frame: FrameType) -> str:
    """Where the code of a frame is; of what a dataclass writes for itself, where that is."""
    file = frame.f_code.co_filename
    return str(frame.f_globals.get("__file__", file)) if file == "<string>" else file


def shorten(error: BaseException) -> BaseException:
    """Take distmap's own frames out of the traceback so far, and leave those of the user's code."""
    users = None
    for tb in reversed(users_frames(error)):
        tb.tb_next, users = users, tb
    return error.with_traceback(users)


def promise_in(value: object, levels: int = 3) -> str:
    """What to say of a future, job or AsyncResult that was to travel, or that it holds; "" if there is none."""
    kind = type(value)
    if hasattr(kind, "add_done_callback") or all(hasattr(kind, name) for name in ("get", "ready", "successful")):
        way = "list() of it" if hasattr(kind, "__next__") else f"its {'result' if hasattr(kind, 'result') else 'get'}()"
        return f"{kind.__name__} is a promise of values to come, which stays where it was made; pass {way}"
    if not levels:
        return ""
    held: Any = value
    if isinstance(value, dict):
        held = value.values()
    elif not isinstance(value, list | tuple | set | frozenset):
        held = getattr(value, "__dict__", {}).values()
    return next((said for one in list(held)[:100] if (said := promise_in(one, levels - 1))), "")


def failed_to_travel(what: str, exc: BaseException, value: object = None) -> PayloadError:
    """A PayloadError that says what did not pickle (if it is there: `value`) or unpickle; `exc` is its cause."""
    message = promise_in(value)
    if not message:
        try:
            message = f"{type_name(type(exc))}: {str(exc)[:_MESSAGE]}"
        except BROKEN:
            message = f"{type_name(type(exc))}: (its message is not available)"
    error = PayloadError(f"{what}: {message}")
    error.__cause__ = exc
    return error
