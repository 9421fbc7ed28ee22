"""How errors read; scripts, pytest and kernels show the rest in tests/reports/test_tracebacks.py."""

from __future__ import annotations

import pickle
import sys
import threading
from typing import Any

import pytest

from distmap.calls import traces
from distmap.errors import PayloadError, RemoteError
from distmap.tasks.failures import failed_to_travel


def fails() -> None:
    raise ZeroDivisionError("here")


def files(error: BaseException) -> list[str]:
    """The functions of its traceback."""
    names, tb = [], error.__traceback__
    while tb is not None:
        names.append(tb.tb_frame.f_code.co_name)
        tb = tb.tb_next
    return names


def test_a_gate_lets_the_users_frames_through() -> None:
    """Behind the gate's own frame stand those of the user; the gate is the function that it guards."""
    guarded = traces.gate(fails)
    assert guarded.__name__ == "fails"
    with pytest.raises(ZeroDivisionError) as caught:
        guarded()
    assert files(caught.value)[1:] == ["through", "fails"]
    assert caught.value.__context__ is None


def test_everything_is_left_for_whoever_works_on_distmap(monkeypatch: pytest.MonkeyPatch) -> None:
    """With DISTMAP_DEBUG=1 an error passes as it is."""
    monkeypatch.setenv("DISTMAP_DEBUG", "1")
    error = ZeroDivisionError()
    assert traces.clean(error) is error
    assert not hasattr(error, "_render_traceback_")


def test_hooks_of_others_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who prints errors in his own way goes on to do so; Python's own way is replaced."""
    monkeypatch.setattr(sys, "excepthook", print)
    monkeypatch.setattr(threading, "excepthook", print)
    traces.clean(ZeroDivisionError())
    assert (sys.excepthook, threading.excepthook) == (print, print)
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    traces.clean(ZeroDivisionError())
    assert (sys.excepthook, threading.excepthook) == (traces.show, traces.show_of_thread)


def chained() -> tuple[Exception, Exception, RemoteError]:
    told, outer = RemoteError("told already"), KeyError("outer")
    told._shown = True
    inner = ZeroDivisionError("inner")
    inner.__cause__, outer.__cause__ = told, inner
    return outer, inner, told


def test_what_is_told_is_not_printed_again(capsys: pytest.CaptureFixture[str]) -> None:
    """At any depth of a chain, by the hook of the process and by that of threads; afterwards the cause is there."""
    outer, inner, told = chained()
    traces.show(type(outer), outer, None)
    args: Any = threading.ExceptHookArgs((type(outer), outer, None, threading.current_thread()))
    traces.show_of_thread(args)
    printed = capsys.readouterr().err
    assert printed.count("ZeroDivisionError: inner") == printed.count("KeyError: 'outer'") == 2
    assert "told already" not in printed
    assert inner.__cause__ is told
    traces.show_of_thread(threading.ExceptHookArgs((ZeroDivisionError, None, None, None)))  # type: ignore[arg-type]
    assert "Exception in thread" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "told"),
    [(KeyError(), False), (PayloadError("it is new"), False), (failed_to_travel("it", TypeError("no")), True)],
    ids=["no cause", "no cause of distmap's", "the sentence tells it"],
)
def test_a_cause_that_adds_nothing(error: BaseException, told: bool) -> None:
    """A sentence that has the text of its cause needs no second one."""
    assert traces.is_told(error) is told


def test_a_cause_in_the_users_code_is_shown() -> None:
    """Where the pickling of an object fails in its own method, that line is worth seeing."""
    with pytest.raises(ZeroDivisionError) as caught:
        fails()
    assert not traces.is_told(failed_to_travel("it", caught.value))


def test_what_ipython_asks_for_travels() -> None:
    """An error that was shown in a notebook can still be pickled."""
    error = ZeroDivisionError()
    error._render_traceback_ = traces.RENDERED  # type: ignore[attr-defined]
    assert pickle.loads(pickle.dumps(error))._render_traceback_ is traces.RENDERED
