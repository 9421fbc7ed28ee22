"""Tasks that do their worst: each costs its own item, all others complete, and the pool stays usable."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator

import pytest

import distmap


@pytest.fixture
def pool2() -> Iterator[distmap.Pool]:
    """A pool for one test: a slot that dies often is given a rest, which must not fall on the next test."""
    with distmap.Pool(2) as pool:
        yield pool


def leave():
    import sys

    sys.exit(3)


def leave_hard():
    import os

    os._exit(3)


def segfault():
    import ctypes

    ctypes.string_at(0)


def abort():
    import os

    os.abort()


def kill_itself():
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


def recurse():
    def deeper(n):
        return deeper(n + 1)

    deeper(0)


def close_standard_streams():
    import os

    for descriptor in (0, 1, 2):
        os.close(descriptor)
    return 5


def close_everything():
    import os

    os.closerange(0, 256)
    return 5


def raised(kind: type[BaseException]) -> Callable[[], object]:
    def throw():
        raise kind("odd")

    return throw


def at_five(outcome):
    return lambda x: outcome() if x == 5 else x


def others_completed(got):
    assert len(got) == 12
    assert [x for at, x in enumerate(got) if at != 5] == [x for x in range(12) if x != 5]
    return got[5]


@pytest.mark.parametrize("outcome", [leave_hard, segfault, abort, kill_itself], ids=lambda fn: fn.__name__)
def test_an_item_that_ends_its_process(pool2, outcome):
    """An item that kills its process is a PoisonItemError that names it; the others complete."""
    error = others_completed(pool2.map(at_five(outcome), range(12), on_error="return"))
    assert isinstance(error, distmap.PoisonItemError)
    assert "item 5" in str(error)
    assert dict(pool2.last.stats)["deaths"] == 3
    assert pool2.map(abs, range(20)) == list(range(20))
    assert dict(pool2.last.stats)["done"] == 20


@pytest.mark.parametrize(("outcome", "how"), [(segfault, "SIGSEGV"), (leave_hard, r"(?i)(code|status) 3")])
def test_the_error_says_how_the_process_died(pool2, outcome, how):
    """By default the call raises PoisonItemError; its message names the item, and the signal or the exit code."""
    with pytest.raises(distmap.PoisonItemError, match=how):
        pool2.map(at_five(outcome), range(12))
    assert pool2.map(abs, range(20)) == list(range(20))


@pytest.mark.parametrize(
    ("outcome", "name"),
    [
        (leave, "SystemExit"),
        (recurse, "RecursionError"),
        (raised(MemoryError), "MemoryError"),
        (raised(GeneratorExit), "GeneratorExit"),
        (raised(KeyboardInterrupt), "KeyboardInterrupt"),
    ],
    ids=["sys.exit", "recursion", "MemoryError", "GeneratorExit", "KeyboardInterrupt"],
)
def test_an_item_that_raises_something_odd(pool2, outcome, name):
    """`sys.exit`, endless recursion and their kin are errors of the item; its process lives on.

    Those that would steer this process too (SystemExit, GeneratorExit) may come as a RemoteError that names them.
    """
    error = others_completed(pool2.map_async(at_five(outcome), range(12), on_error="return").get(15))
    assert type(error).__name__ == name or (isinstance(error, distmap.RemoteError) and name in str(error))
    assert dict(pool2.last.stats)["deaths"] == 0


def test_an_item_that_closes_the_standard_streams(pool2):
    """Closing descriptors 0 to 2 harms nobody."""
    assert others_completed(pool2.map(at_five(close_standard_streams), range(12), chunksize=3)) == 5
    assert pool2.map(lambda x: print(x) or x, range(20)) == list(range(20))


def test_an_item_that_closes_every_descriptor(pool2):
    """Closing distmap's own descriptors costs the item at most."""
    got = others_completed(pool2.map(at_five(close_everything), range(12), on_error="return"))
    assert got == 5 or isinstance(got, BaseException)
    assert pool2.map(abs, range(20)) == list(range(20))


def test_an_item_that_prints_a_lot(pool2):
    """Output of tasks, also without newlines and in bytes, blocks nobody."""

    def loud(x):
        import os

        print("x" * 100_000)
        os.write(2, b"\xff" * 1000)
        return x

    assert pool2.map(loud, range(20)) == list(range(20))


def test_an_item_that_changes_directory(pool2, tmp_path):
    """A task that changes its directory, even to one that goes, harms no other."""
    folder = tmp_path / "gone"
    folder.mkdir()
    name = str(folder)

    def wander(x):
        import os

        if x == 0:
            os.chdir(name)
            os.rmdir(name)
        return x

    assert pool2.map(wander, range(12), chunksize=1) == list(range(12))


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="needs fork")
def test_an_item_that_forks_and_lets_the_child_return(pool2):
    """A forked child that falls back into distmap's loop answers for nobody."""

    def fork(x):
        import os
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            child = os.fork()
        if child:
            os.waitpid(child, 0)
        return x

    assert pool2.map(fork, range(6), chunksize=1) == list(range(6))
    assert pool2.map(abs, range(50), chunksize=1) == list(range(50))


def sleep_long():
    import time

    time.sleep(60)


def hold_the_gil():
    import ctypes

    ctypes.PyDLL(None).sleep(60)


@pytest.mark.parametrize(
    "outcome",
    [
        sleep_long,
        pytest.param(hold_the_gil, marks=pytest.mark.skipif(sys.platform == "win32", reason="needs libc's sleep")),
    ],
    ids=lambda fn: fn.__name__,
)
def test_timeout_ends_the_item_only(pool2, outcome):
    """`timeout=` kills the process of an item that takes too long, whatever it does; the others complete."""
    began = time.monotonic()
    error = others_completed(pool2.map(at_five(outcome), range(12), timeout=0.5, on_error="return"))
    assert isinstance(error, distmap.ItemTimeout)
    assert isinstance(error, TimeoutError | distmap.DistmapError)
    assert "5" in str(error)
    assert f", in {outcome.__name__}\n" in error.stack
    assert error.stack in error.__notes__[-1]
    assert time.monotonic() - began < 8
    assert pool2.map(abs, range(20)) == list(range(20))


def test_timeout_counts_the_item_not_the_chunk(pool2):
    """Many quick items in one chunk may together take longer than `timeout=`."""

    def nap(x):
        import time

        time.sleep(0.02)
        return x

    assert pool2.map(nap, range(40), chunksize=40, timeout=0.4) == list(range(40))


def test_timeout_raises_by_default(pool2):
    """Without on_error the call raises ItemTimeout, which is a multiprocessing.TimeoutError too."""
    import multiprocessing

    with pytest.raises(distmap.ItemTimeout) as caught:
        pool2.map(at_five(sleep_long), range(12), timeout=0.3)
    assert isinstance(caught.value, multiprocessing.TimeoutError)


def test_finished_items_of_a_crashed_chunk_are_not_run_again(pool2, tmp_path):
    """Items that were finished well before their neighbour crashed are kept, though they were in one chunk with it."""
    folder = str(tmp_path)

    def once(x):
        import os
        import time

        with open(f"{folder}/{x}", "a") as file:
            file.write("x")
        time.sleep(0.03)
        if x == 9:
            os._exit(1)
        return x

    got = pool2.map(once, range(12), chunksize=12, on_error="return")
    assert isinstance(got[9], distmap.PoisonItemError)
    assert [x for x in got if not isinstance(x, BaseException)] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11]
    assert [(tmp_path / str(x)).read_text() for x in range(5)] == ["x"] * 5


def test_every_item_crashing_ends(pool2):
    """A job of which every item kills its process ends with an error instead of going on for ever."""
    with pytest.raises((distmap.PoisonItemError, distmap.CrashLoopError)):
        pool2.map_async(lambda x: __import__("os")._exit(1), range(5)).get(18)


def test_a_slot_that_rests_is_shown_and_does_not_stop_the_pool(until):
    """After five crashes the worker says that it rests, and for how long; alone it goes on after seconds."""
    with distmap.Pool(1) as pool:
        errors = pool.map(lambda x: leave_hard() if x else x, [0, 1, 0], on_error="return", chunksize=1)
        assert [type(error) for error in errors] == [int, distmap.PoisonItemError, int]
        job = pool.map_async(lambda x: leave_hard() if x else x, [1, 0], on_error="return", chunksize=1)
        until(lambda: pool.workers[0].state == "resting")
        (worker,) = pool.workers
        assert worker.resting == 1
        assert 0 < worker.rest <= 5
        assert "1 slot, 1 of them resting " in repr(worker)
        assert [lane.state for lane in job.progress.lanes] == ["resting"]
        assert isinstance(job.result(12)[0], distmap.PoisonItemError)
        assert pool.workers[0].state == "ready"


def exhaust_descriptors():
    import os
    import sys

    sys.kept = []
    while True:
        sys.kept.append(os.dup(0))


def nest(_=None):
    deep = []
    for _ in range(100_000):
        deep = [deep]
    return deep


def test_an_item_that_takes_all_descriptors(pool2):
    """It fails with the system's error; the others complete, and so do later calls, in that process or a fresh one."""
    error = others_completed(pool2.map_async(at_five(exhaust_descriptors), range(12), on_error="return").get(15))
    assert isinstance(error, OSError)
    assert "Too many open files" in str(error)
    big = [bytes([x]) * 300_000 for x in range(8)]  # these would travel by descriptors
    assert pool2.map_async(bytes.upper, big, chunksize=1).get(15) == [block.upper() for block in big]


def test_a_value_that_is_nested_too_deep_to_pickle(pool2):
    """As a result it is an error of its item, as an item too; the others complete, and no process dies."""
    error = others_completed(pool2.map_async(at_five(nest), range(12), on_error="return").get(15))
    assert "recursion" in f"{type(error).__name__} {error}".lower()
    items = [0, nest(), 2]
    got = pool2.map_async(type, items, on_error="return").get(15)
    assert [got[0], got[2]] == [int, int]
    assert "recursion" in f"{type(got[1]).__name__} {got[1]}".lower()
    assert dict(pool2.last.stats)["deaths"] == 0
