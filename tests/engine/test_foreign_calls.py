"""The calls to one member of a foreign engine."""

from __future__ import annotations

import asyncio
from concurrent.futures import BrokenExecutor
from functools import partial
from typing import Any

import pytest

from distmap.engine import foreign_host
from distmap.engine.attempt import run_here, run_there
from distmap.engine.foreign_calls import ForeignCalls, ended_because, exit_text
from distmap.engine.foreign_payloads import ForeignPayloads
from distmap.engine.foreign_queue import ForeignAttempt
from distmap.engine.side_channel import Origin, unpack
from distmap.testing.adapters import SmallAdapter, SmallCluster
from distmap.wire.messages import Kill, Task


class Notes(SmallAdapter):
    """Notes what it is to run, and to send; all else raises."""

    def __init__(self, **traits: Any) -> None:
        super().__init__(SmallCluster(store=False))
        self.__dict__.update(traits)
        self.ran: list[Any] = []
        self.sent: list[Any] = []

    def submit(self, member: str, run: Any, *args: Any) -> Any:
        self.ran.append(run)
        return object()

    def send(self, member: str, data: bytes) -> bool:
        self.sent.append(unpack(data))
        raise OSError("the channel is closed")

    def rude(self, *args: Any) -> Any:
        raise OSError("the engine is away")

    cancel = forget = fate = unanswering = rude


def made(adapter: Notes) -> tuple[ForeignCalls, ForeignAttempt]:
    loop = asyncio.new_event_loop()
    payloads = ForeignPayloads(adapter, loop, list, lambda: None)
    loop.close()
    return ForeignCalls(adapter, "key", 4, payloads), ForeignAttempt(Task(0, 5, b"f", (), 0, 1, 0, 0.0), [])


def test_what_runs_there_fits_the_engine() -> None:
    """In threads of this process with shared cells, in task processes of ours with a number of its own, or plainly."""
    plain, here, apart = Notes(), Notes(here=True), Notes(isolated=True)
    for adapter in (plain, here, apart):
        calls, entry = made(adapter)
        for _ in range(2):
            calls.submit(entry, everything=False)
    assert plain.ran == [run_there] * 2
    assert [run.func for run in here.ran] == [run_here] * 2
    assert all(isinstance(run, partial) and run.func is foreign_host.run for run in apart.ran)
    assert [run.args for run in apart.ran] == [(4, Origin(calls.id, 1)), (4, Origin(calls.id, 2))]


def test_rude_adapters_change_nothing() -> None:
    """What raises is not known, or was not done; a wish is told with the number of the last call."""
    adapter = Notes(isolated=True)
    calls, entry = made(adapter)
    calls.wish(entry, Kill(0))
    assert not adapter.sent
    call = calls.submit(entry, everything=True)
    calls.wish(entry, Kill(0))
    assert [(copy.origin, copy.message) for copy in adapter.sent] == [(Origin(calls.id, 1), Kill(0))]
    assert calls.fate(OSError()) == "failed"
    assert not calls.cancel(call)
    assert calls.unanswering() is None
    calls.forget(call)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (BrokenExecutor("a worker died\nexit code 3, see above"), "BrokenExecutor: exit code 3, see above"),
        (KeyError(), "KeyError"),
    ],
)
def test_ends_in_words(error: BaseException, text: str) -> None:
    """In a line, with the exit code if there is one; and what to do."""
    assert exit_text(error) == text
    assert "make a new one" in ended_because("It", error, broken=True)
    assert ended_because("It", error, broken=False) == f"It takes nothing any more ({text})"
