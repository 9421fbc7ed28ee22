"""Awaiting a job: in an event loop of the user's own, where it can be cancelled."""

from __future__ import annotations

import asyncio

import pytest

from distmap.calls.awaiting import await_interruptible

#: The shared pool lives longer than a test.
pytestmark = pytest.mark.own_leaks


def test_a_job_can_be_awaited(pool2):
    """`await job` gives the result on the loop that runs already, and does not block it."""

    async def main():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.01)

        ticking = asyncio.create_task(tick())
        got = await pool2.map_async(lambda x: __import__("time").sleep(0.1) or x, range(4), chunksize=1)
        ticking.cancel()
        return (
            got,
            ticks,
            await pool2.apply_async(abs, (-3,)),
            await asyncio.gather(*(pool2.map_async(abs, [k]) for k in range(5))),
        )

    got, ticks, applied, gathered = asyncio.run(main())
    assert got == [0, 1, 2, 3]
    assert ticks > 3
    assert applied == 3
    assert gathered == [[k] for k in range(5)]


def test_awaiting_a_failed_job_raises(pool2):
    """`await` raises what `result()` raises."""

    async def main():
        await pool2.map_async(int, ["1", "x"])

    with pytest.raises(ValueError, match="invalid literal"):
        asyncio.run(main())


def test_async_for(pool2):
    """`async for` goes through a job and through an imap."""

    async def main():
        job = [x async for x in pool2.map_async(abs, range(30))]
        stream = [x async for x in pool2.imap(abs, range(30))]
        unordered = [x async for x in pool2.imap_unordered(abs, range(30))]
        return job, stream, sorted(unordered)

    assert asyncio.run(main()) == (list(range(30)),) * 3


def test_cancelling_the_await_cancels_the_job(pool2, gate):
    """A timed-out or cancelled await stops the job, and the pool is free."""

    async def main():
        job = pool2.map_async(gate.wait, range(4), chunksize=1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_await(job), 0.3)
        return job

    async def _await(job):
        return await job

    job = asyncio.run(main())
    job.wait(10)
    assert job.state == "cancelled"
    assert pool2.map(abs, [-1]) == [1]


def test_a_cancellation_that_comes_with_a_result_stops_too():
    """Whoever is cancelled when the next result is there already, but not taken yet, stops the job as well."""

    async def main():
        waited = asyncio.get_running_loop().create_future()
        stops = []
        task = asyncio.create_task(await_interruptible(waited, stops.append))
        for _ in range(3):  # steps of the loop: it waits now
            await asyncio.sleep(0)
        waited.set_result(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return stops

    assert asyncio.run(main()) == [False]


def test_what_was_cancelled_itself_is_not_stopped_again():
    """A future that somebody cancelled ends the waiting; there is nothing to stop."""

    async def main():
        waited = asyncio.get_running_loop().create_future()
        stops = []
        task = asyncio.create_task(await_interruptible(waited, stops.append))
        waited.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return stops

    assert asyncio.run(main()) == []
