"""Cases of the conformance suite: steering a map that runs, and what goes wrong.

Owns the checks of cancel, output and progress, of crashes, and of members that come and go.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from distmap.core.progress import Snapshot
from distmap.errors import ItemTimeout, JobCancelled, NoWorkers, PoisonItemError
from distmap.pool import Pool
from distmap.testing import engine_work as work
from distmap.testing.engine_suite import Case, NotAsked, Started, needed

NO_PROCESSES = "it has no worker processes beside those of distmap"


def cancels_with_partials(pool: Pool, engine: Started) -> None:
    """A cancelled job ends at once; it has what was finished, and what had not begun does not begin."""
    job = pool.map_async(partial(work.some_then_wait, engine.folder, engine.patience), range(200), chunksize=1)
    engine.until(lambda: (shown := job.progress) and shown.done >= 4, "the first four items")
    job.cancel()
    try:
        job.result(engine.patience)
    except JobCancelled:
        pass
    else:
        raise AssertionError("a cancelled job gave a result")
    assert dict(job.partial) == dict.fromkeys(range(4), True)
    _stays_unbegun(engine)


def interrupts_with_partials(pool: Pool, engine: Started) -> None:
    """An interrupt ends the call at once, with what was finished; what had not begun does not begin."""
    if threading.current_thread() is not threading.main_thread():
        raise NotAsked("the suite does not run in the main thread")
    ready = threading.Event()

    def look(shown: Snapshot) -> None:
        if shown.done >= 4:
            ready.set()

    def press() -> None:
        if ready.wait(engine.patience):
            os.kill(os.getpid(), signal.SIGINT)

    finger = threading.Thread(target=press)
    finger.start()
    wait = partial(work.some_then_wait, engine.folder, engine.patience)
    try:
        pool.map(wait, range(200), chunksize=1, progress=look)
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError("the call was not interrupted")
    finally:
        finger.join()
    assert pool.last is not None
    assert dict(pool.last.partial) == dict.fromkeys(range(4), True)
    _stays_unbegun(engine)


def _stays_unbegun(engine: Started) -> None:
    """Let go of what waits, and see that most items never begin."""
    work.mark(engine.folder, "go")
    assert _still(engine, "begun") < 100


def _still(engine: Started, name: str) -> int:
    """The number of these marks once it has stayed the same for 0.3 s."""
    number, since = -1, time.monotonic()

    def still() -> bool:
        nonlocal number, since
        if (now := len(work.marks(engine.folder, name))) != number:
            number, since = now, time.monotonic()
        return time.monotonic() - since > 0.3

    engine.until(still, "the last item that begins")
    return number


def shows_output_in_its_call(pool: Pool, engine: Started) -> None:
    """What items print is written here while their call runs, each line with its worker in front."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        pool.map(work.say, range(6), chunksize=2)
    lines = printed.getvalue().splitlines()
    assert sorted(line.partition("] ")[2] for line in lines) == [f"hello from {x}" for x in range(6)], lines
    assert {line[1:].partition("] ")[0] for line in lines} <= {worker.name for worker in pool.workers}, lines


def shows_output_before_the_end(pool: Pool, engine: Started) -> None:
    """What an item prints is seen here while it runs."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        job = pool.map_async(partial(work.say_and_wait, engine.folder, engine.patience), range(2), chunksize=2)
        try:
            engine.until(lambda: "hello before the end" in printed.getvalue(), "its output")
        finally:
            work.mark(engine.folder, "seen")
            given = job.result()
    assert given == [True, True]


def shows_items_of_a_chunk(pool: Pool, engine: Started) -> None:
    """Items are counted as done while others of their chunk run."""
    job = pool.map_async(partial(work.some_then_wait, engine.folder, 3 * engine.patience), range(10), chunksize=10)
    try:
        engine.until(lambda: (shown := job.progress) and shown.done >= 4, "four items of the chunk")
    finally:
        work.mark(engine.folder, "go")
        job.result()


def stops_between_items(pool: Pool, engine: Started) -> None:
    """After a cancel, no further item of a chunk that runs begins."""
    job = pool.map_async(partial(work.some_then_wait, engine.folder, 3 * engine.patience), range(20), chunksize=20)
    engine.until(lambda: len(work.marks(engine.folder, "begun")) == 5, "the fifth item")
    job.cancel()
    # Where a wish travels to another machine it takes a moment.
    _still(engine, "begun")
    work.mark(engine.folder, "go")
    assert _still(engine, "begun") == 5


# --- items that go wrong ----------------------------------------------------------------------------------------------


def ends_an_item_at_its_timeout(pool: Pool, engine: Started) -> None:
    """`timeout=` ends the one item that takes too long; all others complete."""
    got = pool.map(partial(work.sleep, 3 * engine.patience), range(8), chunksize=4, timeout=0.5, on_error="return")
    _all_but_item_3(got, ItemTimeout)


def takes_an_exit_as_an_error(pool: Pool, engine: Started) -> None:
    """An item that calls `sys.exit` fails alone."""
    _all_but_item_3(_crash(pool, "exit"), Exception)


def loses_one_item_to_an_exit(pool: Pool, engine: Started) -> None:
    """`os._exit` in an item costs that item, which is named; all others complete."""
    _all_but_item_3(_crash(pool, "os._exit"), PoisonItemError)


def loses_one_item_to_a_segfault(pool: Pool, engine: Started) -> None:
    """A segmentation fault costs the one item; all others complete."""
    _all_but_item_3(_crash(pool, "segfault"), PoisonItemError)


def loses_one_item_to_a_kill(pool: Pool, engine: Started) -> None:
    """A process that is killed costs the item that it ran; all others complete."""
    _all_but_item_3(_crash(pool, "kill"), PoisonItemError)


def _crash(pool: Pool, how: str) -> list[Any]:
    return pool.map(partial(work.crash, how), range(12), chunksize=6, on_error="return")


def _all_but_item_3(got: list[Any], error: type[Exception]) -> None:
    assert isinstance(got[3], error), got[3]
    assert "item 3" in "\n".join((str(got[3]), *getattr(got[3], "__notes__", ())))
    assert got[:3] + got[4:] == [x for x in range(len(got)) if x != 3]


def spares_the_engines_workers(pool: Pool, engine: Started) -> None:
    """An item that ends its process ends no worker of the engine."""
    pids = needed(engine.pids, NO_PROCESSES)
    pool.map(work.nap, range(20), chunksize=1)  # some engines start theirs when they need them
    before = sorted(pids())
    assert before
    _crash(pool, "os._exit")
    assert sorted(pids()) == before


# --- members ----------------------------------------------------------------------------------------------------------


def survives_the_death_of_a_worker(pool: Pool, engine: Started) -> None:
    """A worker of the engine that is killed costs no item: what it ran is run again elsewhere."""
    pids = needed(engine.pids, NO_PROCESSES)
    job = pool.map_async(work.nap, range(100), chunksize=4)
    engine.until(lambda: (shown := job.progress) and shown.done >= 4, "the first chunk")
    os.kill(pids()[0], signal.SIGKILL)
    assert job.result() == list(range(100))


def works_beside_local_slots(pool: Pool, engine: Started) -> None:
    """One map runs on the engine and on slots of this machine together."""
    pool.terminate()
    pool.join()
    with engine.pool(1) as both:
        slots = sum(worker.slots for worker in both.workers)
        assert slots > 1
        wait = partial(work.all_at_once, engine.folder, slots, engine.patience)
        assert [at_once for at_once, _ in both.map(wait, range(slots), chunksize=1)] == [True] * slots


def runs_where_the_tag_is(pool: Pool, engine: Started) -> None:
    """Items with `tags=` run on members that have all of them, and on no others."""
    tag = needed(engine.tag, "its members have no tags")
    named = {worker.name for worker in pool.workers if tag in worker.tags}
    assert named
    assert pool.map(work.square, range(20), tags=[tag]) == [x * x for x in range(20)]
    assert pool.last is not None
    shown = pool.last.progress
    assert shown is not None
    assert {lane.name for lane in shown.lanes if lane.items} <= named


def refuses_tags_that_nobody_has(pool: Pool, engine: Started) -> None:
    """Items with a tag that no member has are run nowhere; a sentence says so."""
    try:
        pool.map(work.square, [1], tags=["nobody-has-it"])
    except Exception as error:
        text = str(error)
    else:
        raise AssertionError("an item ran where its tag is not")
    assert "tag" in text, text


def sees_members_come_and_go(pool: Pool, engine: Started) -> None:
    """A member that joins the engine gets slots in the pool, and one that leaves takes them along."""
    join = needed(engine.join, "its members are fixed")

    def slots() -> int:
        return sum(worker.slots for worker in pool.workers)

    before = slots()
    join()
    engine.until(lambda: slots() > before, "a member that joined")
    more = slots()
    assert pool.map(work.nap, range(20)) == list(range(20))
    needed(engine.leave, "its members do not leave")()
    engine.until(lambda: slots() < more, "a member that left")
    assert pool.map(work.nap, range(20)) == list(range(20))


def tells_that_the_engine_is_gone(pool: Pool, engine: Started) -> None:
    """When the engine itself ends, the job ends with `NoWorkers`, which says why."""
    end = needed(engine.end, "there is no engine beside the pool")
    job = pool.map_async(partial(work.some_then_wait, engine.folder, 3 * engine.patience), range(200), chunksize=1)
    try:
        engine.until(lambda: len(work.marks(engine.folder, "begun")) > 4, "the fifth item")
        end()
        work.mark(engine.folder, "go")  # what runs may end well; what waits cannot
        job.result(engine.patience)
    except NoWorkers as error:
        said = "\n".join((str(error), str(error.__cause__ or ""), *getattr(error, "__notes__", ())))
    else:
        raise AssertionError("the job ended well without an engine")
    finally:
        engine.stop()
    assert len(said.split()) > 3, said


def leaves_nothing(pool: Pool, engine: Started) -> None:
    """After `close`, no thread of the pool is left here, and after the engine no process of either."""

    def ours() -> Iterator[str]:
        return (thread.name for thread in threading.enumerate() if thread.name.startswith("distmap"))

    pool.map(work.square, range(20))
    pool.close()
    pool.join()
    engine.until(lambda: not list(ours()), "the end of the threads of the pool")
    assert not (left := engine.stop()), left


FAULTS = (
    Case("cancel, with what was finished", cancels_with_partials),
    Case("interrupt, with what was finished", interrupts_with_partials),
    Case("output in the call's cell, with its worker", shows_output_in_its_call),
    Case("output while an item runs", shows_output_before_the_end),
    Case("progress within a chunk", shows_items_of_a_chunk),
    Case("stop within a chunk", stops_between_items),
    Case("`timeout=`", ends_an_item_at_its_timeout),
    Case("`sys.exit` is an error of its item", takes_an_exit_as_an_error),
    Case("`os._exit` costs one item", loses_one_item_to_an_exit),
    Case("a segmentation fault costs one item", loses_one_item_to_a_segfault),
    Case("a kill costs one item", loses_one_item_to_a_kill),
    Case("a crash ends no worker of the engine", spares_the_engines_workers),
    Case("`tags=`", runs_where_the_tag_is),
    Case("a tag that nobody has is refused", refuses_tags_that_nobody_has),
    # Before one dies: some engines start another one in its place, which comes later.
    Case("members come and go", sees_members_come_and_go),
    Case("a worker that dies costs no item", survives_the_death_of_a_worker),
    Case("together with local slots", works_beside_local_slots),
    Case("the engine ends: `NoWorkers` says why", tells_that_the_engine_is_gone),
    Case("nothing is left behind", leaves_nothing),
)
