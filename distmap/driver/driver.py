"""The one loop: events -> scheduler -> commands -> engines.

Owns the order in which things happen and the clock: it passes each event to the scheduler, has the commands that come
back carried out (`commands.py`), and sets the timer that the scheduler asks for. It decides nothing.

    calling threads                     the loop's thread (Portal)                               task processes

    Job, Submissions                    Driver                             Engine
    +--------------+  Portal.call   +------------------------+         +--------------+   Put, Task     +--------+
    | open         | =============> | JobEntry, Blobs        |  put    | LocalEngine  | ==============> | slot 0 |
    | chunk_read   |                |   |                    |  assign | HubEngine    |                 | slot 1 |
    | notify       |                |   | events             | ======> | ForeignEng.  |                 |  ...   |
    | cancel       |                |   v                    |  revoke | InlineEngine |                 +--------+
    |              |                | Scheduler.handle       |  kill   |              |                     |
    |              |                |   |                    |         |              |                     |
    |              |                |   | commands           |         |              |  Report, Died       |
    |              |  JobEntry.sink |   v                    |         |              | <===================+
    |    Mailbox   | <============= | Commands.perform       |         +--------------+
    |              |  ReadRequest   |                        |                | reported, printed, refused,
    |              |  Landed, Lost  |              events    |                | died, ready, measured, lost
    |              |  Finished      |   Scheduler <--------- | WorkerEntry <--+
    +--------------+                +------------------------+

One chunk: `Read` takes plain items from the input at once, or asks the job's thread for items (ReadRequest). The answer
`chunk_read` keeps the bytes in a ChunkEntry and tells the scheduler the numbers (ChunkRead). `Assign` sends blobs and
items to a slot and makes an AttemptEntry. The slot's report comes to `WorkerEntry.reported`, which keeps the parts and
tells the scheduler the numbers (AttemptReported). `Deliver` then gives the parts to the job (Landed), `Release` forgets
the input, and the last command of each job is `Finish` (Finished).

Threads: all methods run on the loop's thread except `new_id`; other threads use `Portal.call` or `Portal.ask`. There
is no lock but the one of the ids. `JobEntry.sink` is called on the loop's thread and must not block.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from distmap.core import events as ev
from distmap.core.limits import LIMITS, Limits
from distmap.core.scaling import Waiting
from distmap.core.scheduler import Scheduler
from distmap.driver.attempts import Attempts
from distmap.driver.blobs import Blobs, Holder
from distmap.driver.commands import Commands
from distmap.driver.jobs import JobEntry, ReadItems
from distmap.driver.messages import WorkerStatus, empty_snapshot
from distmap.driver.recent import RecentCodes
from distmap.driver.snapshots import Snapshots
from distmap.driver.workers import WorkerEntry, Workers
from distmap.engine.base import Engine, WorkerInfo
from distmap.errors import JobCancelled, PoolClosed
from distmap.tasks.payload import Blob, Payload

log = logging.getLogger("distmap")
# Whoever wants the log sets a handler; without one Python would print warnings into the notebook's cell.
log.addHandler(logging.NullHandler())

#: Events that are kept for `pool.trace()`, each with its commands.
TRACE = 1000
#: Chunks after which their cost is measured again.
MEASURED = 64

#: Events of a job that carry no bytes, for `Driver.notify`.
JobEvent = ev.Consumed | ev.ItemsAdded | ev.InputClosed | ev.PauseRequested | ev.ResumeRequested


class Driver:
    """Drives one scheduler over any number of engines.

    Args:
        worker_timeout: seconds that a job may wait while no worker can take it.
        no_workers: makes the error that it then ends with.
        none_can_come: why no worker with these tags can come any more, so that waiting is in vain; else empty.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        worker_timeout: float = 60.0,
        no_workers: Callable[[], BaseException] = lambda: RuntimeError("no workers"),
        none_can_come: Callable[[frozenset[str]], str] = lambda tags: "",
        limits: Limits = LIMITS,
    ) -> None:
        self._loop = loop
        self._scheduler = Scheduler(limits)
        self._jobs: dict[int, JobEntry] = {}
        self._attempts = Attempts()
        self.workers = Workers(
            loop, self._jobs, self._attempts, self.post,
            timeout=worker_timeout, no_workers=no_workers, none_can_come=none_can_come, fail=self._fail_unserved,
        )  # fmt: skip
        self.blobs = Blobs(
            drop=self.workers.drop_blob,
            grew=lambda holder, nbytes: self.post(ev.InputGrew(*holder, nbytes)),
        )
        self._recent = RecentCodes(loop, self.blobs)
        self.snapshots = Snapshots(loop, self._scheduler, self._jobs, self.workers)
        self._commands = Commands(
            self._scheduler, self._jobs, self._attempts, self.workers, self.blobs, self._recent, self.snapshots, self
        )
        self._queue: deque[ev.Event] = deque()
        #: True while `post` empties the queue: a command may cause events, which then wait their turn.
        self._handling = False
        self._timer: asyncio.TimerHandle | None = None
        #: Chunks that were assigned, and processor time of this thread, when that was measured last.
        self._measured = 0, time.thread_time()
        #: Held while an id is taken: any thread does that.
        self._ids_lock = threading.Lock()
        self._ids = itertools.count(1)
        #: The error of every new job, once the driver broke or was closed.
        self._refuses: BaseException | None = None
        self._when_idle: Callable[[], object] | None = None
        #: Called when there is work that was not there before.
        self.on_open: Callable[[], object] = lambda: None
        #: (time, event, its commands).
        self.trace: deque[tuple[float, ev.Event, list[ev.Command]]] = deque(maxlen=TRACE)

    # --- jobs -------------------------------------------------------------------------------------------------------

    def new_id(self) -> int:
        """An id for a job, from any thread: whoever has it may cancel the job before the loop has seen it."""
        with self._ids_lock:
            return next(self._ids)

    def open(self, job: JobEntry, first: ReadItems | None = None) -> int:
        """Start a job; its messages begin at once. Its first chunk may come with it."""
        job.id = job.id or self.new_id()
        if self._refuses is not None:
            job.finish("failed", empty_snapshot(job.spec), self._refuses)
            return job.id
        self._jobs[job.id] = job
        job.resumes_before = self.workers.resumes
        code = job.code
        blobs = [*code.blobs, Blob(code.digest, "code", code.payload), *filter(None, code.surroundings)]
        for setup in code.setups:
            blobs += (*setup.code.blobs, Blob(setup.code.digest, "code", setup.code.payload))
        self.blobs.keep(Holder(job.id), blobs)
        if first is None:
            self.post(ev.JobSubmitted(job.id, job.spec))
        else:
            job.first = first
            self.post(ev.JobSubmitted(job.id, job.spec, first.count, first.payload.nbytes, first.last))
        self.workers.check_unserved(job)
        if job.watched:
            self.snapshots.start()
        self.on_open()
        return job.id

    @property
    def busy(self) -> bool:
        """See Sink."""
        return any(not job.spec.each for job in self._jobs.values())

    def chunk_read(
        self,
        job: int,
        chunk: int,
        payload: Payload,
        blobs: Sequence[Blob],
        count: int,
        last: bool,
        start: int | None = None,
    ) -> None:
        """The answer to a ReadRequest.

        Args:
            start: index of its first item; None: it follows the last one that was read.
        """
        if (entry := self._jobs.get(job)) is None:
            return
        entry.read_all = last
        grown = self._add_chunk(entry, chunk, payload, blobs, count, start) if count else 0
        self.post(ev.ChunkRead(job, chunk, count, payload.nbytes, last))
        if grown:
            self.post(ev.InputGrew(job, chunk, grown))

    def chunk_taken(self, job: int, chunk: int, payload: Payload, blobs: Sequence[Blob], count: int) -> None:
        """The answer to a ReadRequest of a pushed job, from inside its sink; also for a chunk that came with a job."""
        if grown := self._add_chunk(self._jobs[job], chunk, payload, blobs, count):
            self.post(ev.InputGrew(job, chunk, grown))

    def recalled(self, job: int, count: int) -> None:
        """So many more items have their results from a checkpoint."""
        if (entry := self._jobs.get(job)) is not None:
            entry.known += count

    def _add_chunk(
        self, job: JobEntry, chunk: int, payload: Payload, blobs: Sequence[Blob], count: int, start: int | None = None
    ) -> int:
        job.add_chunk(chunk, payload, tuple([blob.digest for blob in blobs]), count, start)
        return self.blobs.keep_for_chunk(job.id, chunk, blobs) if blobs else 0

    def input_failed(self, job: int, chunk: int, error: BaseException) -> None:
        """Reading the input raised."""
        if (entry := self._jobs.get(job)) is not None:
            entry.fail(error)
            self.post(ev.InputFailed(job, chunk))

    def notify(self, event: JobEvent) -> None:
        """Pass on an event of a job; ignored once the job is over."""
        if event.job in self._jobs:
            self.post(event)

    def cancel(self, job: int, error: BaseException | None = None) -> None:
        """End a job early; with `error`, that is what its consumer raises."""
        if (entry := self._jobs.get(job)) is not None:
            entry.fail(error)
            self.post(ev.CancelRequested(job))

    def when_idle(self, then: Callable[[], object]) -> None:
        """Call `then()` once there is no job left. Set-ups end when what they run is done."""
        self._when_idle = then
        for job in list(self._jobs.values()):
            if job.spec.each:
                self.post(ev.InputClosed(job.id))
        self._check_idle()

    def _check_idle(self) -> None:
        if self._when_idle is not None and not self._jobs:
            then, self._when_idle = self._when_idle, None
            then()

    def _fail_unserved(self, job: JobEntry, error: BaseException) -> None:
        if done := self.snapshots.of(job).done:
            error.add_note(f"{done} item{'s' * (done != 1)} had been finished; they are in the job's `partial`.")
        self.cancel(job.id, error)

    # --- workers ----------------------------------------------------------------------------------------------------

    def joined(self, engine: Engine, info: WorkerInfo) -> WorkerEntry:
        """A worker can take work from now on. Its engine reports to what this returns."""
        entry = self.workers.add(engine, info)
        self.post(ev.WorkerJoined(entry.id, info.slots, entry.info.name, info.tags, info.rtt, info.ahead))
        self.workers.check_unserved()
        self.workers.on_change()
        return entry

    def reconsider(self) -> None:
        """No worker of an engine can come any more."""
        self.workers.reconsider()

    def worker_statuses(self) -> list[WorkerStatus]:
        """All workers as they are now, for other threads."""
        now = self._loop.time()
        busy = self._attempts.busy_workers()
        found = []
        for worker in self.workers:
            resting, rest = self._scheduler.resting(worker.id, now)
            unready = worker.state == "ready" and self._scheduler.unready(worker.id)
            state = "reconnecting" if worker.reconnecting else "unready" if unready else worker.state
            load = worker.rtt, worker.cpu, worker.memory
            found.append(
                WorkerStatus(
                    worker.info,
                    worker.engine.place,
                    state,
                    *load,
                    worker.id in busy,
                    resting,
                    rest,
                    worker.long_items(),
                    worker.devices,
                )
            )
        return found

    def waiting_work(self) -> list[Waiting]:
        """What there is to be done now, by job; set-ups are none of it."""
        found = []
        for job in self._jobs.values():
            if not job.spec.each:
                at = self.snapshots.of(job)
                left = None if at.total is None else max(0, at.total - at.done)
                found.append(Waiting(job.id, left, at.done, self._attempts.busy_slots(job)))
        return found

    # --- the loop ---------------------------------------------------------------------------------------------------

    def post(self, event: ev.Event) -> None:
        """Pass an event to the scheduler and carry out its commands, before this returns unless it is doing so."""
        self._queue.append(event)
        if self._handling:
            return
        self._handling = True
        try:
            while self._queue:
                event = self._queue.popleft()
                now = self._loop.time()
                commands: list[ev.Command] = []
                self.trace.append((now, event, commands))
                if isinstance(event, ev.WorkerLost):
                    self.workers.remove(event)
                commands += self._scheduler.handle(event, now)
                for command in commands:
                    if self._refuses is None:  # else the driver broke or was closed while the scheduler had plans
                        self._commands.perform(command)
        finally:
            self._handling = False
        if self._timer is not None or self._scheduler.deadline() is not None:
            self._arm_timer()
        if self._when_idle is not None:
            self._check_idle()
        if self._commands.assigned - self._measured[0] >= MEASURED:
            self._measure()

    def _measure(self) -> None:
        """Tell the scheduler what a chunk costs this thread: with many slots it then makes larger ones."""
        (chunks, spent), self._measured = self._measured, (self._commands.assigned, time.thread_time())
        self.post(ev.DispatchMeasured((self._measured[1] - spent) / (self._measured[0] - chunks)))

    def _arm_timer(self) -> None:
        """Have a Ticked posted when the scheduler wants one."""
        deadline = self._scheduler.deadline()
        if self._timer is not None:
            if deadline == self._timer.when():
                return
            self._timer.cancel()
            self._timer = None
        if deadline is not None:
            self._timer = self._loop.call_at(deadline, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.post(ev.Ticked())

    # --- the end ----------------------------------------------------------------------------------------------------

    def crashed(self, error: BaseException) -> None:
        """A bug showed: every job ends with it, so that nobody waits for ever."""
        log.error("! the driver failed", exc_info=error)
        self._handling = False
        self._queue.clear()
        self._refuses = RuntimeError("a bug of distmap broke this pool; make a new one, and please report its cause")
        self._refuses.__cause__ = error
        for job in self._take_jobs():
            job.finish("failed", job.latest or empty_snapshot(job.spec), error)
        self._check_idle()

    def close(self, why: str = "closed") -> None:
        """The pool ends: stop the timers, and end what is left as cancelled, without waiting for any worker.

        Args:
            why: how the pool ended, and where: "closed at script.py:12".
        """
        self._refuses = PoolClosed(f"Pool not running: it was {why}; make a new one")
        for job in self._take_jobs():
            job.fail(JobCancelled(f"{job.spec.name} was cancelled: its pool was {why}"))
            job.finish("cancelled", self.snapshots.of(job), job.error)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.snapshots.stop()
        self._recent.stop()
        # What engines and handles still report comes too late.
        self.blobs.clear()
        self.workers.clear()

    def _take_jobs(self) -> list[JobEntry]:
        """All jobs, which the driver then has no more."""
        jobs = list(self._jobs.values())
        self._jobs.clear()
        return jobs
