"""Exceptions of callbacks are shown where the call was made, and stop nothing."""

from __future__ import annotations

import contextvars
import threading

import pytest

from distmap.views.callbacks import call_showing_errors, show_error

CELL = contextvars.ContextVar("CELL", default="none")


def fail() -> None:
    raise LookupError("a bug")


def test_a_callback_that_returns_is_said_to_have() -> None:
    """True, and nothing is shown."""
    seen: list[int] = []
    assert call_showing_errors(seen.append, 3, what="a callback")
    assert seen == [3]


def test_the_error_goes_to_the_cell_of_the_call(capsys: pytest.CaptureFixture[str]) -> None:
    """It is written in the given context, by the given writer; else to standard error."""
    written: list[tuple[str, str, str]] = []
    home = contextvars.Context()
    home.run(CELL.set, "In[3]")
    write = lambda text, stream: written.append((CELL.get(), stream, text.splitlines()[0]))  # noqa: E731
    assert not call_showing_errors(fail, what="callback= of score", context=home, write=write)
    assert written == [("In[3]", "stderr", "Exception in callback= of score; everything else goes on:")]
    assert not call_showing_errors(fail, what="a callback")
    said = capsys.readouterr().err
    assert said.endswith("LookupError: a bug\n")
    assert "distmap/views" not in said


def test_the_interrupt_of_the_main_thread_passes(capsys: pytest.CaptureFixture[str]) -> None:
    """Only there Python raises the user's; elsewhere it is the callback's own doing, as is SystemExit."""

    def stop(error: type[BaseException]) -> None:
        raise error

    with pytest.raises(KeyboardInterrupt):
        call_showing_errors(stop, KeyboardInterrupt, what="a callback")
    assert not call_showing_errors(stop, SystemExit, what="a callback")
    told: list[bool] = []
    thread = threading.Thread(
        target=lambda: told.append(call_showing_errors(stop, KeyboardInterrupt, what="a callback"))
    )
    thread.start()
    thread.join(10)
    assert told == [False]
    assert "KeyboardInterrupt" in capsys.readouterr().err


def test_no_standard_error_stops_nothing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Without a standard error nothing is shown; a closed one is logged."""
    import io
    import sys

    monkeypatch.setattr(sys, "stderr", None)
    show_error(LookupError("unseen"), "a callback")
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    show_error(LookupError("a bug"), "a callback")
    assert "LookupError: a bug" in caplog.text
    assert "unseen" not in caplog.text
