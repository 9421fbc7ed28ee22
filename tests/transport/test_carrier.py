"""A carrier moves frames until its channel ends, and says once how that was."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from support.waiting import eventually

from distmap.core.limits import LIMITS, Limits
from distmap.errors import ProtocolError
from distmap.transport.carrier import Carrier, Complete
from distmap.transport.channel import ChannelClosed
from distmap.transport.memory import MemoryChannel, pair
from distmap.wire.messages import Draining, Ready, Task
from distmap.wire.session import Session


class End:
    """One end of a channel with its session and carrier; what happened is in `seen`."""

    def __init__(self, channel: MemoryChannel, limits: Limits) -> None:
        self.session = Session(0.0, limits=limits)
        self.seen: asyncio.Queue[object] = asyncio.Queue()
        self.carrier = Carrier(
            channel, self.session, on_frame=self._take, on_end=self.seen.put_nowait, limits=limits
        )  # fmt: skip

    def _take(self, complete: Sequence[Complete]) -> None:
        for message, _ in complete:
            self.seen.put_nowait(message)


def ends(limits: Limits = LIMITS) -> tuple[End, End, MemoryChannel]:
    left, right = pair()
    return End(left, limits), End(right, limits), left


def test_messages_and_acknowledgements_move() -> None:
    """What a session has to say is carried once `start` was called, and acknowledged without another message."""

    async def main() -> None:
        left, right, _ = ends()
        left.session.send(Draining())
        left.carrier.pump()
        right.carrier.start()
        left.carrier.start()
        assert await right.seen.get() == Draining()
        await eventually(lambda: left.session.settled)
        for end in (left, right):
            end.carrier.stop()

    asyncio.run(main())


def test_an_answer_that_brings_credit_back_is_acknowledged() -> None:
    """Also where the credit was all that was waited for, and nothing is left to be sent with it."""

    async def main() -> None:
        left, right, _ = ends(Limits(frame_bytes=512, credit_bytes=1000))
        task = Task(0, 1, b"c" * 16, (), 0, 1, 0, 0.0)
        left.session.send(task, [bytes(1200)])
        right.carrier.start()
        left.carrier.start()
        assert await right.seen.get() == task
        right.session.send(Ready(0))
        right.carrier.pump()
        assert await left.seen.get() == Ready(0)
        await eventually(lambda: right.session.settled)
        for end in (left, right):
            end.carrier.stop()

    asyncio.run(main())


def test_the_end_of_a_channel_is_told_once() -> None:
    """After what came before it; and a frame that makes no sense is an end, too."""

    async def main() -> None:
        left, right, channel = ends()
        left.carrier.start()
        right.carrier.start()
        right.session.send(Ready(0))
        right.carrier.pump()
        assert await left.seen.get() == Ready(0)
        await channel.send([b"nonsense"])
        assert isinstance(await right.seen.get(), ProtocolError)
        assert isinstance(await left.seen.get(), ChannelClosed)
        assert left.carrier.gone.is_set()
        assert left.seen.empty()
        for end in (left, right):
            await end.carrier.close(1000, "")

    asyncio.run(main())


def test_a_carrier_that_was_stopped_takes_and_tells_nothing() -> None:
    """Neither what is still on the way nor the end of its channel: the session goes on over another one."""

    async def main() -> None:
        left, right, channel = ends()
        left.carrier.start()
        right.carrier.start()
        channel.stall()
        right.session.send(Ready(0))
        right.carrier.pump()
        left.session.detached()
        left.carrier.stop()
        assert isinstance(await right.seen.get(), ChannelClosed)
        left.carrier.pump()
        await left.carrier.close(1000, "")
        assert left.seen.empty()
        assert left.session.received == 0
        right.carrier.stop()

    asyncio.run(main())
