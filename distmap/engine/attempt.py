"""What an executor's worker runs: one attempt, with what was sent to its process before.

Owns `run_attempt`, the function that executors are given, and what a foreign process keeps between attempts: payloads
once for all its threads, loaded functions once for each, and the streams while tasks print. Knows no executor.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from time import perf_counter

from distmap.tasks._typing import Buffer, NamedTuple
from distmap.tasks.capture import OutputCapture
from distmap.tasks.library import Library
from distmap.tasks.payload import Payload
from distmap.tasks.runner import Runner
from distmap.tasks.streams import RedirectedStream, install
from distmap.wire.messages import BlobKind, Died, Output, Refused, Report, Task

#: A foreign process is never told that a job is over: it keeps the payloads of this many digests, beside those in use.
KEPT = 16


#: Sends bytes to the engine beside the answer; they may be lost.
Emit = Callable[[bytes], None]

#: In the order in which they were said. Died: a task process ended that ran this attempt alone.
Messages = list[tuple[Report | Output | Refused | Died, list[Buffer]]]


class BlobParts(NamedTuple):
    """A payload as it travels to an executor's worker."""

    digest: bytes
    kind: BlobKind
    parts: tuple[Buffer, ...]


class Answer(NamedTuple):
    """What an attempt said there, in order; or the digests that it lacks, and then nothing was run."""

    messages: Messages
    missing: tuple[bytes, ...] = ()
    #: Seconds from its beginning to its end there.
    seconds: float = 0.0
    #: The first one of its thread: the way there may have taken as long as the start of a process.
    first: bool = False


class PayloadStore:
    """The payloads of this process. What a call works with stays, of the rest the last ones used.

    Args:
        put: keeps a payload.
        drop: forgets one.
    """

    def __init__(self, put: Callable[[BlobParts], object], drop: Callable[[bytes], object]) -> None:
        self._put = put
        self._drop = drop
        self._lock = threading.Lock()
        #: In the order of last use.
        self._held: dict[bytes, None] = {}
        self._users: Counter[bytes] = Counter()

    def forked(self) -> None:
        """In a process that was forked: the other threads, and what they held, are not here."""
        self._lock = threading.Lock()
        self._users.clear()

    def take(self, needed: Sequence[bytes], blobs: Sequence[BlobParts]) -> tuple[bytes, ...]:
        """Hold what is needed until `give_back`; gives what is not here, and then nothing is held."""
        held = self._held
        with self._lock:
            for blob in blobs:
                if blob.digest not in held:
                    self._put(blob)
                    held[blob.digest] = None
            missing = tuple(digest for digest in needed if digest not in held)
            if missing:
                return missing
            for digest in needed:
                self._users[digest] += 1
                held[digest] = held.pop(digest)
            for digest in list(held)[:-KEPT]:
                if not self._users[digest]:
                    del held[digest]
                    self._drop(digest)
        return ()

    def give_back(self, needed: Sequence[bytes]) -> None:
        with self._lock:
            self._users.subtract(needed)
            self._users += Counter()  # a Counter keeps zeros


class _PayloadStore(PayloadStore):
    """As what the threads of this process run needs it."""

    def __init__(self) -> None:
        self.library = Library()
        super().__init__(self._keep, self.library.drop)

    def _keep(self, blob: BlobParts) -> None:
        self.library.put(blob.digest, blob.kind, Payload(blob.parts[0], blob.parts[1:]))


_store = _PayloadStore()
if hasattr(os, "register_at_fork"):  # once: what is registered stays for ever
    os.register_at_fork(after_in_child=lambda: _store.forked())


class _ThreadState(threading.local):
    """What one thread keeps between attempts."""

    def __init__(self) -> None:
        self.runner = Runner(library=_store.library)
        self.first = True


_thread_state = _ThreadState()


class _Output:
    """Takes what the attempts of this process print, each in its thread. The streams are its owner's otherwise."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._captures: dict[int, OutputCapture] = {}
        self._installed: tuple[RedirectedStream, RedirectedStream] | None = None
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        self._lock = threading.Lock()
        self._captures.clear()

    def begin(self, capture: OutputCapture) -> None:
        with self._lock:
            self._captures[threading.get_ident()] = capture
            if self._installed is None:
                self._before = sys.stdout, sys.stderr
                self._installed = install(lambda: self._captures.get(threading.get_ident()))

    def end(self) -> None:
        with self._lock:
            del self._captures[threading.get_ident()]
            if not self._captures and self._installed is not None:
                out, err = self._installed
                if sys.stdout is out:
                    sys.stdout = self._before[0]
                if sys.stderr is err:
                    sys.stderr = self._before[1]
                self._installed = None


_output = _Output()


def run_attempt(task: Task, blobs: Sequence[BlobParts], parts: Sequence[Buffer], cells: list[int] | None) -> Answer:
    """Run one attempt; in a worker of the executor. `cells` are shared with the engine where memory is."""
    begun, place = perf_counter(), _thread_state
    needed = (*task.needs, task.code)
    if missing := _store.take(needed, blobs):
        return Answer([], missing)
    first, place.first = place.first, False
    try:
        place.runner.forget_dropped()
        messages = _run(place.runner, task, Payload(parts[0], tuple(parts[1:])), cells)
        if any(isinstance(message, Refused) for message, _ in messages):
            # It may load in the next call: what it lacked has perhaps been installed by then.
            place.runner.forget(task.code)
    finally:
        _store.give_back(needed)
    return Answer(messages, (), perf_counter() - begun, first)


def run_here(
    cells: list[int], task: Task, blobs: Sequence[BlobParts], parts: Sequence[Buffer], emit: Emit | None
) -> Answer:
    """Run one attempt in a thread of the engine's own process."""
    return run_attempt(task, blobs, parts, cells)


def run_there(task: Task, blobs: Sequence[BlobParts], parts: Sequence[Buffer], emit: Emit | None) -> Answer:
    """Run one attempt in a process of somebody else."""
    return run_attempt(task, blobs, parts, None)


def _run(runner: Runner, task: Task, payload: Payload, cells: list[int] | None) -> Messages:
    messages: Messages = []
    if cells is not None:
        runner.run(task, payload, cells, lambda message, result: messages.append((message, result.parts)))
        return messages

    def emit(message: Report | Refused | Output, result: Payload) -> None:
        with capture.lock:
            capture.flush()
        messages.append((message, portable(result.parts)))

    def take(output: Output, text: bytes, wait: bool) -> bool:
        messages.append((output, [text] if text else []))
        return True

    own, capture = [-1] * 8, OutputCapture(take, live=False)
    capture.begin(task, own)
    _output.begin(capture)
    try:
        runner.run(task, payload, own, emit)
    finally:
        _output.end()
    return messages


def portable(parts: Sequence[Buffer]) -> list[Buffer]:
    """Views do not pickle; the executor will pickle. Not as bytes, or arrays would arrive read-only."""
    return [bytearray(part) if isinstance(part, memoryview) else part for part in parts]
