"""Large payloads for other processes of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context, resource_tracker
from typing import Any

import pytest

import distmap
from distmap.engine import executors
from distmap.engine import lent as lent_module
from distmap.engine.attempt import Answer, BlobParts, run_there
from distmap.engine.lent import Lent, borrow, is_unreadable, lend, run_with, take_back
from distmap.transport.segments import LARGE
from distmap.wire.messages import Task

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="opens descriptors of another process")

TASK = Task(0, 1, b"code", (), 0, 1, 0, 0.0)
PARTS = (b"head", bytes(range(256)) * (LARGE // 256), b"")


@pytest.fixture(autouse=True, scope="module")
def tracker() -> None:
    """multiprocessing's tracker of named resources stays once it was started; that is not a test's leak."""
    resource_tracker.ensure_running()


@pytest.fixture
def lent() -> Iterator[Lent]:
    """A payload, lent."""
    found = lend(BlobParts(b"digest", "value", PARTS))
    assert found is not None
    yield found
    take_back(found)


def test_what_is_lent_can_be_opened(lent: Lent) -> None:
    """With all its parts; who opens it may write to his copy, and keeps it when it is taken back."""
    first, second = borrow(lent), borrow(lent)
    assert first is not None
    assert second is not None
    assert (first.digest, first.kind) == (b"digest", "value")
    first.parts[1][0] = 7  # type: ignore[index]
    assert tuple(map(bytes, second.parts)) == PARTS


def test_small_ones_are_not_lent() -> None:
    """They travel with the call."""
    assert lend(BlobParts(b"digest", "value", (b"small",))) is None


def test_what_is_not_there_is_missing(lent: Lent) -> None:
    """Another process, another descriptor, another file of that number: nothing is opened, and nothing raised."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with open(os.devnull) as file:
        for other in (
            lent._replace(pid=ended.pid),
            lent._replace(fd=999_999),
            lent._replace(fd=file.fileno()),
            lent._replace(label="other"),
        ):
            assert borrow(other) is None
            found: list[Any] = []

            def run(task: Any, blobs: Any, parts: Any, emit: Any, found: list[Any] = found) -> Answer:
                found.extend(blobs)
                return Answer([])

            run_with([other, lent], None, run, TASK, [], [], None)
            assert [blob.digest for blob in found] == [b"digest"]
            answer = run_with([], other, run, TASK, [], [], None)
            assert is_unreadable(answer)
            assert answer.missing == (TASK.code,)
            assert len(found) == 1


def test_what_is_large_is_not_sent_through_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closures and items are opened by the processes of the executor, and its calls are small; where they cannot be
    opened, they are sent all the same.
    """
    sizes: list[int] = []

    class Weighs(ProcessPoolExecutor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            _, blobs, parts, _ = args
            sizes.append(sum(len(part) for blob in blobs for part in blob.parts) + sum(map(len, parts)))
            return super().submit(fn, *args, **kwargs)

    table = bytes(4 * LARGE)
    with Weighs(2, mp_context=get_context("spawn")) as executor, distmap.Pool(executor) as pool:
        assert pool.map(lambda x: len(table) + x, range(20), chunksize=2, progress=False) == [
            len(table) + x for x in range(20)
        ]
        assert len(sizes) == 10
        assert pool.map(len, [table, table[1:]], chunksize=1, progress=False) == [len(table), len(table) - 1]
        assert max(sizes) < 64 << 10
        real = lent_module.lend
        monkeypatch.setattr(executors, "lend", lambda blob: (lent := real(blob)) and lent._replace(label="other"))
        assert pool.map(len, [table, table[1:]], chunksize=1, progress=False) == [len(table), len(table) - 1]
        assert pool.map(lambda x: len(table) + x, range(4), chunksize=2, progress=False)[3] == len(table) + 3
        assert max(sizes) > len(table)


def test_threads_of_the_pools_own_process_open_it_too() -> None:
    """However an executor of threads is wrapped: large items and values come to the call."""

    class Wrapped(Executor):
        max_workers = 1

        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            return threads.submit(fn, *args, **kwargs)

    table = bytes(LARGE)
    with ThreadPoolExecutor(1) as threads, distmap.Pool(Wrapped()) as pool:
        assert pool.map(lambda item: len(item) + len(table), [table[1:]], progress=False) == [2 * LARGE - 1]


def test_what_is_lent_is_taken_back_once() -> None:
    """However often a call is over, or if it never is: the number of a descriptor may be that of another by then."""
    adapter = executors.ExecutorAdapter(Doubtful())
    views: Any = [memoryview(part) for part in PARTS]
    open_before = len(os.listdir("/proc/self/fd"))
    first, second = (adapter.submit("", run_there, TASK, [], [], views) for _ in range(2))
    assert len(os.listdir("/proc/self/fd")) == open_before + 2
    first.set_result("no answer")  # type: ignore[attr-defined]
    assert len(os.listdir("/proc/self/fd")) == open_before + 1
    adapter.forget(second)
    assert len(os.listdir("/proc/self/fd")) == open_before
    lent = adapter.put(BlobParts(b"digest", "value", PARTS), [""])
    assert lent is not None
    third = adapter.submit("", run_there, TASK, [], [lent.result()], views)
    adapter.close()
    assert len(os.listdir("/proc/self/fd")) == open_before
    with open(os.devnull) as file:
        third.set_exception(OSError())  # type: ignore[attr-defined]
        adapter.drop(lent.result())
        assert os.fstat(file.fileno())


class Doubtful(Executor):
    """Answers when the test does."""

    max_workers = 1

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        return Future()
