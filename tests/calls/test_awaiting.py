"""Awaiting a job: in an event loop of the user's own, where it can be cancelled."""

from __future__ import annotations

import asyncio

import pytest

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
