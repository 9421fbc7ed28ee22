"""Who keeps what for how long: pools that are closed, forgotten or interrupted, and results that were given away."""

from __future__ import annotations

import asyncio
import gc
import itertools
import multiprocessing
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.waiting import until

import distmap

HERE = os.path.basename(__file__)


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
    assert len(closed.trace()) >= 3
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


# --- two readers of one stream ----------------------------------------------------------------------------------------


READERS: dict[str, Callable[[distmap.Pool], Any]] = {
    "imap": lambda pool: pool.imap(abs, range(-3000, 0), chunksize=10),
    "imap_unordered": lambda pool: pool.imap_unordered(abs, range(-3000, 0), chunksize=10),
    "executor map": lambda pool: pool.executor().map(abs, range(-3000, 0), chunksize=10),
}


@pytest.mark.parametrize("row", READERS)
def test_a_stream_may_be_finished_beside_who_iterates_over_it(row: str) -> None:
    """Neither waits for the other: join returns, and the iterating thread gets every result once."""
    with distmap.Pool(2) as pool:
        stream = READERS[row](pool)
        found = [next(stream) for _ in range(5)]
        thread = threading.Thread(target=lambda: found.extend(stream))
        thread.start()
        pool.close()
        pool.join()
        thread.join(10)
        assert not thread.is_alive()
        assert sorted(found) == list(range(1, 3001))


def test_an_executor_may_be_shut_down_beside_who_iterates(local_pool: distmap.Pool) -> None:
    """shutdown waits for the work, not for who takes the results; nobody has to take them, then or later."""
    for taken in (True, False):
        executor = local_pool.executor()
        results, found = executor.map(abs, range(-3000, 0), chunksize=10), list[int]()
        thread = threading.Thread(target=lambda results=results, found=found: found.extend(results))
        if taken:
            thread.start()
        executor.shutdown()
        if not taken:
            thread.start()
        thread.join(10)
        assert found == list(range(3000, 0, -1))


@pytest.mark.parametrize("make", ["imap", "executor map"])
def test_eight_threads_take_from_one_iterator(local_pool: distmap.Pool, make: str) -> None:
    """Each result goes to one of them, and all of them come to the end."""
    data = range(-2000, 0)
    stream = local_pool.imap(abs, data) if make == "imap" else local_pool.executor().map(abs, data)
    found: list[list[int]] = [[] for _ in range(8)]
    threads = [threading.Thread(target=mine.extend, args=(stream,)) for mine in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(itertools.chain(*found)) == list(range(1, 2001))
    assert all(mine == sorted(mine, reverse=True) for mine in found)


def test_threads_that_wait_for_an_iterator_see_its_end_and_its_timeouts() -> None:
    """A timeout counts for who gave it; the end wakes all of them, with the error for one."""
    ends: list[str] = []
    with distmap.Pool(1) as pool:
        stream = pool.imap(time.sleep, [15])

        def take() -> None:
            try:
                next(stream)
            except (StopIteration, distmap.JobCancelled) as error:
                ends.append(type(error).__name__)

        threads = [threading.Thread(target=take) for _ in range(4)]
        for thread in threads:
            thread.start()
        with pytest.raises(multiprocessing.TimeoutError, match=r"no result within 0\.01 s"):
            stream.next(0.01)
    for thread in threads:
        thread.join(10)
    assert sorted(ends) == ["JobCancelled", *["StopIteration"] * 3]


# --- results that were given away -------------------------------------------------------------------------------------


class Counted:
    """An object whose living copies in this process are counted."""

    living = 0

    def __init__(self) -> None:
        type(self).living += 1

    def __setstate__(self, state: object) -> None:
        type(self).living += 1

    def __getstate__(self) -> object:
        return "a state, so that it is set"

    def __del__(self) -> None:
        type(self).living -= 1


def same(x: Any) -> Any:
    """Gives a copy back."""
    return x


def two(a: Any, b: Any) -> list[Any]:
    """Gives one of two back."""
    return [a]


def _many() -> list[Counted]:
    return [Counted() for _ in range(30)]


def _run(pool: distmap.Pool) -> Any:
    return pool.run(lambda: [Counted()])


# Calls of which nothing is kept once their result is not.
GIVEN: dict[str, Callable[[distmap.Pool], Any]] = {
    "map": lambda pool: pool.map(same, _many()),
    "map of a generator": lambda pool: pool.map(same, (one for one in _many())),
    "starmap": lambda pool: pool.starmap(two, [(one, 1) for one in _many()]),
    "map_batches": lambda pool: pool.map_batches(same, _many(), 7),
    "map_reduce": lambda pool: pool.map_reduce(same, _many(), lambda a, b: b),
    "map with failures": lambda pool: pool.map(lambda x: 1 / x if x == 0 else x, [*_many(), 0], on_error="skip"),
    "map_async": lambda pool: pool.map_async(same, _many()).get(10),
    "map_async iterated": lambda pool: list(pool.map_async(same, _many())),
    "map_async awaited": lambda pool: asyncio.run(_awaited(pool)),
    "imap": lambda pool: list(pool.imap(same, _many())),
    "imap_unordered": lambda pool: list(pool.imap_unordered(same, iter(_many()))),
    "apply": lambda pool: pool.apply(same, (Counted(),)),
    "apply_async": lambda pool: pool.apply_async(same, (Counted(),)).get(10),
    "submit": lambda pool: [future.result(10) for future in [pool.submit(same, Counted()) for _ in range(9)]],
    "executor map": lambda pool: list(pool.executor().map(same, _many())),
    "run": _run,
}


async def _awaited(pool: distmap.Pool) -> Any:
    return await pool.map_async(same, _many())


@pytest.mark.parametrize("call", GIVEN)
def test_arguments_and_results_are_let_go(pool: distmap.Pool, call: str) -> None:
    """Once the caller drops what it was given, no copy of an argument or result is left; figures and card are."""
    result = GIVEN[call](pool)
    assert Counted.living > 0
    del result
    until(lambda: Counted.living == 0)
    if pool.last is not None and call.startswith("map"):
        assert pool.last.progress is not None
        assert pool.last.progress.done >= 30 or "batches" in call
        assert "done, " in repr(pool.last)
        assert pool.last.failures == [] or "failures" in call
        with pytest.raises(ValueError, match="were given to its caller"):
            pool.last.result()
        with pytest.raises(ValueError, match="were given to its caller"):
            _ = pool.last.partial


LAZY: dict[str, Callable[[distmap.Pool], Any]] = {
    "imap": lambda pool: pool.imap(same, _many(), chunksize=10),
    "imap_unordered": lambda pool: pool.imap_unordered(same, _many(), chunksize=10),
    "executor map": lambda pool: pool.executor().map(same, _many(), chunksize=10),
}


@pytest.mark.parametrize("lazy", LAZY)
def test_an_iterator_keeps_nothing_of_what_it_gave(local_pool: distmap.Pool, lazy: str) -> None:
    """Each value belongs to the caller alone, in the middle of a chunk too."""
    for value in LAZY[lazy](local_pool):
        gone = weakref.ref(value)
        del value
        until(lambda gone=gone: gone() is None)
    until(lambda: Counted.living == 0)


def test_who_holds_a_job_holds_its_results(local_pool: distmap.Pool) -> None:
    """The handle of a background call gives its result as often as wanted; `pool.last` is that handle meanwhile."""
    job = local_pool.map_async(same, [1, 2], callback=None)
    assert local_pool.last is job
    assert job.result(10) == job.result(10) == [1, 2]
    assert local_pool.last is job
    assert dict(job.partial) == {0: 1, 1: 2}
    del job
    gc.collect()
    assert local_pool.last is not None
    assert local_pool.last.state == "done"
    assert local_pool.last.stats["done"] == 2
    # One whose result nobody has asked for yet is kept.
    local_pool.map_async(same, [3])
    assert local_pool.last.result(10) == [3]


@pytest.mark.parametrize("how", ["failed", "cancelled"])
def test_what_was_not_returned_is_kept(local_pool: distmap.Pool, how: str, tmp_path: Path) -> None:
    """A call that raised gave nothing, so `pool.last.partial` has it."""
    gate = tmp_path / "gate"

    def fn(x: int) -> float:
        return 1 / x if x else 1 / (not held(str(gate)))

    def steer() -> None:
        until(lambda: local_pool.last is not None and local_pool.last.name == "fn" and local_pool.last.partial)
        assert local_pool.last is not None
        if how == "cancelled":
            local_pool.last.cancel()
        gate.touch()

    local_pool.last = None
    thread = threading.Thread(target=steer)
    thread.start()
    with pytest.raises((ZeroDivisionError, distmap.JobCancelled)):
        local_pool.map(fn, [1, 0], chunksize=1)
    thread.join(10)
    last: Any = local_pool.last
    assert last.state == how
    assert last.partial == [(0, 1.0)]


# --- two interrupts ---------------------------------------------------------------------------------------------------


def stubborn(x: int) -> int:
    """Item 3 and those behind it do not hear an interrupt."""
    if x >= 3:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        time.sleep(15)
    return x


@pytest.mark.parametrize(
    ("sized", "gap"), [(True, 0.05), (False, 0.05), (True, 0.0002)], ids=["list", "generator", "microseconds apart"]
)
def test_a_call_that_is_interrupted_twice_says_what_it_has(sized: bool, gap: float) -> None:
    """The second interrupt does not wait for the loop; the card counts what is known here, not nothing."""
    with distmap.Pool(2) as pool:

        def interrupt() -> None:
            until(lambda: pool.last is not None and len(pool.last.partial) == 3)
            os.kill(os.getpid(), signal.SIGINT)
            threading.Event().wait(gap)
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            pool.map(stubborn, range(50) if sized else iter(range(50)), chunksize=1, progress=False)
        thread.join(10)
        last: Any = pool.last
        assert repr(last) == f"<Job stubborn: interrupted, 3{' of 50' * sized} items>"
        assert (last.stats["done"], len(last.partial)) == (3, 3)
