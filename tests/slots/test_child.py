"""The task process: what user code does to it, and what it does about that."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import distmap
from distmap.tasks.items import load_results
from distmap.wire.messages import Died, Output, Ready, Report

Bench = Callable[..., Any]
PACKAGE = Path(distmap.__file__).parent

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def square(x: int) -> int:
    return x * x


def pid(_: object) -> int:
    return os.getpid()


def imports(_: object) -> set[str]:
    return {name.removeprefix("distmap.") for name in sys.modules if name.startswith("distmap.")}


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def run(coroutine: Any) -> Any:
    return asyncio.run(coroutine)


def test_only_what_was_asked_for_is_run(bench: Bench) -> None:
    """Items before `lo` are not run again, and the report says so."""

    async def main() -> None:
        async with bench(1) as b:
            b.send(square, range(10), lo=7)
            report, parts = await b.hear(Report)
            assert (report.lo, report.hi, report.ended, report.failed) == (7, 10, True, ())
            assert load_results(parts, 7, 10, ()) == [49, 64, 81]

    run(main())


#: What a task process imports from outside the room `tasks`, and why it lies where it lies.
OUTSIDE = {
    "_version": "part of the package's own `__init__`",
    "errors": "users import it too",
    "slots.child": "the process itself",
    "slots.control": "its parent shares the layout of the cells",
    "slots.frames": "its parent frames messages in the same way",
    "transport.segments": "its parent shares the same memory",
    "wire.codec": "its parent speaks the same messages",
    "wire.messages": "its parent speaks the same messages",
}


def test_all_that_a_task_process_imports_is_in_one_room(bench: Bench) -> None:
    """`tasks/` holds it, but for what the parent process shares; what only the kernel needs is not imported."""

    async def main() -> None:
        async with bench(1) as b:
            b.send(imports, [0])
            _, parts = await b.hear(Report)
            (found,) = load_results(parts, 0, 1, ())
            modules = {name for name in found if (PACKAGE / f"{name.replace('.', '/')}.py").exists()}
            assert {name for name in modules if not name.startswith("tasks.")} == set(OUTSIDE)
            kernel = {"tasks.bundling", "tasks.code", "tasks.codecache", "tasks.imports", "tasks.object_paths"}
            assert kernel.isdisjoint(found)

    run(main())


def test_what_is_finished_is_reported_while_the_rest_runs(bench: Bench) -> None:
    """A long chunk reports as it goes."""

    async def main() -> None:
        async with bench(1) as b:
            b.send(nap, [0.01] * 30 + [20.0])
            report, _ = await b.hear(Report)
            assert report.lo == 0
            assert 0 < report.hi < 31
            assert not report.ended

    run(main())


def test_what_tasks_print_comes_before_their_report(bench: Bench) -> None:
    """Text is told of by attempt, item and stream, and nothing of an attempt comes after its end."""

    def talk(x: int) -> int:
        print("out", x)
        print("err", x, file=sys.stderr)
        return x

    async def main() -> None:
        async with bench(1) as b:
            attempt = b.send(talk, [5, 6])
            assert await b.said(attempt) == [(0, 0, "out 5\n"), (0, 1, "err 5\n"), (1, 0, "out 6\n"), (1, 1, "err 6\n")]
            assert b.heard.empty()

    run(main())

    run(main())


def test_what_was_printed_before_a_crash_has_arrived(bench: Bench) -> None:
    """The last line before the process ends without a word is told of before its death."""

    def leave(x: int) -> None:
        print("last words", x)
        os._exit(3)

    def crash(x: int) -> None:
        import ctypes

        print("to be or", flush=True)
        ctypes.string_at(0)

    async def main() -> None:
        async with bench(1) as b:
            for fn, text, how in ((leave, "last words 1\n", "exited with code 3"), (crash, "to be or\n", "SIGSEGV")):
                attempt = b.send(fn, [1])
                message, parts = await b.heard.get()
                assert isinstance(message, Output), message
                assert (message.attempt, bytes(parts[0])) == (attempt, text.encode())
                died = await b.hear(Died)
                assert died.attempt == attempt
                assert how in died.text
                await b.hear(Ready)

    run(main())


def test_processes_that_a_task_starts_print_to_the_real_streams(
    bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of a fork and of a command nothing comes by here, and neither harms the task's own output."""

    def start(x: int) -> int:
        import subprocess

        sys.stdout.write("part ")
        child = os.fork()
        if not child:
            print("forked", flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        subprocess.run(["echo", "command"], stdout=sys.stdout, check=True)
        print("own")
        return x

    async def main() -> None:
        async with bench(1) as b:
            assert await b.said(b.send(start, [1, 2])) == [(0, 0, "part own\n"), (1, 0, "part own\n")]

    run(main())
    assert sorted(capfd.readouterr().out.split()) == ["command"] * 2 + ["forked"] * 2


def test_what_user_code_does_to_standard_output(bench: Bench) -> None:
    """Closing, redirecting, wrapping and replacing it harm neither this task nor the next one."""

    def close(_: object) -> None:
        sys.stdout.close()
        print("after close")

    def redirect(_: object) -> None:
        import contextlib
        import io

        with contextlib.redirect_stdout(io.StringIO()) as aside:
            print("aside")
        print("not", aside.getvalue().strip())

    def wrap(_: object) -> None:
        import io

        before, sys.stdout = sys.stdout, io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8")
        print("wrapped", flush=True)
        sys.stdout = before

    def lose(_: object) -> None:
        sys.stdout = None  # type: ignore[assignment]
        print("to nobody")

    async def main() -> None:
        async with bench(1) as b:
            assert await b.said(b.send(close, [0])) == [(0, 0, "after close\n")]
            assert await b.said(b.send(redirect, [0])) == [(0, 0, "not aside\n")]
            assert await b.said(b.send(wrap, [0])) == [(0, 0, "wrapped\n")]
            assert await b.said(b.send(print, ["still there"])) == [(0, 0, "still there\n")]
            assert await b.said(b.send(lose, [0])) == []
            assert await b.values(b.send(square, [3])) == [9]

    run(main())


def test_threads_and_imports_of_a_task_print_too(bench: Bench) -> None:
    """What threads print belongs to the item that runs; what is printed while the code loads to none."""

    class Loud:
        def __reduce__(self) -> Any:
            return (print, ("loading",))

    loud = Loud()

    def talk(x: int) -> object:
        import threading

        threads = [threading.Thread(target=print, args=("thread",)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return loud

    async def main() -> None:
        async with bench(1) as b:
            said = await b.said(b.send(talk, [0]))
            assert said[0] == (-1, 0, "loading\n")
            # Threads that print at a time may have their line ends apart from their lines, as anywhere.
            assert "".join(text for at, _, text in said[1:] if at == 0).split() == ["thread"] * 4

    run(main())


def test_a_flood_is_bounded_and_counted(bench: Bench) -> None:
    """Of a million lines as many arrive as a cell could take; the number of all others comes, too."""

    def flood(x: int) -> int:
        for number in range(x):
            print("line", number)
        return x

    async def main() -> None:
        async with bench(1) as b:
            said = await b.said(b.send(flood, [200_000]))
            lines = "".join(text for _, _, text in said).splitlines()
            assert lines[0] == "line 0"
            # A line whose end was too much is shown and counted.
            assert 200_000 <= len(lines) + b.dropped <= 200_100
            assert b.dropped > 0
            assert not [line for line in lines if line.count("line") > 1]
            assert await b.values(b.send(square, [3])) == [9]

    run(main())


def test_output_that_is_not_wanted_stays_there(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    """A task that was told to print to nobody does."""

    async def main() -> None:
        async with bench(1) as b:
            assert await b.said(b.send(print, ["x"], output=False)) == []
            assert await b.said(b.send(print, ["y"])) == [(0, 0, "y\n")]

    run(main())
    assert capfd.readouterr() == ("", "")


def test_an_item_that_does_nothing_but_print_is_interrupted(bench: Bench) -> None:
    """The interrupt that falls into the middle of a print is not lost."""

    def chatter(_: object) -> None:
        while True:
            print("x")

    async def main() -> None:
        async with bench(1) as b:
            (process,) = await b.values(b.send(pid, [0]))
            for _ in range(5):
                attempt = b.send(chatter, [0])
                await b.started(attempt)
                await b.hear(Output)
                b.slots.interrupt(0, attempt)
                assert await b.values(attempt) == []
            assert await b.values(b.send(pid, [0])) == [process]

    run(main())


@pytest.mark.timeout(60)
def test_alarms_in_the_middle_of_prints(bench: Bench) -> None:
    """A signal handler that raises, at any point of a print, leaves the connection whole."""

    def alarmed(rounds: int) -> int:
        def ring(*_: object) -> None:
            raise TimeoutError

        signal.signal(signal.SIGALRM, ring)
        seen = 0
        for _ in range(rounds):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0005)
                while True:
                    print("x")
            except TimeoutError:
                seen += 1
        return seen

    async def main() -> None:
        async with bench(1) as b:
            (process,) = await b.values(b.send(pid, [0]))
            assert await b.values(b.send(alarmed, [400])) == [400]
            assert await b.values(b.send(pid, [0])) == [process]

    run(main())


def test_a_task_that_takes_the_signal_handler_gives_it_back(bench: Bench) -> None:
    """After a task that ignores SIGINT, the next one can be interrupted."""

    def ignore(_: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    async def main() -> None:
        async with bench(1) as b:
            await b.values(b.send(ignore, [0]))
            attempt = b.send(nap, [30.0])
            await b.started(attempt)
            b.slots.interrupt(0, attempt)
            assert await b.values(attempt) == []

    run(main())


def test_stray_interrupts_do_nothing(bench: Bench) -> None:
    """SIGINT that nobody asked for neither ends the process nor the item."""

    async def main() -> None:
        async with bench(1) as b:
            (process,) = await b.values(b.send(pid, [0]))
            os.kill(process, signal.SIGINT)
            attempt = b.send(nap, [0.2])
            await b.started(attempt)
            os.kill(process, signal.SIGINT)
            assert await b.values(attempt) == [0.2]
            assert await b.values(b.send(pid, [0])) == [process]

    run(main())


def test_a_forked_process_that_comes_back_says_nothing(bench: Bench) -> None:
    """A fork that falls out of the task ends itself: each item is reported once."""

    def fork(x: int) -> int:
        child = os.fork()
        if child:
            os.waitpid(child, 0)
        return x

    async def main() -> None:
        async with bench(1) as b:
            assert await b.values(b.send(fork, [1, 2, 3])) == [1, 2, 3]
            assert await b.values(b.send(square, [3])) == [9]
            assert b.heard.empty()

    run(main())


def test_closed_standard_streams_are_survived(bench: Bench) -> None:
    """A task that closes descriptors 0 to 2, or 3 to 300, keeps its results and its process."""

    def close(x: int) -> int:
        for fd in (0, 1, 2):
            os.close(fd)
        os.closerange(3, 300)
        return x

    async def main() -> None:
        async with bench(1) as b:
            (before,) = await b.values(b.send(pid, [0]))
            assert await b.values(b.send(close, [1])) == [1]
            assert await b.values(b.send(print, ["to nowhere"])) == [None]
            assert await b.values(b.send(pid, [0])) == [before]

    run(main())
