"""Section 4: an exception is what it was, raised or returned: type, text, arguments, notes, causes."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import threading
import urllib.error
from collections.abc import Callable
from email.message import Message
from typing import Any

import numpy as np
import pytest

import distmap


class KeywordOnly(Exception):
    """As httpx.HTTPStatusError, openai.APIStatusError."""

    def __init__(self, message: str, *, request: str, response: int) -> None:
        super().__init__(message)
        self.request, self.response = request, response


class ManyArguments(Exception):
    """As botocore's ClientError without its `__reduce__`: two arguments in, one text in `args`."""

    def __init__(self, error_response: dict[str, Any], operation_name: str) -> None:
        super().__init__(f"An error occurred ({error_response['Code']}) when calling {operation_name}")
        self.response, self.operation_name = error_response, operation_name


class Formats(Exception):
    """As click.BadParameter: takes its own text for its argument, and formats it once more."""

    def __init__(self, code: object) -> None:
        super().__init__(f"status {code}")
        self.code = code


class NoArguments(Exception):
    """As multiprocess.TimeoutError of many clients: takes nothing, has a text."""

    def __init__(self) -> None:
        super().__init__("took too long")


class SilentArgs(Exception):
    """As jsonschema.ValidationError: never tells BaseException of its arguments."""

    def __init__(self, message: str, path: tuple[str, ...] = ()) -> None:
        self.message, self.path = message, path

    def __str__(self) -> str:
        return f"{self.message} at {'/'.join(self.path)}"


class OwnReduce(Exception):
    """As requests.JSONDecodeError: says by itself how it is made."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")
        self.a, self.b = a, b

    def __reduce__(self) -> Any:
        return OwnReduce, (self.a, self.b)


class WrongReduce(Exception):
    """Says it, and is wrong."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")

    def __reduce__(self) -> Any:
        return WrongReduce, (1,)


class WithNew(Exception):
    """As yaml's and pydantic's: `__new__` has arguments of its own."""

    def __new__(cls, *, line: int) -> WithNew:
        made = super().__new__(cls, f"line {line}")
        made.line = line
        return made

    def __init__(self, *, line: int) -> None:
        pass

    line: int


class Slotted(Exception):
    """Keeps what it knows in slots."""

    __slots__ = ("__secret", "code")

    def __init__(self, code: int) -> None:
        super().__init__("slotted")
        self.code, self.__secret = code, code + 1

    def __str__(self) -> str:
        return f"{self.code} {self.__secret}"


class Own(OSError):
    """As aiohttp.ClientConnectorError: an OSError that is made of something else."""

    def __init__(self, key: str, error: OSError) -> None:
        self.key = key
        super().__init__(error.errno, error.strerror)


class BothOf(KeyError, AttributeError):
    """As the errors of containers that allow both spellings."""


class Group(ExceptionGroup[Exception]):
    """A group with a constructor of its own."""

    def __new__(cls, errors: list[Exception], code: int) -> Group:
        made = super().__new__(Group, f"code {code}", errors)
        made.code = code
        return made

    code: int

    def derive(self, excs: Any) -> Group:
        return Group(list(excs), self.code)


class SetState(Exception):
    """Reads its own state."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, read=True)


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    """Forbids to set attributes, also those that Python sets."""

    code: int


class FrozenSlots(Exception):
    """As attrs.frozen makes them."""

    __slots__ = ("code",)

    def __init__(self, code: int) -> None:
        super().__init__(code)
        object.__setattr__(self, "code", code)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)

    def __str__(self) -> str:
        return f"code {self.code}"


def caused(error: Exception, cause: Exception) -> Exception:
    """`raise error from cause`."""
    error.__cause__ = cause
    return error


def noted(error: Exception, *notes: str) -> Exception:
    for note in notes:
        error.add_note(note)
    return error


def decoding() -> Exception:
    try:
        b"\xff".decode("ascii")
    except UnicodeDecodeError as exc:
        return exc
    raise AssertionError


def missing_import() -> Exception:
    try:
        import nothing_of_that_name  # type: ignore[import-not-found] # noqa: F401
    except ImportError as exc:
        return exc
    raise AssertionError


#: One exception for each shape of constructor that well-known packages have; the words say who has it.
MADE: dict[str, Callable[[], Exception]] = {
    "plain": lambda: ValueError("why", 3),
    "keyword-only": lambda: KeywordOnly("500", request="GET /", response=500),
    "two-arguments-one-text": lambda: ManyArguments({"Code": "NoSuchKey"}, "GetObject"),
    "formats-its-argument": lambda: Formats(500),
    "takes-nothing": lambda: NoArguments(),
    "tells-no-args": lambda: SilentArgs("is too short", ("a", "b")),
    "own-reduce": lambda: OwnReduce(1, 2),
    "wrong-reduce": lambda: WrongReduce(1, 2),
    "own-new": lambda: WithNew(line=3),
    "slots": lambda: Slotted(4),
    "oserror-of-another": lambda: Own("host", OSError(111, "refused")),
    "two-builtin-bases": lambda: BothOf("k"),
    "frozen": lambda: Frozen(3),
    "frozen-slots": lambda: FrozenSlots(3),
    "own-setstate": lambda: SetState("s"),
    "oserror-file": lambda: FileNotFoundError(2, "No such file", "/nowhere"),
    "oserror-two-files": lambda: OSError(18, "cross-device", "/a", None, "/b"),
    "blocking": lambda: BlockingIOError(11, "again", 5),
    "connection": lambda: ConnectionResetError(104, "reset"),
    "unicode": decoding,
    "import": missing_import,
    "syntax": lambda: SyntaxError("bad", ("f.py", 3, 1, "x =", 3, 4)),
    "key": lambda: KeyError(("a", 1)),
    "json": lambda: json.JSONDecodeError("Expecting value", "{", 1),
    "called-process": lambda: subprocess.CalledProcessError(2, ["ls", "-x"], b"out", b"err"),
    "timeout-expired": lambda: subprocess.TimeoutExpired("sleep", 3.0, b"partly"),
    "http": lambda: urllib.error.HTTPError("http://h/", 404, "Not Found", Message(), None),
    "url": lambda: urllib.error.URLError(ConnectionRefusedError(111, "refused")),
    "linalg": lambda: np.linalg.LinAlgError("Singular matrix"),
    "array-argument": lambda: ValueError("bad rows", np.arange(3)),
    "axis": lambda: np.exceptions.AxisError(3, 2),
    "notes": lambda: noted(ValueError("noted"), "one", "two"),
    "group": lambda: ExceptionGroup(
        "several", [ValueError(1), ExceptionGroup("inner", [KeywordOnly("x", request="r", response=1)])]
    ),
    "own-group": lambda: Group([KeyError("a")], 7),
    "wrapped": lambda: RuntimeError(KeywordOnly("inner", request="r", response=2)),
    "local": lambda: type("Local", (ValueError,), {"__init__": lambda self, *, n: None})(n=1),
}


def fail(name: str) -> None:
    raise MADE[name]()


def give(name: str) -> Exception:
    return MADE[name]()


def shown(error: BaseException) -> tuple[Any, ...]:
    """What there is to compare of an exception."""
    members = tuple(map(shown, error.exceptions)) if isinstance(error, BaseExceptionGroup) else ()
    added = ("__notes__", "read", "rerun_locally")
    kept = {key: repr(value).split(" at 0x")[0] for key, value in vars(error).items() if key not in added}
    fields = {
        name: getattr(error, name, None) for name in ("errno", "filename", "filename2", "reason", "lineno", "name")
    }
    kind = type(error)
    return kind.__name__, kind.__bases__, str(error), repr(error), repr(error.args), kept, repr(fields), members


def notes(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", ()))


@pytest.mark.parametrize("how", [fail, give])
def test_whatever_its_constructor_takes(pool: distmap.Pool, how: Callable[[str], Exception]) -> None:
    """Type, text, arguments and attributes are as they are here, for every shape of constructor."""
    got = pool.map(how, MADE, on_error="return")
    for (name, make), error in zip(MADE.items(), got, strict=True):
        true = make()
        assert shown(error) == shown(true), name
        assert name == "local" or type(error) is type(true)
        assert notes(error)[: len(notes(true))] == notes(true), name
        if how is fail:
            assert isinstance(error.__cause__, distmap.RemoteError), name
            assert notes(error)[-1].startswith("item "), name


class Broken(Exception):
    """Neither prints nor shows itself."""

    def __str__(self) -> str:
        raise SystemExit("no str")

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class Holder(Exception):
    """Holds what does not travel."""

    def __init__(self, text: str, part: object) -> None:
        super().__init__(text, part)
        self.part, self.code = part, 5


def test_one_that_cannot_be_printed(pool: distmap.Pool) -> None:
    """A `__str__` that raises, even SystemExit, costs nothing but the text."""

    def broken(x: int) -> None:
        raise Broken(x)

    error, *_ = pool.map(broken, [7], on_error="return")
    assert type(error) is Broken
    assert error.args == (7,)
    assert [type(one) for one in pool.map(lambda x: Broken(x), [1, 2])] == [Broken, Broken]


def test_parts_that_do_not_travel_are_left_behind(pool: distmap.Pool) -> None:
    """An open file or a lock in it is replaced by what shows like it, and a note says so; the rest is there."""

    def holds(x: int) -> None:
        error = Holder("held", threading.Lock() if x else open("/dev/null", "w"))
        error.inner = [threading.Lock()]  # type: ignore[attr-defined]
        raise error from Holder("cause", threading.Lock())

    def returns(x: int) -> list[object]:
        try:
            holds(x)
        except Holder as exc:
            return [x, exc]
        raise AssertionError

    raised = pool.map(holds, [0, 1], on_error="return")
    returned = pool.map(returns, [0, 1])
    assert [x for x, _ in returned] == [0, 1]
    for error in [*raised, *(error for _, error in returned)]:
        assert type(error) is Holder
        assert (error.args[0], error.code) == ("held", 5)
        assert "lock" in repr(error.part) or "/dev/null" in repr(error.part)
        assert "lock" in repr(error.inner)
        assert "left behind: argument 1 (" in notes(error)[0]
        cause = error.__context__ if isinstance(error.__cause__, distmap.RemoteError) else error.__cause__
        assert type(cause) is Holder
        assert cause.args[0] == "cause"


def test_chains_and_circles(pool: distmap.Pool) -> None:
    """Causes and contexts come along as objects, in circles and long chains too; raised, the cause is the context."""

    def chain(x: int) -> None:
        inner = noted(KeywordOnly("inner", request="r", response=x), "seen")
        raise caused(ValueError("outer"), caused(KeyError("middle"), inner))

    def circle(x: int) -> Exception:
        a, b = ValueError("a"), KeyError("b")
        a.__cause__, b.__cause__, b.__context__ = b, a, a
        return ExceptionGroup("g", [a, b])

    def long(x: int) -> Exception:
        first = error = ValueError(0)
        for n in range(1, 2500):
            error.__context__ = error = ValueError(n)  # type: ignore[assignment]
        return first

    for (error,) in (pool.map(chain, [1], on_error="return"), [pool.map(lambda x: caught(chain, x), [1])[0]]):
        middle = error.__context__ if isinstance(error.__cause__, distmap.RemoteError) else error.__cause__
        assert repr(middle) == "KeyError('middle')"
        assert isinstance(middle.__cause__, KeywordOnly)
        assert middle.__cause__.response == 1
        assert notes(middle.__cause__) == ["seen"]
    (group,) = pool.map(circle, [1])
    a, b = group.exceptions
    assert (a.__cause__, b.__cause__, b.__context__) == (b, a, a)
    (error,) = pool.map(long, [1])
    count = 1
    while (error := error.__context__) is not None:
        count += 1
    assert count == 2500


def caught(fn: Callable[[int], object], x: int) -> Exception:
    try:
        fn(x)
    except Exception as exc:
        return exc
    raise AssertionError


def test_except_catches_what_a_function_or_cell_made(pool: distmap.Pool) -> None:
    """Classes that are local to a function here are the same class when they come back."""

    class ApiError(Exception):
        def __init__(self, *, status: int) -> None:
            super().__init__(f"status {status}")
            self.status = status

    def call(x: int) -> None:
        raise ApiError(status=x)

    with pytest.raises(ApiError, match="status 500") as raised:
        pool.map(call, [500])
    assert raised.value.status == 500
    assert [type(error) for error in pool.map(lambda x: ApiError(status=x), [1, 2])] == [ApiError, ApiError]
    assert pool.map(lambda error: error.status, [ApiError(status=3)]) == [3]


class Fatal(BaseException):
    """As asyncio.CancelledError or trio.Cancelled: no Exception."""


class Raises:
    """Raises when it is pickled."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        raise self.error


class Shy(Raises):
    """And when it is shown."""

    def __repr__(self) -> str:
        raise self.error


class NoNotes(Exception):
    """Takes no notes and tells nothing."""

    def add_note(self, note: str) -> None:
        raise Fatal

    def __str__(self) -> str:
        raise KeyboardInterrupt


def nested() -> list[Any]:
    """Deeper than a pickler goes."""
    deep: list[Any] = []
    for _ in range(50_000):
        deep = [deep]
    return deep


def shout() -> None:
    raise NoNotes


#: Results that do not get as far as the socket.
STUCK: dict[str, Callable[[], object]] = {
    "lock": threading.Lock,
    "interrupt": lambda: Raises(KeyboardInterrupt()),
    "exit": lambda: Raises(SystemExit(3)),
    "no-exception": lambda: Raises(Fatal()),
    "memory": lambda: Raises(MemoryError()),
    "recursion": nested,
    "shy": lambda: Shy(KeyboardInterrupt()),
    "array-of-locks": lambda: np.array([threading.Lock()]),
    "raised-untellable": shout,
}


def processes(pool: distmap.Pool) -> dict[str, list[int]]:
    return dict(pool.run(os.getpid))


@pytest.mark.parametrize("chunksize", [1, 100])
def test_an_error_on_the_way_to_the_wire_is_the_items(pool: distmap.Pool, chunksize: int) -> None:
    """Whatever the encoding of a result raises costs its item an error; no process dies, the others' results arrive."""

    before = processes(pool)
    names = [*STUCK, "fine"]
    got = pool.map(
        lambda name: STUCK[name]() if name != "fine" else name, names, chunksize=chunksize, on_error="return"
    )
    assert got.pop() == "fine"
    assert [type(error) for error in got[:-1]] == [distmap.PayloadError] * (len(STUCK) - 1)
    assert "NoNotes" in str(got[-1])
    assert processes(pool) == before


@pytest.mark.parametrize("error", [Fatal(), SystemExit(1), KeyboardInterrupt()], ids=repr)
def test_an_error_of_combine_is_the_items(pool: distmap.Pool, error: BaseException) -> None:
    """Also one that is no Exception: it ends no process."""

    def fails(a: int, b: int) -> int:
        raise error

    before = processes(pool)
    with pytest.raises(distmap.RemoteError, match=type(error).__name__):
        pool.map_reduce(abs, range(100), lambda a, b: a + b, combine=fails)
    assert processes(pool) == before
