"""Tests of distmap.tasks.failures: errors arrive, whatever they are made of."""

from __future__ import annotations

import linecache
import pickle
import sys
import threading
import traceback
import types
from pathlib import Path

import pytest

from distmap.calls.options import MapOptions
from distmap.errors import RemoteError
from distmap.tasks.failures import Failure, describe, failed_to_travel, headline, revive, short_repr, shorten, throw
from distmap.tasks.pickling import dump_small


def caught(raise_it: object) -> BaseException:
    try:
        raise_it()  # type: ignore[operator]
    except BaseException as exc:
        return exc
    raise AssertionError


def bad() -> None:
    try:
        {}["missing"]
    except KeyError as exc:
        raise ValueError("outer") from exc


class Picky(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code}: {reason}")


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no str")


@pytest.mark.parametrize(
    ("value", "expected"),
    [(3, "3"), ("a", "'a'"), ([1, 2], "[1, 2]"), ({"k": None}, "{'k': None}"), ("a\n  b", r"'a\n b'")],
)
def test_short_repr_of_small_things(value: object, expected: str) -> None:
    """What is short is shown as repr shows it, on one line."""
    assert short_repr(value) == expected


def test_short_repr_is_short_and_never_raises() -> None:
    """Huge, deep, self-containing and broken objects have a short repr."""

    class Shy:
        def __repr__(self) -> str:
            raise RuntimeError("no repr")

    class Long:
        def __repr__(self) -> str:
            return "x" * 10_000

    loop: list[object] = []
    loop.append(loop)
    for value in (
        "y" * 10**6,
        list(range(10**6)),
        loop,
        Long(),
        [Long()] * 50,
        {n: Long() for n in range(50)},
        10**5000,
    ):
        assert len(short_repr(value)) <= 200
    assert "Shy" in short_repr(Shy())


def test_a_failure_tells_type_message_traceback_and_item() -> None:
    """The text is the user's traceback with its causes; the exception itself travels along."""
    failure = describe(caught(bad), "'it'", dump_small)
    assert (failure.type, failure.message, failure.item) == ("ValueError", "outer", "'it'")
    assert failure.text.startswith("Traceback (most recent call last):")
    assert "KeyError: 'missing'" in failure.text
    assert 'raise ValueError("outer") from exc' in failure.text
    assert failure == pickle.loads(pickle.dumps(failure))
    assert failure.pickled is not None


def test_own_frames_are_dropped() -> None:
    """Frames of distmap are not in the text, also not in causes and groups."""

    def group() -> None:
        raise ExceptionGroup("several", [caught(lambda: dump_small(lambda: (_ for _ in ())) and bad())])  # type: ignore[list-item]

    exc = caught(lambda: dump_small(type("X", (), {"__reduce__": lambda self: bad()})()))
    text = describe(exc, "").text
    assert "in bad" in text
    assert "distmap" not in text.replace(str(Path(__file__).parent.parent), "")
    assert "in bad" in describe(caught(group), "").text


@pytest.mark.parametrize("exc", [Picky(1, "by design"), Mute(), RuntimeError(lambda: None)])
def test_exceptions_that_are_odd(exc: Exception) -> None:
    """One whose `__init__` takes other arguments than its args, or that does not print, travels all the same."""
    failure = describe(exc, "", dump_small)
    assert failure.pickled is not None
    assert type(pickle.loads(failure.pickled)) is type(exc)
    assert failure.type.endswith(type(exc).__qualname__)
    assert failure.message


def test_an_exception_that_does_not_pickle() -> None:
    """Without what does not travel, if that is a part of it; text only, if it is its class."""
    exc = ValueError("locked")
    exc.lock = threading.Lock()  # type: ignore[attr-defined]
    error = revive(describe(exc, "", dump_small), index=3, worker="w", attempt=2)
    assert type(error) is ValueError
    assert "lock" in repr(vars(error)["lock"])
    assert error.__notes__[0].startswith("does not pickle and was left behind: attribute 'lock' (<unlocked")

    class Locked(ValueError):
        lock = threading.Lock()

    failure = describe(Locked("locked"), "", dump_small)
    assert failure.pickled is None
    error = revive(failure, index=3, worker="w", attempt=2)
    assert type(error) is RemoteError
    assert ".Locked: locked\n\n" in str(error)


def test_runaway_recursion_is_cut() -> None:
    """The text of a very long traceback keeps its ends."""

    def deep(n: int) -> None:
        exec(f"def step{n}(f): f()", namespace := {})
        namespace[f"step{n}"](lambda: deep(n + 1))  # type: ignore[operator]

    failure = describe(caught(lambda: deep(0)), "", dump_small)
    assert failure.type == "RecursionError"
    assert len(failure.text) < 40_000
    assert failure.text.rstrip().splitlines()[-1].startswith("RecursionError")


def test_revive_gives_the_original_type() -> None:
    """The exception has its type, a note with the circumstances, and the remote text as its cause."""
    error = revive(describe(caught(bad), "'it'", dump_small), index=5, worker="gpu1", attempt=2)
    assert type(error) is ValueError
    assert error.args == ("outer",)
    assert error.__notes__ == ["item 5 ('it') on worker gpu1, attempt 2"]
    assert isinstance(error.__cause__, RemoteError)
    assert "in bad" in str(error.__cause__)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration, StopAsyncIteration])
def test_exceptions_that_would_steer_the_kernel(kind: type[BaseException]) -> None:
    """They arrive as RemoteError that names them: raised as themselves they would end more than the item."""
    error = revive(describe(kind(3), "", dump_small), index=0, worker="w", attempt=1)
    assert type(error) is RemoteError
    assert kind.__name__ in str(error)
    assert "item 0" in error.__notes__[0]


def test_a_pickle_that_fails_here() -> None:
    """An exception that unpickled there but not here becomes a RemoteError; so does a pickle of something else."""
    for pickled in (b"cnowhere\nNothing\n.", pickle.dumps(3)):
        error = revive(Failure("x.Y", "odd", "text", pickled, ""), index=0, worker="w", attempt=1)
        assert str(error) == "x.Y: odd\n\ntext"


def test_an_exception_without_notes() -> None:
    """An exception that refuses notes, or has something else in their place, keeps its type and gets one anyhow."""
    odd = Noteless("n")
    odd.__notes__ = "odd"  # type: ignore[assignment]
    for error in (Noteless("n"), odd):
        revived = revive(describe(error, "", dump_small), index=0, worker="w", attempt=1)
        assert type(revived) is Noteless
        assert revived.__notes__ == ["item 0 () on worker w, attempt 1"]


class Noteless(Exception):
    def add_note(self, note: str) -> None:
        raise RuntimeError("none")


def test_lines_of_cells_are_added_here() -> None:
    """A source line that only the kernel knows is shown in the remote traceback."""
    linecache.cache["<cell 7>"] = (10, None, ["def f(x):\n", "    return 1 / x\n"], "<cell 7>")
    text = 'Traceback (most recent call last):\n  File "<cell 7>", line 2, in f\nZeroDivisionError: division by zero'
    error = revive(Failure("ZeroDivisionError", "m", text, None, ""), index=0, worker="w", attempt=1)
    assert '  File "<cell 7>", line 2, in f\n    return 1 / x\nZeroDivisionError' in str(error)
    known = text.replace("in f\n", "in f\n    known\n")
    error = revive(Failure("ZeroDivisionError", "m", known, None, ""), index=0, worker="w", attempt=1)
    assert "return 1" not in str(error)
    del linecache.cache["<cell 7>"]


def test_a_cell_is_named_as_the_notebook_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a notebook the file of a cell is "Cell In[n]"; other files stay what they are."""
    shell = types.SimpleNamespace(
        compile=types.SimpleNamespace(format_code_name=lambda name: ("Cell", "In[3]") if "ipykernel" in name else None)
    )
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    text = 'Traceback (most recent call last):\n  File "/tmp/ipykernel_7/8.py", line 2, in f'
    text += '\n  File "/lib/x.py", line 1, in g'
    error = revive(Failure("E", "m", text, None, ""), index=0, worker="w", attempt=1)
    assert str(error).endswith('  Cell In[3], line 2, in f\n  File "/lib/x.py", line 1, in g')
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: None))
    assert "ipykernel_7" in str(revive(Failure("E", "m", text, None, ""), index=0, worker="w", attempt=1))


def outer_most(error: BaseException) -> list[tuple[str, int]]:
    """(function, line) of the traceback that somebody who catches it sees."""
    try:
        throw(error)
    except BaseException as seen:
        return [(frame.name, frame.lineno or 0) for frame in traceback.extract_tb(seen.__traceback__)]


def test_the_frames_of_the_other_side_end_the_traceback() -> None:
    """What an item raised is raised with the frames that it had there, each time the same ones."""
    raised = caught(bad)
    failure = describe(raised, "'it'", dump_small)
    line = traceback.extract_tb(raised.__traceback__)[-1].lineno
    error = revive(failure, index=5, worker="gpu1", attempt=2)
    first = outer_most(error)
    assert first[-1] == ("bad", line)
    assert [name for name, _ in first[:2]] == ["outer_most", "throw"]
    assert outer_most(error) == first
    # No columns: those of the line that made the frame would be underlined.
    assert "^" not in "".join(traceback.format_tb(error.__traceback__)[-1:])
    # Also of an exception that did not travel.
    assert outer_most(revive(failure._replace(pickled=None), index=5, worker="w", attempt=1))[-1] == ("bad", line)


def test_a_text_without_frames_is_thrown_as_it_is() -> None:
    """A worker may send any text; long recursion is cut."""
    odd = 'Traceback (most recent call last):\n  File "\0", line 99999999999999999999, in x'
    for text in ("", "no traceback", odd):
        assert outer_most(revive(Failure("E", "m", text, None, ""), index=0, worker="w", attempt=1))[-1][0] == "throw"
    deep = "Traceback (most recent call last):\n" + '  File "f.py", line 1, in f\n' * 100
    assert len(outer_most(revive(Failure("E", "m", deep, None, ""), index=0, worker="w", attempt=1))) == 2 + 30


def test_frames_of_this_process_are_given() -> None:
    """What was raised here keeps its own frames, without distmap's, however often it is raised."""
    error = caught(lambda: MapOptions.of({"nope": 1}))
    frames = shorten(error).__traceback__
    assert [frame.name for frame in traceback.extract_tb(frames)] == ["caught", "<lambda>"]
    for _ in range(2):
        with pytest.raises(type(error)) as again:
            throw(error, frames)
        assert len(traceback.extract_tb(again.value.__traceback__)) == 4


def test_a_headline_is_one_short_line() -> None:
    """Type and message, as the last line of a traceback."""
    assert headline(ValueError("why\nnot")) == "ValueError: why"
    assert headline(KeyError()) == "KeyError"
    assert headline(Failure("a.B", "c", "", None, "")) == "a.B: c"
    assert headline(Failure("a.B", "", "", None, "")) == "a.B"
    assert headline(RemoteError("x.Y: odd\n\ntext")) == "x.Y: odd"
    assert headline(Mute()).endswith("Mute")
    assert len(headline(ValueError("x" * 999))) == 200


def test_failed_to_travel_keeps_the_reason() -> None:
    """The error says what, and why, also when the reason cannot be printed."""
    assert str(failed_to_travel("it", ValueError("why"))) == "it: ValueError: why"
    assert "not available" in str(failed_to_travel("it", Mute()))
