"""The text of an object is short, whatever the object is."""

from __future__ import annotations

import collections
import dataclasses
import signal
import threading
from typing import Any

import numpy as np
import pytest

from distmap.tasks.reprs import LENGTH, shown


class Named(list):
    """Has the text of a list."""


class Own(list):
    """Has a text of its own."""

    def __repr__(self) -> str:
        return "Own!" * len(self)


@dataclasses.dataclass
class Record:
    """Its text shows what it holds."""

    x: int
    y: Any = None


class Raises:
    """Has no text."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __repr__(self) -> str:
        raise self.error


@pytest.mark.parametrize(
    ("obj", "text"),
    [
        (5, "5"),
        (True, "True"),
        ("two\nlines", r"'two\nlines'"),
        ((1,), "(1,)"),
        ([], "[]"),
        ({"a": [1, {2}]}, "{'a': [1, {2}]}"),
        (Named([1]), "[1]"),
        (Own([1]), "Own!"),
        (Record(1), "Record(x=1, y=None)"),
        (np.float64(1.5), repr(np.float64(1.5))),
        (10**1000, "<a number of 3322 bits>"),
        (bytearray(b"ab"), "bytearray(b'ab')"),
        (range(10**12), "range(0, 1000000000000)"),
        (list(range(10**5)), "[0, 1, 2, 3, 4, 5, ...]"),
        (set(range(10**5)), "{0, 1, 2, 3, 4, 5, ...}"),
        (frozenset(range(10**5)), "frozenset({0, 1, 2, 3, 4, 5, ...})"),
        (collections.deque(range(10**5)), "deque([0, 1, 2, 3, 4, 5, ...])"),
        (
            collections.defaultdict(int, dict.fromkeys(range(10**5))),
            "defaultdict({0: None, 1: None, 2: None, 3: None, ...})",
        ),
        (Own(range(10**5)), "Own([0, 1, 2, 3, 4, 5, ...])"),
        (Record(1, list(range(10**5))), "<Record, too large to show>"),
        (Record(1, ["x" * 10**6, "y" * 10**6]), "<Record, too large to show>"),
        (Raises(OSError()), "<Raises whose repr fails>"),
        (Raises(SystemExit()), "<Raises whose repr fails>"),
        ([Raises(GeneratorExit())], "[<Raises whose repr fails>]"),
    ],
)
def test_what_is_shown(obj, text):
    """Small things as they are, large ones by their beginning, and what cannot be shown by its type."""
    assert shown(obj) == text


def test_a_circle():
    """What holds itself is shown so deep, no deeper."""
    circle: list[Any] = []
    circle.append(circle)
    assert shown(circle) == "[[[[[...]]]]]"


def test_no_text_is_longer():
    """However much there is at each level."""
    assert len(shown([["x" * 1000] * 100] * 100)) == LENGTH
    assert len(shown("x" * 1000)) <= LENGTH


class Sleeper:
    """Its text waits until somebody lets it go on, or interrupts it."""

    def __repr__(self) -> str:
        threading.Event().wait(15)
        return "<awake>"


@pytest.fixture
def free_timer():
    """The timer that ends tests which take too long, put aside."""
    handler, left = signal.getsignal(signal.SIGALRM), signal.setitimer(signal.ITIMER_REAL, 0)
    yield
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, *left)


def test_a_slow_text_is_given_up(free_timer):
    """In the main thread a timer ends it, and the handler that was there before is there again."""
    before = signal.getsignal(signal.SIGALRM)
    assert shown(Sleeper()) == "<Sleeper whose repr takes longer than 0.25 s>"
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_timer_that_is_in_use_is_left_alone(free_timer):
    """Somebody else waits for it: the text is made without."""
    signal.setitimer(signal.ITIMER_REAL, 20)
    assert shown(Record(1)) == "Record(x=1, y=None)"
    assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 20


def test_in_another_thread():
    """No timer reaches another thread, and texts are made there too."""
    texts: list[str] = []
    thread = threading.Thread(target=lambda: texts.append(shown(Record(2))))
    thread.start()
    thread.join()
    assert texts == ["Record(x=2, y=None)"]
