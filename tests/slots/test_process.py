"""A process as its parent sees it: its environment, the memory shared with it, its end."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.waiting import eventually

from distmap.tasks.code import dump_code
from distmap.wire.messages import Ready

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


PARENT = """
import asyncio, os, sys, time
from distmap.tasks.code import dump_code
from distmap.tasks.items import dump_items
from distmap.slots.slots import Slots
from distmap.wire.messages import Task

class Quiet:
    def reported(self, report, parts): print(*[p.pid for p in __import__("psutil").Process().children()], flush=True)
    refused = died = ready = reported

async def main():
    slots = Slots(2, Quiet())
    slots.spawn()
    slots.attach(asyncio.get_running_loop())
    code = dump_code(time.sleep)
    slots.put(code.digest, "code", code.payload.parts)
    slots.assign(Task(0, 1, code.digest, (), 0, 1, 0, 0.0), dump_items([0])[0].parts)
    slots.assign(Task(0, 2, code.digest, (), 0, 1, 0, 0.0), dump_items([600])[0].parts)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@linux
def test_no_process_outlives_a_killed_parent() -> None:
    """After SIGKILL of the parent, busy and idle task processes are gone at once."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        children = [psutil.Process(int(word)) for word in parent.stdout.readline().split()]
        assert len(children) == 2
    finally:
        parent.kill()
        parent.communicate()
    _, alive = psutil.wait_procs(children, timeout=5)
    assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []


# --- shared memory ---------------------------------------------------------------------------------------------------

MB = 1 << 20

numpy = pytest.importorskip("numpy")


def mapped(process: int) -> set[str]:
    """The shared segments that a process has mapped, by inode."""
    lines = Path(f"/proc/{process}/maps").read_text().splitlines()
    return {line.split()[4] for line in lines if "memfd:distmap-segment" in line}


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def double(array: Any) -> Any:
    array *= 2  # in place: what came is the task's own
    return array


@linux
def test_large_arrays_travel_both_ways_through_memory(bench: Bench) -> None:
    """Large items and results arrive writable, share no memory with what was sent, and need no descriptor."""

    async def main() -> None:
        async with bench(1) as b:
            await b.values(b.send(pid, [0]))
            before = descriptors()
            arrays = [numpy.arange(MB // 4, dtype=numpy.float64) + n for n in range(3)]
            results = await b.values(b.send(double, arrays))
            for n, (array, result) in enumerate(zip(arrays, results, strict=True)):
                assert result[0] == 2 * n
                assert numpy.array_equal(result, 2 * array)
                result += 1
            assert descriptors() == before
            kept = results[1]
            del results, result
            assert await b.values(b.send(square, [3])) == [9]
        assert kept[0] == 3  # the pool is gone, what came from it is not

    run(main())


@linux
def test_segments_are_used_again(bench: Bench) -> None:
    """Many rounds of large items and results that are let go of use a few segments only."""

    async def main() -> None:
        async with bench(1) as b:
            (process,) = await b.values(b.send(pid, [0]))
            seen: set[str] = set()
            for n in range(12):
                (result,) = await b.values(b.send(double, [numpy.full(2 * MB, n, dtype=numpy.uint8)]))
                assert result[-1] == 2 * n
                del result
                await b.values(b.send(square, [1]))  # by then it has heard that the result is gone
                seen |= mapped(process) | mapped(os.getpid())
            assert len(seen) <= 4

    run(main())


def ramp(n: int) -> Any:
    return numpy.full(2 * MB, n, dtype=numpy.uint8)


@linux
def test_memory_of_results_is_there_for_the_next_call_and_given_back_at_rest(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results that are let go of leave their memory to those that follow; if none do, both processes let go of it."""
    monkeypatch.setattr("distmap.slots.processes._SPARE", 2 * MB)
    monkeypatch.setattr("distmap.slots.processes._LEAST_SPARE", 2 * MB)

    def rest_after(seconds: float) -> None:
        from distmap.slots import child

        child._REST_AFTER = seconds  # of its own process

    async def main() -> None:
        async with bench(1) as b:
            (process,) = await b.values(b.send(pid, [0]))
            await b.values(b.send(rest_after, [60.0]))
            seen: set[str] = set()
            for _ in range(3):
                results = await b.values(b.send(ramp, range(6)))
                assert [result[-1] for result in results] == list(range(6))
                seen |= mapped(process)
                del results
                await b.values(b.send(square, [1]))  # by then it has heard that they are gone
            assert len(seen) == 6
            await b.values(b.send(rest_after, [0.05]))
            await eventually(lambda: len(mapped(process)) == len(mapped(os.getpid())) == 1)
            assert await b.values(b.send(square, [3])) == [9]

    run(main())


@linux
def test_memory_that_a_task_keeps_is_left_to_it(bench: Bench) -> None:
    """An item that a function remembers keeps its contents whatever comes after."""

    def remember(array: Any) -> int:
        import builtins

        kept = builtins.__dict__.setdefault("kept", [])
        kept.append(array)
        return int(sum(int(a[0]) for a in kept))

    async def main() -> None:
        async with bench(1) as b:
            totals = []
            for n in range(5):
                totals += await b.values(b.send(remember, [numpy.full(2 * MB, n, dtype=numpy.uint8)]))
            assert totals == [0, 1, 3, 6, 10]

    run(main())


@linux
def test_captured_memory_is_shared_by_all_slots_and_read_only(bench: Bench) -> None:
    """A large captured array is one segment in every process, cannot be written to, and goes with its code."""
    big = numpy.arange(MB, dtype=numpy.int64)

    def look(i: int) -> tuple[int, int, bool]:
        return int(big[i]), os.getpid(), big.flags.writeable

    async def main() -> None:
        async with bench(2) as b:
            code = dump_code(look)
            processes = []
            for slot in (0, 1):
                ((value, process, writeable),) = await b.values(b.send(code, [5], slot=slot))
                assert (value, writeable) == (5, False)
                processes.append(process)
            shared = mapped(processes[0]) & mapped(processes[1])
            assert len(shared) == 1
            # A fresh process gets it anew.
            b.slots.kill(1)
            await b.hear(Ready)
            ((value, process, _),) = await b.values(b.send(code, [6], slot=1))
            assert value == 6
            assert mapped(process) == shared
            for digest in (*(blob.digest for blob in code.blobs), code.digest):
                b.slots.drop(digest)
            await b.values(b.send(pid, [0], slot=1))
            assert mapped(process) == set()

    run(main())


@linux
def test_a_result_that_is_kept_keeps_nothing_else(bench: Bench) -> None:
    """A result outlives the slots without keeping them, their descriptors or their listener."""
    before = descriptors()

    async def main() -> tuple[Any, Any]:
        async with bench(1) as b:
            (result,) = await b.values(b.send(double, [numpy.ones(MB)]))
            return result, weakref.ref(b)

    result, listener = run(main())
    gc.collect()
    assert listener() is None
    assert descriptors() == before
    assert result[0] == 2


@linux
def test_without_segments_the_socket_takes_everything(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the system gives no more shared memory, large parts go the slower way."""

    def fail(label: str) -> int:
        raise OSError(24, "Too many open files")

    async def main() -> None:
        async with bench(1) as b:
            await b.values(b.send(pid, [0]))
            monkeypatch.setattr("distmap.transport.segments.anonymous_file", fail)
            big = numpy.ones(2 * MB, dtype=numpy.uint8)
            (total,) = await b.values(b.send(numpy.sum, [big]))
            assert total == 2 * MB
            (again,) = await b.values(b.send(lambda n: int(big[:n].sum()), [100]))
            assert again == 100

    run(main())


def test_a_thousand_large_results_can_be_kept(bench: Bench) -> None:
    """The number of results that are kept is not bounded by the number of descriptors."""

    def make(n: int) -> Any:
        return numpy.full(MB, n, dtype=numpy.uint8)

    async def main() -> None:
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(64, descriptors() + 30), hard))
        try:
            async with bench(1) as b:
                results = await b.values(b.send(make, list(range(200))))
                assert [int(r[0]) for r in results] == [n % 256 for n in range(200)]
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    run(main())
