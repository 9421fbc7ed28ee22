"""Timelines of jobs: what the slots of each worker spent their time on, as blocks for the panel.

Owns an observer of events and commands, and how blocks are kept and joined: a bounded number of them, however many
chunks there were. Must not know the scheduler's state: `Scheduler.handle` passes each event with its commands to
`Timelines.observe`, and `Scheduler.snapshot` lets `Timelines.draw` add the blocks. Nothing here changes a decision.

Times of blocks are seconds since the job began.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from distmap.core import events as ev
from distmap.core.limits import Limits
from distmap.core.progress import ROWS, Block, BlockKind, Snapshot
from distmap.tasks._records import Record, field

#: Makes a NamedTuple at a third of the cost of calling its class.
_new = tuple.__new__


def join_blocks(blocks: Iterable[Block], grain: float) -> list[Block]:
    """Join neighbours of one row and kind that lie within `grain` seconds.

    The joined block begins with the first one and lasts as long as both did; the gap moves behind it. So the drawing
    gets coarser, but each kind keeps its share of the row: a row that was idle half of the time still shows that.
    """
    out: list[Block] = []
    last: dict[tuple[int, BlockKind], tuple[int, Block]] = {}
    for block in blocks:
        row, begin, end, kind = block
        key = row, kind
        if key in last:
            at, before = last[key]
            if end - before[1] <= grain:
                joined = out[at] = _new(Block, (row, before[1], before[2] + (end - begin), kind))
                last[key] = at, joined
                continue
        last[key] = len(out), block
        out.append(block)
    return out


class Track(Record):
    """One row of a timeline. Blocks are entered as they end, each in constant time on average."""

    row: int
    most: int
    #: All blocks but the last one, whose fields follow here: it may still grow.
    blocks: list[Block] = field(default_factory=list)
    attempt: int = -1
    begin: float = 0.0
    end: float = 0.0
    kind: BlockKind | None = None
    #: Neighbours that begin and end within this many seconds are joined at once.
    grain: float = 0.0

    def add(self, attempt: int, begin: float, end: float, kind: BlockKind) -> None:
        """Enter what an attempt did from `begin` to `end`; it begins after the last block of the row."""
        # This runs for every report: so no call of `max`, and no Block before it is certain to stay.
        if begin < self.end:
            begin = self.end
        if kind == self.kind:
            if attempt == self.attempt:
                self.end = end
                return
            if end - self.begin <= self.grain:
                self.end += end - begin
                self.attempt = -1
                return
        if begin >= end and kind in ("done", "running"):
            return
        if self.kind is not None:
            self.blocks.append(_new(Block, (self.row, self.begin, self.end, self.kind)))
            if len(self.blocks) >= self.most:
                self._thin(end)
        self.attempt, self.begin, self.end, self.kind = attempt, begin, end, kind

    def show(self, out: list[Block]) -> None:
        """Add all its blocks to a list."""
        out += self.blocks
        if self.kind is not None:
            out.append(_new(Block, (self.row, self.begin, self.end, self.kind)))

    def _thin(self, elapsed: float) -> None:
        """Join blocks until half of the allowed number is left, so that this happens rarely."""
        while len(self.blocks) > self.most // 2:
            self.grain = max(2 * self.grain, elapsed / self.most)
            self.blocks = join_blocks(self.blocks, self.grain)


def tracks(slots: int, blocks: int) -> list[Track]:
    """The empty timeline of a worker: a row for each slot, at most ROWS; `blocks` in all rows together."""
    rows = min(slots, ROWS)
    return [Track(row, blocks // rows) for row in range(rows)]


class _Run(Record):
    """An attempt on a slot."""

    attempt: int
    job: int
    worker: int
    slot: int
    #: When it came to the head of its slot, or was drawn last: where its next block begins at the earliest.
    since: float
    interrupted: bool = False


class _Job(Record):
    """The timeline of one job: the tracks of each worker."""

    began: float
    retries: int
    tracks: dict[int, list[Track]] = field(default_factory=dict)


#: Frequent events and commands that no timeline shows.
_UNSEEN = frozenset({ev.ChunkRead, ev.ItemsAdded, ev.Consumed, ev.Ticked, ev.Read, ev.Take, ev.Deliver, ev.Release})


class Timelines:
    """Observes the scheduler and keeps the timelines of its jobs.

    Jobs of pushed items have none unless a panel shows them.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        #: Slots of each worker.
        self._slots: dict[int, int] = {}
        self._jobs: dict[int, _Job] = {}
        #: Jobs that are over, the oldest first.
        self._over: dict[int, _Job] = {}
        self._runs: dict[int, _Run] = {}
        #: (worker, slot) -> what the slot holds; the first one runs.
        self._queues: dict[tuple[int, int], list[_Run]] = {}

    def observe(self, event: ev.Event, commands: Sequence[ev.Command], now: float) -> None:
        """Take note of a legal event and of the commands that followed."""
        if type(event) not in _UNSEEN:
            self._happened(event, commands, now)
        for command in commands:
            if type(command) not in _UNSEEN:
                self._decided(command, now)

    def _happened(self, event: ev.Event, commands: Sequence[ev.Command], now: float) -> None:
        match event:
            case ev.AttemptReported(attempt=attempt) if (run := self._runs.get(attempt)) is not None:
                self._reported(run, event, commands, now)
                if event.ended:
                    self._end(run, now)
            case ev.AttemptLost(attempt, _, reason) if (run := self._runs.get(attempt)) is not None:
                if self._is_head(run):
                    self._add(run, now - run.since, now, "failed" if reason == "timeout" else "lost")
                self._end(run, now)
            case ev.AttemptRefused(attempt=attempt) if (run := self._runs.get(attempt)) is not None:
                self._end(run, now)
            case ev.SlotDied(worker, slot, _, _, reason):
                kind: BlockKind | None = None if reason == "idle" else "failed" if reason == "timeout" else "lost"
                self._clear(worker, slot, now, kind)
            case ev.WorkerLost(worker):
                for slot in range(self._slots.get(worker, 0)):
                    self._clear(worker, slot, now, "lost")
                self._slots.pop(worker, None)
            case ev.WorkerJoined(worker, slots):
                self._slots[worker] = slots
            case ev.JobSubmitted(job, spec) if spec.shown or not spec.pushed:
                self._jobs[job] = _Job(now, spec.retries)

    def _decided(self, command: ev.Command, now: float) -> None:
        match command:
            case ev.Assign(worker, slot, attempt, job):
                run = self._runs[attempt] = _Run(attempt, job, worker, slot, now)
                self._queues.setdefault((worker, slot), []).append(run)
            case ev.Interrupt(attempt=attempt):
                self._runs[attempt].interrupted = True
            case ev.Kill(worker, slot):
                run = self._queues[worker, slot][0]
                self._add(run, now - run.since, now, "running")
            case ev.Finish(job) if job in self._jobs:
                self._over[job] = self._jobs.pop(job)
                if len(self._over) > self._limits.timelines_kept:
                    del self._over[next(iter(self._over))]

    def draw(self, job: int, snapshot: Snapshot, now: float) -> Snapshot:
        """The snapshot of the job with its timeline, if it has one."""
        timeline = self._jobs.get(job) or self._over.get(job)
        if timeline is None:
            return snapshot
        heads: dict[int, list[_Run]] = {}
        if job in self._jobs:
            for run in self._runs.values():
                if run.job == job and self._is_head(run):
                    heads.setdefault(run.worker, []).append(run)
        lanes = []
        for lane in snapshot.lanes:
            blocks: list[Block] = []
            _running(blocks, heads.get(lane.worker, ()), lane.rows, timeline.began, now)
            for track in timeline.tracks.get(lane.worker, ()):
                track.show(blocks)
            lanes.append(lane._replace(blocks=tuple(blocks)))
        return snapshot._replace(lanes=tuple(lanes))

    def _reported(self, run: _Run, event: ev.AttemptReported, commands: Sequence[ev.Command], now: float) -> None:
        if event.lo < event.hi:
            kind: BlockKind = "done"
            if event.failed:
                kind = self._kind_of_failure(run, event, commands)
            self._add(run, event.seconds, now, kind)
        elif run.interrupted:
            # Interrupted in its first item: it took time and has no result.
            self._add(run, event.seconds, now, "running")

    def _kind_of_failure(self, run: _Run, event: ev.AttemptReported, commands: Sequence[ev.Command]) -> BlockKind:
        """Failures are final, unless the results of all items that raised were discarded to run them again."""
        job = self._jobs.get(run.job)
        if job is None or not job.retries:
            return "failed"
        discards = [command for command in commands if isinstance(command, ev.Discard)]
        again = all(any(discard.lo <= at < discard.hi for discard in discards) for at in event.failed)
        return "retried" if again else "failed"

    def _is_head(self, run: _Run) -> bool:
        return self._queues[run.worker, run.slot][0] is run

    def _end(self, run: _Run, now: float) -> None:
        """The slot holds the attempt no more; the next one runs."""
        queue = self._queues[run.worker, run.slot]
        head = queue[0] is run
        queue.remove(run)
        del self._runs[run.attempt]
        if head and queue:
            queue[0].since = now

    def _clear(self, worker: int, slot: int, now: float, kind: BlockKind | None) -> None:
        """The slot lost all that it held; `kind` says how the one that ran is shown."""
        for place, run in enumerate(self._queues.pop((worker, slot), ())):
            if kind is not None and place == 0:
                self._add(run, now - run.since, now, kind)
            del self._runs[run.attempt]

    def _add(self, run: _Run, seconds: float, now: float, kind: BlockKind) -> None:
        """Add a block for the attempt: the last `seconds`, but not before it was drawn last."""
        job = self._jobs.get(run.job)
        if job is None:
            return
        since, run.since = run.since, now
        begin = now - seconds
        if begin < since:
            begin = since
        rows = job.tracks.get(run.worker)
        if rows is None:
            rows = job.tracks[run.worker] = tracks(self._slots[run.worker], self._limits.timeline_blocks)
        rows[run.slot % len(rows)].add(run.attempt, begin - job.began, now - job.began, kind)


def _running(out: list[Block], heads: Iterable[_Run], rows: int, began: float, now: float) -> None:
    """Add what runs, as one block for each row."""
    begins: dict[int, float] = {}
    for run in heads:
        row = run.slot % rows
        begins[row] = min(run.since, begins.get(row, now))
    for row, since in begins.items():
        out.append(Block(row, since - began, now - began, "running"))
