"""A second interrupt does not cut short what the first one has begun."""

from __future__ import annotations

import signal
import threading

import pytest

from distmap.calls.interrupts import Held, Interrupts


def interrupt() -> None:
    """As Ctrl-C, at this very moment."""
    signal.raise_signal(signal.SIGINT)


def test_the_first_is_raised_the_second_noted_the_third_raised() -> None:
    """Afterwards interrupts are as they were."""
    rung: list[bool] = []
    before = signal.getsignal(signal.SIGINT)
    with Interrupts(lambda: rung.append(True)) as interrupts:
        with pytest.raises(KeyboardInterrupt):
            interrupt()
        assert not interrupts.came
        interrupt()
        assert interrupts.came
        assert rung == [True]
        with pytest.raises(KeyboardInterrupt):
            interrupt()
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt):
        interrupt()


def test_who_goes_on_after_the_first_is_interrupted_again() -> None:
    """What set `raised` back is at its beginning again."""
    with Interrupts() as interrupts:
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                interrupt()
            interrupts.raised = False
        assert not interrupts.came


def test_handlers_of_others_are_respected() -> None:
    """One that raises nothing is called each time; one that was set meanwhile stays; ignored ones stay ignored."""
    usual = signal.getsignal(signal.SIGINT)
    told: list[int] = []
    try:
        signal.signal(signal.SIGINT, lambda number, frame: told.append(number))
        with Interrupts() as interrupts:
            interrupt()
            interrupt()
            assert told == [signal.SIGINT] * 2
            assert not interrupts.came
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        with Interrupts() as interrupts:
            interrupt()
            interrupt()
        assert not interrupts.came
    finally:
        signal.signal(signal.SIGINT, usual)


def test_other_threads_set_no_handler() -> None:
    """Python lets the main thread alone do that, and raises interrupts there alone."""
    usual, seen = signal.getsignal(signal.SIGINT), list[bool]()

    def enter() -> None:
        with Interrupts():
            seen.append(signal.getsignal(signal.SIGINT) is usual)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join(10)
    assert seen == [True]


def test_a_held_interrupt_is_raised_when_it_can_be() -> None:
    """At a check, or at the end, once; and not instead of another error. Afterwards interrupts are as they were."""
    before, steps = signal.getsignal(signal.SIGINT), list[str]()

    def work(*errors: Exception) -> None:
        with Held():
            interrupt()
            interrupt()
            steps.append("went on")
            for error in errors:
                raise error

    with pytest.raises(KeyboardInterrupt):
        work()
    with Held() as held:
        held.check()
        interrupt()
        with pytest.raises(KeyboardInterrupt):
            held.check()
        held.check()
        steps.append("went on")
    with pytest.raises(ZeroDivisionError):
        work(ZeroDivisionError())
    assert steps == ["went on"] * 3
    assert signal.getsignal(signal.SIGINT) is before


def test_ignored_interrupts_stay_ignored() -> None:
    """As a program wants that has its reasons."""
    usual = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Held():
            interrupt()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, usual)
