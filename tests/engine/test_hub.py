"""Tests of distmap/engine/hub.py: real workers in processes of their own, and a sink that records the reports."""

from __future__ import annotations

import asyncio
import contextlib
import math
import operator
import os
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.notes import Notes

from distmap.core.events import (
    AttemptProgressed,
    Event,
    SlotReady,
    WorkerDraining,
    WorkerLost,
    WorkerMeasured,
    WorkerSuspected,
    WorkerTrusted,
)
from distmap.core.limits import LIMITS, Limits
from distmap.engine import hub as hub_module
from distmap.engine.base import Engine, Parts, WorkerInfo
from distmap.engine.hub import HubEngine
from distmap.errors import AuthenticationError, WorkerBusy
from distmap.tasks.code import Code, dump_code
from distmap.tasks.items import dump_items, load_results
from distmap.testing.relay import Relay
from distmap.testing.workers import WorkerProcess
from distmap.transport.conversation import Conversation
from distmap.transport.dial import dial, prove
from distmap.transport.identity import PYTHON, pool_info, worker_info
from distmap.transport.listen import listen
from distmap.transport.token import Secret, load_token
from distmap.transport.url import WorkerURL, parse_url
from distmap.wire.messages import OUTPUT_BYTES, OUTPUT_PIECES, Kill, Output, Report, Task

DEADLINE = 15.0
ANY_PORT = "wss://127.0.0.1:0"


class RecordingSink:
    """A sink that records everything."""

    def __init__(self) -> None:
        self.infos: dict[int, WorkerInfo] = {}
        self.events: list[Event] = []
        self.reports: list[tuple[int, Report, Parts]] = []
        self.outputs: list[tuple[int, Output, Parts]] = []
        self.refusals: list[tuple[int, int]] = []
        self.deaths: list[tuple[int, int, int, int, str, str]] = []
        self.on_join: Callable[[Engine, int], object] = lambda engine, worker: None
        self._news = asyncio.Event()

    def joined(self, engine: Engine, info: WorkerInfo) -> Notes:
        worker = len(self.infos) + 1
        self.infos[worker] = info
        self.on_join(engine, worker)
        self._news.set()
        return Notes(worker, lambda kind, message: self._note(worker, kind, message))

    def _note(self, worker: int, kind: str, message: Any) -> None:
        match kind:
            case "event":
                self.events.append(message)
            case "report":
                self.reports.append((worker, *message))
            case "printed":
                self.outputs.append((worker, *message))
            case "refused":
                self.refusals.append((worker, message[0]))
            case "died":
                self.deaths.append((worker, *message))
        self._news.set()

    async def until(self, happened: Callable[[], Any]) -> Any:
        """The first true answer; asked again whenever something was written down."""
        try:
            async with asyncio.timeout(DEADLINE):
                while not (answer := happened()):
                    self._news.clear()
                    await self._news.wait()
                return answer
        except TimeoutError:
            raise AssertionError(f"never happened; {self.infos} {self.events} {self.reports} {self.deaths}") from None

    async def worker(self, number: int = 1) -> int:
        await self.until(lambda: len(self.infos) >= number)
        return number

    async def event(self, kind: type[Event]) -> Any:
        return await self.until(lambda: next((event for event in self.events if isinstance(event, kind)), None))

    def ended(self, attempt: int) -> bool:
        return any(report.ended for _, report, _ in self.reports if report.attempt == attempt)

    def values(self, attempt: int) -> list[Any]:
        values: list[Any] = []
        for _, report, parts in self.reports:
            if report.attempt == attempt and report.hi > report.lo:
                values += load_results(parts, report.lo, report.hi, report.failed)
        return values


def give(
    engine: Engine, worker: int, fn: Callable[..., Any], items: Sequence[Any], *, attempt: int = 1, slot: int = 0
) -> Code:
    """Assign one chunk as the driver does."""
    code = dump_code(fn)
    payload, blobs = dump_items(items)
    for blob in (*code.blobs, *blobs):
        engine.put(worker, blob.digest, blob.kind, blob.payload.parts)
    engine.put(worker, code.digest, "code", code.payload.parts)
    needs = tuple(blob.digest for blob in (*code.blobs, *blobs))
    engine.assign(worker, Task(slot, attempt, code.digest, needs, 0, len(items), 0, 0.0), payload.parts)
    return code


def write_token(path: Path) -> None:
    path.touch(mode=0o600)
    path.write_text(Secret.generate().reveal() + "\n")


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run it, and see that it leaves no task behind."""

    async def watched() -> None:
        await main()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left

    asyncio.run(watched())


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def tasks_of(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


@pytest.fixture(autouse=True)
def token(token_file: Path) -> Secret:
    """A token that workers find through the environment, as this process does."""
    write_token(token_file)
    return load_token()


def hub(*urls: str, token: Secret, limits: Limits = LIMITS, listen: str | None = None) -> HubEngine:
    return HubEngine(
        [parse_url(url) for url in urls],
        listen=None if listen is None else parse_url(listen, listening=True),
        token=token,
        connect_timeout=5.0,
        limits=limits,
    )


def test_dials_a_worker_that_listens(token: Secret) -> None:
    """A listening worker is dialled, says who it is, gets a task and its results come back."""

    async def main() -> None:
        with WorkerProcess("--port", "0", "--slots", "2", "--name", "w1", "--tag", "a", "--tag", "b") as worker:
            engine, sink = hub(worker.url, token=token), RecordingSink()
            await engine.start(sink)
            await engine.dialled()
            number = await sink.worker()
            info = sink.infos[number]
            assert (info.name, info.slots, info.python, info.tags) == ("w1", 2, PYTHON, {"a", "b"})
            assert info.address == worker.url
            assert engine.errors == {}
            code = give(engine, number, math.sqrt, [1.0, 4.0, 9.0])
            give(engine, number, math.sqrt, [16.0], attempt=2, slot=1)
            await sink.until(lambda: sink.ended(1) and sink.ended(2))
            assert sink.values(1) == [1.0, 2.0, 3.0]
            assert sink.values(2) == [4.0]
            engine.drop(number, code.digest)
            await engine.close(now=False)
            assert "said goodbye" in worker.line("stderr", "gone")

    run(main)


def test_workers_dial_in(token: Secret) -> None:
    """A worker given the pool's URL registers with it and works like any other."""

    async def main() -> None:
        engine, sink = hub(token=token, listen=ANY_PORT), RecordingSink()
        await engine.start(sink)
        assert engine.url is not None
        assert engine.url.startswith("wss://127.0.0.1:")
        with WorkerProcess(engine.url, "--slots", "1", "--name", "guest") as worker:
            number = await sink.worker()
            assert sink.infos[number].name == "guest"
            assert worker.url == engine.url
            give(engine, number, operator.neg, [1, 2])
            await sink.until(lambda: sink.ended(1))
            assert sink.values(1) == [-1, -2]
            await engine.close(now=True)
            worker.line("stderr", "trying again")

    run(main)


@pytest.mark.parametrize("dials", ["worker", "pool"])
def test_a_dial_that_comes_too_late_is_refused(token: Secret, dials: str) -> None:
    """Its side has given it up and gone on over a later connection: that one stays, and so does the worker."""

    async def main() -> None:
        with contextlib.ExitStack() as stack:
            sink = RecordingSink()
            if dials == "worker":
                engine = hub(token=token, listen=ANY_PORT)
                await engine.start(sink)
                stack.enter_context(WorkerProcess(str(engine.url), "--slots", "1"))
                url, role = str(engine.url), "worker"
                own = worker_info(name="late", slots=1, tags=())
            else:
                url, role = stack.enter_context(WorkerProcess("--port", "0", "--slots", "1")).url, "pool"
                engine, own = hub(url, token=token), pool_info()
                await engine.start(sink)
            number = await sink.worker()
            for attempt in (1, 2):  # the second task and its report acknowledge what came before
                give(engine, number, operator.neg, [attempt], attempt=attempt)
                await sink.until(lambda attempt=attempt: sink.ended(attempt))
            conversation = engine._workers[number].conversation
            info = {**own, "resume": conversation.id, "received": 0}
            late = await prove(parse_url(url), token=token, role=role, info=lambda: info)
            assert "later connection" in str(late.peer_info["refused"])
            await late.channel.close()
            assert conversation.attached
            give(engine, number, operator.neg, [3], attempt=3)
            await sink.until(lambda: sink.ended(3))
            assert sink.values(3) == [-3]
            assert not [event for event in sink.events if isinstance(event, WorkerLost)]
            await engine.close(now=True)

    run(main)


def test_a_bug_while_a_session_is_kept_costs_that_session_only(
    token: Secret, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, the worker is lost, and its URL is dialled again."""
    real, calls = hub_module.keep, []

    async def broken_once(*args: Any, **options: Any) -> Any:
        calls.append(args)
        if len(calls) == 1:
            raise ZeroDivisionError("a bug")
        return await real(*args, **options)

    monkeypatch.setattr(hub_module, "keep", broken_once)

    async def main() -> None:
        with WorkerProcess("--port", "0", "--slots", "1") as worker:
            engine, sink = hub(worker.url, token=token), RecordingSink()
            await engine.start(sink)
            assert (await sink.event(WorkerLost)).worker == 1
            give(engine, await sink.worker(2), operator.neg, [1])
            await sink.until(lambda: sink.ended(1))
            await engine.close(now=True)

    run(main)
    assert "the session with wss://127.0.0.1" in caplog.text
    assert "ZeroDivisionError: a bug" in caplog.text


def test_work_handed_out_while_joining_arrives(token: Secret) -> None:
    """A scheduler that assigns before it has returned the worker's id loses nothing."""

    async def main() -> None:
        with WorkerProcess("--port", "0", "--slots", "1") as worker:
            engine, sink = hub(token=token), RecordingSink()
            sink.on_join = lambda engine, number: give(engine, number, operator.neg, [7])
            await engine.start(sink)
            engine.add(parse_url(worker.url))
            engine.add(parse_url(worker.url))  # dialled already: no second connection
            await sink.until(lambda: sink.ended(1))
            assert sink.values(1) == [-7]
            assert len(sink.infos) == 1
            await engine.close(now=True)

    run(main)


def test_keeps_dialling_until_the_worker_is_there(token: Secret) -> None:
    """A URL where nothing listens is an error in one sentence, and is joined as soon as a worker listens there."""

    async def main() -> None:
        port = free_port()
        engine, sink = hub(f"wss://127.0.0.1:{port}", token=token), RecordingSink()
        await engine.start(sink)
        await engine.dialled()
        assert f"127.0.0.1:{port}" in engine.errors[f"wss://127.0.0.1:{port}"]
        assert engine.fatal is None
        with WorkerProcess("--port", str(port), "--slots", "1"):
            await sink.worker()
            assert engine.errors == {}
            await engine.close(now=True)

    run(main)


def test_wrong_token_is_said_on_both_sides(token: Secret, tmp_path: Path) -> None:
    """With different tokens nobody joins, and pool and worker each say so in one sentence."""

    async def main() -> None:
        other = tmp_path / "other"
        write_token(other)
        with WorkerProcess("--port", "0", "--slots", "1", "--token-file", str(other)) as worker:
            engine, sink = hub(worker.url, token=token), RecordingSink()
            await engine.start(sink)
            await engine.dialled()
            assert "token" in engine.errors[worker.url]
            assert engine.fatal == engine.errors[worker.url]
            assert isinstance(engine.cause, AuthenticationError)
            engine.add(parse_url(f"wss://127.0.0.1:{free_port()}"))
            await engine.dialled()
            assert engine.fatal is None
            assert engine.cause is None
            assert "token" in worker.line("stderr", "refused")
            assert not sink.infos
            await engine.close(now=True)

    run(main)


def test_busy_worker_names_its_pool(token: Secret) -> None:
    """A second pool is told that the worker is busy and with whom, and gets it when the first has gone."""

    async def main() -> None:
        with WorkerProcess("--port", "0", "--slots", "1") as worker:
            first, first_ear = hub(worker.url, token=token), RecordingSink()
            await first.start(first_ear)
            await first_ear.worker()
            second, second_ear = hub(worker.url, token=token), RecordingSink()
            await second.start(second_ear)
            await second.dialled()
            assert f"pid {os.getpid()}" in second.errors[worker.url]
            assert isinstance(second.cause, WorkerBusy)
            assert first.cause is None
            assert not second_ear.infos
            await first.close(now=True)
            await second_ear.worker()
            await second.close(now=True)

    run(main)


def test_killed_worker_is_lost_and_leaves_no_task(token: Secret) -> None:
    """SIGKILL of a supervisor is a charged loss at once, and its task processes die with it."""

    async def main() -> None:
        with WorkerProcess("--port", "0", "--slots", "2") as worker:
            engine, sink = hub(worker.url, token=token), RecordingSink()
            await engine.start(sink)
            number = await sink.worker()
            give(engine, number, time.sleep, [60.0])
            tasks = tasks_of(worker.pid)
            assert len(tasks) >= 2
            worker.signal(signal.SIGKILL)
            lost = await sink.event(WorkerLost)
            assert lost == WorkerLost(number, charged=True)
            _, alive = psutil.wait_procs(tasks, timeout=DEADLINE)
            assert not alive
            engine.revoke(number, 0, 1, 0)  # late commands to it are no error
            await engine.close(now=True)

    run(main)


def test_leaving_worker_finishes_what_runs(token: Secret) -> None:
    """SIGTERM: the worker says that it drains, the running item's result arrives, and its leaving charges nobody."""

    async def main() -> None:
        with WorkerProcess("--port", "0", "--slots", "1") as worker:
            engine, sink = hub(worker.url, token=token), RecordingSink()
            await engine.start(sink)
            number = await sink.worker()
            give(engine, number, time.sleep, [0.1, 0.1, 1.0])
            await sink.until(lambda: sink.reports)  # some of it is done, the rest runs
            worker.signal(signal.SIGTERM)
            assert await sink.event(WorkerDraining) == WorkerDraining(number)
            assert not sink.ended(1)
            assert await sink.event(WorkerLost) == WorkerLost(number, charged=False)
            assert sink.values(1) == [None, None, None]
            assert await asyncio.to_thread(worker.wait) == 0
            await engine.close(now=True)

    run(main)


def test_dead_task_process_is_reported_and_replaced(token: Secret) -> None:
    """A task that ends its process is named with its item; the slot is ready again and works."""

    async def main() -> None:
        with WorkerProcess("--port", "0", "--slots", "1") as worker:
            engine, sink = hub(worker.url, token=token), RecordingSink()
            await engine.start(sink)
            number = await sink.worker()
            give(engine, number, os._exit, [3])
            give(engine, number, operator.neg, [1], attempt=2)
            await sink.event(SlotReady)
            assert sink.deaths[0][:5] == (number, 0, 1, 0, "died")
            give(engine, number, operator.neg, [5], attempt=3)
            await sink.until(lambda: sink.ended(3))
            assert sink.values(3) == [-5]
            await engine.close(now=True)

    run(main)


def test_revoke_interrupt_and_kill_reach_the_slot(token: Secret) -> None:
    """A waiting task is taken back, a running item is interrupted, a slot is killed."""

    async def main() -> None:
        with WorkerProcess("--port", "0", "--slots", "1") as worker:
            engine, sink = hub(worker.url, token=token), RecordingSink()
            await engine.start(sink)
            number = await sink.worker()
            give(engine, number, time.sleep, [60.0])
            give(engine, number, operator.neg, [1], attempt=2)
            engine.revoke(number, 0, 2, 0)
            # Not both at once: the interrupt may overtake the second task, which then runs before its revoke comes.
            await sink.until(lambda: sink.ended(2))
            engine.interrupt(number, 0, 1)
            await sink.until(lambda: sink.ended(1))
            assert sink.values(1) == sink.values(2) == []
            give(engine, number, time.sleep, [60.0], attempt=3)
            engine.kill(number, 0)
            await sink.event(SlotReady)
            assert sink.deaths[-1][4] == "killed"
            await engine.close(now=True)

    run(main)


def test_heartbeats_carry_load_and_progress(token: Secret) -> None:
    """A worker's heartbeat becomes a measurement, and a hint of how far each attempt is."""

    async def main() -> None:
        # The worker beats every five seconds, in its own time.
        with WorkerProcess("--port", "0", "--slots", "1") as worker:
            engine, sink = hub(worker.url, token=token), RecordingSink()
            await engine.start(sink)
            number = await sink.worker()
            give(engine, number, time.sleep, [0.0, 60.0])
            progressed = await sink.event(AttemptProgressed)
            assert progressed == AttemptProgressed(1, 1)
            measured = await sink.event(WorkerMeasured)
            assert measured.worker == number
            assert 0 <= measured.cpu <= 1
            assert 0 < measured.memory <= 1
            await engine.close(now=True)

    run(main)


def test_silent_worker_is_suspected_trusted_and_given_up(token: Secret) -> None:
    """A stopped supervisor is suspected, trusted again when it goes on, and lost when it stays silent."""

    async def main() -> None:
        limits = Limits(beat_every=0.1, suspect_after=0.5, reconnect_grace=3.0)
        with WorkerProcess("--port", "0", "--slots", "1") as worker:
            engine, sink = hub(worker.url, token=token, limits=limits), RecordingSink()
            await engine.start(sink)
            number = await sink.worker()
            worker.signal(signal.SIGSTOP)
            await sink.event(WorkerSuspected)
            worker.signal(signal.SIGCONT)
            await sink.event(WorkerTrusted)
            worker.signal(signal.SIGSTOP)
            assert await sink.event(WorkerLost) == WorkerLost(number, charged=True)
            worker.signal(signal.SIGCONT)
            # What it still had to say belongs to an incarnation that was given up; it comes back as another.
            assert await sink.worker(2)
            await engine.close(now=True)

    run(main)


def test_other_python_is_refused_by_both_versions(token: Secret) -> None:
    """A worker of another minor version is refused in a sentence that names both, on both sides."""

    async def main() -> None:
        refused: list[str] = []

        async def never(connection: object) -> None:
            raise AssertionError("it was taken")

        info = {**worker_info(name="old", slots=1, tags=frozenset()), "python": "2.7"}
        server = await listen(
            WorkerURL("127.0.0.1", 0),
            token=token,
            role="worker",
            info=lambda theirs: info,
            on_connection=never,
            on_refused=refused.append,
        )
        engine, sink = hub(server.url, token=token), RecordingSink()
        await engine.start(sink)
        await engine.dialled()
        sentence = engine.errors[server.url]
        assert "2.7" in sentence
        assert PYTHON.rpartition(".")[0] in sentence
        assert not sink.infos
        assert engine.fatal == sentence
        await engine.close(now=True)
        await server.close()
        assert any("2.7" in text and PYTHON.rpartition(".")[0] in text for text in refused)

    run(main)


def test_senseless_worker_is_refused(token: Secret) -> None:
    """A dial-in worker that offers no slots is refused, with a sentence under the pool's URL."""

    async def main() -> None:
        engine, sink = hub(token=token, listen=ANY_PORT), RecordingSink()
        await engine.start(sink)
        assert engine.url is not None
        info = {**worker_info(name="odd", slots=1, tags=frozenset()), "slots": 0}
        connection = await dial(parse_url(engine.url), token=token, role="worker", info=info)
        with pytest.raises(ConnectionError):
            async with asyncio.timeout(DEADLINE):
                await connection.channel.recv()
        assert "slots" in engine.errors[engine.url]
        assert not sink.infos
        connection.channel.abort()
        await engine.close(now=True)

    run(main)


def test_task_that_does_not_load_is_refused(token: Secret) -> None:
    """Code that no slot can load comes back as a refusal of its attempt."""

    async def main() -> None:
        with WorkerProcess("--port", "0", "--slots", "1") as worker:
            engine, sink = hub(worker.url, token=token), RecordingSink()
            await engine.start(sink)
            number = await sink.worker()
            payload, _ = dump_items([1])
            engine.put(number, b"0123456789abcdef", "code", [b"this is no pickle"])
            engine.assign(number, Task(0, 1, b"0123456789abcdef", (), 0, 1, 0, 0.0), payload.parts)
            await sink.until(lambda: sink.refusals)
            assert sink.refusals == [(number, 1)]
            await engine.close(now=True)

    run(main)


async def fake_worker(engine: HubEngine, token: Secret) -> Conversation:
    """A worker in this process that says what the test wants."""
    assert engine.url is not None
    info = worker_info(name="fake", slots=1, tags=frozenset())
    conversation = Conversation(
        await dial(parse_url(engine.url), token=token, role="worker", info=info),
        on_message=lambda message, parts: None,
        on_liveness=lambda state: None,
        on_closed=lambda reason: None,
        beat=lambda: None,
    )
    conversation.start()
    return conversation


def test_worker_that_dialled_in_and_does_not_come_back_is_lost(token: Secret) -> None:
    """It is out of reach for as long as it may come back; then it is lost, and nothing before."""

    async def main() -> None:
        limits = Limits(beat_every=0.1, reconnect_grace=0.5)
        engine, sink = hub(token=token, listen=ANY_PORT, limits=limits), RecordingSink()
        await engine.start(sink)
        worker = await fake_worker(engine, token)
        number = await sink.worker()
        worker.abort()
        assert await sink.event(WorkerLost) == WorkerLost(number, charged=True)
        assert [type(event) for event in sink.events if type(event) is not WorkerMeasured] == [
            WorkerSuspected,
            WorkerLost,
        ]
        await engine.close(now=True)

    run(main)


def test_an_outage_beyond_the_grace_makes_another_incarnation(token: Secret) -> None:
    """The worker is lost to the pool, which tells it so when the path is back: it ends its tasks, and joins anew."""

    async def main() -> None:
        limits = Limits(beat_every=0.1, reconnect_grace=0.7)
        with WorkerProcess("--port", "0", "--slots", "1") as worker, Relay.before(worker.url) as relay:
            engine, sink = hub(relay.url, token=token, limits=limits), RecordingSink()
            await engine.start(sink)
            number = await sink.worker()
            give(engine, number, time.sleep, [60.0])
            await sink.worker()
            old = tasks_of(worker.pid)
            await asyncio.to_thread(relay.silence)  # nothing is closed: the worker takes its pool for one that is there
            assert await sink.event(WorkerLost) == WorkerLost(number, charged=True)
            await asyncio.to_thread(relay.speak)
            again = await sink.worker(2)
            _, alive = psutil.wait_procs(old, timeout=DEADLINE)
            assert not alive
            give(engine, again, operator.neg, [1], attempt=2)
            await sink.until(lambda: sink.ended(2))
            assert not sink.ended(1)
            await engine.close(now=True)

    run(main)


def test_worker_that_talks_nonsense_is_lost(token: Secret) -> None:
    """A message that no worker sends, or a slot that is not there, harms nobody but the worker that sent it."""

    async def main() -> None:
        engine, sink = hub(token=token, listen=ANY_PORT), RecordingSink()
        await engine.start(sink)
        worker = await fake_worker(engine, token)
        number = await sink.worker()
        worker.send(Report(5, 1, 0, 0, 0.0, True, ()))
        worker.send(Kill(0))
        assert await sink.event(WorkerLost) == WorkerLost(number, charged=True)
        await worker.close()
        await engine.close(now=True)

    run(main)


def test_sink_that_fails_takes_no_worker(token: Secret) -> None:
    """When the driver cannot take a worker, the connection is ended, not kept half open."""

    async def main() -> None:
        engine, sink = hub(token=token, listen=ANY_PORT), RecordingSink()

        def fail(engine: Engine, worker: int) -> None:
            raise RuntimeError("no room")

        sink.on_join = fail
        await engine.start(sink)
        assert engine.url is not None
        info = worker_info(name="fake", slots=1, tags=frozenset())
        connection = await dial(parse_url(engine.url), token=token, role="worker", info=info)
        with pytest.raises(ConnectionError):
            async with asyncio.timeout(DEADLINE):
                await connection.channel.recv()
        connection.channel.abort()
        await engine.close(now=True)

    run(main)


def test_output_of_tasks_is_passed_on(token: Secret) -> None:
    """What a task of a remote worker prints comes with its worker's number, before its report."""

    async def main() -> None:
        with WorkerProcess("--port", "0", "--slots", "1") as worker:
            engine, sink = hub(worker.url, token=token), RecordingSink()
            await engine.start(sink)
            number = await sink.worker()
            give(engine, number, print, ["hello"])
            await sink.until(lambda: sink.ended(1))
            ((by, output, parts),) = sink.outputs
            assert (by, output, bytes(parts[0])) == (number, Output(0, 1, 0, ((0, 0, 6),)), b"hello\n")
            await engine.close(now=True)

    run(main)


@pytest.mark.parametrize(
    ("pieces", "parts"),
    [
        (((0, 0, 5),), [b"four"]),
        (((0, 0, 5),), [b"four", b"5"]),
        (((0, 0, OUTPUT_BYTES + 1),), [bytes(OUTPUT_BYTES + 1)]),
        (((0, 0, 0),) * (OUTPUT_PIECES + 1), []),
    ],
    ids=["other size", "two parts", "too large", "too many"],
)
def test_output_that_is_not_what_it_says_ends_the_worker(
    token: Secret, pieces: tuple[tuple[int, int, int], ...], parts: list[bytes]
) -> None:
    """A worker whose output is out of bounds is lost; nothing of it is passed on."""

    async def main() -> None:
        engine, sink = hub(token=token, listen=ANY_PORT), RecordingSink()
        await engine.start(sink)
        worker = await fake_worker(engine, token)
        number = await sink.worker()
        worker.send(Output(0, 1, 0, ((0, 0, 4),)), [b"fine"])
        worker.send(Output(0, 1, 0, pieces), parts)
        assert await sink.event(WorkerLost) == WorkerLost(number, charged=True)
        assert [bytes(parts[0]) for _, _, parts in sink.outputs] == [b"fine"]
        await worker.close()
        await engine.close(now=True)

    run(main)
