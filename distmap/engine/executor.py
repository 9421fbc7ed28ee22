"""Any `concurrent.futures.Executor` as one worker: what runs there is the same Runner on the same bytes.

Owns the join between an executor and the driver, and `run_attempt`, the function that the executor is given. What an
attempt prints in another process comes with its answer; threads of this process print where everybody does. The
executor stays its owner's: it is not shut down. It has no way to stop or kill what runs, to limit its time or to look
into it, so a Kill only gives up waiting for the answer.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from distmap.core.events import SlotReady
from distmap.engine.base import Buffer, Parts, Place, Sink, WorkerInfo
from distmap.execution import CELL_INTERRUPT, CELL_STOP, CELL_STOP_ATTEMPT, Runner
from distmap.failures import describe
from distmap.output import Spout, Stream, install
from distmap.payload import encode
from distmap.pickling import Needs, Payload, dump_small
from distmap.wire.messages import BlobKind, Output, Refused, Report, Task

if TYPE_CHECKING:
    import asyncio

#: Code and values up to this size travel with every attempt; larger ones only when a worker says it lacks them.
_ALWAYS = 64 << 10
#: A foreign process is never told that a job is over, so it keeps the payloads of so many digests at most.
_KEPT = 16


Said = list[tuple[Report | Output | Refused, list[Buffer]]]


class BlobParts(NamedTuple):
    """A payload as it travels to an executor's worker."""

    digest: bytes
    kind: BlobKind
    parts: tuple[Buffer, ...]


class Answer(NamedTuple):
    """What an attempt said there, in order; or the digests that it lacks, and then nothing was run."""

    said: Said
    missing: tuple[bytes, ...] = ()


class _Place(threading.local):
    """What one thread of an executor's worker keeps between attempts."""

    def __init__(self) -> None:
        self.runner = Runner()
        #: In the order of last use.
        self.known: dict[bytes, None] = {}


_place = _Place()


class _Prints:
    """Takes what the attempts of this process print, each in its thread. The streams are its owner's otherwise."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spouts: dict[int, Spout] = {}
        self._installed: tuple[Stream, Stream] | None = None
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        self._lock = threading.Lock()
        self._spouts.clear()

    def begin(self, spout: Spout) -> None:
        with self._lock:
            self._spouts[threading.get_ident()] = spout
            if self._installed is None:
                self._before = sys.stdout, sys.stderr
                self._installed = install(lambda: self._spouts.get(threading.get_ident()))

    def end(self) -> None:
        with self._lock:
            del self._spouts[threading.get_ident()]
            if not self._spouts and self._installed is not None:
                out, err = self._installed
                if sys.stdout is out:
                    sys.stdout = self._before[0]
                if sys.stderr is err:
                    sys.stderr = self._before[1]
                self._installed = None


_prints = _Prints()


def run_attempt(task: Task, blobs: Sequence[BlobParts], parts: Sequence[Buffer], cells: list[int] | None) -> Answer:
    """Run one attempt; in a worker of the executor. `cells` are shared with the engine where memory is."""
    place = _place
    for blob in blobs:
        if blob.digest not in place.known:
            place.runner.put(blob.digest, blob.kind, Payload(blob.parts[0], blob.parts[1:]))
            place.known[blob.digest] = None
    needed = (*task.needs, task.code)
    missing = tuple(digest for digest in needed if digest not in place.known)
    if missing:
        return Answer([], missing)
    for digest in needed:
        place.known[digest] = place.known.pop(digest)
    for digest in list(place.known)[: -max(_KEPT, len(needed))]:
        del place.known[digest]
        place.runner.drop(digest)
    said: Said = []
    _run(place, task, parts, cells, said)
    if any(isinstance(message, Refused) for message, _ in said):
        # It may load in the next call: what it lacked has perhaps been installed by then.
        del place.known[task.code]
        place.runner.drop(task.code)
    return Answer(said)


def _run(place: _Place, task: Task, parts: Sequence[Buffer], cells: list[int] | None, said: Said) -> None:
    payload = Payload(parts[0], tuple(parts[1:]))
    if cells is not None:
        place.runner.run(task, payload, cells, lambda message, result: said.append((message, result.parts)))
        return

    def emit(message: Report | Refused | Output, result: Payload) -> None:
        with spout.lock:
            spout.flush()
        said.append((message, _portable(result.parts)))

    def take(output: Output, text: bytes, wait: bool) -> bool:
        said.append((output, [text] if text else []))
        return True

    own, spout = [-1] * 8, Spout(take, live=False)
    spout.begin(task, own)
    _prints.begin(spout)
    try:
        place.runner.run(task, payload, own, emit)
    finally:
        _prints.end()


def _portable(parts: Sequence[Buffer]) -> list[Buffer]:
    """Views do not pickle; the executor will pickle. Not as bytes, or arrays would arrive read-only."""
    return [bytearray(part) if isinstance(part, memoryview) else part for part in parts]


class _Given:
    """An attempt that the executor has."""

    def __init__(self, task: Task, parts: Parts) -> None:
        self.task = task
        self.parts = parts
        self.cells = [-1] * 8
        self.future: Future[Answer] | None = None


class ExecutorEngine:
    """Runs chunks on an executor that already runs.

    Args:
        executor: stays yours; closing the pool does not shut it down.
        slots: how many attempts it runs at once; by default its own `_max_workers`, else this machine's cores.
        name: of the worker; by default the executor's type.
    """

    place: Place = "foreign"

    def __init__(self, executor: Executor, *, slots: int | None = None, name: str | None = None) -> None:
        self._executor = executor
        # There is no public way to ask; the executors of the standard library, loky and mpi4py have this.
        found = slots if slots is not None else getattr(executor, "_max_workers", None)
        self._slots = found if isinstance(found, int) and found > 0 else os.cpu_count() or 1
        self._name = name or type(executor).__name__
        self._threads = isinstance(executor, ThreadPoolExecutor)
        self._blobs: dict[bytes, BlobParts] = {}
        self._given: dict[int, _Given] = {}
        self._sink: Sink | None = None
        self._worker = -1
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self, sink: Sink) -> None:
        import asyncio

        self._sink = sink
        self._loop = asyncio.get_running_loop()
        python = f"{sys.version_info[0]}.{sys.version_info[1]}"
        info = WorkerInfo(self._name, socket.gethostname(), self._slots, python, address="executor")
        self._worker = sink.joined(self, info)

    def put(self, worker: int, digest: bytes, kind: BlobKind, parts: Parts, name: str = "") -> None:
        self._blobs[digest] = BlobParts(digest, kind, tuple(parts if self._threads else _portable(parts)))

    def drop(self, worker: int, digest: bytes) -> None:
        self._blobs.pop(digest, None)

    def assign(self, worker: int, task: Task, parts: Parts) -> None:
        given = self._given[task.attempt] = _Given(task, parts if self._threads else _portable(parts))
        needed = [self._blobs[digest] for digest in (*task.needs, task.code) if digest in self._blobs]
        self._submit(given, [blob for blob in needed if _size(blob.parts) <= _ALWAYS])

    def _submit(self, given: _Given, blobs: list[BlobParts]) -> None:
        assert self._loop is not None
        loop, cells = self._loop, given.cells if self._threads else None
        try:
            future = self._executor.submit(run_attempt, given.task, blobs, given.parts, cells)
        except (RuntimeError, BrokenExecutor) as error:  # shut down, or broken
            loop.call_soon(self._lost, str(error))
            return
        given.future = future
        future.add_done_callback(lambda done: _on_loop(loop, self._done, given, done))

    def _done(self, given: _Given, future: Future[Answer]) -> None:
        task = given.task
        if self._given.get(task.attempt) is not given or self._sink is None:
            return  # taken back, killed, or the pool is closed
        try:
            answer = future.result()
        except CancelledError:
            self._give_back(given)  # by somebody else
            return
        except BrokenExecutor as error:
            self._lost(str(error))
            return
        except BaseException as error:
            del self._given[task.attempt]
            failure = describe(error, "", dump_small)
            self._sink.refused(self._worker, task.attempt, encode([failure], Needs(), what="")[0].parts)
            return
        if answer.missing and all(digest in self._blobs for digest in answer.missing):
            self._submit(given, [self._blobs[digest] for digest in (*task.needs, task.code) if digest in self._blobs])
            return
        del self._given[task.attempt]
        if answer.missing:  # dropped meanwhile: nobody waits for it any more
            self._tell(Report(task.slot, task.attempt, task.lo, task.lo, 0.0, True, ()), [])
        for message, parts in answer.said:
            self._tell(message, parts)

    def _tell(self, message: Report | Output | Refused, parts: list[Buffer]) -> None:
        if self._sink is None:
            return
        if isinstance(message, Output):
            self._sink.printed(self._worker, message, parts)
        elif isinstance(message, Refused):
            self._sink.refused(self._worker, message.attempt, parts)
        else:
            self._sink.reported(self._worker, message, parts)

    def _give_back(self, given: _Given) -> None:
        task = given.task
        if self._given.pop(task.attempt, None) is not None:
            self._tell(Report(task.slot, task.attempt, task.lo, task.lo, 0.0, True, ()), [])

    def _lost(self, why: str) -> None:
        """The executor takes nothing any more: for the driver, the worker is gone."""
        if self._sink is not None:
            sink, self._sink = self._sink, None
            self._given.clear()
            sink.lost(self._worker, True, why)

    def revoke(self, worker: int, slot: int, attempt: int, stop: int) -> None:
        given = self._given.get(attempt)
        if given is None or self._loop is None:
            return
        # Threads see these; other workers cannot, and finish what they run.
        given.cells[CELL_STOP] = max(0, stop)
        given.cells[CELL_STOP_ATTEMPT] = attempt
        if stop <= given.task.lo and given.future is not None and given.future.cancel():
            self._loop.call_soon(self._give_back, given)

    def interrupt(self, worker: int, slot: int, attempt: int) -> None:
        if (given := self._given.get(attempt)) is not None:
            given.cells[CELL_INTERRUPT] = attempt
        self.revoke(worker, slot, attempt, 0)

    def kill(self, worker: int, slot: int) -> None:
        """Give up what the slot has. It runs on in the executor, and its answer will not be heard."""
        for attempt, given in list(self._given.items()):
            if given.task.slot == slot:
                del self._given[attempt]
                if given.future is not None:
                    given.future.cancel()
        if self._loop is not None:
            self._loop.call_soon(self._killed, slot)

    def _killed(self, slot: int) -> None:
        if self._sink is not None:
            self._sink.died(self._worker, slot, None, None, "killed", "the executor was left to finish it unheard")
            self._sink.post(SlotReady(self._worker, slot))

    async def close(self, *, now: bool) -> None:
        self._sink = None
        given, self._given = list(self._given.values()), {}
        for one in given:
            one.cells[CELL_STOP] = 0
            one.cells[CELL_STOP_ATTEMPT] = one.task.attempt
            if one.future is not None:
                one.future.cancel()
        self._blobs.clear()


def _size(parts: Sequence[Buffer]) -> int:
    return sum(memoryview(part).nbytes for part in parts)


def _on_loop(loop: asyncio.AbstractEventLoop, function: object, given: _Given, future: Future[Answer]) -> None:
    """From whatever thread the executor calls back in."""
    try:
        loop.call_soon_threadsafe(function, given, future)  # type: ignore[arg-type]
    except RuntimeError:
        pass  # the loop is closed: nobody waits for it any more
