"""Tests of distmap/worker/serving.py: a session in this process, its pool at the other end of a memory channel."""

from __future__ import annotations

import asyncio
import logging
import operator
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psutil
import pytest
from support.waiting import eventually

from distmap.core.limits import Limits
from distmap.tasks.code import dump_code
from distmap.tasks.items import dump_items, load_results
from distmap.transport.conversation import Conversation
from distmap.transport.memory import connect
from distmap.wire.messages import (
    Beat,
    Bye,
    Died,
    Drop,
    Interrupt,
    Kill,
    Message,
    Output,
    Put,
    Ready,
    Report,
    Revoke,
    Task,
)
from distmap.worker.load import Load
from distmap.worker.serving import PoolSession

DEADLINE = 15.0
IDLE = -1


class PoolEnd:
    """The pool's end: sends messages, keeps what it receives."""

    def __init__(self, session: PoolSession) -> None:
        self.session = session
        self.received: list[tuple[Message, list[Any]]] = []
        self._changed = asyncio.Event()
        to_worker, self.to_pool = connect({"name": "me"}, {"name": "w"})
        self.conversation = Conversation(
            to_worker,
            on_message=self._on_message,
            on_liveness=lambda state: None,
            on_closed=lambda reason: self._changed.set(),
            on_channel=lambda broken: self._changed.set(),
            beat=lambda: None,
        )

    def begin(self) -> None:
        self.session.begin(self.to_pool, "me")
        self.conversation.start()

    def cut(self) -> None:
        """Break the connection."""
        self.conversation.connection.channel.abort()

    def come_back(self) -> None:
        """Go on over a new connection, as a pool does that dials again."""
        self.conversation.detach("a test")
        theirs, ours = self.session.offer(), self.conversation
        to_worker, to_pool = connect({"name": "me"}, {"name": "w", **theirs})
        self.session.conversation.attach(to_pool, ours.received)
        ours.attach(to_worker, theirs["received"])

    def _on_message(self, message: Message, parts: list[Any]) -> None:
        self.received.append((message, parts))
        self._changed.set()

    def give(self, fn: Callable[..., Any], items: Sequence[Any], attempt: int = 1, slot: int = 0) -> bytes:
        code = dump_code(fn)
        payload, _ = dump_items(items)
        self.conversation.send(Put(code.digest, "code"), code.payload.parts)
        self.conversation.send(Task(slot, attempt, code.digest, (), 0, len(items), 0, 0.0), payload.parts)
        return code.digest

    async def until(self, happened: Callable[[], Any]) -> Any:
        async with asyncio.timeout(DEADLINE):
            while not (answer := happened()):
                self._changed.clear()
                await self._changed.wait()
            return answer

    def count(self, kind: type) -> int:
        return sum(isinstance(message, kind) for message, _ in self.received)

    async def ended(self, attempt: int = 1) -> list[Any]:
        await self.until(
            lambda: any(isinstance(m, Report) and m.attempt == attempt and m.ended for m, _ in self.received)
        )
        values: list[Any] = []
        for message, parts in self.received:
            if isinstance(message, Report) and message.attempt == attempt and message.hi > message.lo:
                values += load_results(parts, message.lo, message.hi, message.failed)
        return values


FAST = Limits(beat_every=0.2)


@asynccontextmanager
async def serving(slots: int = 1, limits: Limits = FAST) -> AsyncIterator[PoolEnd]:
    session = PoolSession(slots, Load(), name="w", limits=limits)
    pool = PoolEnd(session)
    try:
        yield pool
    finally:
        await pool.conversation.close()
        await session.leave("done")


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(main())


def test_results_that_no_message_holds_are_errors_of_their_items() -> None:
    """They are not lost in silence: the pool would wait for ever. What comes after them arrives."""

    async def main() -> None:
        async with serving(limits=FAST._replace(message_bytes=1 << 19)) as pool:
            pool.begin()
            pool.give(bytes, [1 << 20], attempt=1)
            (failure,) = await pool.ended(1)
            assert failure.type == "distmap.errors.PayloadError"
            assert "too large to be sent" in failure.message
            pool.give(bytes, [3], attempt=2)
            assert await pool.ended(2) == [bytes(3)]

    run(main)


def task_pids() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


def test_tasks_go_in_and_reports_come_out(caplog: pytest.LogCaptureFixture) -> None:
    """A task's results come back; the log has the job's beginning and, when it is dropped, its tally."""

    async def main() -> None:
        async with serving() as pool:
            pool.begin()
            assert pool.session.idle.is_set()
            digest = pool.give(operator.neg, [1, 2, 3])
            assert await pool.ended() == [-1, -2, -3]
            pool.conversation.send(Drop(digest))
            await pool.conversation.flushed()
            assert pool.session.idle.is_set()

    with caplog.at_level(logging.INFO, "distmap.worker"):
        run(main)
    assert "function received" in caplog.text
    assert "over: 3 items in 1 task, 0 failed, 0 task process deaths" in caplog.text


def test_the_log_names_the_function(caplog: pytest.LogCaptureFixture) -> None:
    """As the pool calls it, but nothing of it can steer the terminal of whoever reads the log."""

    async def main() -> None:
        async with serving() as pool:
            pool.begin()
            pool.conversation.send(Put(b"d" * 16, "code", "score\n\x1b[2J"), [b""])
            pool.conversation.send(Drop(b"d" * 16))
            digest = pool.give(operator.neg, [1, 2, 3])
            assert await pool.ended() == [-1, -2, -3]
            pool.conversation.send(Drop(digest))
            await pool.conversation.flushed()

    with caplog.at_level(logging.INFO, "distmap.worker"):
        run(main)
    assert "job 64646464 score??[2J: function received" in caplog.text


def test_failures_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    """Items that raise are results for the pool, and counted for the log."""

    async def main() -> None:
        async with serving() as pool:
            pool.begin()
            pool.give(operator.inv, [1, "a"])
            assert len(await pool.ended()) == 2

    with caplog.at_level(logging.INFO, "distmap.worker"):
        run(main)
    assert "2 items in 1 task, 1 failed" in caplog.text


def test_a_waiting_task_is_taken_back_and_a_running_one_interrupted() -> None:
    """Revoke and Interrupt reach the slot; those of an attempt that has ended do nothing."""

    async def main() -> None:
        async with serving() as pool:
            pool.begin()
            pool.give(time.sleep, [60.0], attempt=1)
            pool.give(operator.neg, [1], attempt=2)
            pool.conversation.send(Revoke(0, 2, 0))
            pool.conversation.send(Interrupt(0, 1))
            assert await pool.ended(1) == []
            assert await pool.ended(2) == []
            pool.conversation.send(Revoke(0, 2, 0))
            pool.conversation.send(Interrupt(0, 1))
            pool.give(operator.neg, [5], attempt=3)
            assert await pool.ended(3) == [-5]

    run(main)


def test_a_killed_slot_is_told_dead_and_ready() -> None:
    """Kill ends the task process; the pool hears of the death, then of the fresh process."""

    async def main() -> None:
        async with serving() as pool:
            pool.begin()
            pool.give(time.sleep, [60.0])
            pool.conversation.send(Kill(0))
            await pool.until(lambda: pool.count(Ready))
            kinds = [type(message) for message, _ in pool.received if isinstance(message, Died | Ready)]
            assert kinds == [Died, Ready]
            assert pool.session.idle.is_set()

    run(main)


def test_what_was_sent_before_the_death_was_known_does_not_run() -> None:
    """A task that arrives at a slot whose process has just died is void and is dropped."""

    async def main() -> None:
        async with serving() as pool:
            pool.begin()
            pool.session.died(Died(0, -1, -1, "idle", "made up"))
            pool.give(operator.neg, [1], attempt=7)
            pool.give(operator.neg, [2], attempt=8)
            await pool.conversation.flushed()
            assert pool.session.idle.is_set()
            pool.session.ready(Ready(0))
            pool.give(operator.neg, [3], attempt=9)
            assert await pool.ended(9) == [-3]
            assert pool.count(Report) == 1

    run(main)


def test_a_pool_that_comes_is_told_which_slots_are_dead() -> None:
    """A slot that died before the pool came is told as dead; the first readiness of a slot is no news."""

    async def main() -> None:
        async with serving(2) as pool:
            pool.session.ready(Ready(0))
            pool.session.died(Died(1, 5, 3, "died", "made up"))
            pool.begin()
            pool.session.ready(Ready(1))
            await pool.until(lambda: pool.count(Ready))
            told = [message for message, _ in pool.received if isinstance(message, Died | Ready)]
            assert told == [Died(1, IDLE, IDLE, "idle", "made up"), Ready(1)]

    run(main)


def test_a_dead_task_process_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A task that ends its process is in the log with how it ended."""

    async def main() -> None:
        async with serving() as pool:
            pool.begin()
            pool.give(os._exit, [3])
            await pool.until(lambda: pool.count(Ready))

    with caplog.at_level(logging.INFO, "distmap.worker"):
        run(main)
    assert "task process died" in caplog.text
    assert "1 task process death," in caplog.text


@pytest.mark.parametrize("wrong", [Kill(5), Revoke(9, 1, 0), Ready(0)])
def test_nonsense_ends_the_stay(wrong: Message) -> None:
    """A slot that is not there, or a message that no pool sends, ends the session and not the worker."""

    async def main() -> None:
        async with serving() as pool:
            pool.begin()
            pool.conversation.send(wrong)
            async with asyncio.timeout(DEADLINE):
                await pool.session.over.wait()
            assert "lost" in pool.session.reason

    run(main)


def test_goodbye_ends_the_stay_and_leaving_ends_its_processes() -> None:
    """The pool's Bye ends the session; leaving ends every task process, and may be done twice."""

    async def main() -> None:
        before = task_pids()
        async with serving(2) as pool:
            pool.begin()
            pool.give(time.sleep, [60.0])
            pool.conversation.send(Bye("enough"))
            async with asyncio.timeout(DEADLINE):
                await pool.session.over.wait()
            assert "enough" in pool.session.reason
            assert len(task_pids() - before) == 2
            await pool.session.leave("done")
            await pool.session.leave("done")
            assert "enough" in pool.session.reason
            assert task_pids() == before

    run(main)


def test_a_stay_without_a_pool_can_be_left() -> None:
    """A session that no pool came to has nothing to flush or to send."""

    async def main() -> None:
        before = task_pids()
        async with serving() as pool:
            await pool.session.flushed()
            pool.session.drain()
        assert task_pids() == before

    run(main)


def test_beats_carry_the_load_and_each_slot() -> None:
    """A heartbeat has the host's load and, for each slot, what it runs and for how long."""

    async def main() -> None:
        async with serving(2) as pool:
            pool.begin()
            pool.give(time.sleep, [0.0, 60.0], attempt=4, slot=1)
            # The first ones may come before the second item has begun.
            beat = await pool.until(
                lambda: next((m for m, _ in pool.received if type(m) is Beat and m.slots[1][1] == 1), None)
            )
            assert 0 <= beat.cpu <= 1
            assert 0 < beat.memory <= 1
            assert beat.slots[0][0] == IDLE
            assert beat.slots[1][:2] == (4, 1)
            assert beat.states == ""  # nothing runs for long yet

    run(main)


def test_what_tasks_print_goes_to_the_pool_before_their_report() -> None:
    """Output keeps its place among the reports of its slot."""

    async def main() -> None:
        async with serving() as pool:
            pool.begin()
            pool.give(print, ["one", "two"])
            await pool.ended()
            kinds = [type(message) for message, _ in pool.received if isinstance(message, Output | Report)]
            assert kinds[0] is Output
            assert kinds[-1] is Report
            texts = [bytes(parts[0]) for message, parts in pool.received if isinstance(message, Output) and parts]
            assert b"".join(texts) == b"one\ntwo\n"

    run(main)


def test_output_does_not_pile_up_before_a_slow_connection() -> None:
    """While much of it waits to be written its text is dropped, its lines are counted, and reports go on."""

    async def main() -> None:
        async with serving() as pool:
            # Not begun at the pool's end: nothing is acknowledged, so the worker's window fills up.
            pool.session.begin(pool.to_pool, "me")
            session, text = pool.session, b"x" * 99_999 + b"\n"
            for _ in range(1000):
                session.printed(Output(0, 1, 2, ((0, 0, len(text)),)), [text])
            assert session._conversation is not None
            assert session._conversation.printed < 1_000_000
            session.reported(Report(0, 1, 0, 1, 0.0, True, ()), [b"result"])
            pool.conversation.start()
            await pool.until(lambda: pool.count(Report) == 1)
            outputs = [(message, parts) for message, parts in pool.received if isinstance(message, Output)]
            assert len(outputs) == 1000
            kept = sum(1 for _, parts in outputs if parts)
            assert 0 < kept < 1000
            assert sum(message.dropped for message, _ in outputs) == 2 * 1000 + (1000 - kept)
            assert all(message.spells(sum(map(len, parts))) for message, parts in outputs)

    run(main)


def test_work_goes_on_while_the_pool_is_out_of_reach(caplog: pytest.LogCaptureFixture) -> None:
    """What was given is run, once, its results are kept and come when the pool is back; the log says both."""

    async def main() -> None:
        async with serving() as pool:
            pool.begin()
            pool.give(operator.neg, [0], attempt=1)
            assert await pool.ended(1) == [0]
            pool.give(operator.neg, [1, 2, 3], attempt=2)
            pool.give(operator.neg, [4], attempt=3)
            await pool.conversation.flushed()
            pool.cut()
            await pool.until(lambda: not pool.session.connected)
            await eventually(pool.session.idle.is_set)
            pool.come_back()
            assert await pool.ended(2) == [-1, -2, -3]
            assert await pool.ended(3) == [-4]
            pool.give(operator.neg, [5], attempt=4)
            assert await pool.ended(4) == [-5]

    with caplog.at_level(logging.INFO, "distmap.worker"):
        run(main)
    assert "pool me is out of reach (pool: the connection broke); its tasks go on" in caplog.text
    assert re.search(r"pool me is back after 0\.\d s; \d kept results? sent", caplog.text)


def test_a_pool_that_stays_away_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    """After `orphan_after` without a connection, not after so much silence: a pool may hold the GIL for long."""

    async def main() -> None:
        limits = FAST._replace(beat_every=0.1, suspect_after=0.2, reconnect_grace=0.3, orphan_after=0.3)
        async with serving(limits=limits) as pool:
            pool.begin()
            pool.give(time.sleep, [60.0])
            await pool.conversation.flushed()
            pool.to_pool.channel.stall()  # type: ignore[attr-defined]
            await eventually(lambda: "has been silent" in caplog.text)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(pool.session.over.wait(), 0.5)
            pool.cut()
            async with asyncio.timeout(DEADLINE):
                await pool.session.over.wait()
            assert pool.session.reason == "out of reach for 0.3 s"

    with caplog.at_level(logging.INFO, "distmap.worker"):
        run(main)


def test_a_pool_that_is_out_of_reach_and_has_nothing_here_is_not_waited_for() -> None:
    """A worker that wants to leave has no results for it, and need not tell it."""

    async def main() -> None:
        async with serving() as pool:
            pool.begin()
            await pool.session.flushed()
            pool.cut()
            await pool.until(lambda: not pool.session.connected)
            pool.session.drain()
            await asyncio.wait_for(pool.session.flushed(), 5)

    run(main)


def test_a_connection_that_breaks_after_the_end_is_waited_for_no_more(caplog: pytest.LogCaptureFixture) -> None:
    """No timer holds on to the session, and the log says nothing of results that would be kept."""

    async def main() -> None:
        async with serving() as pool:
            pool.begin()
            pool.session.end("another pool came meanwhile")
            pool.cut()
            await eventually(lambda: not pool.session.conversation.attached)
            assert pool.session._orphan_timer is None

    with caplog.at_level(logging.INFO, "distmap.worker"):
        run(main)
    assert "out of reach" not in caplog.text


@pytest.mark.parametrize("spool_bytes", [1 << 30, 0], ids=["to files", "the slots wait"])
def test_results_that_no_pool_takes_do_not_fill_the_memory(spool_bytes: int, caplog: pytest.LogCaptureFixture) -> None:
    """They go to files, and where there is no room the slots wait; none is lost, and nothing is left."""

    def large_soon(item: int) -> bytes:  # in here, so that it travels by value
        time.sleep(0.06)  # longer than reports are apart
        return bytes([item]) * 300_000

    async def main() -> None:
        limits = FAST._replace(kept_bytes=1 << 20, spool_bytes=spool_bytes, spool_file_bytes=1 << 20)
        before = task_pids()
        async with serving(limits=limits) as pool:
            pool.begin()
            # A result each 0.1 s, so that each is reported by itself.
            pool.give(large_soon, list(range(20)))
            await pool.conversation.flushed()
            pool.cut()
            said = "further ones go to files" if spool_bytes else "task processes wait until"
            await eventually(lambda: said in caplog.text)
            assert not pool.session.idle.is_set()
            if not spool_bytes:
                # The line is written first, and a process stops when it is its turn to run.
                ours = task_pids() - before
                await eventually(lambda: {psutil.Process(pid).status() for pid in ours} == {psutil.STATUS_STOPPED})
            if spool_bytes:
                await eventually(pool.session.idle.is_set)
                assert pool.session._backlog.spool.nbytes > 3 << 20
            pool.come_back()
            values = await pool.ended()
            assert [value[:1] for value in values] == [bytes([item]) for item in range(20)]
            assert {len(value) for value in values} == {300_000}
            await eventually(lambda: pool.session.conversation.waiting_bytes == 0)
            pool.give(operator.neg, [1], attempt=2)
            assert await pool.ended(2) == [-1]
            assert pool.session._backlog.spool.nbytes == 0
        assert spool_bytes or "task processes go on" in caplog.text

    with caplog.at_level(logging.INFO, "distmap.worker"):
        run(main)


@pytest.mark.parametrize(("silent", "patience"), [(0, 120), (35, 85), (110, 30)])
def test_silence_before_a_break_counts(silent: float, patience: int, caplog: pytest.LogCaptureFixture) -> None:
    """A host that has vanished is waited for 120 s in all; a kernel that was busy has 30 s to come back in any case."""
    caplog.set_level(logging.WARNING)

    async def main() -> None:
        async with serving() as pool:
            pool.begin()
            await pool.until(lambda: pool.count(Beat))
            pool.to_pool.channel.last_heard = asyncio.get_running_loop().time() - silent  # type: ignore[attr-defined]
            pool.to_pool.channel.abort()
            await eventually(lambda: "out of reach" in caplog.text)

    run(main)
    assert f"results are kept for it for {patience} s" in caplog.text
