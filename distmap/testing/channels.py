"""What every channel keeps, as checks that any pair of connected channels can be put to.

Owns the contract of `distmap.transport.channel.Channel`. Each check is a coroutine function that takes the two ends
and asserts; it leaves closing to the caller, who may find them closed already. Every wait has a deadline.

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_contract(check): asyncio.run(...)
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable

from distmap.tasks._typing import Buffer
from distmap.transport.channel import Channel, ChannelClosed

Check = Callable[[Channel, Channel], Awaitable[None]]

FRAME = 256 << 10
DEADLINE = 10.0


async def moves_frames_in_order_both_ways(left: Channel, right: Channel) -> None:
    """Frames come out whole, in order, joined from the buffers they were given as."""
    for sender, receiver in ((left, right), (right, left)):
        for number in range(10):
            await sender.send([b"%d" % number, bytearray(b" of "), memoryview(b"ten")])
        async with asyncio.timeout(DEADLINE):
            for number in range(10):
                assert bytes(await receiver.recv()) == b"%d of ten" % number


async def moves_frames_of_any_size(left: Channel, right: Channel) -> None:
    """From one byte to the largest frame of a session; nothing is joined or cut."""
    for size in (1, 125, 126, 65_535, 65_536, FRAME):
        frame = bytes(range(256)) * (size // 256 + 1)
        await left.send([frame[:size]])
        async with asyncio.timeout(DEADLINE):
            assert bytes(await right.recv()) == frame[:size]


async def keeps_frames_of_concurrent_senders_whole(left: Channel, right: Channel) -> None:
    """Several tasks may send at once; each frame stays whole, and those of one task stay in order."""

    async def send(letter: bytes) -> None:
        for _ in range(20):
            await left.send([letter * 20_000])

    senders = [asyncio.create_task(send(letter)) for letter in (b"a", b"b", b"c")]
    seen = []
    async with asyncio.timeout(DEADLINE):
        for _ in range(60):
            frame = bytes(await right.recv())
            assert frame == frame[:1] * 20_000
            seen.append(frame[:1])
        await asyncio.gather(*senders)
    assert all(seen.count(letter) == 20 for letter in (b"a", b"b", b"c"))


async def a_cancelled_recv_loses_nothing(left: Channel, right: Channel) -> None:
    """Giving up waiting is free: the next recv gets the frame."""
    for number in range(5):
        waiting = asyncio.create_task(_recv(right))
        # One pass of the loop, so that it does wait.
        await asyncio.sleep(0)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        await left.send([b"%d" % number])
        async with asyncio.timeout(DEADLINE):
            assert bytes(await right.recv()) == b"%d" % number


async def send_waits_for_a_reader(left: Channel, right: Channel) -> None:
    """A sender is held back when nobody reads, and goes on when somebody does; nothing is lost."""
    sent: list[int] = []
    sender = asyncio.create_task(_send_frames(left, sent, 256))
    # Kernel buffers take a few MB; 64 MB would fit nowhere.
    await _until_still(lambda: len(sent))
    assert len(sent) < 256
    async with asyncio.timeout(DEADLINE):
        for _ in range(256):
            assert len(await right.recv()) == FRAME
        await sender


async def close_lets_frames_arrive_first(left: Channel, right: Channel) -> None:
    """What was sent before the end is given out, then both sides learn how it ended; closing again is fine."""
    for number in range(3):
        await left.send([b"%d" % number])
    closing = asyncio.create_task(left.close(4321, "enough"))
    async with asyncio.timeout(DEADLINE):
        for number in range(3):
            assert bytes(await right.recv()) == b"%d" % number
        closed = await _closed(_recv(right))
        assert (closed.code, closed.reason) == (4321, "enough")
        assert "enough" in str(closed)
        await closing
        await _closed(_recv(left))
        await left.close()
        await right.close()


async def nothing_can_be_sent_after_the_end(left: Channel, right: Channel) -> None:
    """Neither side can send or receive on a closed channel; both are told by ChannelClosed."""
    async with asyncio.timeout(DEADLINE):
        await asyncio.gather(left.close(), _closed(_recv(right)))
        for end in (left, right):
            await _closed(end.send([b"late"]))
            await _closed(_recv(end))
        await right.close()


async def abort_ends_both_sides(left: Channel, right: Channel) -> None:
    """Those who wait at either end are told at once; aborting again, or closing then, is fine."""
    waiting = [asyncio.create_task(_closed(_recv(end))) for end in (left, right)]
    await asyncio.sleep(0)
    left.abort()
    async with asyncio.timeout(DEADLINE):
        for task in waiting:
            closed = await task
            assert closed.code == 1006
            assert str(closed)
        left.abort()
        right.abort()
        await asyncio.gather(left.close(), right.close())


async def abort_frees_a_sender_that_waits(left: Channel, right: Channel) -> None:
    """A sender that is held back learns of the end."""
    sent: list[int] = []
    sender = asyncio.create_task(_closed(_send_frames(left, sent)))
    await _until_still(lambda: len(sent))
    right.abort()
    async with asyncio.timeout(DEADLINE):
        await sender


async def close_does_not_wait_for_a_mute_side(left: Channel, right: Channel) -> None:
    """Closing takes a bounded time, also when the other side reads nothing and the buffers are full."""
    sent: list[int] = []
    sender = asyncio.create_task(_closed(_send_frames(left, sent)))
    await _until_still(lambda: len(sent))
    async with asyncio.timeout(DEADLINE):
        await left.close()
        await sender


async def any_byte_is_life(left: Channel, right: Channel) -> None:
    """last_heard is the loop time at which something came in, whatever it was."""
    loop = asyncio.get_running_loop()
    for sender, receiver in ((left, right), (right, left)):
        before = loop.time()
        await sender.send([b"x"])
        async with asyncio.timeout(DEADLINE):
            await receiver.recv()
        assert before <= receiver.last_heard <= loop.time()


async def gives_frames_to_a_receiver(left: Channel, right: Channel) -> None:
    """From `start` on: those that are there already, then each as it comes, in order, and then the end."""
    await left.send([b"0"])
    receiver = Recorder()
    async with asyncio.timeout(DEADLINE):
        await left.send([b"1"])
        assert bytes(await right.recv()) == b"0"
        right.start(receiver)
        left.write([[b"2"], [b"", bytearray(b"3"), memoryview(b"!")]])
        left.write([[b"4" * FRAME, b"5"], [b"6"]])
        await receiver.until(lambda: len(receiver.frames) == 5)
        assert receiver.frames == [b"1", b"2", b"3!", b"4" * FRAME + b"5", b"6"]
        assert receiver.ended is None
        left.abort()
        await receiver.until(lambda: receiver.ended is not None)
    assert receiver.ends == 1


async def has_room_again_for_who_writes(left: Channel, right: Channel) -> None:
    """Who writes as long as there is room is called when there is room again, and no frame is lost."""
    reader, count = Recorder(), 0

    def write() -> None:
        nonlocal count
        while left.room and count < 256:
            left.write([[bytes(FRAME)]])
            count += 1

    writer = Recorder(write)
    left.start(writer)
    write()
    assert count < 256
    right.start(reader)
    async with asyncio.timeout(DEADLINE):
        await reader.until(lambda: len(reader.frames) == 256)


class Recorder:
    """A receiver that keeps copies of what it is given."""

    def __init__(self, on_pump: Callable[[], None] = lambda: None) -> None:
        self.frames: list[bytes] = []
        self.ended: ChannelClosed | None = None
        self.ends = 0
        self.pump = on_pump
        self._changed = asyncio.Event()

    def take(self, frame: Buffer) -> None:
        self.frames.append(bytes(frame))
        self._changed.set()

    def end(self, closed: ChannelClosed) -> None:
        self.ended = closed
        self.ends += 1
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()


CHECKS: tuple[Check, ...] = (
    moves_frames_in_order_both_ways,
    moves_frames_of_any_size,
    keeps_frames_of_concurrent_senders_whole,
    a_cancelled_recv_loses_nothing,
    send_waits_for_a_reader,
    close_lets_frames_arrive_first,
    nothing_can_be_sent_after_the_end,
    abort_ends_both_sides,
    abort_frees_a_sender_that_waits,
    close_does_not_wait_for_a_mute_side,
    any_byte_is_life,
    gives_frames_to_a_receiver,
    has_room_again_for_who_writes,
)


async def _recv(channel: Channel) -> bytes:
    return bytes(await channel.recv())


async def _send_frames(channel: Channel, sent: list[int], most: int = sys.maxsize) -> None:
    """Send large frames, at most so many; `sent` has the numbers of those that were taken."""
    for number in range(most):
        await channel.send([bytes(FRAME)])
        sent.append(number)


async def _closed(work: Awaitable[object]) -> ChannelClosed:
    """What the work raised: it must be ChannelClosed."""
    try:
        await work
    except ChannelClosed as closed:
        return closed
    raise AssertionError("the channel was expected to be closed")


async def _until_still(count: Callable[[], int]) -> None:
    """Wait until the count has grown and then stayed the same for 0.2 s."""
    last, still = -1, 0
    async with asyncio.timeout(DEADLINE):
        while still < 4 or last == 0:
            await asyncio.sleep(0.05)
            still = still + 1 if count() == last else 0
            last = count()
