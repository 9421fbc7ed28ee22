"""The crash table: each way for an item to end its process, at each place, here and on a worker.

One item fails, by name; the others of its call complete, and the pool goes on. One pool serves all cells of a side.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import psutil
import pytest
from support.doom import (
    ENDING,
    HARMLESS,
    RAISING,
    DoomedToPickle,
    DoomedToUnpickle,
    at_exit,
    call,
    drop,
    exit_0,
    exit_3,
    hang,
    raise_error,
    run,
    segfault,
)
from support.waiting import until

import distmap
from distmap.core.limits import LIMITS
from distmap.driver.driver import Driver
from distmap.testing.workers import WorkerProcess

pytestmark = [
    # Task processes that were replaced are new ones of a pool that all tests share; its fixture looks at the end.
    pytest.mark.own_leaks("processes", "descriptors"),
    pytest.mark.skipif(sys.platform == "win32", reason="forks, and sends signals"),
]

#: The first death is the last, and no slot rests: the rules for these have tests of their own.
HASTY = LIMITS._replace(item_deaths=1, slot_deaths=1_000_000, crash_loop_deaths=1_000_000)
PLACES = ("unpickling the item", "running", "pickling the result")
WAYS = {**RAISING, **ENDING, **HARMLESS}


@pytest.fixture(scope="module", params=["local", "remote"])
def pool(request: pytest.FixtureRequest) -> Iterator[distmap.Pool]:
    """A pool of two slots, of this machine or of a worker; none of its processes is left in the end."""
    me = psutil.Process()
    before = {child.pid for child in me.children(recursive=True)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(Driver.__init__.__kwdefaults__, "limits", HASTY)
        if request.param == "local":
            with distmap.Pool(2) as made:
                yield made
        else:
            with WorkerProcess("--port", "0", "--slots", "2") as worker, distmap.Pool(worker.url) as made:
                made.wait_for_workers(1, 15)
                yield made
    until(lambda: {child.pid for child in me.children(recursive=True)} <= before)


def outcome(pool: distmap.Pool, doomed: object) -> tuple[object, int]:
    """What became of the item, and the deaths, once all others completed and the pool has shown that it goes on."""
    items = [0, 1, doomed, 3, 4, 5]
    job = pool.map_async(run, items, chunksize=3, on_error="return")
    got = job.get(15)
    assert got[:2] + got[3:] == [0, 1, 3, 4, 5]
    assert pool.map_async(abs, range(4), chunksize=1).get(15) == [0, 1, 2, 3]
    return got[2], dict(job.stats)["deaths"]


def check_error(error: object, name: str) -> None:
    """The exception, or a text that has its name; with a note that names the item."""
    assert isinstance(error, BaseException)
    assert name in f"{type(error).__name__}: {error}"
    assert any("item 2 (" in note for note in error.__notes__)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_one_item_fails_by_name(pool: distmap.Pool, way, place) -> None:
    """What an item does to its process costs that item only, wherever it does it."""
    got, deaths = outcome(pool, DoomedToUnpickle(way) if place == "unpickling the item" else (place, way))
    if way in HARMLESS:
        assert (got, deaths) == ("survived", 0)
    elif way in RAISING:
        check_error(got, RAISING[way])
        assert deaths == 0
    elif not isinstance(got, RecursionError | distmap.PayloadError):
        assert isinstance(got, distmap.PoisonItemError)
        assert "item 2 (" in str(got)
        assert ENDING[way] in str(got)


def test_an_item_that_does_not_pickle(pool: distmap.Pool) -> None:
    """An item that fails to pickle fails before it is sent; the others complete."""
    check_error(outcome(pool, DoomedToPickle(raise_error))[0], "doomed")


@pytest.mark.parametrize("way", [way for way, name in RAISING.items() if name != "KeyboardInterrupt"])
def test_a_result_that_does_not_unpickle(pool: distmap.Pool, way) -> None:
    """A result that fails to unpickle in this process is the error of its item. (KeyboardInterrupt is the user's.)"""
    check_error(outcome(pool, ("unpickling the result", way))[0], RAISING[way])


@pytest.mark.parametrize("way", [exit_0, segfault])
def test_an_object_that_ends_its_process_as_it_is_collected(pool: distmap.Pool, way) -> None:
    """What `__del__` does is charged to the item that ran; an exception there is Python's to report, as always."""
    job = pool.map_async(drop, [None, None, way, None], chunksize=2, on_error="return")
    got = job.get(15)
    assert got[:2] + got[3:] == [None] * 3
    assert isinstance(got[2], distmap.PoisonItemError)
    assert ENDING[way] in str(got[2])


@pytest.mark.parametrize("way", [raise_error, exit_3, segfault, hang])
def test_a_process_that_crashes_or_hangs_at_its_end(way) -> None:
    """Whatever an exit function does, the pool closes, and no process is left."""
    with distmap.Pool(1) as pool:
        (pid,) = pool.map(at_exit, [way])
    assert not psutil.pid_exists(pid)


def test_an_item_that_takes_too_long_says_where_it_stood(pool: distmap.Pool) -> None:
    """The stack is on the error, here and from a worker, and the text of the error has it."""
    error = pool.map_async(call, [hang], timeout=0.3, on_error="return").get(15)[0]
    assert isinstance(error, distmap.ItemTimeout)
    assert error.stack.rstrip().endswith("time.sleep(60)")
    assert ", in hang\n" in error.stack
    assert error.stack in error.__notes__[-1]
