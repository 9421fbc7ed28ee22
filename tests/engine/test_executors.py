"""Plain executors behind the port of foreign engines."""

from __future__ import annotations

from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest

from distmap.engine.attempt import Answer
from distmap.engine.executors import ExecutorAdapter
from distmap.wire.messages import Task

TASK = Task(0, 1, b"", (), 0, 1, 0, 0.0)


class KilledWorker(Exception):
    """Dask's, by name."""


def nothing(*args: Any) -> Answer:
    return Answer([])


def test_what_errors_mean() -> None:
    """Deaths and ends by their names; a RuntimeError is an end only if `submit` raised it."""
    with ThreadPoolExecutor(1) as threads:
        adapter = ExecutorAdapter(threads)
        assert adapter.fate(BrokenExecutor()) == "broken"
        assert adapter.fate(KilledWorker()) == "died"
        assert adapter.fate(RuntimeError("of a call")) == "failed"
        assert adapter.submit("", nothing, TASK, [], [], []).result() == Answer([])
    with pytest.raises(RuntimeError) as caught:
        adapter.submit("", nothing, TASK, [], [], [])
    assert adapter.fate(caught.value) == "shut"
    assert not adapter.renew()


class Doubtful(Executor):
    """Its futures say that they were cancelled whatever they do."""

    max_workers = 1

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        return Future()


def test_a_cancel_is_believed_or_only_tried() -> None:
    """Where it cannot be believed nothing is known, and the call is not touched; who waits no more may try it."""
    adapter = ExecutorAdapter(Doubtful())
    call: Any = adapter.submit("", nothing, TASK, [], [], [])
    assert not adapter.cancel(call)
    assert not call.cancelled()
    adapter.forget(call)
    assert call.cancelled()


def test_views_are_sent_as_what_pickles() -> None:
    """To other processes; not to threads."""
    sent: list[Any] = []

    class Notes(Doubtful):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            sent.extend(args[2])
            return Future()

    ExecutorAdapter(Notes()).submit("", nothing, TASK, [], [], [memoryview(b"items"), b"head"])
    assert sent == [bytearray(b"items"), b"head"]
    assert isinstance(sent[0], bytearray)


def test_nothing_is_started_in_interpreters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interpreters beside that of the pool share no memory with it, and no thread of ours may run in them."""

    class Interpreters(ThreadPoolExecutor):
        """Runs in threads, which is all that is asked of it here."""

    with Interpreters(2) as executor:
        assert ExecutorAdapter(executor).here
        monkeypatch.setattr("concurrent.futures.InterpreterPoolExecutor", Interpreters, raising=False)
        adapter = ExecutorAdapter(executor)
        assert (adapter.here, adapter.isolated) == (False, False)
