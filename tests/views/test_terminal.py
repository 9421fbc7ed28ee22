"""The bar in a terminal, with the real tqdm."""

from __future__ import annotations

import io
import os
import sys
import threading

import pytest

from distmap.core.progress import Lane, Snapshot
from distmap.views.base import Issue
from distmap.views.terminal import TerminalView, facts, issue_line

START = Snapshot(
    name="map",
    state="running",
    total=1000,
    done=0,
    failed=0,
    in_flight=4,
    retried=0,
    requeued=0,
    duplicates=0,
    deaths=0,
    losses=0,
    elapsed=1.3,
    rate=0.0,
    eta=None,
    lanes=(Lane("local", 2, "busy", 0, 0, 4, 0.9), Lane("old", 2, "lost", 0, 0, 0, 0.0)),
)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal, tqdm takes the width from here; some versions have a default that cuts the line."""
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("LINES", "50")


def shown(file: io.StringIO) -> list[str]:
    return [line.strip() for line in file.getvalue().replace("\r", "\n").split("\n") if line.strip()]


def test_the_numbers_are_the_snapshots() -> None:
    """Items, rate, elapsed and remaining time are those of the snapshot, not tqdm's own measures."""
    file = io.StringIO()
    view = TerminalView("score", file=file, every=0.0)
    view.update(START)
    view.update(START._replace(done=250, elapsed=10.0, rate=25.0, eta=30.0, retried=2, requeued=1))
    assert "score:  25%|" in shown(file)[-1]
    assert "250/1000 [00:10<00:30, 25 items/s, 1 worker, 2 retries, 1 requeued]" in shown(file)[-1]
    view.close(START._replace(state="done", done=1000, elapsed=40.0, rate=25.0, eta=0.0))
    assert "score: 100%|" in shown(file)[-1]
    assert "1000/1000 [00:40<00:00, 25 items/s, 1 worker]" in shown(file)[-1]
    assert file.getvalue().endswith("\n")


def test_known_items_and_notes_are_shown() -> None:
    """The bar says how many items were in the checkpoint; a note is a line above it, as it was written."""
    assert facts(START._replace(known=5, checkpoint="scores.sqlite"))[0].endswith("from scores.sqlite")
    assert issue_line(Issue("note", None, "", 0, "the disk is full")) == "the disk is full"


def test_a_worker_out_of_reach_is_named() -> None:
    """The bar says which worker it waits for, without the control characters of its name."""
    file = io.StringIO()
    view = TerminalView("score", file=file, every=0.0)
    away = Lane("gpu\x1b", 2, "reconnecting", 0, 0, 4, 0.9, silent=3.0)
    view.update(START._replace(lanes=(away,)))
    assert shown(file)[-1].endswith("1 worker, gpu\\x1b: reconnecting for 3 s, 4 items are there]")
    view.close(START._replace(state="done"))


def test_unknown_length_has_no_percentage() -> None:
    """Without a length the bar counts; when the length becomes known it turns into a bar."""
    file = io.StringIO()
    view = TerminalView("stream", file=file, every=0.0)
    view.update(START._replace(total=None, done=7))
    assert shown(file)[-1].startswith("stream: 7 [00:01")
    view.update(START._replace(total=14, done=7))
    assert "50%|" in shown(file)[-1]
    view.close(START._replace(total=14, done=14, state="done"))


def test_it_draws_seldom() -> None:
    """Updates that follow at once are not drawn; the last moment always is."""
    file, clock = io.StringIO(), Clock()
    view = TerminalView("t", file=file, every=0.1, now=clock)
    for done in range(100):
        clock.now += 0.001
        view.update(START._replace(done=done))
    assert len(shown(file)) == 1
    view.close(START._replace(done=100))
    assert "100/1000" in shown(file)[-1]


def test_noted_lines_stand_above_the_bar() -> None:
    """A issue is a line of its own, without control characters, and the bar is still there below it."""
    file = io.StringIO()
    view = TerminalView("t", file=file, every=0.0)
    view.update(START)
    view.add_issue(Issue("failed", 3, "gpu1", 2, "ValueError: '\x1b[2J\n'"))
    view.add_issue(Issue("lost", None, "gpu2", 0, "3 chunks that it held will be run elsewhere"))
    lines = shown(file)
    assert "item 3 failed on gpu1, attempt 2: ValueError: '\\x1b[2J '" in lines
    assert "worker gpu2 was lost: 3 chunks that it held will be run elsewhere" in lines
    assert lines[-1].startswith("t:   0%|")
    view.close(START)


def test_slow_items_are_told_in_seconds() -> None:
    """Below one item in two seconds the pace is seconds per item, with a space where it belongs."""
    file = io.StringIO()
    view = TerminalView("t", file=file, every=0.0)
    view.update(START._replace(rate=1 / 3, done=3, elapsed=9.0))
    assert "[00:09<?, 3.0 s/item, 1 worker]" in shown(file)[-1]
    view.close(START._replace(done=3, elapsed=9.0, state="interrupted"), dropped=7)
    assert "[00:09<?, interrupted, 3.0 s/item, 1 worker]" in shown(file)[-1]
    assert "and 7 more lines" in shown(file)


def test_a_view_may_be_closed_at_once() -> None:
    """Closing without any update shows the end; later calls and a second close do nothing."""
    file = io.StringIO()
    view = TerminalView("late", file=file, every=0.0)
    view.close(START._replace(state="cancelled", done=3))
    text = file.getvalue()
    assert "3/1000" in text
    assert "cancelled" in text
    view.update(START)
    view.add_issue(Issue("failed", 1, "w", 1, "too late"))
    view.close(START)
    assert file.getvalue() == text


def test_a_call_that_is_over_soon_has_no_bar() -> None:
    """A loop of a thousand quick calls prints nothing; one of them that went wrong says so."""
    file = io.StringIO()
    for _ in range(1000):
        view = TerminalView("t", file=file, every=0.0)
        view.update(START._replace(elapsed=0.1))
        view.close(START._replace(elapsed=0.2, state="done", done=1000))
    assert file.getvalue() == ""
    view = TerminalView("t", file=file, every=0.0)
    view.close(START._replace(elapsed=0.2, state="done", done=1000, failed=1))
    assert "1 failed" in shown(file)[-1]


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no pseudo-terminals on this platform")
def test_a_terminal_without_a_width_shows_a_bar() -> None:
    """A terminal that says it has no columns (a container's, a recorder's) still gets a line."""
    ours, theirs = os.openpty()
    with open(ours, "rb", buffering=0) as screen, open(theirs, "w", encoding="utf-8") as file:
        view = TerminalView("wide", file=file)
        view.close(START._replace(state="done", done=1000))
        file.flush()
        assert "1000/1000" in screen.read(10_000).decode()


def test_no_thread_watches() -> None:
    """tqdm's monitor thread is not started."""
    before = set(threading.enumerate())
    view = TerminalView("t", file=io.StringIO(), every=0.0)
    view.update(START)
    assert set(threading.enumerate()) == before
    view.close(START)


def test_what_tasks_print_stands_above_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a terminal the bar makes room for a line and is drawn again below it; after the end lines are just written."""

    class Tty(io.StringIO):
        def isatty(self) -> bool:
            return True

    tty = Tty()
    monkeypatch.setattr(sys, "stdout", tty)
    monkeypatch.setattr(sys, "stderr", tty)
    view = TerminalView("score", every=0.0)
    view.write("[w] early\n", "stdout")
    assert tty.getvalue() == "[w] early\n"
    view.update(START)
    view.write("[w] hello\n", "stdout")
    view.write("[w] there\n", "stderr")
    lines = tty.getvalue().split("\r")
    assert "[w] hello\n" in lines
    assert "[w] there\n" in lines
    assert "score:" in lines[-1]
    view.close(START._replace(state="done", done=1000))
    view.write("[w] late\n", "stdout")
    assert tty.getvalue().endswith("\n[w] late\n")


def test_in_a_file_lines_do_not_draw_the_bar_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each drawing stays, what tasks print is written between two of them."""
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    view = TerminalView("score", every=0.0)
    view.update(START)
    for number in range(10):
        view.write(f"[w] {number}\n", "stderr")
    assert file.getvalue().count("score:") == 1
    view.close(START._replace(state="done", done=1000))
