"""Tests of distmap/worker/supervisor.py: real worker processes, and this process as their pool."""

from __future__ import annotations

import asyncio
import logging
import operator
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.waiting import eventually

from distmap.core.limits import Limits
from distmap.errors import ConnectError, WorkerBusy
from distmap.tasks.code import dump_code
from distmap.tasks.items import dump_items, load_results
from distmap.testing.workers import WorkerProcess
from distmap.transport.channel import Connection
from distmap.transport.conversation import Conversation
from distmap.transport.dial import dial
from distmap.transport.identity import PYTHON, me, pool_info
from distmap.transport.listen import Server, listen
from distmap.transport.token import Secret, load_token
from distmap.transport.url import WorkerURL, parse_url
from distmap.wire.messages import Beat, Bye, Draining, Message, Put, Report, Task
from distmap.worker.supervisor import CUT_SHORT, FATAL, OK, Settings, Supervisor

DEADLINE = 15.0


class MinimalPool:
    """A minimal pool: it keeps the messages of the worker."""

    def __init__(self, connection: Connection) -> None:
        self.received: list[tuple[Message, list[Any]]] = []
        self.closed = ""
        self._changed = asyncio.Event()
        self.conversation = Conversation(
            connection,
            on_message=self._on_message,
            on_liveness=lambda state: None,
            on_closed=self._end,
            beat=lambda: None,
        )
        self.conversation.start()

    def _on_message(self, message: Message, parts: list[Any]) -> None:
        self.received.append((message, parts))
        self._changed.set()

    def _end(self, reason: str) -> None:
        self.closed = reason or "closed"
        self._changed.set()

    def give(self, fn: Callable[..., Any], items: Sequence[Any], attempt: int = 1) -> None:
        code = dump_code(fn)
        payload, _ = dump_items(items)
        self.conversation.send(Put(code.digest, "code"), code.payload.parts)
        self.conversation.send(Task(0, attempt, code.digest, (), 0, len(items), 0, 0.0), payload.parts)

    async def until(self, happened: Callable[[], Any]) -> Any:
        async with asyncio.timeout(DEADLINE):
            while not (answer := happened()):
                self._changed.clear()
                await self._changed.wait()
            return answer

    async def says(self, kind: type) -> None:
        await self.until(lambda: any(isinstance(message, kind) for message, _ in self.received))

    async def values(self, attempt: int = 1) -> list[Any]:
        def ended() -> bool:
            return any(isinstance(m, Report) and m.attempt == attempt and m.ended for m, _ in self.received)

        await self.until(ended)
        found: list[Any] = []
        for message, parts in self.received:
            if isinstance(message, Report) and message.attempt == attempt and message.hi > message.lo:
                found += load_results(parts, message.lo, message.hi, message.failed)
        return found


class Door:
    """A listening pool at its barest."""

    def __init__(self) -> None:
        self.pools: list[MinimalPool] = []
        self.refused: list[str] = []
        self._changed = asyncio.Event()

    async def open(self, token: Secret, port: int = 0) -> Server:
        async def take(connection: Connection) -> None:
            self.pools.append(MinimalPool(connection))
            self._changed.set()

        def refuse(sentence: str) -> None:
            self.refused.append(sentence)
            self._changed.set()

        return await listen(
            WorkerURL("127.0.0.1", port),
            token=token,
            role="pool",
            info=lambda theirs: pool_info(),
            on_connection=take,
            on_refused=refuse,
        )

    async def pool(self, number: int = 1) -> MinimalPool:
        async with asyncio.timeout(DEADLINE):
            while len(self.pools) < number:
                self._changed.clear()
                await self._changed.wait()
        return self.pools[number - 1]


@pytest.fixture(autouse=True)
def token(token_file: Path) -> Secret:
    """A token that workers find through the environment, as this process does."""
    write_token(token_file)
    return load_token()


def write_token(path: Path) -> None:
    path.touch(mode=0o600)
    path.write_text(Secret.generate().reveal() + "\n")


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(main())


async def call(url: str, token: Secret) -> MinimalPool:
    return MinimalPool(await dial(parse_url(url), token=token, role="pool", info=pool_info()))


def tasks_of(worker: WorkerProcess) -> set[psutil.Process]:
    return set(psutil.Process(worker.pid).children(recursive=True))


def gone(processes: set[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=DEADLINE)[1]


def test_goodbye_ends_the_tasks_at_once_and_the_next_pool_is_welcome(token: Secret) -> None:
    """When a pool says goodbye its running tasks are killed, and another pool gets fresh slots."""

    async def main() -> None:
        with WorkerProcess("--port", "0", "--slots", "1") as worker:
            first = await call(worker.url, token)
            first.give(operator.neg, [1])
            assert await first.values() == [-1]
            first.give(time.sleep, [60.0], attempt=2)
            await first.conversation.flushed()
            old = tasks_of(worker)
            await first.conversation.close("done")
            assert await asyncio.to_thread(gone, old)
            second = await call(worker.url, token)
            second.give(operator.neg, [2])
            assert await second.values() == [-2]
            await second.conversation.close()
            assert me() in worker.line("stderr", "joined")
            assert "goodbye (done)" in worker.line("stderr", "gone")

    run(main)


def test_a_new_pool_takes_the_worker_of_one_that_is_out_of_reach(token: Secret) -> None:
    """A connection that breaks without a goodbye ends nothing, but another pool has the worker at once."""

    async def main() -> None:
        with WorkerProcess("--port", "0", "--slots", "1") as worker:
            first = await call(worker.url, token)
            first.give(time.sleep, [60.0])
            await first.conversation.flushed()
            old = tasks_of(worker)
            first.conversation.abort()
            await asyncio.to_thread(worker.line, "stderr", "is out of reach")
            assert tasks_of(worker) == old
            second = await call(worker.url, token)
            assert await asyncio.to_thread(gone, old)
            second.give(operator.neg, [2])
            assert await second.values() == [-2]
            await second.conversation.close()
            assert "came meanwhile" in worker.line("stderr", "gone")

    run(main)


def test_drain_finishes_what_runs_and_exits_with_zero(token: Secret) -> None:
    """SIGTERM: Draining is announced, the running item's result is flushed, then Bye, then exit code 0."""

    async def main() -> None:
        with WorkerProcess("--port", "0", "--slots", "1") as worker:
            pool = await call(worker.url, token)
            pool.give(time.sleep, [1.0])
            await pool.conversation.flushed()
            worker.signal(signal.SIGTERM)
            await pool.says(Draining)
            assert await pool.values() == [None]
            await pool.says(Bye)
            assert await asyncio.to_thread(worker.wait) == 0
            kinds = [type(message) for message, _ in pool.received if not isinstance(message, Beat)]
            assert kinds[0] is Draining
            assert kinds[-1] is Bye
            await pool.conversation.close()

    run(main)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_other_signals_drain_too(token: Secret, number: signal.Signals) -> None:
    """Ctrl-C in the terminal and a hang-up drain as SIGTERM does."""

    async def main() -> None:
        with WorkerProcess("--port", "0", "--slots", "1") as worker:
            pool = await call(worker.url, token)
            worker.signal(number)
            await pool.says(Draining)
            await pool.says(Bye)
            assert await asyncio.to_thread(worker.wait) == 0
            await pool.conversation.close()

    run(main)


def test_second_signal_leaves_at_once(token: Secret) -> None:
    """A second SIGTERM does not wait for what runs, and no task process survives."""

    async def main() -> None:
        with WorkerProcess("--port", "0", "--slots", "1") as worker:
            pool = await call(worker.url, token)
            pool.give(time.sleep, [60.0])
            await pool.conversation.flushed()
            worker.signal(signal.SIGTERM)
            await pool.says(Draining)
            tasks = tasks_of(worker)
            worker.signal(signal.SIGTERM)
            await pool.says(Bye)
            assert await asyncio.to_thread(worker.wait) == 1
            assert await asyncio.to_thread(gone, tasks)
            await pool.conversation.close()

    run(main)


def test_drain_has_a_limit(token: Secret) -> None:
    """What does not finish within --drain seconds is left to other workers."""

    async def main() -> None:
        with WorkerProcess("--port", "0", "--slots", "1", "--drain", "0.3") as worker:
            pool = await call(worker.url, token)
            pool.give(time.sleep, [60.0])
            await pool.conversation.flushed()
            worker.signal(signal.SIGTERM)
            await pool.says(Bye)
            assert await asyncio.to_thread(worker.wait) == 0
            worker.line("stderr", "not everything finished")
            await pool.conversation.close()

    run(main)


def test_a_worker_that_its_pool_dismisses_finishes_and_leaves(token: Secret) -> None:
    """Draining from the pool is as SIGTERM: the running item's result comes, then Bye, and the process ends."""

    async def main() -> None:
        with WorkerProcess("--port", "0", "--slots", "1", env={"DISTMAP_LAUNCH": "7_1"}) as worker:
            pool = await call(worker.url, token)
            pool.give(time.sleep, [0.2])
            pool.conversation.send(Draining())
            await pool.says(Draining)
            assert await pool.values() == [None]
            await pool.says(Bye)
            assert await asyncio.to_thread(worker.wait) == 0
            worker.line("stderr", "leaving (its pool has enough workers)")
            await pool.conversation.close()

    run(main)


def test_a_worker_that_was_launched_leaves_with_its_pool(token: Secret) -> None:
    """Once its pool says goodbye nobody will come for it; a pool that is only out of reach may."""

    async def main() -> None:
        with WorkerProcess("--port", "0", "--slots", "1", env={"DISTMAP_LAUNCH": "7_1"}) as worker:
            pool = await call(worker.url, token)
            pool.conversation.abort()
            pool = await call(worker.url, token)
            await pool.conversation.close("the pool is closed")
            assert await asyncio.to_thread(worker.wait) == 0
            worker.line("stderr", "leaving (its pool has gone: it said goodbye (the pool is closed))")

    run(main)


def test_draining_worker_takes_no_new_pool(token: Secret) -> None:
    """A pool that dials while the worker leaves is told so."""

    async def main() -> None:
        with WorkerProcess("--port", "0", "--slots", "1") as worker:
            pool = await call(worker.url, token)
            pool.give(time.sleep, [60.0])
            await pool.conversation.flushed()
            worker.signal(signal.SIGTERM)
            await pool.says(Draining)
            with pytest.raises(ConnectionError, match="leav"):
                await call(worker.url, token)
            await pool.conversation.close()

    run(main)


def test_dialling_worker_waits_for_its_pool_and_comes_back(token: Secret) -> None:
    """A worker whose pool is not there yet dials again, registers, and registers again with the pool's successor."""

    async def main() -> None:
        first, second = Door(), Door()
        listening = await first.open(token)
        port, url = listening.port, listening.url
        await listening.close()
        with WorkerProcess(url, "--slots", "1") as worker:
            worker.line("stderr", "trying again")
            assert worker.stdout == []
            listening = await first.open(token, port)
            pool = await first.pool()
            assert worker.line("stdout", "registered") == f"registered with {url}"
            pool.give(operator.neg, [3])
            assert await pool.values() == [-3]
            pool.conversation.abort()
            await listening.close()
            listening = await second.open(token, port)
            pool = await second.pool()
            pool.give(operator.neg, [4])
            assert await pool.values() == [-4]
            assert len(worker.stdout) == 1
            worker.signal(signal.SIGTERM)
            await pool.says(Bye)
            assert await asyncio.to_thread(worker.wait) == 0
            await pool.conversation.close()
            await listening.close()

    run(main)


def test_wrong_token_is_fatal_for_a_dialling_worker(token: Secret, tmp_path: Path) -> None:
    """A worker that dials with another token says so in one sentence and exits with 2; the pool says so as well."""

    async def main() -> None:
        other = tmp_path / "other"
        write_token(other)
        door = Door()
        listening = await door.open(token)
        with WorkerProcess(listening.url, "--slots", "1", "--token-file", str(other)) as worker:
            assert await asyncio.to_thread(worker.wait) == 2
            assert "token" in worker.stderr[-1]
            assert worker.stdout == []
        assert any("token" in sentence for sentence in door.refused)
        await listening.close()

    run(main)


def test_other_python_is_fatal_for_a_dialling_worker(token: Secret) -> None:
    """A worker that dials a pool of another minor version names both versions and exits with 2."""

    async def main() -> None:
        async def never(connection: Connection) -> None:
            raise AssertionError("it was taken")

        listening = await listen(
            WorkerURL("127.0.0.1", 0),
            token=token,
            role="pool",
            info=lambda theirs: {**pool_info(), "python": "2.7"},
            on_connection=never,
        )
        with WorkerProcess(listening.url, "--slots", "1") as worker:
            assert await asyncio.to_thread(worker.wait) == 2
            assert "2.7" in worker.stderr[-1]
            assert PYTHON.rpartition(".")[0] in worker.stderr[-1]
        await listening.close()

    run(main)


def test_other_python_is_refused_by_a_listening_worker(token: Secret) -> None:
    """A pool of another minor version is refused, the worker's log names both versions, and it stays free."""

    async def main() -> None:
        with WorkerProcess("--port", "0", "--slots", "1") as worker:
            with pytest.raises(ConnectionError, match=r"2\.7"):
                await dial(parse_url(worker.url), token=token, role="pool", info={**pool_info(), "python": "2.7"})
            assert PYTHON.rpartition(".")[0] in worker.line("stderr", "2.7")
            pool = await call(worker.url, token)
            await pool.conversation.close()

    run(main)


def test_orphaned_worker_leaves_if_asked_to() -> None:
    """With --exit-if-orphaned a worker without a pool leaves by itself."""
    with WorkerProcess("--port", "0", "--slots", "1", "--exit-if-orphaned", "0.2") as worker:
        assert worker.wait() == 0
        worker.line("stderr", "no pool for 0.2 s")


def supervisor(token: Secret, announced: list[str], **more: Any) -> Supervisor:
    settings = Settings(name="here", slots=1, token=token, **more)
    return Supervisor(
        settings,
        announce=announced.append,
        limits=Limits(beat_every=0.1, suspect_after=0.3, reconnect_grace=0.5, pool_silence=1.0, orphan_after=1.0),
    )


def test_listening_in_this_process(token: Secret) -> None:
    """Pools come one after the other, a second one at a time is refused, and terminating drains."""

    async def main() -> None:
        announced: list[str] = []
        worker = supervisor(token, announced)
        done = asyncio.create_task(worker.listen(WorkerURL("127.0.0.1", 0)))
        url = (await eventually(lambda: announced))[0].removeprefix("listening on ")
        for number in (1, 2):
            pool = await call(url, token)
            with pytest.raises(WorkerBusy, match="pid"):
                await call(url, token)
            pool.give(operator.neg, [number])
            assert await pool.values() == [-number]
            await pool.conversation.close()
        pool = await call(url, token)
        pool.give(time.sleep, [0.5])
        await pool.conversation.flushed()
        worker.terminate("a test")
        assert await pool.values() == [None]
        assert await done == OK
        await pool.conversation.close()
        assert len(announced) == 1

    run(main)


def test_dialling_in_this_process(token: Secret) -> None:
    """A dialling worker registers, comes back after a loss, leaves when told, and gives up on a wrong token."""

    async def main() -> None:
        announced: list[str] = []
        door = Door()
        listening = await door.open(token)
        worker = supervisor(token, announced)
        done = asyncio.create_task(worker.dial(parse_url(listening.url)))
        (await door.pool()).conversation.abort()
        pool = await door.pool(2)
        pool.give(time.sleep, [60.0])
        await pool.conversation.flushed()
        worker.terminate("a test")
        await pool.says(Draining)
        worker.terminate("a test")
        assert await done == CUT_SHORT
        assert announced == [f"registered with {listening.url}"]
        await pool.conversation.close()
        assert await supervisor(Secret.generate(), announced).dial(parse_url(listening.url)) == FATAL
        await listening.close()

    run(main)


def test_a_port_that_is_taken_leaves_no_slots(token: Secret) -> None:
    """When a worker cannot listen, its task processes are gone before the error is raised."""

    async def main() -> None:
        before = psutil.Process().children()
        listening = await Door().open(token)
        try:
            with pytest.raises(ConnectError, match=str(listening.port)):
                await supervisor(token, []).listen(WorkerURL("127.0.0.1", listening.port))
            assert psutil.Process().children() == before
        finally:
            await listening.close()

    run(main)


def test_orphan_in_this_process(token: Secret, caplog: pytest.LogCaptureFixture) -> None:
    """The time without a pool counts from when the last one went."""

    async def main() -> None:
        announced: list[str] = []
        worker = supervisor(token, announced, orphan_exit=1.0)
        done = asyncio.create_task(worker.listen(WorkerURL("127.0.0.1", 0)))
        url = (await eventually(lambda: announced))[0].removeprefix("listening on ")
        pool = await call(url, token)
        pool.give(time.sleep, [1.2])
        assert await pool.values() == [None]
        assert not done.done()
        await pool.conversation.close()
        assert await done == OK

    with caplog.at_level(logging.INFO, "distmap.worker"):
        run(main)
    assert "no pool for 1 s" in caplog.text


def test_silent_pool_is_given_up(token: Secret, caplog: pytest.LogCaptureFixture) -> None:
    """A pool that is silent too long is suspected, then gone, and the worker is free."""

    async def main() -> None:
        announced: list[str] = []
        worker = supervisor(token, announced)
        done = asyncio.create_task(worker.listen(WorkerURL("127.0.0.1", 0)))
        url = (await eventually(lambda: announced))[0].removeprefix("listening on ")
        # A connection whose owner never says a word.
        mute = await dial(parse_url(url), token=token, role="pool", info=pool_info())
        await eventually(lambda: "gone" in caplog.text)
        pool = await call(url, token)
        await pool.conversation.close()
        worker.terminate("a test")
        assert await done == OK
        mute.channel.abort()

    with caplog.at_level(logging.INFO, "distmap.worker"):
        run(main)
    assert "has been silent" in caplog.text


def test_a_worker_gives_up_a_pool_that_does_not_come(token: Secret) -> None:
    """After `--retry` seconds, with the reason and exit code 2; until then its log says at first that it goes on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with WorkerProcess(f"wss://127.0.0.1:{port}", "--slots", "1", "--retry", "0.5") as worker:
        assert worker.wait() == FATAL
        worker.line("stderr", "nothing listens")
        assert "trying again for 0.5 s" in "".join(worker.stderr)
        assert f"no pool at wss://127.0.0.1:{port} for" in worker.stderr[-1]
        assert "giving up" in worker.stderr[-1]


def test_a_worker_without_a_pool_says_so_now_and_then(token: Secret, caplog: pytest.LogCaptureFixture) -> None:
    """Where nothing listens it dials often enough to find a kernel that restarts, and its log stays short."""

    async def main() -> None:
        limits = Limits(redial_log=0.3, redial_refused=0.05)
        worker = Supervisor(Settings(name="here", slots=1, token=token), announce=print, limits=limits)
        with socket.create_server(("127.0.0.1", 0)) as server:
            url = parse_url(f"wss://127.0.0.1:{server.getsockname()[1]}")
        done = asyncio.create_task(worker.dial(url))
        await eventually(lambda: caplog.text.count("trying again for ever") == 3)
        assert caplog.text.count("nothing listens") == 1
        door = Door()
        listening = await door.open(token, url.port)
        await (await door.pool()).conversation.close()
        worker.terminate("a test")
        assert await done == OK
        await listening.close()

    with caplog.at_level(logging.INFO, "distmap.worker"):
        run(main)


@pytest.mark.parametrize("fenced", [True, False])
def test_a_pool_that_gave_up_its_session_has_the_worker_again(fenced: bool, token: Secret) -> None:
    """Although the worker takes the old connection for alive; any other pool is told that it is busy."""

    async def main() -> None:
        announced: list[str] = []
        worker = supervisor(token, announced)
        done = asyncio.create_task(worker.listen(WorkerURL("127.0.0.1", 0)))
        url = parse_url((await eventually(lambda: announced))[0].removeprefix("listening on "))
        first = await call(str(url), token)
        info = {**pool_info(), "fenced": first.conversation.id if fenced else "0" * 32}
        if fenced:
            second = MinimalPool(await dial(url, token=token, role="pool", info=info))
            second.give(operator.neg, [1])
            assert await second.values() == [-1]
            await first.until(lambda: first.closed)
            await second.conversation.close()
        else:
            with pytest.raises(WorkerBusy):
                await dial(url, token=token, role="pool", info=info)
        await first.conversation.close()
        worker.terminate("a test")
        assert await done == OK

    run(main)


@pytest.mark.parametrize("how", ["goodbye", "gone", "fenced"])
def test_a_worker_for_one_pool_leaves_with_it(how: str, token: Secret) -> None:
    """At its goodbye, or when it has been away for too long; not if the pool itself begins a new session."""

    async def main() -> None:
        announced: list[str] = []
        worker = supervisor(token, announced, once=True)
        done = asyncio.create_task(worker.listen(WorkerURL("127.0.0.1", 0)))
        url = parse_url((await eventually(lambda: announced))[0].removeprefix("listening on "))
        pool = await call(str(url), token)
        if how == "fenced":
            info = {**pool_info(), "fenced": pool.conversation.id}
            first, pool = pool, MinimalPool(await dial(url, token=token, role="pool", info=info))
            await first.until(lambda: first.closed)
            await first.conversation.close()
        pool.give(operator.neg, [1])
        assert await pool.values() == [-1]
        assert not done.done()
        if how == "gone":
            pool.conversation.abort()
        else:
            await pool.conversation.close()
        assert await asyncio.wait_for(done, DEADLINE) == OK

    run(main)
