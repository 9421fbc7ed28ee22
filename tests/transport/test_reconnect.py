"""A conversation whose side dialled gets new connections: when, which of them wins, and when it is given up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
from support.waiting import eventually

from distmap.core.limits import Limits
from distmap.errors import ConnectError
from distmap.transport.channel import ChannelClosed, Connection
from distmap.transport.conversation import Conversation
from distmap.transport.memory import connect
from distmap.transport.reconnect import keep
from distmap.transport.room import Room, parse_relay
from distmap.transport.token import Secret
from distmap.wire.messages import Message, Ready

QUICK = Limits(beat_every=0.1, suspect_after=1.0, doubt_after=0.3, refused_after=0.3, redial_join=0.05)
POOL: dict[str, object] = {"name": "nb"}


class Side:
    """One end of a conversation, and what it was told."""

    def __init__(self, connection: Connection, limits: Limits) -> None:
        self.came: list[Message] = []
        self.channels: list[str | None] = []
        self.closed: list[str] = []
        self.channel: Any = connection.channel
        self.conversation = Conversation(
            connection,
            on_message=lambda message, parts: self.came.append(message),
            on_liveness=lambda state: None,
            on_closed=self.closed.append,
            on_channel=self.channels.append,
            beat=lambda: None,
            limits=limits,
        )
        self.conversation.start()

    def say(self, *slots: int) -> None:
        for slot in slots:
            self.conversation.send(Ready(slot))


class Pair:
    """A pool that dials and a worker that answers its dials, over channels in memory."""

    def __init__(self, limits: Limits = QUICK, room: Room | None = None) -> None:
        to_worker, to_pool = connect(POOL, {"name": "gpu1"})
        self.pool, self.worker = Side(to_worker, limits), Side(to_pool, limits)
        self.limits = limits
        #: What a dial raises; while it may pass; whether the worker still holds the session; dials so far.
        self.error: Exception | None = None
        self.passes = asyncio.Event()
        self.passes.set()
        self.holds = True
        self.dials = 0
        keeping = keep(self.pool.conversation, self._dial, lambda: POOL, room=room, limits=limits)
        self.keeping = asyncio.ensure_future(keeping)

    async def _dial(self, info: Callable[[], Mapping[str, object]]) -> Connection:
        self.dials += 1
        if self.error is not None:
            raise self.error
        await self.passes.wait()
        theirs, held = info(), self.worker.conversation
        to_worker, to_pool = connect(theirs, {"name": "gpu1"})
        if self.holds and theirs["resume"] == held.id:
            held.detach("the pool dialled again")
            to_worker.peer_info = {"name": "gpu1", "resume": held.id, "received": held.received}
            held.attach(to_pool, theirs["received"])
        return to_worker

    def cut(self) -> None:
        """Break the connection that is there."""
        self.pool.conversation.connection.channel.abort()

    async def end(self) -> None:
        await self.pool.conversation.close()
        await self.worker.conversation.close()
        assert await self.keeping is None


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def watched() -> None:
        async with asyncio.timeout(15):
            await main()
        for _ in range(3):
            await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left

    asyncio.run(watched())


def test_what_was_said_around_an_outage_arrives_once_and_in_order() -> None:
    """Whether it was on its way when the connection broke, or was said while there was none."""

    async def main() -> None:
        both = Pair()
        for number in range(3):
            both.passes.clear()
            both.pool.say(3 * number)
            both.worker.say(3 * number)
            await eventually(lambda number=number: len(both.pool.came) == 3 * number + 1)
            both.pool.channel = both.pool.conversation.connection.channel
            both.pool.channel.stall()
            both.pool.say(3 * number + 1)
            both.worker.say(3 * number + 1)
            await asyncio.sleep(0)
            both.cut()
            both.pool.say(3 * number + 2)
            both.worker.say(3 * number + 2)
            await eventually(lambda: not both.pool.conversation.attached and not both.worker.conversation.attached)
            assert len(both.pool.came) == 3 * number + 1
            both.passes.set()
            await eventually(lambda number=number: len(both.pool.came) == len(both.worker.came) == 3 * number + 3)
        expected = [Ready(slot) for slot in range(9)]
        assert both.pool.came == both.worker.came == expected
        assert [sentence is None for sentence in both.pool.channels] == [False, True] * 3
        assert both.pool.closed == both.worker.closed == []
        await both.end()

    run(main)


def test_a_silent_connection_is_replaced_by_one_that_works() -> None:
    """No side was told that the old one is dead."""

    async def main() -> None:
        both = Pair()
        both.pool.channel.stall()
        both.worker.say(1, 2)
        await eventually(lambda: both.pool.came == [Ready(1), Ready(2)])
        assert both.pool.channels == ["the connection was silent", None]
        await both.end()

    run(main)


def test_a_connection_that_is_dead_in_our_direction_alone_is_replaced() -> None:
    """The other side is heard all the time, but acknowledges nothing; what was sent arrives over the new one, once."""

    async def main() -> None:
        both = Pair(QUICK._replace(stuck_after=0.5))
        both.worker.channel.stall()
        both.pool.say(1, 2)
        await eventually(lambda: both.worker.came == [Ready(1), Ready(2)])
        assert both.pool.channels[-1] is None
        await both.end()

    run(main)


def test_an_old_connection_that_speaks_again_is_kept() -> None:
    """What dials it made its side begin are given up, and never become connections of the session."""

    async def main() -> None:
        both = Pair()
        both.passes.clear()
        both.pool.channel.stall()
        both.worker.say(1)
        await eventually(lambda: both.dials >= QUICK.redial_dials)
        both.pool.channel.resume()
        await eventually(lambda: both.pool.came == [Ready(1)])
        await eventually(lambda: not both.pool.conversation.troubled.is_set())
        both.passes.set()
        both.worker.say(2)
        await eventually(lambda: both.pool.came == [Ready(1), Ready(2)])
        assert both.pool.channels == both.worker.channels == []
        assert both.dials == QUICK.redial_dials
        await both.end()

    run(main)


@pytest.mark.parametrize(("underway", "dials"), [(True, 1), (False, 2)])
def test_a_relay_is_not_dialled_by_many_at_once(underway: bool, dials: int) -> None:
    """A dial that has reached the relay is not joined by others, and one that has not by one more only."""

    class Link:
        """Stands for a connection on its way."""

    async def main() -> None:
        room, link = Room(Secret(b"t" * 32), parse_relay("wss://relay.example"), "worker"), Link()
        if underway:
            room.underway.add(link)  # type: ignore[arg-type]
        both = Pair(room=room)
        both.passes.clear()
        both.cut()
        await eventually(lambda: both.dials == dials)
        began = asyncio.get_running_loop().time()
        await eventually(lambda: asyncio.get_running_loop().time() > began + 5 * QUICK.redial_join)
        assert both.dials == dials
        both.passes.set()
        await eventually(lambda: both.pool.conversation.attached)
        await both.end()

    run(main)


def test_another_incarnation_ends_the_session_at_once() -> None:
    """The connection to it is handed over, for a session of its own."""

    async def main() -> None:
        both = Pair(QUICK._replace(reconnect_grace=600.0))
        both.holds = False
        both.cut()
        fresh = await both.keeping
        assert fresh is not None
        assert fresh.peer_info == {"name": "gpu1"}
        assert "has begun anew" in both.pool.closed[0]
        fresh.channel.abort()
        both.worker.conversation.abort()

    run(main)


@pytest.mark.parametrize("refused", [True, False])
def test_where_nothing_listens_the_session_is_soon_lost(refused: bool) -> None:
    """A host that says so is believed; any other error may be the network's, and is waited out."""

    async def main() -> None:
        both = Pair(QUICK._replace(reconnect_grace=600.0 if refused else 1.5, pool_silence=600.0))
        both.error = ConnectError("no way")
        both.error.refused = refused
        both.cut()
        assert await both.keeping is None
        assert both.dials > 2
        says = "nothing has listened there for 0.3 s" if refused else "was silent for 1.5 s"
        assert says in both.pool.closed[0]
        both.worker.conversation.abort()

    run(main)


def test_a_bug_while_dialling_is_logged_and_dialled_again(caplog: pytest.LogCaptureFixture) -> None:
    """The session goes on when the next dial works."""

    async def main() -> None:
        both = Pair()
        both.error = ZeroDivisionError("of ours")
        both.cut()
        await eventually(lambda: both.dials > 1)
        both.error = None
        await eventually(lambda: both.pool.channels[-1] is None)
        await both.end()

    run(main)
    assert "of ours" in caplog.text


def test_a_connection_that_comes_after_the_end_is_broken() -> None:
    """A side that was closed while it dialled leaves no connection, and no reader of one, behind."""

    async def main() -> None:
        both = Pair()
        both.cut()
        both.passes.clear()
        await eventually(lambda: both.dials)
        await both.pool.conversation.close()
        late, other = connect({}, {})
        both.pool.conversation.attach(late, 0)
        with pytest.raises(ChannelClosed):
            await asyncio.wait_for(other.channel.recv(), 5)
        assert await both.keeping is None
        both.worker.conversation.abort()
        assert [sentence is None for sentence in both.pool.channels] == [False]

    run(main)


def test_an_answer_that_makes_no_sense_ends_the_session() -> None:
    """More was received than was ever sent, or nothing is said about it."""

    async def main() -> None:
        for received in (10**6, None):
            both = Pair()
            both.pool.conversation.attach(connect({}, {})[0], received)
            assert "cannot go on with the session" in both.pool.closed[0]
            assert await both.keeping is None
            both.worker.conversation.abort()

    run(main)
