"""A user of `multiprocessing.Pool` changes the import and keeps the rest."""

from __future__ import annotations

import multiprocessing
import threading

import pytest

import distmap

#: The shared pool lives longer than a test; its fixture checks what it leaves.
pytestmark = pytest.mark.own_leaks


def test_apply_with_args_and_kwds(pool2):
    """`apply(fn, args, kwds)` calls fn(*args, **kwds) and gives its result."""
    assert pool2.apply(pow, (2, 10)) == 1024
    assert pool2.apply(int, ("ff",), {"base": 16}) == 255
    assert pool2.apply(dict) == {}


def test_apply_async_gives_an_async_result(pool2):
    """`apply_async` gives an object with get, wait, ready and successful."""
    result = pool2.apply_async(pow, (2, 10))
    result.wait(10)
    assert result.ready()
    assert result.successful()
    assert result.get(10) == 1024


def test_get_with_timeout_raises_multiprocessing_timeout_error(pool2, gate):
    """`get(timeout)` raises multiprocessing.TimeoutError and the work goes on."""
    result = pool2.apply_async(gate.wait, (5,))
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(0.05)
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(timeout=0)
    assert result.wait(0.01) is None
    assert not result.ready()
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    gate.open()
    assert result.get(timeout=10) == 5


def test_callbacks(pool2):
    """`callback` gets the result of apply_async and the list of map_async; `error_callback` the exception."""
    got, wrong = [], []
    done = threading.Semaphore(0)

    def keep(value):
        got.append(value)
        done.release()

    def keep_error(error):
        wrong.append(error)
        done.release()

    pool2.apply_async(abs, (-1,), callback=keep, error_callback=keep_error)
    assert done.acquire(timeout=10)
    pool2.map_async(abs, [-1, -2, -3], callback=keep, error_callback=keep_error)
    assert done.acquire(timeout=10)
    pool2.starmap_async(pow, [(2, 3)], callback=keep)
    assert done.acquire(timeout=10)
    pool2.apply_async(int, ("x",), callback=keep, error_callback=keep_error)
    assert done.acquire(timeout=10)
    pool2.map_async(int, ["1", "x"], callback=keep, error_callback=keep_error)
    assert done.acquire(timeout=10)
    assert got == [1, [1, 2, 3], [8]]
    assert [type(error) for error in wrong] == [ValueError, ValueError]


def test_map_async_and_starmap_async(pool2):
    """`map_async` and `starmap_async` give lists; a positional chunksize is taken."""
    assert pool2.map_async(abs, [-1, -2]).get(10) == [1, 2]
    assert pool2.map_async(abs, [-1, -2, -3], 2).get(10) == [1, 2, 3]
    assert pool2.starmap_async(pow, [(2, 3), (3, 2)]).get(10) == [8, 9]


def test_arguments_by_the_names_of_multiprocessing(pool2):
    """Every call takes `func=` and `iterable=`, `args=` and `kwds=`, as multiprocessing names them."""
    got, done = [], threading.Semaphore(0)

    def keep(value):
        got.append(value)
        done.release()

    assert pool2.map(func=abs, iterable=[-1, -2]) == [1, 2]
    assert pool2.map(abs, iterable=[-1, -2], chunksize=2) == [1, 2]
    assert pool2.map(fn=abs, iterable=[-1]) == [1]
    assert pool2.starmap(func=pow, iterable=[(2, 3)], chunksize=1) == [8]
    assert list(pool2.imap(func=abs, iterable=[-1, -2], chunksize=1)) == [1, 2]
    assert sorted(pool2.imap_unordered(func=abs, iterable=[-1, -2], chunksize=1)) == [1, 2]
    assert pool2.map_async(func=abs, iterable=[-1], chunksize=1, callback=keep, error_callback=keep).get(10) == [1]
    assert pool2.starmap_async(func=pow, iterable=[(2, 3)], chunksize=1, callback=keep).get(10) == [8]
    assert pool2.apply(func=int, args=("ff",), kwds={"base": 16}) == 255
    assert pool2.apply_async(func=int, args=("ff",), kwds={"base": 16}, callback=keep).get(10) == 255
    assert done.acquire(timeout=10)
    assert done.acquire(timeout=10)
    assert done.acquire(timeout=10)
    assert got == [[1], [8], 255]


def test_names_of_multiprocessing_that_make_no_sense(pool2):
    """An argument given twice, or a missing function, is a TypeError that says so."""
    with pytest.raises(TypeError, match=r"map\(\) got its argument 'func' twice"):
        pool2.map(abs, [1], func=abs)
    with pytest.raises(TypeError, match=r"map\(\) got its argument 'iterable' twice"):
        pool2.map(abs, [1], iterable=[1])
    with pytest.raises(TypeError, match="needs a function before its 'iterable'"):
        pool2.map(iterable=[1])


@pytest.mark.parametrize("name", ["apply", "apply_async"])
def test_arguments_that_are_no_list(pool2, name):
    """`apply(f, 3)` says what was expected instead of what a star cannot do."""
    call = getattr(pool2, name)
    with pytest.raises(TypeError, match=rf"{name}\(fn, args\): args must be .* such as \(3,\); got int"):
        call(abs, 3)
    with pytest.raises(TypeError, match=rf"{name}\(fn, args, kwds\): kwds must be a dict .* got list"):
        call(abs, (3,), [4])


def test_everything_by_place(pool2):
    """Chunksize and callbacks by place, in the order of multiprocessing."""
    got, wrong = [], []
    assert pool2.map(abs, [-1, -2, -3], 10) == [1, 2, 3]
    assert pool2.map(abs, [-1, -2, -3], None) == [1, 2, 3]
    assert list(pool2.imap(abs, [-1, -2, -3], 5)) == [1, 2, 3]
    assert pool2.starmap(pow, [(2, 3)], 2) == [8]
    assert pool2.map_async(abs, [-1], 1, got.append, wrong.append).get(10) == [1]
    assert pool2.map_async(abs, [-2], None, got.append).get(10) == [2]
    assert pool2.starmap_async(pow, [(2, 3)], 1, got.append, wrong.append).get(10) == [8]
    assert pool2.apply_async(abs, (-4,), {}, got.append, wrong.append).get(10) == 4
    job = pool2.map_async(int, ["x"], None, None, wrong.append)
    job.wait(10)
    assert got == [[1], [2], [8], 4]
    assert [type(error) for error in wrong] == [ValueError]


def test_positional_chunksize(pool2):
    """The third argument of map, starmap, imap and imap_unordered may be a chunksize, as in multiprocessing."""
    assert pool2.map(abs, range(10), 3) == list(range(10))
    assert pool2.starmap(pow, [(2, 3), (3, 2)], 1) == [8, 9]
    assert list(pool2.imap(abs, range(10), 3)) == list(range(10))
    assert sorted(pool2.imap_unordered(abs, range(10), 3)) == list(range(10))


def test_a_failed_async_result(pool2):
    """A failure makes `successful()` false and `get()` raise the original type."""
    result = pool2.apply_async(int, ("x",))
    result.wait(10)
    assert result.ready()
    assert not result.successful()
    with pytest.raises(ValueError, match="invalid literal"):
        result.get()


@pytest.mark.parametrize("name", ["imap", "imap_unordered"])
def test_iteration_with_timeout(pool2, gate, name):
    """`next(timeout)` of an imap iterator raises multiprocessing.TimeoutError; a later call gives the item."""
    results = getattr(pool2, name)(gate.wait, [1])
    with pytest.raises(multiprocessing.TimeoutError):
        results.next(0.05)
    with pytest.raises(multiprocessing.TimeoutError):
        results.next(timeout=0)
    gate.open()
    assert results.next(timeout=10) == 1
    with pytest.raises(StopIteration):
        results.next(timeout=10)
    with pytest.raises(StopIteration):
        next(results)


def test_iteration_goes_on_after_a_failed_item(pool2):
    """An item of imap that raised is raised at its turn."""
    results = pool2.imap(int, ["1", "x", "3"])
    assert next(results) == 1
    with pytest.raises(ValueError, match="invalid literal"):
        next(results)


def test_after_close(gate, until):
    """`close` lets running work finish, refuses new work with ValueError; `join` waits."""
    pool = distmap.Pool(1)
    try:
        result = pool.apply_async(gate.wait, (3,))
        until(gate.waiting)
        pool.close()
        for call in (
            lambda: pool.map(abs, [1]),
            lambda: pool.apply(abs, (1,)),
            lambda: pool.apply_async(abs, (1,)),
            lambda: pool.map_async(abs, [1]),
            lambda: pool.imap(abs, [1]),
            lambda: pool.submit(abs, 1),
        ):
            with pytest.raises(ValueError, match=r"(?i)pool"):
                call()
        gate.open()
        pool.join()
        assert result.get(5) == 3
    finally:
        pool.terminate()


def test_join_before_close_is_refused():
    """`join` of a running pool raises ValueError instead of waiting for ever."""
    with distmap.Pool(1) as pool, pytest.raises(ValueError, match="running"):
        pool.join()


def test_terminate_ends_what_runs(gate, until):
    """`terminate` does not wait for tasks; their results raise instead of hanging."""
    pool = distmap.Pool(1)
    result = pool.apply_async(gate.wait, (3,))
    until(gate.waiting)
    pool.terminate()
    pool.join()
    with pytest.raises((distmap.DistmapError, distmap.JobCancelled)):
        result.get(5)


def test_maxtasksperchild():
    """A slot gets a fresh process after so many chunks; so does one that is added later."""

    def pid(_):
        import os

        return os.getpid()

    with distmap.Pool(1, maxtasksperchild=3) as pool:
        pids = pool.map(pid, range(7), chunksize=1)
        assert [pids.count(one) for one in dict.fromkeys(pids)] == [3, 3, 1]
        # What is submitted in one go may travel together; each of these is a chunk by itself.
        more = [pool.apply(pid, (0,)) for _ in range(3)]
        assert more[:2] == [pids[-1]] * 2
        assert more[2] not in pids
        pool.add(1)
        assert len(set(pool.map(pid, range(12), chunksize=1))) >= 4
    with distmap.Pool(2, None, (), 1) as pool:
        assert len(set(pool.map(pid, range(6), chunksize=1))) == 6
        assert pool.map(abs, range(1000)) == list(range(1000))
        assert pool.workers[0].state == "ready"


@pytest.mark.parametrize("bad", [0, -1, True, 2.5, "3"])
def test_a_maxtasksperchild_that_is_none(bad):
    """It must be a positive number."""
    with pytest.raises((TypeError, ValueError), match="maxtasksperchild must be a whole number of at least 1"):
        distmap.Pool(1, maxtasksperchild=bad)


@pytest.mark.parametrize("workers", ["inline", "wss://127.0.0.1:1", [1, "inline"]])
def test_maxtasksperchild_is_for_slots_of_this_machine(workers):
    """It is refused, not ignored, where it cannot be had."""
    with pytest.raises(ValueError, match="maxtasksperchild= is for slots of this machine"):
        distmap.Pool(workers, maxtasksperchild=1)


def test_context():
    """A spawn context says what is done anyway; another is refused with the reason."""
    with distmap.Pool(1, context=multiprocessing.get_context("spawn")) as pool:
        assert pool.map(abs, [-1]) == [1]
    with pytest.raises(ValueError, match='context="fork" is not there: a slot is always a fresh process'):
        distmap.Pool(1, context=multiprocessing.get_context("fork"))
    with pytest.raises(TypeError, match="context must be"):
        distmap.Pool(1, context="spawn")


def test_processes_keyword_and_initializer():
    """`Pool(processes=…, initializer=…, initargs=…)` prepares every slot, as in multiprocessing."""

    def prepare(value):
        import builtins

        builtins.prepared = value

    def look(_):
        import builtins

        return builtins.prepared

    with distmap.Pool(processes=2, initializer=prepare, initargs=(5,)) as pool:
        assert pool.map(look, range(10), chunksize=1) == [5] * 10
