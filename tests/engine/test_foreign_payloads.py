"""What the workers of a foreign engine need, and how it gets there."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import Any

from distmap.core.limits import LIMITS
from distmap.engine.foreign_payloads import INLINE_BYTES, ForeignPayloads
from distmap.testing.adapters import SmallAdapter, SmallCluster

LARGE, SMALL = bytes(INLINE_BYTES + 1), b"small"


class Slow(SmallAdapter):
    """Its store takes its time, or breaks."""

    def __init__(self, cluster: SmallCluster) -> None:
        super().__init__(cluster)
        self.handing: list[Future[Any]] = []
        self.dropped: list[Any] = []

    def put(self, blob: Any, members: Any) -> Any:
        assert members == ["one", "two"]
        self.handing.append(Future())
        return self.handing[-1]

    def drop(self, handle: Any) -> None:
        self.dropped.append(handle)


def test_large_ones_are_handed_over_once() -> None:
    """For all workers; who needs one waits until it is there, and the last worker that lets go of it forgets it."""

    async def main() -> None:
        changed = asyncio.Event()
        adapter = Slow(SmallCluster())
        payloads = ForeignPayloads(adapter, asyncio.get_running_loop(), lambda: ["one", "two"], changed.set)
        for worker in (1, 2):
            payloads.put(worker, b"large", "value", [LARGE])
            payloads.put(worker, b"small", "code", [SMALL])
        assert len(adapter.handing) == 1
        assert payloads.pending([b"large", b"small"])
        assert not payloads.pending([b"small"])
        adapter.handing[0].set_result("handle")
        await asyncio.wait_for(changed.wait(), 10)
        assert not payloads.pending([b"large"])
        assert payloads.handles([b"large", b"small", b"unknown"]) == ["handle"]
        assert [blob.digest for blob in payloads.small([b"large", b"small"])] == [b"small"]
        assert [blob.digest for blob in payloads.blobs([b"large", b"small"])] == [b"large", b"small"]
        payloads.drop(1, b"large")
        assert not adapter.dropped
        payloads.left(2)
        assert adapter.dropped == ["handle"]
        assert b"large" not in payloads
        assert b"small" in payloads

    asyncio.run(main())


def test_what_no_store_takes_travels_with_calls() -> None:
    """Because there is none, because it raises, or because the hand-over fails; what was dropped meanwhile is dropped
    there too.
    """

    class Broken(Slow):
        def put(self, blob: Any, members: Any) -> Any:
            raise OSError("full")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for adapter in (SmallAdapter(SmallCluster(store=False)), Broken(SmallCluster())):
            payloads = ForeignPayloads(adapter, loop, lambda: ["one", "two"], lambda: None)
            payloads.put(1, b"large", "value", [LARGE])
            assert not payloads.pending([b"large"])
            assert payloads.handles([b"large"]) == []
        changed = asyncio.Event()
        slow = Slow(SmallCluster())
        payloads = ForeignPayloads(slow, loop, lambda: ["one", "two"], changed.set)
        payloads.put(1, b"large", "value", [LARGE])
        payloads.put(1, b"other", "value", [LARGE])
        slow.handing[0].set_exception(OSError("full"))
        await asyncio.wait_for(changed.wait(), 10)
        assert payloads.handles([b"large"]) == []
        changed.clear()
        payloads.clear()
        slow.handing[1].set_result("late")
        await asyncio.wait_for(changed.wait(), 10)
        assert slow.dropped == ["late"]

    asyncio.run(main())


def test_a_store_that_takes_long_is_not_waited_for() -> None:
    """Calls go after a time without the handle, the payload with those that lack it; should it come, they use it."""

    async def main() -> None:
        changed = asyncio.Event()
        adapter = Slow(SmallCluster())
        loop, limits = asyncio.get_running_loop(), LIMITS._replace(engine_hand_over=0.01)
        payloads = ForeignPayloads(adapter, loop, lambda: ["one", "two"], changed.set, limits=limits)
        payloads.put(1, b"large", "value", [LARGE])
        assert payloads.pending([b"large"])
        await asyncio.wait_for(changed.wait(), 10)
        assert not payloads.pending([b"large"])
        assert payloads.handles([b"large"]) == []
        changed.clear()
        adapter.handing[0].set_result("late")
        await asyncio.wait_for(changed.wait(), 10)
        assert payloads.handles([b"large"]) == ["late"]
        payloads.clear()
        assert adapter.dropped == ["late"]

    asyncio.run(main())
