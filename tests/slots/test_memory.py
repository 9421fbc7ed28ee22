"""How much memory task processes may use, and what is said of those that use more."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distmap.core.limits import LIMITS
from distmap.slots import memory
from distmap.slots.memory import MemoryWatch, Usage, limit_of, shown, total_memory, used_by
from distmap.wire.messages import Died

Bench = Callable[..., Any]
MB = 1_000_000
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def run(coroutine: Any) -> Any:
    return asyncio.run(coroutine)


def use(megabytes: int) -> int:
    import numpy as np

    kept = [np.ones(MB) for _ in range(megabytes // 8)]
    return 8 * len(kept)


def keep(megabytes: int) -> int:
    import builtins

    import numpy as np

    builtins.__dict__.setdefault("kept_by_a_test", []).append(np.ones(MB * megabytes // 8))
    return os.getpid()


def read(array: Any) -> float:
    return float(array.sum())


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (100_000_000, 100_000_000),
        ("100000000", 100_000_000),
        ("2GB", 2_000_000_000),
        (" 1.5 gb", 1_500_000_000),
        ("1GiB", 1 << 30),
        ("500MB", 500_000_000),
    ],
)
def test_sizes(value: Any, expected: int | None) -> None:
    """As people write them."""
    assert limit_of(value, 4) == expected


def test_a_share_of_the_host_is_divided() -> None:
    """All slots together use so much at most."""
    assert limit_of("80%", 4) == int(0.8 * total_memory() / 4)


@pytest.mark.parametrize(
    ("value", "kind", "said"),
    [
        ("lots", ValueError, "such as '2GB' or '80%', not 'lots'"),
        ("2 pounds", ValueError, "not '2 pounds'"),
        ("120%", ValueError, "at most 100%"),
        ("1MB", ValueError, "is 1 MB for each slot, and a task process needs at least 64 MB"),
        (-5, ValueError, "not -5"),
        (True, TypeError, "not True"),
        (2.5, TypeError, "not 2.5"),
    ],
)
def test_what_is_no_size(value: Any, kind: type[Exception], said: str) -> None:
    """Says what was expected."""
    with pytest.raises(kind, match=said):
        limit_of(value, 1)


def test_sizes_in_words() -> None:
    """With the unit that fits."""
    assert [shown(12), shown(64 * MB), shown(2.345e9)] == ["12 B", "64 MB", "2.3 GB"]


def test_what_a_process_uses_for_itself() -> None:
    """Memory that is written counts, once it is there."""
    before = used_by(os.getpid())
    held = np.ones(20 * MB)
    after = used_by(os.getpid())
    assert before is not None
    assert after is not None
    assert after - before > 100 * MB, len(held)
    assert used_by(2**22 + 1) is None


def test_an_item_that_passes_the_limit_is_ended_and_named(bench: Bench) -> None:
    """By the item that used it, with the figures; what was finished before is kept, and the slot goes on."""

    async def main() -> None:
        async with bench(memory_limit=300 * MB) as b:
            attempt = b.send(use, [8, 800_000, 8])
            died = await b.hear(Died)
            assert died[:4] == (0, attempt, 1, "limit")
            assert "and the limit of its slot is 300 MB" in died.text
            assert await b.values(b.send(use, [8])) == [8]

    run(main())


def test_shared_memory_does_not_count(bench: Bench) -> None:
    """An array that all slots map may be larger than what each may use."""

    async def main() -> None:
        array = np.ones(20 * MB)  # 160 MB
        async with bench(memory_limit=100 * MB) as b:
            total = b.send(lambda n: max(n * read(array) for _ in range(20)), [1, 2])
            assert await b.values(total) == [20.0 * MB, 40.0 * MB]

    run(main())


def test_what_others_left_is_not_the_items_fault(bench: Bench) -> None:
    """The process had used most of its limit before: the item may run again, in a fresh one."""

    async def main() -> None:
        async with bench(memory_limit=400 * MB) as b:
            attempt = b.send(keep_then_wait, [250, 250])
            died = await b.hear(Died)
            assert died[:4] == (0, attempt, 1, "memory")

    run(main())


def keep_then_wait(megabytes: int) -> int:
    import time

    keep(megabytes)
    time.sleep(0.3)  # so that it is looked at
    return os.getpid()


def test_a_process_that_keeps_too_much_is_replaced_between_tasks(bench: Bench) -> None:
    """Nothing is lost or charged, and the caller is told why."""

    async def main() -> None:
        async with bench(memory_limit=400 * MB) as b:
            await b.values(b.send(use, [8]))
            (first,) = await b.values(b.send(keep_then_wait, [330]))
            (second,) = await b.values(b.send(lambda _: os.getpid(), [0]))
            assert first != second
            assert b.slots.retired == 1

    run(main())


def test_growth_without_a_limit_needs_time_and_doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the first task loads is no growth, and a young process is left alone."""
    watch, usage = MemoryWatch(None), Usage()
    sizes = [3 << 30, 3 << 30, 7 << 30, 7 << 30, 7 << 30]
    monkeypatch.setattr(memory, "used_by", lambda pid: sizes.pop(0))
    assert watch.growth(1, usage) is None
    assert usage.first == 3 << 30
    watch.begin(1e9)
    watch.look(1, usage, (1, 0))
    assert not usage.swollen
    watch.look(1, usage, (1, 0))
    assert not usage.swollen, "it is young"
    usage.since -= 2 * LIMITS.growth_seconds
    watch.look(1, usage, (1, 0))
    assert usage.swollen
    assert watch.growth(1, usage) == "kept over 3.2 GB more memory than after its first task"
    assert watch.growth(1, usage) is None


@linux
@pytest.mark.parametrize(
    ("cgroup", "path", "text"),
    [
        ("0::/user/me\n", "user/me/memory.events", "low 0\nhigh 0\nmax 0\noom 3\noom_kill 2\n"),
        ("0::/\n", "memory.events", "oom 3\noom_kill 2\n"),
        ("4:memory:/docker/7\n0::/\n", "memory/docker/7/memory.oom_control", "oom_kill_disable 0\noom_kill 2\n"),
        ("4:cpu,memory:/docker/7\n", "memory/memory.oom_control", "under_oom 0\noom_kill 2\n"),
    ],
)
def test_the_counter_of_our_cgroup(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cgroup: str, path: str, text: str
) -> None:
    """Of both versions, also where a container shows its own cgroup as the top."""
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(text)
    read = memory._read
    monkeypatch.setattr(memory, "_CGROUPS", str(tmp_path))
    monkeypatch.setattr(memory, "_read", lambda path: cgroup if path == "/proc/self/cgroup" else read(path))
    counter = memory.oom_counter()
    assert counter is not None
    assert counter() == 2


def test_a_counted_kill_explains_one_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one needs a count of its own, and an old count explains nothing."""
    counts = [5]
    monkeypatch.setattr(memory, "oom_counter", lambda: lambda: counts[0])
    watch, usage = MemoryWatch(None), Usage()
    usage.most = 3 * 10**9
    assert watch.killed(usage) is None
    counts[0] += 1
    said = watch.killed(usage)
    assert said is not None
    assert "memory ran out: it used 3.0 GB when last looked at, and there are" in said
    assert watch.killed(usage) is None
    counts[0] += 1
    watch.begin(1e9)
    watch.begin(1e9 + 60)
    watch._until = 0.0
    assert watch.killed(usage) is None


@linux
@pytest.mark.parametrize(("left", "used", "grows", "verdict"), [(1, 6, 0, True), (50, 6, 60, True), (50, 6, 1, False)])
def test_without_a_counter_what_was_seen_decides(
    monkeypatch: pytest.MonkeyPatch, left: int, used: int, grows: int, verdict: bool
) -> None:
    """A host short of memory, or a steep rise; else it was somebody's kill."""
    monkeypatch.setattr(memory, "oom_counter", lambda: None)
    monkeypatch.setattr(memory, "_meminfo", lambda: {"MemTotal": 100 * MB, "MemAvailable": left * MB})
    sizes = [used * MB, (used + grows) * MB]
    monkeypatch.setattr(memory, "used_by", lambda pid: sizes.pop(0))
    watch, usage = MemoryWatch(None), Usage()
    usage.now = used * MB
    for now in (1e9, 2e9):
        watch.begin(now)
        watch.look(1, usage, (1, 0))
    assert (watch.killed(usage) is not None) is verdict


def test_looks_come_more_often_near_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A core writes no more than so many bytes between two of them."""
    sizes = [100 * MB, 3_800 * MB, 3_990 * MB]
    monkeypatch.setattr(memory, "used_by", lambda pid: sizes.pop(0))
    watch, usage, pauses = MemoryWatch(4_000 * MB), Usage(), []
    for now in range(3):
        assert watch.begin(1e9 + now)
        watch.look(1, usage, (1, 0))
        pauses.append(watch.pause)
    assert pauses == [0.1, 0.05, 0.02]
    assert not watch.begin(1e9 + 2.001)


def test_a_kill_by_hand_is_no_want_of_memory(bench: Bench) -> None:
    """Nothing counted it, and memory is not short: it is a death like others."""

    async def main() -> None:
        async with bench() as b:
            attempt = b.send(lambda n: os.kill(os.getpid(), signal.SIGKILL), [0])
            died = await b.hear(Died)
            assert died[:4] == (0, attempt, 0, "died")

    run(main())


@linux
def test_the_system_is_to_end_task_processes_first(bench: Bench) -> None:
    """Rather than their parent, which keeps the results of all of them."""

    ours = int(Path("/proc/self/oom_score_adj").read_text())

    async def main() -> None:
        async with bench() as b:
            (found,) = await b.values(b.send(lambda _: int(Path("/proc/self/oom_score_adj").read_text()), [0]))
            assert found == min(1000, ours + 300)

    run(main())
