"""A call whose items are handed in one by one."""

from __future__ import annotations

import contextvars
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from distmap import JobCancelled, Pool, PoolClosed
from distmap.calls.feed import Batch, Feed, _join, _Part, open_feed
from distmap.core.progress import Snapshot
from distmap.tasks.items import Items

#: The thread of callbacks lives as long as the pool.
pytestmark = pytest.mark.own_leaks


def make(pool: Pool, fn: Any, **rest: Any) -> Feed:
    return open_feed(pool, fn, title="work", kind="Parallel", **{"total": None, "progress": False, **rest})


def held(path: str) -> None:
    Path(path).touch()
    time.sleep(60)  # until its process is ended


def pair(x: int) -> tuple[int, int]:
    if x == 5:
        raise ValueError("five")
    return x, os.getpid()


def test_items_come_when_the_owner_likes(pool2: Pool) -> None:
    """Each has a future; the call goes on until its owner ends it, and takes nothing then."""
    feed = make(pool2, abs)
    batches = [feed.submit([-n, -n - 1]) for n in range(10)]
    assert [batch.result(10) for batch in batches] == [[n, n + 1] for n in range(10)]
    assert feed.submit([]).result(0) == []
    feed.rest()
    assert feed.submit([-10]).result(10) == [10]
    feed.end()
    pool2.map(abs, [1])
    with pytest.raises(PoolClosed):
        feed.submit([1])


def test_a_cancelled_call_leaves_no_future_waiting(pool2: Pool, tmp_path: Path, until: Any) -> None:
    """What ran is interrupted, what waited is dropped, and all futures say so."""
    feed = make(pool2, held)
    futures = [feed.submit([str(tmp_path / f"{n}-{at}") for at in range(2)]) for n in range(3)]
    until(lambda: len(list(tmp_path.iterdir())) >= 2)
    feed.cancel()
    for future in futures:
        with pytest.raises(JobCancelled):
            future.result(20)


def test_its_snapshots_have_the_total_that_its_owner_knows(pool2: Pool, until: Any) -> None:
    """And count what failed."""
    seen: list[Snapshot] = []
    feed = make(pool2, int, total=3, progress=seen.append)
    futures = [feed.submit([text]) for text in ["1", "x", "3"]]
    assert isinstance(futures[1].exception(10), ValueError)
    feed.end()
    until(lambda: seen and seen[-1].state != "running")
    assert (seen[-1].total, seen[-1].done, seen[-1].failed) == (3, 3, 1)
    assert [lane.blocks != () for lane in seen[-1].lanes] == [True]
    assert [issue.item for issue in feed.display.issues] == [1]


def test_a_call_ends_with_its_pool() -> None:
    """`close` lets what was handed in end, and does not wait for its owner."""
    with Pool(2, progress=False) as pool:
        feed = make(pool, abs)
        batch = feed.submit([-n for n in range(5)])
        pool.close()
        pool.join()
        assert batch.result(0) == list(range(5))
        with pytest.raises(PoolClosed):
            feed.submit([5])


def test_what_is_handed_in_together_fails_with_its_first_error(pool2: Pool) -> None:
    """Its owner is told the item's place and its number in the call; other batches have their results, in order."""
    feed, told = make(pool2, pair), []
    batches = [feed.submit(list(range(n, n + 3)), lambda *about: told.append(about)) for n in (0, 3, 6)]
    assert [[x for x, _ in batch.result(10)] for batch in (batches[0], batches[2])] == [[0, 1, 2], [6, 7, 8]]
    error = batches[1].exception(10)
    assert isinstance(error, ValueError)
    assert told == [(2, 5, error)]
    feed.end()


def test_each_future_has_its_own_results_whatever_the_chunks(pool2: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is handed in together is one call of the loop, which tells the driver of it at once."""
    feed, calls = make(pool2, abs), []
    timers: list[Any] = []
    announced, feed._announce = feed._announce, lambda: (announced(), timers.append(feed._again))  # type: ignore[method-assign]
    portal = pool2._context.portal
    call = portal.call
    monkeypatch.setattr(portal, "call", lambda *args: (calls.append(args), call(*args)))
    batches = [feed.submit([-x for x in range(n)]) for n in (1, 400, 3, 0, 50)]
    assert [batch.result(10) for batch in batches] == [list(range(n)) for n in (1, 400, 3, 0, 50)]
    assert len(calls) <= len(batches)
    assert set(timers) == {None}
    assert not feed._sent
    assert not feed._waiting
    feed.end()


def test_a_chunk_of_parts_of_batches() -> None:
    """Plain items and others, in one chunk; the chunk that is a whole plain batch is its pickle."""
    plain, other = Batch([(1,), (2,)], None), Batch([{1}, {2}], None)
    assert (plain.whole is None, other.whole is None) == (False, True)
    assert Batch([[1], [2]], None).whole is None  # who handed it in may change it
    parts = [_Part(0, 1, plain, 1), _Part(1, 2, other, 0)]
    payload, _ = _join(parts, [plain.items[1], *other.items])
    items = Items(payload.parts)
    assert [items.load(at) for at in range(items.count)] == [(2,), {1}, {2}]
    payload, _ = _join([_Part(0, 1, plain, 0), _Part(1, 1, plain, 0)], [(1,), (1,)])
    assert Items(payload.parts).whole == [(1,), (1,)]
    plain.items = []
    assert _join([_Part(0, 2, plain, 0)], [(1,), (2,)])[0].head is plain.whole


def test_callbacks_see_the_context_of_who_handed_in(pool2: Pool) -> None:
    """So what the next items print, which a callback may hand in, goes to the same cell."""
    cell, seen = contextvars.ContextVar[str]("cell"), []
    done = threading.Event()
    cell.set("one")
    feed = make(pool2, time.sleep)
    batch = feed.submit([0.2])
    batch.add_done_callback(lambda _: (seen.append(cell.get(None)), done.set()))
    assert done.wait(10)
    assert seen == ["one"]
    feed.end()


def test_no_more_items_are_known_to_the_scheduler_than_may_run(pool2: Pool) -> None:
    """So one batch runs on one slot if that is asked for, and all of it runs."""
    feed = make(pool2, pair, at_once=1)
    told: list[int] = []
    announced, feed._announce = feed._announce, lambda: (announced(), told.append(feed._told - feed._done))  # type: ignore[method-assign]
    assert [x for x, _ in feed.submit(list(range(10, 30))).result(10)] == list(range(10, 30))
    assert max(told) == 1
    feed.end()
