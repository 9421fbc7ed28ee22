"""The floor of a simulated world: clock, mail, workers and their slots, with what may go wrong there.

Owns everything that happens without anybody's plan: items that run, raise, hang or kill; reports that come late,
twice or overtake each other; workers that join and are lost. `simulate.py` puts jobs and mishaps on top.
"""

from __future__ import annotations

import heapq
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

#: What may go wrong; each seed takes about half.
FAULTS = (
    *("raises", "fragile", "poison", "hangs", "hostile", "crashloop", "deaths", "losses", "silences", "drains"),
    *("joins", "stalls", "late", "twice", "shuffled", "stubborn", "cancels", "pauses", "slow_consumer", "slow_input"),
    *("short_input", "input_fails", "refusals", "pressure", "deaf", "tight", "executor"),
    *("setups", "grows"),
)
#: From then on nothing new goes wrong.
HEAL = 3.0
#: Bytes of an item and of a result.
ITEM, RESULT = 100, 10
#: A world that is not at rest after so many events will never be.
STEPS = 50_000


@dataclass
class Log:
    """What happened. `lines` is empty unless it was asked for."""

    seed: int
    faults: tuple[str, ...] = ()
    lines: list[str] = field(default_factory=list)
    events: int = 0
    ended: float = 0.0

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


@dataclass
class Task:
    """An attempt as the slot has it."""

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
class Process:
    """A slot. `epoch` counts its lives, so that what an earlier life had begun comes to nothing."""

    worker: int
    index: int
    alive: bool = True
    epoch: int = 0
    queue: list[Task] = field(default_factory=list)
    busy: bool = False


@dataclass
class Machine:
    """A worker."""

    id: int
    latency: float
    pace: float
    slots: list[Process]
    tags: frozenset[str]
    #: The scheduler was told that it is lost; it may go on talking.
    lost: bool = False
    deaf: bool = False


@dataclass
class Work:
    """A job as its owner has it."""

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


class Floor:
    """One seed's clock, mail, workers and slots; `simulate.World` adds jobs and mishaps."""

    def __init__(self, seed: int, *, keep: bool = False) -> None:
        self.rng = rng = Random(seed)
        self.faults = frozenset(name for name in FAULTS if rng.random() < 0.4)
        ahead = Random(f"chunks of {seed}")
        #: Draws which jobs bring their first items; None: none does.
        self.first_chunks = ahead if ahead.random() < 0.5 else None
        self.log = Log(seed, tuple(name for name in FAULTS if name in self.faults))
        self.keep = keep
        self.now = 0.0
        self.heap: list[tuple[float, int, Callable[[], object]]] = []
        self.serial = count()
        #: Messages with the same key arrive in the order in which they were sent.
        self.latest: dict[object, float] = {}
        limits = LIMITS._replace(growth=rng.choice((4, 64)), chunk_seconds=rng.choice((0.005, 0.02, 0.1)))
        self.limits = limits._replace(job_bytes=rng.choice((200, 2000))) if "tight" in self.faults else limits
        self.scheduler = Scheduler(self.limits)
        self.oracle = Oracle(self.limits)
        self.machines: dict[int, Machine] = {}
        self.jobs: dict[int, Work] = {}
        self.tick: float | None = None
        self.shown: dict[int, int] = {}
        self.loss_budget = 12

    # --- clock and mail -----------------------------------------------------------------------------------------------

    def on(self, fault: str) -> bool:
        """The fault is in this world and the world has not healed."""
        return fault in self.faults and self.now < HEAL

    def after(self, delay: float, action: Callable[[], object]) -> None:
        heapq.heappush(self.heap, (self.now + delay, next(self.serial), action))

    def send(self, key: object, delay: float, action: Callable[[], object]) -> None:
        """Like `after`, but never overtaking what was sent with the same key."""
        if "shuffled" not in self.faults:
            key = "one line"
        due = max(self.now + delay, self.latest.get(key, 0.0))
        self.latest[key] = due
        heapq.heappush(self.heap, (due, next(self.serial), action))

    def post(self, event: ev.Event) -> None:
        """Tell the oracle and the scheduler; have the commands checked and carried out."""
        self.log.events += 1
        if self.keep:
            self.log.lines.append(f"{self.now:.6f} < {event}")
        self.oracle.hear(event, self.now)
        commands = self.scheduler.handle(event, self.now)
        for command in commands:
            if self.keep:
                self.log.lines.append(f"{self.now:.6f} > {command}")
            self.oracle.check(command)
        for command in commands:
            self.perform(command)
        deadline = self.scheduler.deadline()
        if deadline is not None and (self.tick is None or deadline < self.tick):
            self.tick = deadline
            self.after(max(0.0, deadline - self.now), self.ring)

    def ring(self) -> None:
        self.tick = None
        self.post(ev.Ticked())

    def delay(self, machine: Machine) -> float:
        slow = self.rng.expovariate(2.0) if self.on("late") and self.rng.random() < 0.1 else 0.0
        return machine.latency * (0.5 + self.rng.random()) + slow

    def perform(self, command: ev.Command) -> None:
        """Carry out a command."""
        raise NotImplementedError

    # --- slots --------------------------------------------------------------------------------------------------------

    def after_in_order(self, process: Process, delay: float, action: Callable[[], object]) -> None:
        key = ("to", process.worker, process.index)
        due = max(self.now + delay, self.latest.get(key, 0.0))
        self.latest[key] = due
        heapq.heappush(self.heap, (due, next(self.serial), action))

    def arrive(self, machine: Machine, process: Process, command: ev.Command) -> None:
        """A command reaches its slot."""
        if machine.deaf:
            return
        if isinstance(command, ev.Assign):
            if not process.alive:
                # It was sent before its sender heard of the death, which voids it there: a slot must not keep it for
                # its next life, or an item that kills at once could go on killing with nobody charged.
                return
            work = self.jobs[command.job]
            if self.on("refusals") and self.rng.random() < 0.02:
                attempt = command.attempt
                return self.send(("of", attempt), self.delay(machine), lambda: self.post(ev.AttemptRefused(attempt)))
            if self.on("executor") and self.rng.random() < 0.05:
                attempt = command.attempt
                return self.send(("of", attempt), self.delay(machine), lambda: self.post(ev.AttemptLost(attempt)))
            start = work.chunks[command.chunk]
            process.queue.append(
                Task(command.attempt, command.job, start, command.lo, command.hi, command.lo, command.hi, command.lo)
            )
            return self.go_on(machine, process)
        if isinstance(command, ev.Kill):
            return self.die(machine, process, "killed")
        assert isinstance(command, ev.Revoke | ev.Interrupt)
        for place, task in enumerate(process.queue):
            if task.attempt == command.attempt:
                if isinstance(command, ev.Revoke):
                    task.stop = min(task.stop, command.stop)
                elif not (self.on("stubborn") or place):
                    task.interrupted = True
                    process.epoch += 1
                    process.busy = False
                if place and self.rng.random() < 0.5 and task.at >= task.stop:
                    process.queue.remove(task)
                    self.report(machine, task, ended=True)
                return self.go_on(machine, process)

    def go_on(self, machine: Machine, process: Process) -> None:
        """Begin the next item of a slot that has nothing in hand."""
        while process.alive and not process.busy and process.queue:
            task = process.queue[0]
            if task.at < min(task.hi, task.stop) and not task.interrupted:
                process.busy = True
                self.after(self.takes(machine, task), partial(self.item_done, machine, process, process.epoch))
                return
            process.queue.pop(0)
            self.report(machine, task, ended=True)

    def takes(self, machine: Machine, task: Task) -> float:
        work = self.jobs[task.job]
        stall = self.rng.uniform(0.5, 3.0) if self.on("stalls") and self.rng.random() < 0.02 else 0.0
        return work.seconds * machine.pace * self.rng.uniform(0.5, 1.5) + stall

    def item_done(self, machine: Machine, process: Process, epoch: int) -> None:
        """The item in hand comes to its end, one way or another."""
        if epoch != process.epoch or machine.deaf:
            return
        process.busy = False
        task = process.queue[0]
        work, item = self.jobs[task.job], task.start + task.at
        kind = work.kinds.get(item, "fine")
        runs = work.runs[item] = work.runs.get(item, 0) + 1
        if kind == "poison" or (kind == "fragile" and runs <= 2) or (self.on("deaths") and self.rng.random() < 0.01):
            return self.die(machine, process, "died")
        if kind == "hangs":
            return self.die(machine, process, "timeout")
        if kind == "hostile" and self.loss_budget:
            return self.lose(machine, charged=True)
        if kind == "raises" or (kind == "flaky" and runs <= 1):
            task.failed.append(task.at)
        task.at += 1
        if task.at < task.hi and self.rng.random() < 0.15:
            self.report(machine, task, ended=False)
        elif self.rng.random() < 0.1:
            hint = ev.AttemptProgressed(task.attempt, task.at)
            self.send(("of", task.attempt), self.delay(machine), lambda: self.post(hint))
        self.go_on(machine, process)

    def report(self, machine: Machine, task: Task, *, ended: bool) -> None:
        lo, hi = task.sent, task.at
        failed = tuple(at for at in task.failed if at >= lo)
        seconds = self.jobs[task.job].seconds * machine.pace * (hi - lo)
        report = ev.AttemptReported(task.attempt, lo, hi, failed, seconds, (hi - lo) * RESULT, ended)
        task.sent = hi
        self.send(("of", task.attempt), self.delay(machine), lambda: self.post(report))
        if self.on("twice") and self.rng.random() < 0.1:
            self.send(("of", task.attempt), self.delay(machine), lambda: self.again(report))

    def again(self, report: ev.AttemptReported) -> None:
        """The same report arrives a second time."""
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

    def die(self, machine: Machine, process: Process, reason: str) -> None:
        """The slot's process ends; a fresh one comes a little later."""
        if not process.alive:
            return
        task = process.queue[0] if process.queue else None
        attempt, at = (task.attempt, task.at) if task is not None and process.busy is False else (None, None)
        if reason == "killed" and task is not None:
            attempt, at = task.attempt, task.at
        if attempt is None and reason != "killed":
            reason = "idle"
        process.alive, process.busy = False, False
        process.epoch += 1
        process.queue.clear()
        died = ev.SlotDied(process.worker, process.index, attempt, at, reason)  # type: ignore[arg-type]
        key = ("of", attempt) if attempt is not None else ("slot", process.worker, process.index)
        self.send(key, self.delay(machine), partial(self.buried, machine, process, died))

    def buried(self, machine: Machine, process: Process, died: ev.SlotDied) -> None:
        """The news of a death arrives; that of the fresh process comes after it."""
        self.post(died)
        if not machine.deaf:
            self.after(self.rng.uniform(0.0, 0.1), partial(self.revive, machine, process))

    def revive(self, machine: Machine, process: Process) -> None:
        process.alive = True
        self.post(ev.SlotReady(process.worker, process.index))
        self.go_on(machine, process)

    # --- workers ------------------------------------------------------------------------------------------------------

    def join(self, *, good: bool = False) -> Machine:
        rng = self.rng
        number = len(self.machines) + 1
        slots = [Process(number, index) for index in range(rng.randint(1, 3))]
        tags = frozenset({"gpu"}) if good or rng.random() < 0.5 else frozenset[str]()
        latency = rng.choice((0.0001, 0.0005, 0.02))
        machine = Machine(number, latency, rng.choice((0.5, 1.0, 1.0, 4.0)), slots, tags)
        self.machines[number] = machine
        self.post(ev.WorkerJoined(number, len(slots), f"w{number}", tags, latency))
        return machine

    def lose(self, machine: Machine, *, charged: bool) -> None:
        """The hub gives the worker up. It may be gone, or go on for a while with nobody listening."""
        if machine.lost:
            return
        self.loss_budget -= 1
        machine.lost = True
        machine.deaf = self.rng.random() < 0.6
        self.post(ev.WorkerLost(machine.id, charged))
        if "twice" in self.faults:
            self.post(ev.WorkerLost(machine.id, charged))
        if self.now >= HEAL or not self.live() or self.rng.random() < 0.5:
            self.after(self.rng.uniform(0.01, 0.5), partial(self.join, good=True))

    def live(self) -> list[Machine]:
        return [machine for machine in self.machines.values() if not machine.lost]
