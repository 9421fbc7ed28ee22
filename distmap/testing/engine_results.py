"""Cases of the conformance suite: what a map gives, and how values travel.

Owns the checks of results, options and large values; each takes a pool on the engine, and what is known of the engine.
"""

from __future__ import annotations

import operator
import os
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

from distmap.pool import Pool
from distmap.testing import engine_work as work
from distmap.testing.engine_suite import Case, NotAsked, Started


def keeps_the_order(pool: Pool, engine: Started) -> None:
    """Results stand in the order of the items, whatever the order in which they end."""
    assert pool.map(work.late, range(60), chunksize=1) == list(range(60))


def sizes_chunks_by_time(pool: Pool, engine: Started) -> None:
    """Tiny items travel in few chunks, and long ones in more chunks than there are slots."""
    for _ in range(3):
        pool.map(abs, range(20_000))
    assert pool.last is not None
    assert pool.last.stats["chunks"] <= 200
    pool.map(work.nap, range(40))
    assert pool.last.stats["chunks"] > min(2, sum(worker.slots for worker in pool.workers))


def runs_so_many_at_once(pool: Pool, engine: Started) -> None:
    """As many items run at one moment as the pool says that it has slots."""
    slots = sum(worker.slots for worker in pool.workers)
    wait = partial(work.all_at_once, engine.folder, slots, engine.patience)
    assert [at_once for at_once, _ in pool.map(wait, range(slots), chunksize=1)] == [True] * slots


def raises_the_original_exception(pool: Pool, engine: Started) -> None:
    """The item's own exception is raised, and its note names the item and the worker."""
    try:
        pool.map(work.divide, range(10), chunksize=3)
    except ZeroDivisionError as error:
        notes = "\n".join(getattr(error, "__notes__", ()))
    else:
        raise AssertionError("nothing was raised")
    assert "item 5 (5)" in notes, notes
    assert any(f"worker {worker.name}" in notes for worker in pool.workers), notes


def returns_or_skips_errors(pool: Pool, engine: Started) -> None:
    """`on_error="return"` puts the exception in its place, "skip" leaves the item out."""
    got: list[Any] = pool.map(work.divide, range(10), chunksize=3, on_error="return")
    assert isinstance(got[5], ZeroDivisionError)
    assert got[:5] + got[6:] == [1 / (x - 5) for x in range(10) if x != 5]
    assert len(pool.map(work.divide, range(10), on_error="skip")) == 9


def tries_again(pool: Pool, engine: Started) -> None:
    """`retries=` runs an item that raised again, and no other; the engine itself runs none again."""
    assert pool.map(partial(work.third_time, engine.folder), range(10), retries=2) == list(range(10))
    assert Counter(work.marks(engine.folder)) == {f"ran {x}": 3 if x == 4 else 1 for x in range(10)}


def folds(pool: Pool, engine: Started) -> None:
    """`map_reduce` folds in input order, also with a part of the fold on the workers."""
    assert pool.map_reduce(str, range(50), operator.add) == "".join(map(str, range(50)))
    assert pool.map_reduce(work.square, range(100), operator.add, combine=operator.add) == sum(
        x * x for x in range(100)
    )


def streams_with_a_bound(pool: Pool, engine: Started) -> None:
    """`imap` over an endless input gives results as they come, and never reads more than `buffer` items ahead."""
    read = 0

    def endless() -> Iterator[int]:
        nonlocal read
        while True:
            read += 1
            yield read

    stream = pool.imap(work.square, endless(), buffer=10)
    try:
        for taken in range(1, 101):
            assert next(stream) == taken * taken
            assert read <= taken + 10
    finally:
        stream.close()


def draws_the_same_numbers(pool: Pool, engine: Started) -> None:
    """With `seed=`, `distmap.rng()` gives an item the same numbers as on any other engine, whatever the chunks."""
    with Pool("inline") as inline:
        expected = inline.map(work.draw, range(20), seed=7)
    assert pool.map(work.draw, range(20), seed=7, chunksize=1) == expected
    assert pool.map(work.draw, range(20), seed=7, chunksize=6) == expected


def goes_on_from_a_checkpoint(pool: Pool, engine: Started) -> None:
    """What a checkpoint knows is not run again."""
    path, fn = os.path.join(engine.folder, "run.dm"), partial(work.ran, engine.folder)
    assert pool.map(fn, range(12), checkpoint=path) == list(range(12))
    assert pool.map(fn, range(15), checkpoint=path) == list(range(15))
    assert Counter(work.marks(engine.folder, "ran")) == {f"ran {x}": 1 for x in range(15)}


def maps_inside_an_item(pool: Pool, engine: Started) -> None:
    """An item may have a pool of its own."""
    assert pool.map(work.map_inside, [2, 3]) == [[0, 1], [0, 1, 4]]


# --- how values travel ------------------------------------------------------------------------------------------------


def sends_a_broadcast_once(pool: Pool, engine: Started) -> None:
    """A value of 2 MB that several maps use is unpickled once in a process, whatever the number of its threads."""
    handle = pool.broadcast(work.Loaded(engine.folder, bytes(2 * work.MB)))
    for _ in range(2):
        assert set(pool.map(lambda x: len(handle.value.content), range(12), chunksize=1)) == {2 * work.MB}
    handle.release()
    loads = Counter(work.marks(engine.folder, "loaded"))
    assert all(times == 1 for times in loads.values()), loads


def sends_a_closure_once(pool: Pool, engine: Started) -> None:
    """A value of 20 MB that the function captures is unpickled once in a slot, not with each chunk."""
    value = work.Loaded(engine.folder, bytes(20 * work.MB))
    assert set(pool.map(lambda x: len(value.content), range(20), chunksize=1)) == {20 * work.MB}
    assert len(work.marks(engine.folder, "loaded")) <= sum(worker.slots for worker in pool.workers)


def moves_large_arrays(pool: Pool, engine: Started) -> None:
    """Arrays of 4 MB come through as they were, as items and as results."""
    try:
        import numpy
    except ImportError:
        raise NotAsked("numpy is not installed here") from None
    data = [numpy.full(work.MB // 2, float(x)) for x in range(8)]
    assert pool.map(lambda array: float(array.sum()), data) == [float(array.sum()) for array in data]
    assert all((there == here).all() for there, here in zip(pool.map(work.filled, range(8)), data, strict=True))


RESULTS = (
    Case("results in input order", keeps_the_order),
    Case("chunks size themselves", sizes_chunks_by_time),
    Case("all slots are used", runs_so_many_at_once),
    Case("original exception, item and worker named", raises_the_original_exception),
    Case("`on_error=`", returns_or_skips_errors),
    Case("`retries=`", tries_again),
    Case("`map_reduce`", folds),
    Case("`imap` with a bound", streams_with_a_bound),
    Case("`seed=`", draws_the_same_numbers),
    Case("`checkpoint=`", goes_on_from_a_checkpoint),
    Case("a pool inside an item", maps_inside_an_item),
    Case("`broadcast`: once in a process", sends_a_broadcast_once),
    Case("captured values: once in a slot", sends_a_closure_once),
    Case("large arrays", moves_large_arrays),
)
