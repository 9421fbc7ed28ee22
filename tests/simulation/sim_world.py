"""The simulated world: clock, messages, workers and their slots, and the faults that happen in them.

Owns what workers do: items run, raise, hang or end their process; reports come late, twice, or overtake each other;
workers join and are lost. `simulate.py` adds the jobs, and chooses when faults happen.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from random import Random

from simulation.oracle import Broken, Oracle

from distmap.core import events as ev
from distmap.core.limits import LIMITS
from distmap.core.scheduler import Scheduler
from distmap.errors import InvalidTransition

#: Faults; each seed has about 40 % of them.
FAULTS = (
    *("raises", "fragile", "poison", "hangs", "hostile", "crashloop", "deaths", "losses", "silences", "drains"),
    *("joins", "stalls", "late", "twice", "shuffled", "stubborn", "cancels", "pauses", "slow_consumer", "slow_input"),
    *("short_input", "input_fails", "refusals", "pressure", "cut_off", "tight", "executor"),
    *("setups", "grows"),
)
#: Seconds after which no new fault happens.
HEAL_AT = 3.0
#: Bytes of an item and of a result.
ITEM_BYTES, RESULT_BYTES = 100, 10
#: Events after which a world that still goes on counts as never ending.
MAX_EVENTS = 50_000


@dataclass
class Log:
    """What happened in a world. `lines` is empty without `keep`."""

    seed: int
    faults: tuple[str, ...] = ()
    lines: list[str] = field(default_factory=list)
    events: int = 0
    ended: float = 0.0
    #: How often each fault happened.
    counts: Counter[str] = field(default_factory=Counter)
    #: How often something was done about one.
    mended: Counter[str] = field(default_factory=Counter)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


@dataclass
class SimAttempt:
    """An attempt on a slot."""

    attempt: int
    job: int
    start: int
    lo: int
    hi: int
    at: int
    stop: int
    sent: int
    interrupted: bool = False
    failed: list[int] = field(default_factory=list)


@dataclass
class SimSlot:
    """A slot. `epoch` counts its processes and interrupts, so that an item begun before one of them has no effect."""

    worker: int
    index: int
    alive: bool = True
    epoch: int = 0
    queue: list[SimAttempt] = field(default_factory=list)
    busy: bool = False


@dataclass
class SimWorker:
    """A worker."""

    id: int
    latency: float
    pace: float
    slots: list[SimSlot]
    tags: frozenset[str]
    #: The scheduler was told that the worker is lost; the worker may still send events.
    lost: bool = False
    cut_off: bool = False


@dataclass
class SimJob:
    """A job with its items: `kinds` names those that cause faults, `left` counts those not read yet."""

    id: int
    spec: ev.JobSpec
    total: int
    seconds: float
    kinds: dict[int, str]
    left: int
    handed: int = 0
    chunks: dict[int, int] = field(default_factory=dict)
    runs: dict[int, int] = field(default_factory=dict)
    over: bool = False


class SimWorld:
    """The clock, messages, workers and slots of one seed; `simulate.World` adds jobs and faults."""

    #: Limits of which some are changed for each world.
    base_limits = LIMITS
    #: Seconds after which a world that still goes on counts as never ending.
    longest = 1e9
    #: Nothing is to be expected any more but what is under way.
    resting = False

    def __init__(self, seed: int, *, keep: bool = False) -> None:
        self.rng = rng = Random(seed)
        self.faults = frozenset(name for name in FAULTS if rng.random() < 0.4)
        ahead = Random(f"chunks of {seed}")
        #: Random numbers for jobs that are submitted with their first chunk; None: this world has no such jobs.
        self.first_chunks = ahead if ahead.random() < 0.5 else None
        #: Slots that each worker has at least: many in one world of sixteen.
        self.least_slots = ahead.choice((*[1] * 15, 40))
        self.outages = Random(f"outages of {seed}")  # how much is sent ahead, and what chunks cost
        self.log = Log(seed, tuple(name for name in FAULTS if name in self.faults))
        self.keep = keep
        self.now = 0.0
        self.heap: list[tuple[float, int, Callable[[], object]]] = []
        self.serial = count()
        #: Messages with the same key arrive in the order in which they were sent.
        self.latest: dict[object, float] = {}
        limits = self.base_limits._replace(growth=rng.choice((4, 64)), chunk_seconds=rng.choice((0.005, 0.02, 0.1)))
        self.limits = limits._replace(job_bytes=rng.choice((200, 2000))) if "tight" in self.faults else limits
        self.scheduler = Scheduler(self.limits)
        self.oracle = Oracle(self.limits)
        self.workers: dict[int, SimWorker] = {}
        self.jobs: dict[int, SimJob] = {}
        self.tick: float | None = None
        self.shown: dict[int, int] = {}
        self.loss_budget = 12

    # --- clock and messages -----------------------------------------------------------------------------------------

    def has_fault(self, fault: str) -> bool:
        """Whether this world has the fault, and it may still happen."""
        return fault in self.faults and self.now < HEAL_AT

    def after(self, delay: float, action: Callable[[], object]) -> None:
        self.at(self.now + delay, action)

    def at(self, due: float, action: Callable[[], object]) -> None:
        heapq.heappush(self.heap, (due, next(self.serial), action))

    def send(self, key: object, delay: float, action: Callable[[], object]) -> None:
        """Like `after`, but in order with all that was sent with the same key."""
        if "shuffled" not in self.faults:
            key = "one line"
        due = max(self.now + delay, self.latest.get(key, 0.0))
        self.latest[key] = due
        self.at(due, action)

    def post(self, event: ev.Event) -> None:
        """Give an event to the oracle and the scheduler; check and carry out the commands."""
        self.log.events += 1
        if self.keep:
            self.log.lines.append(f"{self.now:.6f} < {event}")
        self.oracle.take_event(event, self.now)
        commands = self.scheduler.handle(event, self.now)
        for command in commands:
            if self.keep:
                self.log.lines.append(f"{self.now:.6f} > {command}")
            self.oracle.check_command(command)
        for command in commands:
            self.perform(command)
        deadline = self.scheduler.deadline()
        if deadline is not None and (self.tick is None or deadline < self.tick):
            self.tick = deadline
            self.after(max(0.0, deadline - self.now), self.send_tick)

    def send_tick(self) -> None:
        self.tick = None
        self.post(ev.Ticked())

    def tell(self, worker: SimWorker, key: object, event: ev.Event) -> None:
        """What happened on a worker reaches the pool, a little later."""
        self.send(key, self.delay(worker), lambda: self.post(event))

    def count(self, fault: str) -> None:
        """A fault has happened."""
        self.log.counts[fault] += 1

    def delay(self, worker: SimWorker) -> float:
        slow = self.rng.expovariate(2.0) if self.has_fault("late") and self.rng.random() < 0.1 else 0.0
        return worker.latency * (0.5 + self.rng.random()) + slow

    def perform(self, command: ev.Command) -> None:
        """Carry out a command."""
        raise NotImplementedError

    # --- slots --------------------------------------------------------------------------------------------------------

    def after_in_order(self, slot: SimSlot, delay: float, action: Callable[[], object]) -> None:
        key = ("to", slot.worker, slot.index)
        due = max(self.now + delay, self.latest.get(key, 0.0))
        self.latest[key] = due
        self.at(due, action)

    def arrive(self, worker: SimWorker, slot: SimSlot, command: ev.Command) -> None:
        """A command reaches its slot."""
        if worker.cut_off:
            return
        if isinstance(command, ev.Assign):
            if not slot.alive:
                # It was sent before the scheduler knew of the death, which ends the attempt there. If the next process
                # ran it, an item that ends its process at once could do so again and again without a charge.
                return
            work = self.jobs[command.job]
            if self.has_fault("refusals") and self.rng.random() < 0.02:
                attempt = command.attempt
                return self.tell(worker, ("of", attempt), ev.AttemptRefused(attempt, unfit=attempt % 2 > 0))
            if self.has_fault("executor") and self.rng.random() < 0.05:
                at, why = self.rng.randrange(command.lo, command.hi), self.rng.choice(("died", "timeout", "killed"))
                named = (at, why) if self.rng.random() < 0.5 else ()
                return self.tell(worker, ("of", command.attempt), ev.AttemptLost(command.attempt, *named))
            start = work.chunks[command.chunk]
            slot.queue.append(
                SimAttempt(
                    command.attempt, command.job, start, command.lo, command.hi, command.lo, command.hi, command.lo
                )
            )
            return self.start_next_item(worker, slot)
        if isinstance(command, ev.Kill):
            return self.die(worker, slot, "killed")
        assert isinstance(command, ev.Revoke | ev.Interrupt)
        for place, task in enumerate(slot.queue):
            if task.attempt == command.attempt:
                if isinstance(command, ev.Revoke):
                    task.stop = min(task.stop, command.stop)
                elif not (self.has_fault("stubborn") or place):
                    task.interrupted = True
                    slot.epoch += 1
                    slot.busy = False
                if place and self.rng.random() < 0.5 and task.at >= task.stop:
                    slot.queue.remove(task)
                    self.report(worker, task, ended=True)
                return self.start_next_item(worker, slot)

    def start_next_item(self, worker: SimWorker, slot: SimSlot) -> None:
        """Begin the next item of a slot that runs none."""
        while slot.alive and not slot.busy and slot.queue:
            task = slot.queue[0]
            if task.at < min(task.hi, task.stop) and not task.interrupted:
                slot.busy = True
                self.after(self.takes(worker, task), partial(self.item_done, worker, slot, slot.epoch))
                return
            slot.queue.pop(0)
            self.report(worker, task, ended=True)

    def takes(self, worker: SimWorker, task: SimAttempt) -> float:
        work = self.jobs[task.job]
        stall = 0.0
        if self.has_fault("stalls") and self.rng.random() < 0.02:
            self.count("an item stalled")
            stall = self.rng.uniform(0.5, 3.0)
        return work.seconds * worker.pace * self.rng.uniform(0.5, 1.5) + stall

    def item_done(self, worker: SimWorker, slot: SimSlot, epoch: int) -> None:
        """The item that runs ends: it returns, raises, or ends its process or worker."""
        if epoch != slot.epoch or worker.cut_off:
            return
        slot.busy = False
        task = slot.queue[0]
        work, item = self.jobs[task.job], task.start + task.at
        kind = work.kinds.get(item, "fine")
        runs = work.runs[item] = work.runs.get(item, 0) + 1
        if (
            kind == "poison"
            or (kind == "fragile" and runs <= 2)
            or (self.has_fault("deaths") and self.rng.random() < 0.01)
        ):
            self.count("an item ended its process")
            return self.die(worker, slot, "died")
        if kind == "hangs":
            self.count("an item took too long")
            return self.die(worker, slot, "timeout")
        if kind == "hostile" and self.loss_budget:
            self.count("an item took its worker with it")
            return self.lose(worker, charged=True)
        if kind == "raises" or (kind == "flaky" and runs <= 1):
            task.failed.append(task.at)
            self.count("an item raised")
        task.at += 1
        if task.at < task.hi and self.rng.random() < 0.15:
            self.report(worker, task, ended=False)
        elif self.rng.random() < 0.1:
            hint = ev.AttemptProgressed(task.attempt, task.at)
            self.tell(worker, ("of", task.attempt), hint)
        self.start_next_item(worker, slot)

    def report(self, worker: SimWorker, task: SimAttempt, *, ended: bool) -> None:
        lo, hi = task.sent, task.at
        failed = tuple(at for at in task.failed if at >= lo)
        seconds = self.jobs[task.job].seconds * worker.pace * (hi - lo)
        report = ev.AttemptReported(task.attempt, lo, hi, failed, seconds, (hi - lo) * RESULT_BYTES, ended)
        task.sent = hi
        self.tell(worker, ("of", task.attempt), report)
        if self.has_fault("twice") and self.rng.random() < 0.1:
            self.send(("of", task.attempt), self.delay(worker), lambda: self.again(report))

    def again(self, report: ev.AttemptReported) -> None:
        """The same report arrives a second time: it must be refused, and change nothing."""
        attempt = self.oracle.attempts[report.attempt]
        if not attempt.live:
            return self.post(report)
        if report.lo == report.hi:
            return
        before = self.scheduler.snapshot(attempt.job, self.now)
        try:
            self.scheduler.handle(report, self.now)
        except InvalidTransition:
            if self.scheduler.snapshot(attempt.job, self.now) != before:
                raise Broken(f"{report} was illegal, yet changed something") from None
            return
        raise Broken(f"{report} came twice and was taken")

    def die(self, worker: SimWorker, slot: SimSlot, reason: str) -> None:
        """The process of the slot ends; a new one comes a little later."""
        if not slot.alive:
            return
        task = slot.queue[0] if slot.queue else None
        attempt, at = (task.attempt, task.at) if task is not None and slot.busy is False else (None, None)
        if reason == "killed" and task is not None:
            attempt, at = task.attempt, task.at
        if attempt is None and reason != "killed":
            reason = "idle"
        slot.alive, slot.busy = False, False
        slot.epoch += 1
        slot.queue.clear()
        died = ev.SlotDied(slot.worker, slot.index, attempt, at, reason)  # type: ignore[arg-type]
        key = ("of", attempt) if attempt is not None else ("slot", slot.worker, slot.index)
        self.count(f"a slot's process ended: {reason}")
        self.tell_death(worker, slot, key, died)

    def tell_death(self, worker: SimWorker, slot: SimSlot, key: object, died: ev.SlotDied) -> None:
        """The end of a slot's process reaches the pool."""
        self.send(key, self.delay(worker), partial(self.report_death, worker, slot, died))

    def report_death(self, worker: SimWorker, slot: SimSlot, died: ev.SlotDied) -> None:
        """SlotDied arrives; SlotReady comes after it."""
        self.post(died)
        if not worker.cut_off:
            self.after(self.rng.uniform(0.0, 0.1), partial(self.revive, worker, slot))

    def revive(self, worker: SimWorker, slot: SimSlot) -> None:
        slot.alive = True
        self.post(ev.SlotReady(slot.worker, slot.index))
        self.start_next_item(worker, slot)

    # --- workers ------------------------------------------------------------------------------------------------------

    def join(self, *, good: bool = False) -> SimWorker:
        rng = self.rng
        number = len(self.workers) + 1
        slots = [SimSlot(number, index) for index in range(max(rng.randint(1, 3), self.least_slots))]
        tags = frozenset({"gpu"}) if good or rng.random() < 0.5 else frozenset[str]()
        latency = rng.choice((0.0001, 0.0005, 0.02))
        worker = SimWorker(number, latency, rng.choice((0.5, 1.0, 1.0, 4.0)), slots, tags)
        self.workers[number] = worker
        self.connect(worker)
        ahead = self.limits.ahead_least if number % 2 else 0.0
        self.post(ev.WorkerJoined(number, len(slots), f"w{number}", tags, latency, ahead))
        return worker

    def connect(self, worker: SimWorker) -> None:
        """The worker's connection is there."""

    def lose(self, worker: SimWorker, *, charged: bool) -> None:
        """The worker is lost. Its process may be gone, or still send events for a while."""
        if worker.lost:
            return
        self.loss_budget -= 1
        self.count("a worker was lost" if charged else "a worker left")
        worker.lost = True
        worker.cut_off = self.rng.random() < 0.6
        self.post(ev.WorkerLost(worker.id, charged))
        if "twice" in self.faults:
            self.post(ev.WorkerLost(worker.id, charged))
        if self.now >= HEAL_AT or not self.live() or self.rng.random() < 0.5:
            self.after(self.rng.uniform(0.01, 0.5), partial(self.join, good=True))

    def live(self) -> list[SimWorker]:
        return [worker for worker in self.workers.values() if not worker.lost]
