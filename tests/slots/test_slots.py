"""Slots with real processes: they start, run tasks in order, are ended or replaced when asked to, and leave nothing."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.waiting import eventually, until

from distmap.slots.control import BLOCKS
from distmap.slots.slots import Slots
from distmap.tasks.items import load_results
from distmap.wire.messages import Died, Ready, Report

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


def task_processes() -> list[psutil.Process]:
    children = psutil.Process().children()
    # For a moment after its start a process has no command line yet.
    until(lambda: all(_command(p) for p in children))
    return [p for p in children if "distmap.slots.child" in _command(p)]


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # or a zombie
        return "ended"


def run(coroutine: Any) -> Any:
    return asyncio.run(coroutine)


# --- work ------------------------------------------------------------------------------------------------------------


def test_every_slot_has_a_process_of_its_own(bench: Bench) -> None:
    """Tasks given before the processes are up are run, each in the process of its slot."""

    async def main() -> None:
        async with bench(2) as b:
            first, second = b.send(pid, [0], slot=0), b.send(pid, [0], slot=1)
            seen = {}
            for _ in range(2):
                report, parts = await b.hear(Report)
                seen[report.attempt] = load_results(parts, 0, 1, ())[0]
            assert seen[first] != seen[second]
            assert os.getpid() not in seen.values()

    run(main())


def test_a_slot_runs_its_tasks_in_order(bench: Bench) -> None:
    """Two tasks of one slot answer one after the other, over many rounds of blocks."""

    async def main() -> None:
        async with bench(1) as b:
            waiting = [b.send(square, [n]) for n in range(2)]
            for n in range(3 * BLOCKS):
                assert await b.values(waiting.pop(0)) == [n * n]
                waiting.append(b.send(square, [n + 2]))
            await b.values(waiting[0])

    run(main())


# --- ending and replacing ---------------------------------------------------------------------------------------------


def test_kill_ends_the_process_and_what_it_started(bench: Bench, tmp_path: Path) -> None:
    """Kill is answered by a death that charges nobody; processes that the task started end with it."""
    note = tmp_path / "pid"

    def start_another(_: object) -> None:
        other = subprocess.Popen(["sleep", "60"])
        note.write_text(str(other.pid))
        time.sleep(60)

    async def main() -> None:
        async with bench(1) as b:
            attempt = b.send(start_another, [0])
            await eventually(lambda: note.exists() and note.read_text())
            b.slots.kill(0)
            b.slots.kill(0)
            died = await b.hear(Died)
            assert (died.attempt, died.at, died.reason) == (attempt, 0, "killed")
            await b.hear(Ready)
            await eventually(lambda: not psutil.pid_exists(int(note.read_text())))
            assert await b.values(b.send(square, [2])) == [4]

    run(main())


def test_a_process_is_replaced_after_its_tasks(bench: Bench) -> None:
    """With `tasks` each process runs so many and leaves; nothing is lost and nobody died."""

    async def main() -> None:
        async with bench(2, tasks=2) as b:
            attempts = [b.send(pid, [n], slot=n % 2) for n in range(12)]
            found = await b.all_values(attempts)
            for slot in range(2):
                pids = [one for (one,) in found[slot::2]]
                assert pids[0::2] == pids[1::2]
                assert len(set(pids)) == 3
            attempts = [b.send(nap, [0.02]) for _ in range(6)]
            b.slots.revoke(0, attempts[4], 0)
            b.slots.interrupt(0, attempts[5])
            assert await b.all_values(attempts) == [[0.02]] * 4 + [[], []]

    run(main())


def test_whoever_watches_a_process_can_have_it_replaced(bench: Bench) -> None:
    """`retire` lets what a process was given end there, and what waits run in the next; an idle one goes at once."""

    async def main() -> None:
        async with bench(1) as b:
            running = b.send(pid, [0])
            b.slots.retire(0, "was too warm")
            b.slots.retire(0, "was too warm")
            waiting = b.send(pid, [0])
            (first,), (second,) = await b.all_values([running, waiting])
            assert first != second
            assert b.remarks == ["a task process was replaced between two tasks, as it was too warm"]
            b.slots.retire(0, "was too warm")
            assert await b.values(b.send(pid, [0])) != [second]
            assert b.slots.retired == 2
            assert b.died_or_ready == 0
            assert len(b.remarks) == 1  # nobody's call ran

    run(main())


# --- leaving ---------------------------------------------------------------------------------------------------------


def test_closing_leaves_no_process(bench: Bench) -> None:
    """Idle processes leave by themselves, busy ones are ended, however long what they run would take."""

    async def main() -> None:
        async with bench(2) as b:
            pids = await b.values(b.send(pid, [0]))
            attempt = b.send(nap, [60.0], slot=1)
            await b.started(attempt, slot=1)
            async with asyncio.timeout(15):
                await b.slots.close(now=True)
            assert not any(psutil.pid_exists(p) for p in pids)
            await b.slots.close(now=True)

    run(main())


def test_closing_gently_lets_short_items_finish(bench: Bench) -> None:
    """Without `now`, what runs may finish within a second, and is heard."""

    async def main() -> None:
        async with bench(1) as b:
            await b.values(b.send(nap, [0.0]))  # its process has booted, however busy the machine is
            attempt = b.send(nap, [0.2])
            await b.slots.close(now=False)
            assert await b.values(attempt) == [0.2]

    run(main())


def test_slots_end_without_a_loop() -> None:
    """`stop` needs no loop: what was spawned is gone after it."""
    slots = Slots(2)
    slots.spawn()
    assert len(task_processes()) == 2
    slots.stop()
    assert not task_processes()
    with pytest.raises(ValueError, match="at least one slot"):
        Slots(0)


def test_what_was_not_spawned_starts_with_the_loop() -> None:
    """A pool holds back what would take its own core; `attach` starts it, and only that."""

    async def main() -> None:
        slots = Slots(3)
        slots.spawn(1)
        (first,) = task_processes()
        slots.attach(asyncio.get_running_loop())
        now = task_processes()
        await slots.close(now=True)
        assert len(now) == 3
        assert first in now

    run(main())


def test_what_is_held_back_starts_with_its_first_task(bench: Bench) -> None:
    """Or a moment later, if it has none; the task waits for it, and slots end whether it has started or not."""

    async def main() -> None:
        for later, tasks in ((3600.0, 2), (0.01, 1), (3600.0, 1)):
            async with bench(2, later=later) as b:
                before = task_processes()
                assert len(before) == 1
                for slot in range(tasks):
                    assert await b.values(b.send(square, [3], slot=slot)) == [9]
                if later < 1:
                    await eventually(lambda: len(task_processes()) == 2)
                assert len(task_processes()) == (1 if later > 1 and tasks == 1 else 2)
                assert before[0] in task_processes()
            assert not task_processes()

    run(main())


def test_slots_may_be_added(bench: Bench) -> None:
    """A new one has the next number; its process starts with its first task, and ends with the others."""

    async def main() -> None:
        async with bench(1) as b:
            assert b.slots.add() == 1
            assert (len(b.slots), len(task_processes())) == (2, 1)
            assert await b.values(b.send(square, [3], slot=1)) == [9]
            assert len(task_processes()) == 2
        assert not task_processes()

    run(main())


def test_what_is_held_back_and_cannot_start_is_tried_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its task comes back uncharged, and the slot is ready once a process can be started."""
    real, calls = subprocess.Popen, []

    def popen(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) in (2, 3):
            raise OSError(11, "Resource temporarily unavailable")
        return real(*args, **kwargs)

    monkeypatch.setattr(subprocess, "Popen", popen)

    async def main() -> None:
        async with bench(2, later=3600.0) as b:
            b.send(square, [3], slot=1)
            died = await b.hear(Died)
            assert (died.slot, died.attempt, died.reason) == (1, -1, "idle")
            assert (await b.hear(Ready)).slot == 1
            assert await b.values(b.send(square, [4], slot=1)) == [16]

    run(main())


def test_a_failed_spawn_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a process cannot be started, those that were are ended."""
    real, calls = subprocess.Popen, []

    def popen(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise OSError(11, "Resource temporarily unavailable")
        return real(*args, **kwargs)

    monkeypatch.setattr(subprocess, "Popen", popen)
    with pytest.raises(OSError, match="temporarily"):
        Slots(3).spawn()
    assert not task_processes()
