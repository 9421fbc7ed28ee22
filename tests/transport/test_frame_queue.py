"""Frames that came in are given out once, in order, and then the end."""

from __future__ import annotations

import asyncio

import pytest

from distmap.testing.channels import Recorder
from distmap.transport.channel import ChannelClosed
from distmap.transport.frame_queue import FrameQueue


def test_frames_wait_for_who_comes() -> None:
    """As bytes of their own, since the memory that they came in is used again; text stays text; then the end."""

    async def main() -> None:
        queue = FrameQueue(lambda: None, lambda: None, 16)
        memory = bytearray(b"one")
        queue.put(memoryview(memory))
        memory[:] = b"two"
        queue.put("text")
        queue.end(ChannelClosed(4321, "enough"))
        assert [await queue.get(), await queue.get()] == [b"one", "text"]
        for _ in range(2):
            with pytest.raises(ChannelClosed, match="enough"):
                await queue.get()

    asyncio.run(main())


def test_a_waiter_that_gave_up_loses_nothing() -> None:
    """The next one gets the frame; also if both happened in the same pass of the loop."""

    async def main() -> None:
        queue = FrameQueue(lambda: None, lambda: None, 16)
        for number in (b"1", b"2"):
            waiting = asyncio.ensure_future(queue.get())
            await asyncio.sleep(0)
            if number == b"2":
                queue.put(number)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            if number == b"1":
                queue.put(number)
            assert await queue.get() == number

    asyncio.run(main())


def test_what_comes_is_held_back_while_too_much_waits() -> None:
    """Reading pauses above the limit, once, and goes on when all has been taken, by whomever."""

    async def main() -> None:
        said: list[str] = []
        queue = FrameQueue(lambda: said.append("pause"), lambda: said.append("resume"), 2)
        for _ in range(2):
            for number in range(5):
                queue.put(b"%d" % number)
            assert said == ["pause"]
            if not queue.receiver:
                for _ in range(5):
                    await queue.get()
                assert said == ["pause", "resume"]
                said.clear()
                for number in range(3):
                    queue.put(b"%d" % number)
                queue.hand_to(receiver := Recorder())
                assert receiver.frames == [b"0", b"1", b"2"]
                assert said == ["pause", "resume"]
                said[:] = ["pause"]

    asyncio.run(main())


def test_a_receiver_hears_of_each_read_and_of_the_end() -> None:
    """It is called with each frame, at the end of a read, and once when nothing comes any more."""

    async def main() -> None:
        pumps: list[int] = []
        receiver = Recorder(lambda: pumps.append(len(receiver.frames)))
        queue = FrameQueue(lambda: None, lambda: None, 16)
        queue.flush()
        queue.hand_to(receiver)
        queue.put(b"1")
        queue.put("2")
        queue.flush()
        assert (receiver.frames, pumps) == ([b"1", b"2"], [2])
        queue.end(ChannelClosed(1006))
        assert receiver.ends == 1
        late = Recorder()
        queue.hand_to(late)
        assert late.ends == 1

    asyncio.run(main())
