"""A call whose items are handed in one by one."""

from __future__ import annotations

import time
from typing import Any

import pytest

from distmap import JobCancelled, Pool, PoolClosed
from distmap.calls.feed import Feed, open_feed
from distmap.core.progress import Snapshot

#: The thread of callbacks lives as long as the pool.
pytestmark = pytest.mark.own_leaks


def make(pool: Pool, fn: Any, **rest: Any) -> Feed:
    return open_feed(pool, fn, title="work", kind="Parallel", **{"total": None, "progress": False, **rest})


def test_items_come_when_the_owner_likes(pool2: Pool) -> None:
    """Each has a future; the call goes on until its owner ends it, and takes nothing then."""
    feed = make(pool2, abs)
    futures = [feed.submit(n, -n) for n in range(10)]
    assert [future.result(10) for future in futures] == list(range(10))
    feed.rest()
    assert feed.submit(10, -10).result(10) == 10
    feed.end()
    pool2.map(abs, [1])
    with pytest.raises(PoolClosed):
        feed.submit(11, 1)


def test_a_cancelled_call_leaves_no_future_waiting(pool2: Pool, until: Any) -> None:
    """What ran is interrupted, what waited is dropped, and all futures say so."""
    feed = make(pool2, time.sleep)
    futures = [feed.submit(n, 60) for n in range(6)]
    until(lambda: sum(future.running() for future in futures) >= 2)
    feed.cancel()
    for future in futures:
        with pytest.raises(JobCancelled):
            future.result(20)


def test_its_snapshots_have_the_total_that_its_owner_knows(pool2: Pool, until: Any) -> None:
    """And count what failed."""
    seen: list[Snapshot] = []
    feed = make(pool2, int, total=3, progress=seen.append)
    futures = [feed.submit(n, text) for n, text in enumerate(["1", "x", "3"])]
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
        futures = [feed.submit(n, -n) for n in range(5)]
        pool.close()
        pool.join()
        assert [future.result(0) for future in futures] == list(range(5))
        with pytest.raises(PoolClosed):
            feed.submit(5, 5)
