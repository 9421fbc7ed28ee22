"""The slots of ours in a worker of somebody else's engine, by their side channel; most is in test_foreign_host.py."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.waiting import until

from distmap.engine import foreign_host, foreign_slots
from distmap.engine.attempt import BlobParts
from distmap.engine.side_channel import UNNUMBERED, Copy, Origin, pack, unpack
from distmap.slots.slots import Slots
from distmap.tasks.code import dump_code
from distmap.tasks.items import dump_items, load_results
from distmap.testing.engine_work import all_at_once
from distmap.wire.messages import Beat, Died, Interrupt, Kill, Output, Report, Revoke, Task

ORIGIN = Origin(b"a worker", 1)


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    """Nothing of it outlives a test."""
    yield
    foreign_host.end()


class Running:
    """A call in a thread of its own."""

    def __init__(self, fn: Callable[..., Any], items: Any, emit: Any = None, origin: Origin = ORIGIN) -> None:
        code, (payload, _) = dump_code(fn), dump_items(items)
        blobs = [BlobParts(blob.digest, blob.kind, tuple(blob.payload.parts)) for blob in code.blobs]
        blobs.append(BlobParts(code.digest, "code", tuple(code.payload.parts)))
        task = Task(3, 77, code.digest, tuple(blob.digest for blob in code.blobs), 0, len(items), 0, 0.0)
        self.answer: Any = None

        def run() -> None:
            self.answer = foreign_host.run(1, origin, task, blobs, payload.parts, emit)

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()

    def messages(self) -> Any:
        self.thread.join(20)
        return self.answer.messages

    def values(self) -> list[Any]:
        found: list[Any] = []
        for message, parts in self.messages():
            if isinstance(message, Report) and message.hi > message.lo:
                found += load_results(parts, message.lo, message.hi, message.failed)
        return found


def stepper(folder: Path) -> Callable[[int], int]:
    """Prints and notes its item; the third one waits for `go`."""

    def step(x: int) -> int:
        print("item", x)
        (folder / f"begun-{x}").touch()
        time.sleep(0.06)  # so that it is reported as soon as it is finished
        while x == 2 and not (folder / "go").exists():
            time.sleep(0.01)  # the gate is a file: the item is in another process
        return x

    return step


def test_what_runs_for_long_is_heard_before_its_end(tmp_path: Path) -> None:
    """Copies come in the order of the answer, each with its place in it, and where the attempt is; never the last
    message, with which the call ends.
    """
    heard: list[Copy] = []
    running = Running(stepper(tmp_path), range(5), lambda data: heard.append(unpack(data)))

    def items() -> set[int]:
        return {copy.message.slots[0][1] for copy in list(heard) if isinstance(copy.message, Beat)}

    try:
        until(lambda: 2 in items() and {Report, Output} <= {type(copy.message) for copy in list(heard)})
    finally:
        (tmp_path / "go").touch()
    messages = running.messages()
    copies = [copy for copy in heard if copy.number != UNNUMBERED]
    assert [copy.number for copy in copies] == list(range(len(copies)))
    assert [copy.message for copy in copies] == [message for message, _ in messages[: len(copies)]]
    assert len(copies) < len(messages)
    assert {copy.origin for copy in heard} == {ORIGIN}
    assert {copy.message.slots[0][0] for copy in heard if isinstance(copy.message, Beat)} == {77}
    assert running.values() == list(range(5))


def test_a_side_channel_that_raises_is_left_alone(tmp_path: Path) -> None:
    """The answer has all of it; what is too large for it is not even tried."""
    tried = threading.Event()

    def emit(data: bytes) -> None:
        tried.set()
        raise OSError("it is closed")

    running = Running(stepper(tmp_path), range(4), emit)
    try:
        assert tried.wait(20)
    finally:
        (tmp_path / "go").touch()
    assert running.values() == list(range(4))


@pytest.mark.parametrize(
    ("wish", "values"),
    [(Revoke(0, 77, 3), [0, 1, 2]), (Interrupt(0, 77), [0, 1]), (Kill(0), None)],
    ids=["stop after the third", "interrupt", "kill"],
)
def test_wishes_reach_what_runs(tmp_path: Path, wish: Any, values: list[int] | None) -> None:
    """It stops between items, in its item, or with its process; a wish for another call, or noise, changes nothing."""
    running = Running(stepper(tmp_path), range(5))
    until((tmp_path / "begun-2").exists)
    foreign_host.control(b"noise")
    foreign_host.control(pack(ORIGIN._replace(call=2), UNNUMBERED, Kill(0)))
    foreign_host.control(pack(ORIGIN, UNNUMBERED, wish))
    if isinstance(wish, Revoke):
        (tmp_path / "go").touch()
    messages = running.messages()
    if values is None:
        assert isinstance(messages[-1][0], Died)
        assert messages[-1][0].reason == "killed"
    else:
        assert messages[-1][0].ended
        assert running.values()[: len(values)] == values
        assert not (tmp_path / "begun-3").exists()


def test_a_kill_before_the_first_word_is_no_sign_of_anything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """That no process has said anything by then does not mean that none can be started: the next call has one."""
    mark, python = tmp_path / "first", tmp_path / "python"
    python.write_text(f'#!/bin/sh\n[ -e {mark} ] && exec {sys.executable} "$@"\ntouch {mark}; exec sleep 60\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    running = Running(abs, [-1])
    until(mark.exists)
    foreign_host.control(pack(ORIGIN, UNNUMBERED, Kill(0)))
    ((died, _),) = running.messages()
    assert isinstance(died, Died)
    assert (died.attempt, died.reason) == (77, "killed")
    assert Running(lambda _: os.getpid(), [0]).values() != [os.getpid()]


def test_what_is_over_is_let_go_of() -> None:
    """With each time without work there are slots of ours anew: those before are forgotten."""
    assert Running(abs, [-1]).values() == [1]
    host = weakref.ref(foreign_host._host)  # type: ignore[type-var]
    foreign_host.end()
    gc.collect()
    assert host() is None


def test_a_call_that_cannot_begin_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the error: nobody waits for ever."""

    def full(*args: Any) -> None:
        raise MemoryError("full")

    errors: list[BaseException] = []
    monkeypatch.setattr(threading, "excepthook", lambda hooked: errors.append(hooked.exc_value))
    with monkeypatch.context() as patched:
        patched.setattr(Slots, "put", full)
        Running(abs, [-1]).thread.join(20)
    assert isinstance(errors[0].__cause__, MemoryError)
    assert Running(abs, [-1]).values() == [1]


def test_a_wish_may_be_quicker_than_its_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is kept for it, and for no other; of many only the last ones are."""
    monkeypatch.setattr(foreign_slots, "WISHES", 2)
    assert Running(abs, [-1]).values() == [1]
    origins = [ORIGIN._replace(call=number) for number in (7, 8, 9)]
    for origin, stop in zip(origins, (0, 0, 1), strict=True):
        foreign_host.control(pack(origin, UNNUMBERED, Revoke(0, 77, stop)))
    assert [Running(abs, [-1, -2], origin=origin).values() for origin in origins] == [[1, 2], [], [1]]


def test_a_thread_has_a_slot_of_its_own(tmp_path: Path) -> None:
    """However many call at once: the engine has said one."""
    meet = partial(all_at_once, str(tmp_path), 3, 20.0)
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.extend(Running(meet, [0]).values())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert all(met for met, _ in found)
    assert len({pid for _, pid in found}) == 3
