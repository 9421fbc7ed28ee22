"""Executors that somebody else runs, as workers."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context, resource_tracker
from pathlib import Path
from typing import Any, ClassVar

import pytest
from support.waiting import eventually

from distmap.core.events import AttemptProgressed, SlotReady, WorkerLost
from distmap.core.limits import LIMITS, Limits
from distmap.engine import attempt as module
from distmap.engine.attempt import Answer
from distmap.engine.executors import ExecutorAdapter
from distmap.engine.foreign import ForeignEngine
from distmap.engine.side_channel import pack, progress, unpack
from distmap.tasks.broadcast import Dependencies
from distmap.tasks.code import dump_code
from distmap.tasks.items import encode, load_results
from distmap.testing.adapters import ClusterEnded, MemberEnded, SmallAdapter, SmallCluster
from distmap.wire.messages import Interrupt, Kill, Report, Revoke, Task

Ears = Callable[[], Any]


@pytest.fixture(autouse=True, scope="module")
def tracker() -> None:
    """multiprocessing's tracker of named resources stays once it was started; that is not a test's leak."""
    resource_tracker.ensure_running()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """Two threads."""
    with ThreadPoolExecutor(2) as executor:
        yield executor


@pytest.fixture
def processes() -> Iterator[ProcessPoolExecutor]:
    """One process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        yield executor


def engine_on(executor: Executor, limits: Limits = LIMITS, **options: Any) -> ForeignEngine:
    return ForeignEngine(ExecutorAdapter(executor, **options), limits=limits)


def square(x: int) -> int:
    return x * x


def leave(x: int) -> None:
    os._exit(x)


def test_threads_do_the_work(ear: Ears, threads: ThreadPoolExecutor) -> None:
    """The worker has the executor's name and number of threads; results come from its threads."""

    async def main() -> None:
        engine, listener = engine_on(threads), ear()
        await engine.start(listener)
        assert (listener.info.name, listener.info.slots) == ("ThreadPoolExecutor", 2)
        assert await listener.values(listener.send(square, range(5), slot=1)) == [0, 1, 4, 9, 16]
        (name,) = await listener.values(listener.send(lambda _: threading.current_thread().name, [0]))
        assert name.startswith("ThreadPoolExecutor")
        await engine.close(now=True)
        assert threads.submit(square, 3).result() == 9  # it stays its owner's

    asyncio.run(main())


def test_processes_do_the_work(ear: Ears, processes: ProcessPoolExecutor) -> None:
    """Code and arrays go to foreign processes and come back; large code travels when it is first missed."""
    numpy = pytest.importorskip("numpy")
    table = numpy.arange(100_000)

    async def main() -> None:
        engine, listener = engine_on(processes), ear()
        await engine.start(listener)
        code = dump_code(lambda i: (int(table[i]), os.getpid()))
        for _ in range(2):
            ((value, pid),) = await listener.values(listener.send(code, [77]))
            assert value == 77
            assert pid != os.getpid()
        arrays = [numpy.full(50_000, n) for n in range(3)]
        results = await listener.values(listener.send(square, arrays))
        assert [int(r[0]) for r in results] == [0, 1, 4]
        engine.drop(7, code.digest)
        await engine.close(now=True)

    asyncio.run(main())


def test_arrays_in_foreign_processes_can_be_written_to(ear: Ears, processes: ProcessPoolExecutor) -> None:
    """Large items there, and large results here, are as writable as small ones."""
    numpy = pytest.importorskip("numpy")

    def fill(array):
        array[0] = 7
        return array

    async def main() -> None:
        engine, listener = engine_on(processes), ear()
        await engine.start(listener)
        (back,) = await listener.values(listener.send(fill, [numpy.zeros(20_000)]))
        back[1] = 8
        assert back[:2].tolist() == [7, 8]
        await engine.close(now=True)

    asyncio.run(main())


def test_what_waits_is_taken_back_what_runs_is_stopped_between_items(ear: Ears) -> None:
    """A future that has not started is cancelled; threads see the stop of a running attempt."""
    started, go_on = threading.Event(), threading.Event()

    def step(x: int) -> int:
        started.set()
        go_on.wait(10)
        time.sleep(0.002)  # so that items are left when it is told to stop
        return x

    async def main() -> None:
        with ThreadPoolExecutor(1) as threads:
            # By reference, so that the function sees these very events.
            test_executor_step = step
            module.__dict__["step"] = test_executor_step
            step.__module__, step.__qualname__ = module.__name__, "step"
            engine, listener = engine_on(threads), ear()
            await engine.start(listener)
            try:
                running = listener.send(step, range(100))
                waiting = listener.send(step, [0])
                await asyncio.to_thread(started.wait, 10)
                engine.revoke(7, 0, waiting, 0)
                report, _ = await listener.hear("report")
                assert report == Report(0, waiting, 0, 0, 0.0, True, ())
                engine.interrupt(7, 0, running)
                engine.revoke(7, 0, 999, 0)
                go_on.set()
                assert len(await listener.values(running)) < 100
            finally:
                go_on.set()
                del module.__dict__["step"]
                await engine.close(now=True)

    asyncio.run(main())


class Slow(Executor):
    """Runs what it is told to run, when it is told to."""

    def __init__(self) -> None:
        self.tasks: list[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.tasks.append((future, fn, args))
        return future

    def run(self) -> None:
        future, fn, args = self.tasks.pop(0)
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(fn(*args))
            except BaseException as error:
                future.set_exception(error)


def test_kill_gives_up_the_answer(ear: Ears) -> None:
    """After a kill the slot is free again, and a late answer is not heard."""

    async def main() -> None:
        executor = Slow()
        engine, listener = engine_on(executor, slots=2, name="slow"), ear()
        await engine.start(listener)
        assert (listener.info.name, listener.info.slots) == ("slow", 2)
        listener.send(square, [1])
        other = listener.send(square, [2], slot=1)
        executor.tasks[0][0].set_running_or_notify_cancel()
        engine.kill(7, 0)
        assert (await listener.hear("died"))[:4] == (0, -1, -1, "killed")
        assert await listener.hear("event") == SlotReady(7, 0)
        executor.tasks.pop(0)[0].set_result(None)
        executor.run()
        assert await listener.values(other) == [4]
        assert listener.heard.empty()
        await engine.close(now=True)

    asyncio.run(main())


def test_a_future_that_fails_is_a_refusal(ear: Ears) -> None:
    """Whatever the executor raises instead of an answer is told as the reason."""

    async def main() -> None:
        executor = Slow()
        engine, listener = engine_on(executor, slots=1), ear()
        await engine.start(listener)
        attempt = listener.send(square, [1])
        executor.tasks.pop()[0].set_exception(ImportError("no distmap there"))
        refused, parts = await listener.hear("refused")
        assert refused == attempt
        (failure,) = load_results(parts, 0, 1, (0,))
        assert (failure.type, failure.message) == ("ImportError", "no distmap there")
        # Cancelled by somebody else: it goes back.
        attempt = listener.send(square, [1])
        executor.tasks.pop()[0].cancel()
        assert await listener.values(attempt) == []
        # Closing cancels what waits, and nothing is heard of it.
        listener.send(square, [1])
        await engine.close(now=True)
        assert executor.tasks[0][0].cancelled()
        await asyncio.sleep(0)
        assert listener.heard.empty()

    asyncio.run(main())


def test_code_dropped_while_it_was_missed(ear: Ears) -> None:
    """An attempt whose code was dropped before the worker asked for it ends with nothing."""

    async def main() -> None:
        executor = Slow()
        engine, listener = engine_on(executor, slots=1), ear()
        await engine.start(listener)
        big = bytes(100_000)
        code = dump_code(lambda x: len(big))
        attempt = listener.send(code, [1])
        for digest in (code.digest, *(blob.digest for blob in code.blobs)):
            engine.drop(7, digest)
        executor.run()
        assert await listener.values(attempt) == []
        await engine.close(now=True)

    asyncio.run(main())


def test_a_broken_executor_is_a_lost_worker(ear: Ears) -> None:
    """When a process of the executor dies it takes nothing any more, and the worker is gone. (What an initializer has
    set up lives in those processes, so chunks run in them.)
    """

    async def main() -> None:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=int) as processes:
            engine, listener = engine_on(processes), ear()
            await engine.start(listener)
            listener.send(leave, [1])
            assert await listener.hear("event") == WorkerLost(7)
            await engine.close(now=True)

    asyncio.run(main())


class Mute(Slow):
    """Takes calls until it is shut down, and answers none."""

    def __init__(self) -> None:
        super().__init__()
        self.refuses = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self.refuses:
            raise RuntimeError("cannot schedule new futures after shutdown")
        return super().submit(fn, *args, **kwargs)


def test_an_executor_that_is_silent_and_takes_nothing_new_is_lost(ear: Ears) -> None:
    """Silence alone is no fault, an item may take its time; silence of one that was shut down has no end."""

    async def main() -> None:
        executor = Mute()
        limits = Limits(suspect_after=0.04, reconnect_grace=0.08)
        engine, listener = engine_on(executor, slots=1, limits=limits), ear()
        await engine.start(listener)
        attempt = listener.send(square, [3])
        async with asyncio.timeout(10):
            while len(executor.tasks) < 5:  # noqa: ASYNC110
                await asyncio.sleep(0.01)  # it is asked whether it takes calls, again and again
        executor.run()
        assert await listener.values(attempt) == [9]
        listener.send(square, [3])
        executor.refuses = True
        assert await listener.hear("event") == WorkerLost(7, charged=False)
        assert engine.broken is not None
        assert "has answered nothing for" in engine.broken
        await engine.close(now=True)

    asyncio.run(main())


def test_the_future_of_an_attempt_goes_with_its_answer(ear: Ears) -> None:
    """Nobody waits for the garbage collector: a cluster keeps each result for as long as its future lives."""

    async def main() -> None:
        executor = Slow()
        engine, listener = engine_on(executor, slots=1), ear()
        await engine.start(listener)
        attempt = listener.send(square, [3])
        future = weakref.ref(executor.tasks[0][0])
        gc.disable()
        try:
            executor.run()
            assert await listener.values(attempt) == [9]
            assert future() is None
        finally:
            gc.enable()
        await engine.close(now=True)

    asyncio.run(main())


class Candid(Slow):
    """Of those whose `cancel()` can be believed: here, by its module's name."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return super().submit(fn, *args, **kwargs)


Candid.submit.__module__ = "loky.process_executor"


def test_what_surely_runs_is_waited_for(ear: Ears) -> None:
    """An executor that is shut down and still runs a call, and says so truly, is not given up."""

    async def main() -> None:
        executor = Candid()
        limits = Limits(suspect_after=0.02, reconnect_grace=0.04)
        engine, listener = engine_on(executor, slots=1, limits=limits), ear()
        await engine.start(listener)
        attempt = listener.send(square, [3])
        future, fn, args = executor.tasks.pop()
        future.set_running_or_notify_cancel()
        asked = 0

        def running() -> bool:
            nonlocal asked
            asked += 1
            return True

        future.running = running  # type: ignore[method-assign]
        async with asyncio.timeout(10):
            while asked < 5:  # noqa: ASYNC110
                await asyncio.sleep(0.01)  # the questions come from timers of this loop
        assert not executor.tasks  # nobody knocked
        future.set_result(fn(*args))
        assert await listener.values(attempt) == [9]
        await engine.close(now=True)

    asyncio.run(main())


@pytest.mark.parametrize("candid", [True, False])
def test_only_what_is_sure_to_wait_is_taken_back(ear: Ears, candid: bool) -> None:
    """A `cancel()` that cannot be believed is not even tried: the attempt is answered for when it has run."""

    async def main() -> None:
        executor = Candid() if candid else Slow()
        engine, listener = engine_on(executor, slots=1), ear()
        await engine.start(listener)
        attempt = listener.send(square, [3])
        engine.revoke(7, 0, attempt, 0)
        assert executor.tasks[0][0].cancelled() == candid
        executor.run()
        assert await listener.values(attempt) == ([] if candid else [9])
        assert listener.heard.empty()
        await engine.close(now=True)

    asyncio.run(main())


class Reborn(Slow):
    """One death breaks it, and it can be made anew, as loky's."""

    made: ClassVar[list[Reborn]] = []

    def __init__(self) -> None:
        super().__init__()
        self.made.append(self)

    def burst(self) -> None:
        """Everything that it has is lost."""
        tasks, self.tasks = self.tasks, []
        for future, _, _ in tasks:
            future.set_exception(BrokenExecutor("a worker died (exit code 3)"))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False, kill_workers: bool = False) -> None:
        self.tasks.clear()


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_who_broke_an_executor_is_found_without_blame_for_others(ear: Ears, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that it had runs again on a fresh one, half of it at a time; only what broke it alone is to blame, and runs
    alone from then on."""
    monkeypatch.setattr("distmap.engine.executors.replacement_of", lambda executor: Reborn)
    monkeypatch.setattr(Reborn, "made", [])

    async def main() -> None:
        engine, listener = engine_on(Reborn(), slots=2), ear()
        await engine.start(listener)
        code = dump_code(square)
        good, bad, other, last = (listener.send(code, [n], slot=n % 2, start=n) for n in range(4))
        Reborn.made[-1].burst()
        await turn()
        assert [args[0].attempt for _, _, args in Reborn.made[-1].tasks] == [good, bad]
        Reborn.made[-1].burst()
        await turn()
        assert [args[0].attempt for _, _, args in Reborn.made[-1].tasks] == [good]
        Reborn.made[-1].run()
        assert await listener.values(good) == [0]
        Reborn.made[-1].burst()
        assert await listener.hear("broke") == (bad, 0, "BrokenExecutor: a worker died (exit code 3)")
        assert [args[0].attempt for _, _, args in Reborn.made[-1].tasks] == [other, last]
        again = listener.send(code, [1], start=1)
        assert len(Reborn.made[-1].tasks) == 2
        for attempt, value in ((other, 4), (last, 9)):
            Reborn.made[-1].run()
            assert await listener.values(attempt) == [value]
        await turn()
        late = listener.send(code, [5], start=5)
        assert [args[0].attempt for _, _, args in Reborn.made[-1].tasks] == [again]
        Reborn.made[-1].burst()
        assert (await listener.hear("broke"))[0] == again
        Reborn.made[-1].run()
        assert await listener.values(late) == [25]
        assert len(Reborn.made) == 5
        await engine.close(now=True)

    asyncio.run(main())


def test_an_executor_that_was_shut_down_and_made_anew_keeps_what_it_runs(
    ear: Ears, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is blamed and nothing runs twice: what it has is waited for, what comes goes to the fresh one. Should the
    old one break after all, what it had goes back."""
    monkeypatch.setattr("distmap.engine.executors.replacement_of", lambda executor: Reborn)
    monkeypatch.setattr(Reborn, "made", [])

    class Ended(Mute, Reborn):
        """Refuses as shut down ones do."""

    async def main() -> None:
        old = Ended()
        engine, listener = engine_on(old, slots=2), ear()
        await engine.start(listener)
        runs, breaks = listener.send(square, [2]), listener.send(square, [3])
        old.refuses = True
        late = listener.send(square, [4])
        await turn()
        assert [args[0].attempt for _, _, args in old.tasks] == [runs, breaks]
        assert [args[0].attempt for _, _, args in Reborn.made[-1].tasks] == [late]
        old.run()
        assert await listener.values(runs) == [4]
        old.burst()
        assert await listener.values(breaks) == []
        Reborn.made[-1].run()
        assert await listener.values(late) == [16]
        await engine.close(now=True)

    asyncio.run(main())


def test_an_executor_that_is_born_broken_is_given_up(ear: Ears, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made anew a bounded number of times; one that cannot be made at all is the end, too."""

    class Stillborn(Reborn):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            raise BrokenExecutor("it never began")

    def unable() -> Executor:
        raise OSError("no more processes")

    async def main(renew: Callable[[], Executor], says: str) -> None:
        monkeypatch.setattr("distmap.engine.executors.replacement_of", lambda executor: renew)
        engine, listener = engine_on(Stillborn(), slots=1), ear()
        await engine.start(listener)
        listener.send(square, [1])
        assert isinstance(await listener.hear("event"), WorkerLost)
        assert says in (engine.broken or "")
        await engine.close(now=True)

    asyncio.run(main(Stillborn, "calls in a row"))
    asyncio.run(main(unable, "no more processes"))


def test_an_executor_that_was_shut_down_is_a_lost_worker(ear: Ears) -> None:
    """Submitting to it fails, and the driver is told once."""

    async def main() -> None:
        threads = ThreadPoolExecutor(1)
        threads.shutdown()
        engine, listener = engine_on(threads), ear()
        await engine.start(listener)
        listener.send(square, [1])
        listener.send(square, [1])
        assert await listener.hear("event") == WorkerLost(7, charged=False)
        await asyncio.sleep(0)
        assert listener.heard.empty()
        await engine.close(now=True)

    asyncio.run(main())


def talk(x: int) -> int:
    print("out", x)
    print("err", x, file=sys.stderr)
    if x == 2:
        child = os.fork()
        if not child:
            print("forked")
            os._exit(0)
        os.waitpid(child, 0)
    return x


def streams(_: object) -> tuple[str, str]:
    return type(sys.stdout).__name__, type(sys.stderr).__name__


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_what_is_printed_in_another_process_comes_with_the_answer(ear: Ears) -> None:
    """Where that is the executor's own: its text comes before the report; the streams are back afterwards."""

    processes = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=int)

    async def main() -> None:
        engine, listener = engine_on(processes), ear()
        await engine.start(listener)
        attempt = listener.send(talk, [1, 2])
        what, (output, (text,)) = await listener.heard.get()
        assert what == "printed"
        assert (output.attempt, output.dropped) == (attempt, 0)
        assert [piece[:2] for piece in output.pieces] == [(0, 0), (0, 1), (1, 0), (1, 1)]
        assert bytes(text) == b"out 1\nerr 1\nout 2\nerr 2\n"
        assert await listener.values(attempt) == [1, 2]
        assert await listener.values(listener.send(talk, [3], output=False)) == [3]
        assert listener.heard.empty()
        await engine.close(now=True)

    with processes:
        asyncio.run(main())
        assert processes.submit(streams, None).result(20) == ("TextIOWrapper", "TextIOWrapper")


class Talkative(SmallAdapter):
    """Its calls are answered, and heard of, when the test says so."""

    def __init__(self) -> None:
        super().__init__(SmallCluster(one=2), isolated=True)
        self.calls: list[tuple[Future[Any], Any, Task]] = []
        self.wishes: list[Any] = []

    def submit(self, member: str, run: Any, task: Task, *args: Any) -> Any:
        if member == "gone":
            raise MemberEnded(member)
        call: Future[Any] = Future()
        self.calls.append((call, run.args[1], task))
        return call

    def send(self, member: str, data: bytes) -> bool:
        self.wishes.append(unpack(data))
        return True


def answer(*spans: tuple[int, int], task: Task, ended: bool = True) -> Answer:
    messages: Any = []
    for lo, hi in spans:
        report = Report(task.slot, task.attempt, lo, hi, 0.1, ended and hi == task.hi, ())
        messages.append((report, encode_results([at * at for at in range(lo, hi)])))
    return Answer(messages)


def encode_results(results: list[Any]) -> Any:
    return encode(results, Dependencies(), what="")[0].parts


def test_what_is_heard_early_is_taken_once(ear: Ears) -> None:
    """Reports over the side channel count, in their order; the answer brings the others. What is of another call, of
    another number, or an end, is left to the answer.
    """

    async def main() -> None:
        adapter = Talkative()
        engine, listener = ForeignEngine(adapter), ear()
        await engine.start(listener)
        attempt = listener.send(square, range(4))
        call, origin, task = adapter.calls.pop()
        full = answer((0, 1), (1, 3), (3, 4), task=task)

        def say(number: int, origin: Any = origin) -> None:
            engine.received(pack(origin, number, *full.messages[number]))

        others = [origin._replace(call=9), origin._replace(worker=b"somebody")]
        for number, of in ((1, origin), (0, others[0]), (0, others[1]), (2, origin)):
            say(number, of)
        engine.received(b"noise")
        engine.received(progress(origin, attempt, 2, 60.0))
        say(0)
        say(0)
        say(1)
        say(2)
        assert await listener.hear("event") == AttemptProgressed(attempt, 2)
        assert await listener.hear("watched") == (((attempt, 2, 60.0), (-1, -1, 0.0)), "")
        for span in ((0, 1), (1, 3)):
            report, _ = await listener.hear("report")
            assert (report.lo, report.hi, report.ended) == (*span, False)
        call.set_result(full)
        report, _ = await listener.hear("report")
        assert (report.lo, report.hi, report.ended) == (3, 4, True)
        assert listener.heard.empty()
        await engine.close(now=True)

    asyncio.run(main())


def test_what_was_heard_runs_no_second_time(ear: Ears) -> None:
    """A call that is made again runs the rest alone; one that came to nothing gives back the rest; one whose place died
    with one item left blames that.
    """

    async def main() -> None:
        adapter = Talkative()
        engine, listener = ForeignEngine(adapter), ear()
        await engine.start(listener)
        for error in (CancelledError(), MemberEnded("one")):
            attempt = listener.send(square, range(4))
            call, origin, task = adapter.calls.pop()
            engine.received(pack(origin, 0, *answer((0, 3), task=task).messages[0]))
            await listener.hear("report")
            call.set_exception(error)
            if isinstance(error, CancelledError):
                report, _ = await listener.hear("report")
                assert (report.lo, report.hi, report.ended) == (3, 3, True)
            else:
                assert (await listener.hear("broke"))[:2] == (attempt, 3)
        adapter.renew = lambda: True  # type: ignore[method-assign]
        adapter.fate = lambda error: "broken"  # type: ignore[method-assign]
        for _ in range(2):
            listener.send(square, range(4))
        (call, origin, task), _ = adapter.calls
        engine.received(pack(origin, 0, *answer((0, 3), task=task).messages[0]))
        await listener.hear("report")
        call.set_exception(ClusterEnded("it broke"))
        await eventually(lambda: len(adapter.calls) == 3)
        again, fresh, rest = adapter.calls[2]
        assert (rest.lo, rest.hi) == (3, 4)
        assert fresh != origin
        engine.received(pack(origin, 0, *answer((0, 3), task=task).messages[0]))
        again.set_result(answer((3, 4), task=rest))
        report, _ = await listener.hear("report")
        assert (report.lo, report.hi, report.ended) == (3, 4, True)
        await engine.close(now=True)

    asyncio.run(main())


def test_what_a_lost_member_runs_is_told_to_stop(ear: Ears) -> None:
    """Its items run elsewhere: its far end is to end it, and its answer is not waited for."""

    async def main() -> None:
        adapter = Talkative()
        forgotten: list[Any] = []
        adapter.forget = forgotten.append  # type: ignore[method-assign]
        engine, listener = ForeignEngine(adapter), ear()
        await engine.start(listener)
        listener.send(square, range(4))
        ((call, origin, _),) = adapter.calls
        engine.members([])
        assert await listener.hear("event") == WorkerLost(7)
        assert [(wish.origin, wish.message) for wish in adapter.wishes] == [(origin, Kill(0))]
        assert forgotten == [call]
        await engine.close(now=True)

    asyncio.run(main())


def test_threads_of_an_executor_that_was_shut_down_stop_between_items(ear: Ears, tmp_path: Path) -> None:
    """Nobody hears them any more, and their items run elsewhere."""

    def step(x: int) -> None:
        (tmp_path / f"begun-{x}").touch()
        while not (tmp_path / "go").exists():
            time.sleep(0.002)  # the gate is a file: the function travels

    async def main() -> None:
        with ThreadPoolExecutor(1) as threads:
            engine, listener = engine_on(threads), ear()
            await engine.start(listener)
            try:
                listener.send(step, range(3))
                await eventually((tmp_path / "begun-0").exists)
                threads.shutdown(wait=False)
                listener.send(square, [1])
                assert await listener.hear("event") == WorkerLost(7, charged=False)
            finally:
                (tmp_path / "go").touch()
        assert not (tmp_path / "begun-1").exists()
        await engine.close(now=True)

    asyncio.run(main())


def test_wishes_are_told_to_the_far_end(ear: Ears) -> None:
    """A stop, an interrupt, a kill; and what still runs when the pool closes is ended."""

    async def main() -> None:
        adapter = Talkative()
        engine, listener = ForeignEngine(adapter), ear()
        await engine.start(listener)
        attempt, other = listener.send(square, range(4)), listener.send(square, range(4), slot=1)
        origins = [origin for _, origin, _ in adapter.calls]
        engine.revoke(7, 0, attempt, 2)
        engine.interrupt(7, 0, attempt)
        engine.kill(7, 0)
        await engine.close(now=True)
        assert [(wish.origin, wish.message) for wish in adapter.wishes] == [
            (origins[0], Revoke(0, attempt, 2)),
            (origins[0], Interrupt(0, attempt)),
            (origins[0], Kill(0)),
            (origins[1], Kill(0)),
        ]
        assert other != attempt

    asyncio.run(main())
