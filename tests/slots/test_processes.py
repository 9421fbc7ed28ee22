"""Task processes die in every way, are ended, and are replaced, at once or as soon as there is one."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest
from support.waiting import eventually

from distmap.core.limits import LIMITS
from distmap.slots import processes
from distmap.slots.control import CELL_FILES, PROCESS
from distmap.slots.process import Process
from distmap.tasks.per_process import per_process
from distmap.wire.messages import Died, Drop, Ready, Report

DEADLINE = 15.0

Bench = Callable[..., Any]

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def square(x: int) -> int:
    return x * x


def pid(_: object) -> int:
    return os.getpid()


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def run(coroutine: Any) -> Any:
    return asyncio.run(coroutine)


# --- dying -----------------------------------------------------------------------------------------------------------


def die_at(how: Callable[[], object], when: int) -> Callable[[int], int]:
    def task(x: int) -> int:
        if x == when:
            how()
        return x

    return task


def segfault() -> None:
    import ctypes

    ctypes.string_at(0)


def leave() -> None:
    os._exit(3)


def close_everything() -> None:
    os.closerange(3, 100_000)
    time.sleep(30)


def overflow() -> None:
    import ctypes

    ctypes.CDLL(None).abort()


def scribble() -> None:
    for fd in range(3, 2000):
        try:
            os.write(fd, b"\xff" * 1000)
        except OSError:
            continue
    time.sleep(30)


@linux
@pytest.mark.parametrize(
    ("how", "said"),
    [
        (segfault, "SIGSEGV"),
        (overflow, "SIGABRT"),
        (leave, "exited with code 3"),
        (close_everything, "closed the descriptors"),
        (scribble, "was ended"),
    ],
)
def test_a_death_names_the_item(bench: Bench, how: Callable[[], object], said: str) -> None:
    """The attempt and the item that ran are named, with how it died; a fresh process takes the slot's place."""

    async def main() -> None:
        async with bench(1) as b:
            attempt = b.send(die_at(how, 3), range(10))
            b.send(square, [1])  # waits, and is void with the death
            died = await b.hear(Died)
            assert (died.slot, died.attempt, died.at, died.reason) == (0, attempt, 3, "died")
            assert said in died.text
            assert await b.hear(Ready) == Ready(0)
            assert await b.values(b.send(square, [6])) == [36]

    run(main())


@linux
def test_a_segfault_is_told_with_its_stack(bench: Bench) -> None:
    """The text of a crash holds what faulthandler saw: where in the user's function it was."""

    async def main() -> None:
        async with bench(1) as b:
            b.send(die_at(segfault, 0), [0])
            died = await b.hear(Died)
            assert "Segmentation fault" in died.text
            assert "in segfault" in died.text

    run(main())


def test_a_kill_from_outside_is_a_death(bench: Bench) -> None:
    """SIGKILL, as the kernel's when memory runs out, is noticed; what was reported before it was heard."""

    async def main() -> None:
        async with bench(2) as b:
            (victim,) = await b.values(b.send(pid, [0], slot=1))
            attempt = b.send(nap, [0.0] * 5 + [0.11] + [30.0], slot=1)
            report, _ = await b.hear(Report)
            assert report.attempt == attempt
            await b.started(attempt, at=6, slot=1)
            os.kill(victim, signal.SIGKILL)
            died = await b.hear(Died)
            assert (died.slot, died.attempt, died.at, died.reason) == (1, attempt, 6, "died")
            assert "SIGKILL" in died.text
            await b.hear(Ready)
            assert await b.values(b.send(square, [2], slot=1)) == [4]

    run(main())


def test_an_idle_death_charges_nobody(bench: Bench) -> None:
    """A process that dies between tasks is replaced, and no attempt is named."""

    async def main() -> None:
        async with bench(1) as b:
            (victim,) = await b.values(b.send(pid, [0]))
            os.kill(victim, signal.SIGKILL)
            died = await b.hear(Died)
            assert (died.attempt, died.at, died.reason) == (-1, -1, "idle")
            assert await b.values(b.send(square, [2])) == [4]

    run(main())


@linux
def test_a_forked_process_that_lives_on_hides_no_death(bench: Bench) -> None:
    """A grandchild holds the socket open; the death of the task process is noticed all the same."""

    def fork_and_die(_: object) -> None:
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        os._exit(1)

    async def main() -> None:
        async with bench(1) as b:
            attempt = b.send(fork_and_die, [0])
            died = await b.hear(Died)
            assert (died.attempt, died.text) == (attempt, "exited with code 1")

    run(main())


def test_processes_that_cannot_start_are_tried_ever_more_rarely(bench: Bench, capfd: Any) -> None:
    """A process that dies at its start again and again does not keep the machine busy."""

    async def main() -> None:
        async with bench(1, sys_path=["/nowhere"]) as b:
            begun = time.monotonic()
            for _ in range(5):
                died = await b.hear(Died)
                assert (died.attempt, died.reason) == (-1, "idle")
                assert "exited with code 1" in died.text
            assert time.monotonic() - begun > 0.1 + 0.2

    run(main())
    assert "No module named" in capfd.readouterr().err


def test_a_process_that_retires_can_be_killed(bench: Bench) -> None:
    """A Kill while the process leaves is answered as any other."""

    async def main() -> None:
        async with bench(1, tasks=1) as b:
            await b.values(b.send(square, [3]))
            b.slots.kill(0)
            died = await b.hear(Died)
            assert (died.attempt, died.reason) == (-1, "killed")
            await b.hear(Ready)
            assert await b.values(b.send(square, [4])) == [16]

    run(main())


def test_a_process_that_cannot_be_replaced_when_it_retires(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it is told as a death that charges nobody, and the slot comes back once the system gives a process."""
    real = subprocess.Popen

    async def main() -> None:
        async with bench(1, tasks=1) as b:

            def popen(*args: Any, **kwargs: Any) -> Any:
                monkeypatch.setattr(subprocess, "Popen", real)
                raise OSError(11, "Resource temporarily unavailable")

            first = b.send(square, [3])
            b.send(square, [4])
            monkeypatch.setattr(subprocess, "Popen", popen)
            assert await b.values(first) == [9]
            died = await b.hear(Died)
            assert (died.attempt, died.reason) == (-1, "idle")
            await b.hear(Ready)
            assert await b.values(b.send(square, [5])) == [25]

    run(main())


def leak(x: int) -> int:
    if x:
        sys.leaked = [os.dup(0) for _ in range(x)]  # type: ignore[attr-defined]
    return os.getpid()


def keep_files(x: int) -> int:
    keep = per_process(lambda: [os.dup(0) for _ in range(600)])
    if x:
        keep()
    return os.getpid()


def test_what_a_process_was_asked_to_keep_is_no_growth(bench: Bench) -> None:
    """A process whose value of `per_process` holds 600 files stays; with 600 more of another function it does not."""

    async def main() -> None:
        async with bench(1) as b:
            (first,) = await b.values(b.send(leak, [1]))
            counted = b.slots._slots[0].process.blocks[PROCESS]
            assert await b.values(b.send(keep_files, [1])) == [first]
            async with asyncio.timeout(DEADLINE):
                while counted[CELL_FILES] < 600:
                    assert await b.values(b.send(keep_files, [0])) == [first]
            assert await b.values(b.send(keep_files, [0])) == [first]
            assert b.slots.retired == 0
            found = await b.values(b.send(leak, [600]))
            async with asyncio.timeout(DEADLINE):
                while found == [first]:
                    found = await b.values(b.send(leak, [0]))
            assert b.slots.retired == 1

    run(main())


def test_a_process_that_grows_is_replaced_between_two_tasks(bench: Bench) -> None:
    """What its first task opens is no growth; 600 files more are: it is replaced, which is told once."""

    async def main() -> None:
        async with bench(1) as b:
            (first,) = await b.values(b.send(leak, [300]))
            found = await b.values(b.send(leak, [0]))
            assert found == [first]
            found = await b.values(b.send(leak, [900]))
            async with asyncio.timeout(DEADLINE):
                while found == [first]:
                    found = await b.values(b.send(leak, [0]))
            assert b.slots.retired == 1
            assert b.remarks == ["a task process was replaced between two tasks, as it held over 512 open files more "
                                 "than after its first task"]  # fmt: skip
            assert b.died_or_ready == 0

    run(main())


def test_a_process_that_cannot_be_replaced_now_is_replaced_later(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the system gives no process after a death, the slot comes back once it does."""
    real = subprocess.Popen

    async def main() -> None:
        async with bench(1) as b:
            (victim,) = await b.values(b.send(pid, [0]))

            def popen(*args: Any, **kwargs: Any) -> Any:
                monkeypatch.setattr(subprocess, "Popen", real)
                raise OSError(11, "Resource temporarily unavailable")

            monkeypatch.setattr(subprocess, "Popen", popen)
            os.kill(victim, signal.SIGKILL)
            await b.hear(Died)
            await b.hear(Ready)
            assert await b.values(b.send(square, [4])) == [16]

    run(main())


def test_a_process_that_does_not_end_is_replaced_and_watched(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the system does not end a killed process, the slot says so and gets another one; its late end is noticed."""
    monkeypatch.setattr(processes, "LIMITS", LIMITS._replace(give_up_seconds=0.1))
    ended, held = Process.ended, set()
    # No test can put a process into an uninterruptible wait.
    monkeypatch.setattr(Process, "ended", lambda process: process.pid not in held and ended(process))

    async def main() -> None:
        async with bench(1) as b:
            held.update(await b.values(b.send(pid, [0])))
            attempt = b.send(nap, [30.0])
            await b.started(attempt)
            b.slots.kill(0)
            died = await b.hear(Died)
            assert (died.attempt, died.reason) == (attempt, "killed")
            (process,) = held
            assert f"its process {process} does not end, though it was killed" in died.text
            await b.hear(Ready)
            assert await b.values(b.send(square, [5])) == [25]
            assert [one.pid for one in b.slots.given_up] == [process]
            held.clear()
            await eventually(lambda: not b.slots.given_up)
            assert not psutil.pid_exists(process)

    run(main())


@pytest.fixture
def unannounced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that does not announce the end of processes."""

    def fail(process: int) -> int:
        raise OSError(38, "Function not implemented")

    if hasattr(os, "pidfd_open"):
        monkeypatch.setattr(os, "pidfd_open", fail)


@pytest.mark.usefixtures("unannounced")
def test_deaths_are_found_where_they_are_not_announced(bench: Bench) -> None:
    """Without process descriptors the end of the socket and a look now and then tell of every death."""

    def fork_and_die(_: object) -> None:
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        os._exit(1)

    async def main() -> None:
        async with bench(2) as b:
            attempt = b.send(die_at(leave, 1), range(3))
            died = await b.hear(Died)
            assert (died.attempt, died.at, died.text) == (attempt, 1, "exited with code 3")
            await b.hear(Ready)
            attempt = b.send(nap, [30.0], slot=1)
            await b.started(attempt, slot=1)
            b.slots.kill(1)
            died = await b.hear(Died)
            assert (died.attempt, died.reason) == (attempt, "killed")
            await b.hear(Ready)
            attempt = b.send(fork_and_die, [0])
            died = await b.hear(Died)
            assert died.attempt == attempt
            assert await b.values(b.send(square, [3], slot=1)) == [9]

    run(main())


# --- what they say ----------------------------------------------------------------------------------------------------


def test_what_receiving_sends_goes_when_the_socket_takes_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that receiving gives rise to, and that does not fit just then, waits for nothing but the socket."""
    real = Process.receive

    def receive(self: Process, freed: Any) -> Any:
        found = real(self, freed)
        if not self.outbox and found:
            with monkeypatch.context() as full:
                full.setattr(self.outbox, "flush", lambda: False)
                self.send(Drop(b"x" * 16))
        return found

    async def main() -> None:
        async with bench() as here:
            monkeypatch.setattr(Process, "receive", receive)
            assert await here.values(here.send(abs, [-1])) == [1]
            monkeypatch.undo()
            await eventually(lambda: not here.slots._slots[0].process.outbox)

    run(main())
