"""Task processes of ours in a worker of somebody else's engine; most often that worker is this process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context, resource_tracker
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.waiting import until

import distmap
from distmap.core.limits import LIMITS
from distmap.engine import foreign_host, foreign_slots
from distmap.engine.attempt import KEPT, BlobParts
from distmap.engine.side_channel import Origin
from distmap.errors import PoisonItemError
from distmap.tasks.code import Code, dump_code
from distmap.tasks.items import dump_items, load_results
from distmap.testing.adapters import SmallAdapter, SmallCluster
from distmap.testing.engine_work import all_at_once
from distmap.wire.messages import Died, Report, Task

ORIGIN = Origin(b"a worker", 1)


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    """Nothing of it outlives a test."""
    yield
    foreign_host.end()


@pytest.fixture(autouse=True, scope="module")
def tracker() -> None:
    """multiprocessing's tracker of named resources stays once it was started; that is not a test's leak."""
    resource_tracker.ensure_running()


def _pid(_: object) -> int:
    return os.getpid()


def run(fn: Any, items: Any, *, slots: int = 1, with_code: bool = True, **fields: Any) -> Any:
    """A call as an engine makes it."""
    code, (payload, _) = fn if isinstance(fn, Code) else dump_code(fn), dump_items(items)
    blobs = [BlobParts(blob.digest, blob.kind, tuple(blob.payload.parts)) for blob in code.blobs]
    blobs.append(BlobParts(code.digest, "code", tuple(code.payload.parts)))
    needs = tuple(blob.digest for blob in code.blobs)
    values = {"lo": 0, "hi": len(items), "start": 0, "timeout": 0.0, **fields}
    task = Task(3, 77, code.digest, needs, **values)
    return foreign_host.run(slots, ORIGIN, task, blobs if with_code else [], payload.parts, None)


def values(answer: Any) -> list[Any]:
    found: list[Any] = []
    for message, parts in answer.messages:
        assert (message.slot, message.attempt) == (3, 77)
        if isinstance(message, Report) and message.hi > message.lo:
            found += load_results(parts, message.lo, message.hi, message.failed)
    return found


def test_a_chunk_runs_in_a_process_of_ours() -> None:
    """It is kept for the next one, with what was sent; a large part comes as memory that can be written to."""
    first = run(_pid, [0])
    assert (first.first, first.missing) == (True, ())
    (pid,) = values(first)
    assert psutil.Process(pid).ppid() == os.getpid()
    again = run(_pid, [0], with_code=False)
    assert (values(again), again.first) == ([pid], False)
    assert again.seconds > 0
    numpy = pytest.importorskip("numpy")
    (large,) = values(run(lambda n: numpy.ones(n), [100_000]))
    large[0] = 7
    assert run(lambda x: x + 1, [0], with_code=False).missing


def test_a_crash_is_told_with_its_item() -> None:
    """Of a kill, an exit and a time limit alike; what was finished comes with it, and the next call goes on."""

    def step(x: Any) -> Any:
        if x == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if x == "sleep":
            time.sleep(60)  # until the time limit ends it
        return x

    for item, reason, says in (("kill", "died", "SIGKILL"), ("sleep", "timeout", "longer than its time limit")):
        answer = run(step, [1, 2, item, 3], timeout=0.5 if item == "sleep" else 0.0)
        died = answer.messages[-1][0]
        assert isinstance(died, Died)
        assert (died.attempt, died.at, died.reason) == (77, 2, reason)
        assert says in died.text
    assert values(run(step, [5])) == [5]


def test_payloads_are_kept_once_and_bounded(tmp_path: Path) -> None:
    """For all task processes together, in memory that they share; what was not used for long is forgotten."""
    table = bytes(1 << 20)
    meet = partial(all_at_once, str(tmp_path), 2, 20.0)
    code = dump_code(lambda x: (*meet(x), len(table)))
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.extend(values(run(code, [0], slots=2)))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert all(met for met, *_ in found)
    assert len({pid for _, pid, _ in found}) == 2
    assert {size for *_, size in found} == {len(table)}
    host = foreign_host._host
    assert host is not None
    assert len(host._slots._blobs) == len(code.blobs) + 1
    for n in range(2 * KEPT):
        run(lambda x, n=n: x + n, [0])
    assert len(host._slots._blobs) == KEPT


def test_more_calls_than_slots_wait() -> None:
    """An engine that runs more at once than it said has all of them answered."""
    found: list[Any] = []
    threads = [threading.Thread(target=lambda n=n: found.extend(values(run(abs, [-n])))) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(found) == [0, 1, 2, 3, 4]


def test_without_processes_it_runs_in_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where none can be started; that is said once."""

    class Forbidden(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            raise PermissionError("no processes here")

    monkeypatch.setattr(subprocess, "Popen", Forbidden)
    first, second = run(lambda _: os.getpid(), [0, 1]), run(lambda _: os.getpid(), [2])
    remark, (text,) = first.messages.pop(0)
    assert b"no task process can be started there" in text
    assert values(first) == [os.getpid()] * 2
    assert values(second) == [os.getpid()]
    assert len(second.messages) == 1
    assert remark.attempt == 77


def test_processes_that_cannot_begin_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the interpreter is none, say."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert values(run(_pid, [0])) == [os.getpid()]


def test_an_interrupt_ends_what_the_call_runs(tmp_path: Path) -> None:
    """Nobody waits for it any more, so it is killed, and its slot takes the next call."""
    mark = tmp_path / "begun"

    def wait(_: object) -> None:
        mark.write_text(str(os.getpid()))
        time.sleep(60)  # until the interrupt ends it

    def interrupt() -> None:
        until(lambda: mark.exists() and mark.read_text())
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run(wait, [0])
    thread.join(10)
    pid = int(mark.read_text())
    until(lambda: not psutil.pid_exists(pid))
    assert values(run(abs, [-3])) == [3]


def test_processes_leave_when_there_is_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a time; a call that comes later starts them anew."""
    monkeypatch.setattr(foreign_slots, "LIMITS", LIMITS._replace(engine_idle=0.05))
    (pid,) = values(run(lambda _: os.getpid(), [0]))
    until(lambda: foreign_host._host is None and not psutil.pid_exists(pid))
    assert values(run(abs, [-3])) == [3]


def test_nothing_is_left_when_the_foreign_process_ends() -> None:
    """It is killed: so is what it started."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor, distmap.Pool(executor) as pool:
        ((ours, theirs),) = pool.map(lambda _: (os.getpid(), os.getppid()), [0], progress=False)
        assert executor.submit(os.getpid).result(20) == theirs
        os.kill(theirs, signal.SIGKILL)
        until(lambda: not psutil.pid_exists(ours))


def test_members_with_processes_of_ours() -> None:
    """A poison item costs itself alone, on an engine with several members; a call that its owner's process runs at home
    needs none.
    """

    def step(x: int) -> int:
        if x == 5:
            os._exit(3)
        return os.getpid()

    with SmallCluster(one=1, two=1) as cluster, distmap.Pool(SmallAdapter(cluster, isolated=True)) as pool:
        got = pool.map(step, range(12), chunksize=3, progress=False, on_error="return")
        assert isinstance(got[5], PoisonItemError)
        assert os.getpid() not in got
        assert len(pool.workers) == 2
    home = foreign_host.home()
    code, (payload, _) = dump_code(_pid), dump_items([0])
    blobs = [BlobParts(code.digest, "code", tuple(code.payload.parts))]
    task = Task(3, 77, code.digest, (), 0, 1, 0, 0.0)
    elsewhere = partial(foreign_host.run, 1, ORIGIN)
    assert values(foreign_host.run_elsewhere(home, elsewhere, task, blobs, payload.parts, None)) == [os.getpid()]
