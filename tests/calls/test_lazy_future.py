"""A future without a Condition until somebody needs one is a future of the standard library in every respect."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable
from typing import Any

import pytest

from distmap.calls.lazy_future import LazyFuture

#: Seconds until a wait is given up.
DEADLINE = 20


def has_condition(future: LazyFuture) -> bool:
    return future._made is not None


def test_one_that_is_done_before_anybody_waits_needs_no_condition() -> None:
    """Neither to run, to be done, to be looked at nor to give its result."""
    future = LazyFuture()
    assert (future.done(), future.running(), future.cancelled()) == (False, False, False)
    assert future.set_running_or_notify_cancel()
    assert (future.done(), future.running(), future.cancelled()) == (False, True, False)
    future.set_result(3)
    assert (future.done(), future.running(), future.cancelled()) == (True, False, False)
    assert (future.result(), future.exception()) == (3, None)
    assert not has_condition(future)


#: Ways to learn that a future is done; each gives its result.
WAYS: dict[str, Callable[[LazyFuture], Any]] = {
    "result": lambda future: future.result(DEADLINE),
    "exception": lambda future: future.exception(DEADLINE) or future.result(0),
    "wait": lambda future: next(iter(concurrent.futures.wait([future], DEADLINE).done)).result(0),
    "as_completed": lambda future: next(concurrent.futures.as_completed([future], DEADLINE)).result(0),
    "callback": lambda future: by_callback(future),
    "asyncio": lambda future: asyncio.run(asyncio.wait_for(by_asyncio(future), DEADLINE)),
}


def by_callback(future: LazyFuture) -> Any:
    found: list[Any] = []
    called = threading.Event()
    future.add_done_callback(lambda done: (found.append(done.result(0)), called.set()))
    assert called.wait(DEADLINE)
    return found[0]


async def by_asyncio(future: LazyFuture) -> Any:
    return await asyncio.wrap_future(future)


class Watched(LazyFuture):
    """Tells that somebody waits, or needs its Condition."""

    __slots__ = ("times", "waited_for")

    def __init__(self) -> None:
        super().__init__()
        self.waited_for = threading.Event()
        self.times = threading.Semaphore(0)

    def needed(self) -> None:
        self.waited_for.set()
        self.times.release()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("runs", [False, True])
def test_whoever_waits_is_told(way: str, runs: bool) -> None:
    """In every way, whether it waits or already runs then; its owner hears of the wait. Afterwards as before."""
    future = Watched()
    if runs:
        assert future.set_running_or_notify_cancel()
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(WAYS[way](future)))
    thread.start()
    assert future.waited_for.wait(DEADLINE)
    if not runs:
        assert future.set_running_or_notify_cancel()
    future.set_result("done")
    thread.join(DEADLINE)
    assert found == ["done"]
    assert [WAYS[again](future) for again in WAYS] == ["done"] * len(WAYS)


@pytest.mark.parametrize("waiters", [1, 3])
@pytest.mark.parametrize("end", ["result", "error", "cancelled"])
def test_threads_that_wait_for_a_result_are_woken(waiters: int, end: str) -> None:
    """One needs no Condition for that, several do; a result, an error and a cancellation wake them all."""
    future = Watched()
    found: list[Any] = []

    def wait() -> None:
        try:
            found.append(future.result(DEADLINE))
        except (OSError, concurrent.futures.CancelledError) as error:
            found.append(type(error).__name__)

    threads = [threading.Thread(target=wait) for _ in range(waiters)]
    for thread in threads:
        thread.start()
    for _ in range(min(2, waiters)):
        assert future.times.acquire(timeout=DEADLINE)
    assert has_condition(future) == (waiters > 1)
    if end == "cancelled":
        assert future.cancel()
    else:
        assert future.set_running_or_notify_cancel()
        assert not future.cancel()  # which wakes nobody
        if end == "result":
            future.set_result("result")
        else:
            future.set_exception(OSError())
    for thread in threads:
        thread.join(DEADLINE)
    assert found == [{"result": "result", "error": "OSError", "cancelled": "CancelledError"}[end]] * waiters


def test_who_gave_up_waiting_may_wait_again() -> None:
    """A wait that ended without a result leaves nothing behind."""
    future = LazyFuture()
    for _ in range(2):
        with pytest.raises(TimeoutError):
            future.result(0.001)
    threading.Timer(0.01, future.set_result, [1]).start()
    assert future.result(DEADLINE) == 1


@pytest.mark.parametrize("needs", [False, True])
def test_it_ends_once(needs: bool) -> None:
    """A second result is refused, with a Condition or without; so is to begin what is done."""
    future = LazyFuture()
    if needs:
        future.add_done_callback(lambda done: None)
    assert has_condition(future) == needs
    future.set_result(1)
    for again in (lambda: future.set_result(2), lambda: future.set_exception(OSError())):
        with pytest.raises(concurrent.futures.InvalidStateError):
            again()
    with pytest.raises(RuntimeError, match="unexpected state"):
        future.set_running_or_notify_cancel()
    assert (future.cancel(), future.result()) == (False, 1)


def test_one_that_was_cancelled_is_not_begun() -> None:
    """It says so to its owner, and to whoever asks."""
    future = LazyFuture()
    assert future.cancel()
    assert (future.cancelled(), future.done(), future.running()) == (True, True, False)
    assert not future.set_running_or_notify_cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(0)
    with pytest.raises(concurrent.futures.CancelledError):
        future.exception(0)


def test_an_error_is_raised_and_given() -> None:
    """The same one each time; without a result in time it is TimeoutError."""
    future = LazyFuture()
    with pytest.raises(TimeoutError):
        future.result(0)
    error = OSError("no")
    future.set_exception(error)
    for _ in range(2):
        with pytest.raises(OSError, match="no") as caught:
            future.result(0)
        assert caught.value is error is future.exception()


def test_no_wait_is_missed_however_close_it_comes() -> None:
    """Of thousands of futures that are resolved just while others begin to wait for them, each is told of."""
    futures = [LazyFuture() for _ in range(3000)]
    numbers = {future: at for at, future in enumerate(futures)}
    start = threading.Barrier(4)
    found: list[set[int]] = []

    def resolve() -> None:
        start.wait(DEADLINE)
        for at, future in enumerate(futures):
            assert future.set_running_or_notify_cancel()
            future.set_result(at)

    def look(way: Callable[[], set[int]]) -> None:
        start.wait(DEADLINE)
        found.append(way())

    def called() -> set[int]:
        seen: set[int] = set()
        over = threading.Event()

        def done(future: Any) -> None:
            seen.add(future.result(0))
            if len(seen) == len(futures):
                over.set()

        for future in futures:
            future.add_done_callback(done)
        assert over.wait(DEADLINE)
        return seen

    ways: list[Callable[[], set[int]]] = [
        lambda: {future.result(DEADLINE) for future in futures},
        lambda: {numbers[done] for done in concurrent.futures.as_completed(futures, DEADLINE)},  # type: ignore[index]
        called,
    ]
    threads = [threading.Thread(target=resolve), *[threading.Thread(target=look, args=(way,)) for way in ways]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert found == [set(range(len(futures)))] * 3
