"""Who keeps what for how long: pools that are closed, forgotten or interrupted, and results that were given away."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import distmap

HERE = os.path.basename(__file__)


def until(happened: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait until `happened()` is true; fail after so many seconds."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        threading.Event().wait(0.005)


def names() -> list[str]:
    """Threads of pools."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("distmap")]


def line_of(text: str) -> int:
    """The line of this file that has the text."""
    with open(__file__, encoding="utf-8") as file:
        return next(number for number, line in enumerate(file, 1) if text in line and "line_of" not in line)


# --- a pool that is closed --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def closed() -> distmap.Pool:
    """A pool whose with block is over."""
    with distmap.Pool(1) as pool:  # the block of `closed`
        assert pool.map(abs, [-1]) == [1]
    return pool


CALLS: dict[str, Callable[[distmap.Pool], Any]] = {
    "map": lambda pool: pool.map(abs, [1]),
    "starmap": lambda pool: pool.starmap(pow, [(1, 2)]),
    "imap": lambda pool: pool.imap(abs, [1]),
    "map_async": lambda pool: pool.map_async(abs, [1]),
    "map_reduce": lambda pool: pool.map_reduce(abs, [1], max),
    "map_batches": lambda pool: pool.map_batches(len, [1]),
    "apply": lambda pool: pool.apply(abs, (1,)),
    "apply_async": lambda pool: pool.apply_async(abs, (1,)),
    "submit": lambda pool: pool.submit(abs, 1),
    "run": lambda pool: pool.run(int),
    "executor": lambda pool: pool.executor(),
    "broadcast": lambda pool: pool.broadcast(1),
    "add": lambda pool: pool.add(1),
    "wait_for_workers": lambda pool: pool.wait_for_workers(),
    "with": lambda pool: pool.__enter__(),
    "async with": lambda pool: asyncio.run(pool.__aenter__()),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_closed_pool_refuses_and_says_where_it_was_closed(closed: distmap.Pool, call: str) -> None:
    """Every call that would begin something raises at once, a ValueError as that of multiprocessing."""
    where = f"closed by the end of its `with` block at .*{HERE}:{line_of('the block of `closed`')};"
    with pytest.raises(ValueError, match=where):
        CALLS[call](closed)


def test_a_closed_pool_answers_from_what_is_kept(closed: distmap.Pool) -> None:
    """Looking is free of waiting: trace, workers, jobs, last and its figures; steering does nothing."""
    assert len(closed.trace()) > 3
    assert closed.workers == closed.jobs == []
    assert repr(closed) == "<Pool: closed>"
    assert closed.last is not None
    assert closed.last.progress is not None
    assert closed.last.progress.done == closed.last.stats["done"] == 1
    assert closed.last.cancel() is False
    closed.last.pause()
    closed.last.resume()
    closed.close()
    closed.terminate()
    closed.join()


def slowly(x: Any) -> Any:
    """Half of the items end while the pool does."""
    time.sleep(0.01 * bool(x))
    return x


# Lazy and background forms, which are taken when the pool is gone.
LATE: dict[str, Callable[[distmap.Pool], Callable[[], Any]]] = {
    "imap": lambda pool: pool.imap(slowly, range(10_000), chunksize=1).__next__,
    "imap_unordered": lambda pool: pool.imap_unordered(slowly, range(10_000), chunksize=1).__next__,
    "executor map": lambda pool: iter(pool.executor().map(slowly, range(10_000))).__next__,
    "map_async": lambda pool: pool.map_async(slowly, range(10_000)).result,
    "map_async iterated": lambda pool: iter(pool.map_async(slowly, range(10_000))).__next__,
    "submit": lambda pool: [pool.submit(time.sleep, 60) for _ in range(9)][-1].result,
    "apply_async": lambda pool: [pool.apply_async(time.sleep, (60,)) for _ in range(9)][-1].get,
}


def _take_all(name: str, take: Callable[[], Any]) -> None:
    for _ in range(10_000):
        take()
    pytest.fail(f"{name} gave everything")


@pytest.mark.parametrize("how", ["with", "terminate"])
def test_what_is_taken_after_the_end_says_who_ended_the_pool(how: str) -> None:
    """Each lazy form gives what is there, then an error that names the place where its pool was closed."""
    pool = distmap.Pool(1)
    taken = {name: late(pool) for name, late in LATE.items()}
    if how == "with":
        with pool:  # the block of `taken`
            pass
        said = rf"pool was closed by the end of its `with` block at .*{HERE}:{line_of('the block of `taken`')}$"
    else:
        pool.terminate()  # the end of `taken`
        said = rf"pool was terminated at .*{HERE}:{line_of('the end of `taken`')}$"
    for name, take in taken.items():
        with pytest.raises(distmap.JobCancelled, match=said):
            _take_all(name, take)


def test_a_pool_that_nobody_holds_runs_what_it_was_given() -> None:
    """submit and apply_async keep their pool until the item is done, as map_async and imap do; then it ends."""
    assert distmap.Pool(1).submit(abs, -1).result(10) == 1
    assert distmap.Pool(1).apply_async(abs, (-2,)).get(10) == 2
    assert distmap.Pool(1).map_async(abs, [-3]).get(10) == [3]
    assert list(distmap.Pool(1).imap(abs, [-4])) == [4]
    assert list(distmap.Pool(1).executor().map(abs, [-5])) == [5]
    gc.collect()
    until(lambda: not names())


# --- an interrupt while a pool ends -----------------------------------------------------------------------------------


def _main_waits() -> bool:
    """Whether the main thread waits for another thread."""
    import sys

    frame = sys._current_frames()[threading.main_thread().ident or 0]
    while frame is not None and frame.f_code.co_name != "join":
        frame = frame.f_back  # type: ignore[assignment]
    return frame is not None


def _interrupted(end: Callable[[], object]) -> None:
    """Call `end` and interrupt it while it waits, as Ctrl-C does."""

    def kill() -> None:
        until(_main_waits)
        os.kill(os.getpid(), signal.SIGINT)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            end()
    finally:
        killer.join(10)


def _leave(pool: distmap.Pool) -> None:
    with pool:
        pass


def held(path: str) -> bool:
    """Waits, where it runs, until the file is there."""
    deadline = time.monotonic() + 15
    while not os.path.exists(path) and time.monotonic() < deadline:
        time.sleep(0.005)
    return os.path.exists(path)


ENDS: dict[str, Callable[[distmap.Pool], object]] = {
    "terminate": lambda pool: pool.terminate(),
    "with": _leave,
    "join": lambda pool: (pool.close(), pool.join()),
}


@pytest.mark.parametrize("again", [False, True], ids=["once", "twice"])
@pytest.mark.parametrize("end", ENDS)
def test_an_interrupted_end_ends_everything_all_the_same(end: str, again: bool, tmp_path: Path) -> None:
    """The loop goes on to the end by itself; a second call waits for that."""
    before = names()
    pool, gate = distmap.Pool("inline"), tmp_path / "gate"
    future = pool.submit(held, str(gate))  # an item that runs inline holds up the end
    _interrupted(lambda: ENDS[end](pool))
    if again:
        threading.Timer(0.05, gate.touch).start()
        ENDS["terminate" if end == "with" else end](pool)
        assert sorted(names()) == sorted(before)
    gate.touch()
    until(lambda: sorted(names()) == sorted(before))
    assert future.done()
    assert repr(pool) == "<Pool: closed>"
