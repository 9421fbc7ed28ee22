"""Conversations carry messages, notice silence, and end with one sentence."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from support.waiting import eventually

from distmap.core.limits import LIMITS, Limits
from distmap.tasks._typing import Buffer
from distmap.transport import conversation as module
from distmap.transport.channel import ChannelClosed, Connection
from distmap.transport.conversation import Conversation
from distmap.transport.dial import dial
from distmap.transport.listen import listen
from distmap.transport.memory import MemoryChannel, connect
from distmap.transport.token import Secret
from distmap.transport.url import WorkerURL, parse_url
from distmap.wire.messages import Beat, Bye, Draining, Message, Put, Report, Task

A, B = b"a" * 16, b"b" * 16
FAST = Limits(beat_every=0.04, suspect_after=0.15, reconnect_grace=0.4)
TASK = Task(0, 1, B, (), 0, 1, 0, 0.0)


class Side:
    """One end of a conversation, with what happened to it in queues."""

    def __init__(
        self, connection: Connection, limits: Limits = LIMITS, beat: Callable[[], Beat | None] = lambda: None
    ) -> None:
        self.came: asyncio.Queue[tuple[Message, list[Buffer]]] = asyncio.Queue()
        self.states: asyncio.Queue[str] = asyncio.Queue()
        self.closed: asyncio.Queue[str] = asyncio.Queue()
        self.conversation = Conversation(
            connection,
            on_message=self.take,
            on_liveness=self.states.put_nowait,
            on_closed=self.closed.put_nowait,
            beat=beat,
            limits=limits,
        )
        self.channel = connection.channel
        self.send = self.conversation.send
        self.conversation.start()

    def take(self, message: Message, parts: list[Buffer]) -> None:
        self.came.put_nowait((message, parts))

    async def message(self) -> Message:
        return (await self.came.get())[0]


def run(main: Callable[[], Awaitable[None]], deadline: float = 10.0) -> None:
    """Run it, and see that it leaves no task behind."""

    async def watched() -> None:
        async with asyncio.timeout(deadline):
            await main()
        # Tasks that were cancelled or whose channel ended need a pass of the loop or two to be over.
        for _ in range(3):
            await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left

    asyncio.run(watched())


def sides(limits: Limits = LIMITS, **options: Any) -> tuple[Side, Side, MemoryChannel, MemoryChannel]:
    """The pool's and the worker's side over a channel in memory."""
    pool, worker = connect({"name": "nb"}, {"name": "gpu1"})
    assert isinstance(pool.channel, MemoryChannel)
    assert isinstance(worker.channel, MemoryChannel)
    return Side(pool, limits), Side(worker, limits, **options), pool.channel, worker.channel


async def drain(connection: Connection) -> None:
    """Read until the end, which is raised."""
    while True:
        await connection.channel.recv()


# --- talking ---------------------------------------------------------------------------------------------------------


def test_messages_travel_both_ways() -> None:
    """With their parts, in memory that the receiver owns."""

    async def main() -> None:
        pool, worker, *_ = sides()
        pool.send(TASK, [b"head", bytearray(10)])
        worker.send(Draining())
        message, parts = await worker.came.get()
        assert (message, parts) == (TASK, [b"head", bytes(10)])
        parts[1][0] = 7  # type: ignore[index]
        assert await pool.message() == Draining()
        await pool.conversation.close("done")
        assert await worker.closed.get() == "pool left: done"
        await worker.conversation.close()

    run(main)


def test_over_tls() -> None:
    """The same over a real connection: large parts, many small ones, then a polite end."""

    async def main() -> None:
        token = Secret.generate()
        entered: asyncio.Queue[Side] = asyncio.Queue()

        async def enter(connection: Connection) -> None:
            entered.put_nowait(Side(connection))

        listening = await listen(
            WorkerURL("127.0.0.1", 0), token=token, role="worker", info=lambda theirs: {"slots": 1}, on_connection=enter
        )
        pool = Side(await dial(parse_url(listening.url), token=token, role="pool", info={}))
        worker = await entered.get()
        big = bytes(range(256)) * (20 << 12)
        pool.send(Put(A, "value"), [b"head", big])
        for slot in range(40):
            pool.send(TASK._replace(slot=slot), [b"%d" % slot])
        # The forty do not wait for the twenty megabytes, which they do not need.
        received = [await worker.came.get() for _ in range(41)]
        assert received[-1][0] == Put(A, "value")
        assert received[-1][1] == [b"head", big]
        assert {bytes(parts[0]) for _, parts in received[:-1]} == {b"%d" % slot for slot in range(40)}
        assert 0 < pool.conversation.rtt < 5
        await pool.conversation.flushed()
        await worker.conversation.close("no more")
        assert (await pool.closed.get()).endswith(" left: no more")
        assert await pool.message() == Bye("no more")
        await pool.conversation.close()
        await listening.close()

    run(main)


def test_what_is_sent_before_start_waits() -> None:
    """A conversation can be filled first and started then."""

    async def main() -> None:
        to_worker, to_pool = connect({}, {})
        worker = Side(to_pool)
        came: asyncio.Queue[Message] = asyncio.Queue()
        pool = Conversation(
            to_worker,
            on_message=lambda message, parts: came.put_nowait(message),
            on_liveness=lambda state: None,
            on_closed=lambda sentence: None,
            beat=lambda: None,
        )
        pool.send(Draining())
        assert worker.came.empty()
        pool.start()
        assert await worker.message() == Draining()
        await pool.close()
        await worker.conversation.close()

    run(main)


def test_a_conversation_that_never_started_closes() -> None:
    """Nothing was sent, nothing hangs."""

    async def main() -> None:
        to_worker, to_pool = connect({}, {})
        made = Conversation(
            to_worker,
            on_message=lambda message, parts: None,
            on_liveness=lambda state: None,
            on_closed=lambda sentence: None,
            beat=lambda: None,
        )
        await made.close()
        with pytest.raises(ChannelClosed):
            await to_pool.channel.recv()
        made.abort()

    run(main)


def test_a_full_window_flows_again() -> None:
    """Many times the window goes through, in both directions at once, to a side that never says anything else."""

    async def main() -> None:
        pool, worker, *_ = sides()
        part = bytes(8 << 20)
        for slot in range(10):
            for side in (pool, worker):
                side.send(Report(slot, 1, 0, 1, 0.0, True, ()), [part])
        for _ in range(10):
            await pool.message()
            await worker.message()
        await pool.conversation.flushed()
        await pool.conversation.close()
        await worker.conversation.close()

    run(main, 15)


def test_sent_memory_is_let_go_soon() -> None:
    """A part is not kept longer than the acknowledgement takes, also when the other side has nothing to say."""

    class Memory(bytearray):
        """A bytearray that can be watched."""

    async def main() -> None:
        pool, worker, *_ = sides()
        part = Memory(3 << 20)
        watch = weakref.ref(part)
        pool.send(Put(A, "value"), [part])
        del part
        began = time.monotonic()
        await pool.conversation.flushed()
        assert time.monotonic() - began < LIMITS.beat_every / 2
        gc.collect()
        assert watch() is None
        await pool.conversation.flushed()
        await pool.conversation.close()
        await worker.conversation.close()

    run(main)


def test_memory_of_large_parts_comes_from_numpy() -> None:
    """In a process that uses NumPy anyway, large parts land in its memory: writable and without zeros written first."""
    numpy = pytest.importorskip("numpy")

    async def main() -> None:
        pool, worker, *_ = sides()
        pool.send(Put(A, "value"), [b"head", bytes(1 << 20)])
        _, parts = await worker.came.get()
        assert isinstance(parts[0], bytearray)
        assert isinstance(parts[1], memoryview)
        assert isinstance(parts[1].obj, numpy.ndarray)
        assert numpy.frombuffer(parts[1]).flags.writeable
        await pool.conversation.close()
        await worker.conversation.close()

    run(main)


def test_without_numpy_memory_is_a_bytearray(monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy is never loaded for it."""
    monkeypatch.delitem(sys.modules, "numpy", raising=False)
    assert isinstance(module._allocate(1 << 20), bytearray)
    assert "numpy" not in sys.modules


# --- signs of life ---------------------------------------------------------------------------------------------------


def test_beats_are_sent_and_round_trips_measured() -> None:
    """What `beat` gives arrives; None sends a ping only; both measure the round trip."""

    async def main() -> None:
        pool, worker, *_ = sides(FAST, beat=lambda: Beat(0.5, 0.25, ((3, 4, 5.0),)))
        for _ in range(3):
            assert await pool.message() == Beat(0.5, 0.25, ((3, 4, 5.0),))
        assert worker.came.empty()
        await eventually(lambda: pool.conversation.rtt and worker.conversation.rtt)
        assert pool.states.empty()
        await pool.conversation.close()
        await worker.conversation.close()

    run(main)


def test_the_first_round_trip_is_the_handshakes() -> None:
    """Until something better is known."""

    async def main() -> None:
        to_worker, to_pool = connect({}, {})
        to_worker.rtt = 1.5
        pool = Side(to_worker)
        assert pool.conversation.rtt == 1.5
        await pool.conversation.close()
        await to_pool.channel.close()

    run(main)


def test_silence_is_suspect_then_lost() -> None:
    """Each is reported once; then the conversation has ended, on this side with the reason."""
    # A ticker that is later than `beat_every` counts the silence afresh; a loaded machine may well delay it by 0.04 s.
    limits = FAST._replace(beat_every=0.4, suspect_after=0.6, reconnect_grace=1.2)

    async def main() -> None:
        pool, worker, pool_end, _ = sides(limits)
        pool_end.stall()
        assert await pool.states.get() == "suspect"
        assert await pool.states.get() == "lost"
        assert await pool.closed.get() == "worker was silent for 1.2 s"
        assert pool.conversation.over
        assert await worker.closed.get() == "pool: the connection broke"
        assert pool.closed.empty()
        assert pool.states.empty()

    run(main)


def test_a_suspect_that_speaks_is_fine_again() -> None:
    """And what it said meanwhile arrives."""

    async def main() -> None:
        pool, worker, pool_end, _ = sides(FAST)
        pool_end.stall()
        worker.send(Draining())
        assert await pool.states.get() == "suspect"
        pool_end.resume()
        assert await pool.states.get() == "fine"
        assert await pool.message() == Draining()
        assert pool.closed.empty()
        await pool.conversation.close()
        await worker.conversation.close()

    run(main)


def test_a_starved_loop_blames_nobody() -> None:
    """When this side's own timers were late, the other is not lost, whatever the clock says."""

    async def main() -> None:
        pool, worker, *_ = sides(FAST)
        await asyncio.sleep(0.1)
        time.sleep(2 * FAST.reconnect_grace)
        await asyncio.sleep(0.1)
        assert pool.states.empty()
        assert pool.closed.empty()
        await pool.conversation.close()
        await worker.conversation.close()

    run(main)


def test_any_byte_is_life() -> None:
    """A frame that takes longer than the limit to arrive does not make its sender lost."""

    async def main() -> None:
        pool, worker, pool_end, _ = sides(FAST)
        pool_end.stall()
        end = asyncio.get_running_loop().time() + 2 * FAST.reconnect_grace
        while (now := asyncio.get_running_loop().time()) < end:
            # What a WebSocket does when a part of a frame comes in.
            pool_end.last_heard = now
            await asyncio.sleep(0.02)
        assert pool.states.empty()
        pool_end.resume()
        await pool.conversation.close()
        await worker.conversation.close()

    run(main)


# --- the end ---------------------------------------------------------------------------------------------------------


def test_close_sends_what_is_queued() -> None:
    """Everything sent before arrives, then Bye, then the end; our own close is not reported to us."""

    async def main() -> None:
        pool, worker, *_ = sides()
        pool.send(Put(A, "value"), [bytes(3 << 20)])
        pool.send(TASK._replace(code=A), [b"x"])
        await pool.conversation.close("enough")
        pool.send(Draining())
        assert [await worker.message() for _ in range(3)] == [Put(A, "value"), TASK._replace(code=A), Bye("enough")]
        assert await worker.closed.get() == "pool left: enough"
        await pool.conversation.close()
        await worker.conversation.close()
        assert pool.closed.empty()
        assert worker.closed.empty()

    run(main)


def test_leaving_without_a_reason() -> None:
    """The sentence is whole without one."""

    async def main() -> None:
        pool, worker, *_ = sides()
        await pool.conversation.close()
        assert await worker.closed.get() == "pool left"

    run(main)


def test_close_does_not_wait_for_a_mute_side() -> None:
    """What cannot be sent within the grace is given up."""

    async def main() -> None:
        to_worker, _ = connect({}, {})
        pool = Side(to_worker, LIMITS._replace(close_grace=0.1))
        pool.send(Put(A, "value"), [bytes(8 << 20)])
        await pool.conversation.close()
        assert pool.conversation.over

    run(main)


def test_abort_tells_the_other_side_only() -> None:
    """No Bye, no report to ourselves; whoever waits for acknowledgements goes on."""

    async def main() -> None:
        pool, worker, *_ = sides()
        pool.send(Put(A, "value"), [b"x"])
        waiting = asyncio.create_task(pool.conversation.flushed())
        await asyncio.sleep(0)
        pool.conversation.abort()
        await waiting
        await pool.conversation.flushed()
        assert await worker.closed.get() == "pool: the connection broke"
        assert pool.closed.empty()
        pool.conversation.abort()
        await pool.conversation.close()

    run(main)


def test_the_end_may_be_handled_by_closing() -> None:
    """Whoever is told of the end may close at once, from a task of its own."""

    async def main() -> None:
        pool, worker, *_ = sides()
        done: list[asyncio.Task[None]] = []
        worker.conversation._on_closed = lambda sentence: done.append(asyncio.create_task(worker.conversation.close()))
        await pool.conversation.close()
        await eventually(lambda: done)
        await done[0]

    run(main)


def test_nonsense_ends_the_conversation() -> None:
    """A side that breaks the protocol is told so, and left."""

    async def main() -> None:
        to_worker, to_pool = connect({}, {})
        pool = Side(to_worker)
        await to_pool.channel.send([b"GET / HTTP/1.1"])
        assert (await pool.closed.get()).startswith("worker broke the protocol: ")
        with pytest.raises(ChannelClosed) as caught:
            await drain(to_pool)
        assert caught.value.code == 4400

    run(main)


@pytest.mark.parametrize("where", ["on_message", "beat", "on_liveness"])
def test_a_failing_callback_ends_the_conversation(where: str, caplog: pytest.LogCaptureFixture) -> None:
    """A bug on this side is logged and told; it does not leave half a conversation running."""

    def fail(*arguments: object) -> Any:
        raise RuntimeError("boom")

    async def main() -> None:
        to_worker, to_pool = connect({}, {})
        closed: asyncio.Queue[str] = asyncio.Queue()
        callbacks: dict[str, Any] = {
            "on_message": lambda message, parts: None,
            "on_liveness": lambda state: None,
            "beat": lambda: None,
        }
        callbacks[where] = fail
        pool = Conversation(to_worker, on_closed=closed.put_nowait, limits=FAST, **callbacks)
        pool.start()
        worker = Side(to_pool)
        if where == "on_message":
            worker.send(Draining())
        if where == "on_liveness":
            assert isinstance(to_worker.channel, MemoryChannel)
            to_worker.channel.stall()
        sentence = await closed.get()
        assert "failed on this side" in sentence
        assert "boom" in sentence
        assert await worker.closed.get() == "pool: the connection broke"
        assert closed.empty()

    run(main)
    assert "boom" in caplog.text


def test_a_broken_connection_is_told_once_on_each_side() -> None:
    """Frames that came before are given out first."""

    async def main() -> None:
        pool, worker, pool_end, _ = sides()
        worker.send(Draining())
        assert await pool.message() == Draining()
        pool_end.abort()
        assert await pool.closed.get() == "worker: the connection broke"
        assert await worker.closed.get() == "pool: the connection broke"
        assert pool.closed.empty()
        pool.send(Draining())

    run(main)
