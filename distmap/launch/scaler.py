"""Keeps the workers of one launcher in number: starts what is missing, ends what is too much.

Owns which starts there are, which of them have become workers, and when another try is in vain. How many there should
be says `core/scaling.py`; a `Launcher` starts and ends them. It must not know how, nor what a worker does. It is a
part of a pool beside the engines: the workers themselves are those of the hub, where they dial in.

A start whose worker has come is as good as its job or process: if that ends, by its time limit say, another one is
started. One that ends before is a failure: the next is tried after a pause, and after some of them none any more. On
the loop's thread, except `broken`, `coming` and `words`, which calling threads read.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from distmap.core.launch_limits import LAUNCH, LaunchLimits
from distmap.core.scaling import Scaling, Waiting
from distmap.errors import LaunchError
from distmap.launch.launcher import Launcher, Started
from distmap.tasks._records import Record
from distmap.tasks._typing import NamedTuple

log = logging.getLogger("distmap.launch")


class Worker(NamedTuple):
    """One worker of the pool."""

    #: The start that it is of; empty: of none.
    start: str
    slots: int
    #: Whether it has something to do; whether it is out of reach.
    busy: bool
    away: bool = False


class There(NamedTuple):
    """What there is in the pool at one moment."""

    #: What is to be done.
    jobs: Sequence[Waiting]
    #: All workers.
    workers: Sequence[Worker]


class PoolSide(Protocol):
    """The pool that the workers are for. On the loop's thread."""

    def look(self) -> There: ...

    def address(self) -> str:
        """What workers dial, as words of a command line."""

    def dismiss(self, starts: Collection[str]) -> None:
        """Have the workers of these starts leave, once they have finished what they run."""

    def lost(self, starts: Collection[str]) -> None:
        """Workers of these starts that are out of reach will not come back."""

    def hopeless(self) -> None:
        """One launcher brings no worker any more."""

    def ended(self, scaler: Scaler) -> None:
        """All that it had started has ended."""


class _Start(Record):
    """One start."""

    #: What its launcher says of it.
    now: Started
    #: Since when it is that.
    since: float
    #: Whether a worker of it has come.
    came: bool = False
    #: When it was told to end.
    ending: float | None = None


class Scaler:
    """A part of a pool that has workers started.

    Args:
        launcher: Starts and ends them.
        least: Workers in the beginning.
        most: The same, or how many there may be as more work waits.
        pool: Where the workers come.
    """

    def __init__(
        self, launcher: Launcher, least: int, most: int, pool: PoolSide, *, limits: LaunchLimits = LAUNCH
    ) -> None:
        self.name = launcher.name
        #: Why no worker comes any more until `scale` is called again; None while some may.
        self.broken: str | None = None
        self._launcher, self._pool = launcher, pool
        self._limits = limits
        self._rule = Scaling(least, most, limits)
        self._starts: dict[str, _Start] = {}
        #: Those of commands that have ended well before a worker came, or before it left: they have handed their work
        #: to a queue, or the worker to another machine.
        self._handed: dict[str, _Start] = {}
        #: Those that are over, as long as the pool has a worker of them: it may be out of reach, and never come back.
        self._ended: set[str] = set()
        #: Whether any worker has come; starts in a row of which none came; when the next one may be tried.
        self._any, self._failures, self._next = False, 0, 0.0
        #: What went wrong last.
        self._trouble = ""
        self._changed = asyncio.Event()
        self._turn = asyncio.Lock()
        #: Whose turn it is, or was.
        self._holder: asyncio.Task[object] | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def start(self, _: object = None) -> None:
        """Start the first workers; does not wait for them.

        Raises:
            LaunchError: They cannot be started.
        """
        self._launcher.changed = self._changed.set
        await self._step(asked=True)
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"keep {self.name}")

    async def scale(self, least: int, most: int) -> None:
        """From now on between these many; LaunchError if more cannot be started."""
        self._rule.bound(least, most)
        # With a range nothing may be started before there is work: it is tried again then.
        self.broken, self._trouble = None, ""
        self._failures, self._next = 0, 0.0
        await self._step(asked=True)

    async def close(self, *, now: bool) -> None:
        """End all of them."""
        self._closed = True
        if self._turn.locked() and self._holder is not None:
            # It may start something, by a command that takes a minute; the launcher ends what comes of that.
            self._holder.cancel()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        async with self._turn:
            try:
                await self._launcher.close()
            finally:
                self._pool.ended(self)

    # --- for calling threads ------------------------------------------------------------------------------------------

    def coming(self, patience: float) -> bool:
        """Whether workers may still come: some are queued, or were started no longer than `patience` seconds ago."""
        now = time.monotonic()
        return any(
            not start.came and (start.now.state == "queued" or now - start.since < patience)
            for start in list(self._starts.values())
        )

    @property
    def awaits(self) -> bool:
        """Whether any worker has not come that was started, or was to be."""
        handed = list(self._handed.values())
        return bool(self._trouble) or any(not start.came for start in [*list(self._starts.values()), *handed])

    @property
    def cause(self) -> LaunchError | None:
        """Why it is broken, as an error."""
        return None if self.broken is None else LaunchError(self.broken)

    @property
    def words(self) -> str:
        """What there is of it, for people: "Slurm: 3 running, 17 queued (Priority)"."""
        starts = list(self._starts.values())
        queued = [start for start in starts if start.now.state == "queued"]
        running = sum(start.now.workers for start in starts) - sum(start.now.workers for start in queued)
        parts = [f"{running} running"] if running or not queued else []
        if queued:
            why = next((start.now.reason for start in queued if start.now.reason not in ("", "None")), "")
            parts.append(f"{len(queued)} queued{f' ({why})' if why else ''}")
        if self._handed:
            parts.append(f"{len(self._handed)} handed over")
        if self._trouble:
            parts.append(self._trouble)
        return f"{self.name}: {', '.join(parts)}"

    @property
    def tried(self) -> str:
        """What was done for workers that have not come: a sentence."""
        said = "; ".join({start.now.reason for start in list(self._starts.values()) if start.now.reason})
        return self.words + (f"; it said: {said}" if said and said not in self.words else "")

    # --- inside -------------------------------------------------------------------------------------------------------

    def came(self, starts: Collection[str]) -> None:
        """Workers have come or gone: now there are such of these starts."""
        self._note(starts)
        self._launcher.hurry()
        self.wake()

    def _note(self, starts: Collection[str]) -> None:
        for id in starts:
            start = self._starts.get(id) or self._handed.get(id)
            if start is not None and not start.came:
                start.came = self._any = True
                self._failures, self._trouble = 0, ""

    def wake(self) -> None:
        """Something may have to be done now."""
        self._changed.set()

    async def _run(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._limits.tick):
                    await self._changed.wait()
            self._changed.clear()
            try:
                await self._step()
            except Exception as error:
                # A bug. Without this nothing would be started any more, and nobody would know.
                log.exception("! workers of %s are not kept in number", self.name)
                self._trouble = f"distmap failed: {error!r}"

    async def _step(self, *, asked: bool = False) -> None:
        """Bring what there is to what there should be. `asked`: somebody waits for that, and is to see what fails."""
        async with self._turn:
            if self._closed:
                return
            self._holder = asyncio.current_task()
            now = asyncio.get_running_loop().time()
            found = await self._launcher.look()
            there = self._pool.look()
            await self._see(found, {worker.start for worker in there.workers if not worker.away}, now)
            present = {worker.start for worker in there.workers}
            self._note(present)
            self._judge()
            if dead := {worker.start for worker in there.workers if worker.away} & self._ended:
                self._pool.lost(dead)
            self._ended &= present
            self._handed = {id: start for id, start in self._handed.items() if not start.came or id in present}
            all_there = {**self._starts, **self._handed}
            slots = sum(worker.slots for worker in there.workers)
            wanted = self._rule.decide(there.jobs, slots, self._slots_each(all_there, there), now)
            staying = {id: start for id, start in all_there.items() if start.ending is None}
            have = sum(start.now.workers for start in staying.values())
            if have < wanted:
                await self._add(wanted - have, now, asked)
            elif have > wanted:
                await self._end(self._spare(staying, there, have - wanted), now)
            await self._end_slow(now)

    def _slots_each(self, starts: Mapping[str, _Start], there: There) -> int:
        """Slots of one worker, as the launcher counts workers: a run of `mpiexec -n 32` may be one for it."""
        slots = sum(worker.slots for worker in there.workers if worker.start in starts)
        workers = sum(start.now.workers for start in starts.values() if start.came)
        return max(1, slots // workers if slots and workers else self._launcher.slots)

    async def _see(self, found: Mapping[str, Started], connected: Collection[str], now: float) -> None:
        """Take note of what has changed. `connected`: starts that have workers within reach."""
        for id in [id for id in self._starts if id not in found]:
            start = self._starts.pop(id)
            expected = start.came or start.ending is not None
            ended = await self._launcher.ended(id, expected=expected)
            if ended is not None and ended.well and (not expected or id in connected):
                self._handed[id] = start
                self._trouble = self._trouble if expected else ended.words
                continue
            self._ended.add(id)
            if ended is not None and not expected:
                log.warning("x %s", ended.words)
                self._fail(ended.words, now)
        for id, what in found.items():
            # Several may have been asked for, and only some were started.
            known = self._starts.setdefault(id, _Start(what, now))
            known.since = now if known.now.state != what.state else known.since
            known.now = what

    async def _add(self, n: int, now: float, asked: bool) -> None:
        if not asked and (now < self._next or self.broken is not None or (self._failures and not self._any)):
            return
        try:
            ids = await self._launcher.start(n, self._pool.address())
        except (LaunchError, OSError) as error:
            if asked:
                raise
            log.warning("x %s", error)
            self._fail(str(error), now)
            return
        found = await self._launcher.look()
        for id in ids:
            self._starts[id] = _Start(found.get(id, Started("running")), now)
        self.broken = None

    def _fail(self, words: str, now: float) -> None:
        """No worker came of a start."""
        self._trouble = words
        self._failures += 1
        # The power is bounded by itself, too: that of a day of failures is no float.
        self._next = now + min(self._limits.pause_most, 2.0 ** min(self._failures, 64) / 2)

    def _judge(self) -> None:
        """See whether all is in vain: nothing is left, and enough was tried; once is if no worker has ever come."""
        in_vain = self._failures >= (self._limits.tries if self._any else 1)
        if in_vain and not self._starts and not self._handed and self.broken is None:
            self.broken = self._trouble
            self._pool.hopeless()

    def _spare(self, staying: Mapping[str, _Start], there: There, n: int) -> list[str]:
        """Which to end so that there are at most so many fewer: queued ones first, then idle ones."""
        busy = {worker.start for worker in there.workers if worker.busy}

        def use(id: str) -> tuple[bool, bool, bool, float]:
            start = staying[id]
            return start.now.state != "queued", start.came, id in busy, -start.since

        spare = list[str]()
        for id in sorted(staying, key=use):
            if staying[id].now.workers <= n and (staying[id].came or id in self._starts):
                n -= staying[id].now.workers
                spare.append(id)
        return spare

    async def _end(self, ids: Sequence[str], now: float) -> None:
        """Have the workers of these starts leave; a start without any is ended at once."""
        for id in ids:
            start = self._starts.get(id) or self._handed[id]
            start.ending = now
        self._pool.dismiss(ids)
        if at_once := [id for id in ids if id in self._starts and not self._starts[id].came]:
            await self._launcher.end(at_once)

    async def _end_slow(self, now: float) -> None:
        """End those that were told to leave, and have not."""
        slow = [
            id
            for id, start in self._starts.items()
            if start.ending is not None and now - start.ending > self._limits.drain
        ]
        if slow:
            for id in slow:
                self._starts[id].ending = now
            await self._launcher.end(slow)
