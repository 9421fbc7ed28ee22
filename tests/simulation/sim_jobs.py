"""The simulated world with jobs: input, consumers, set-ups, and when faults of workers and jobs happen.

Owns jobs and the choice of faults; workers and slots are in `sim_world.py`. `net_world.py` puts a network between the
scheduler and the workers. Played by `simulate.py`.
"""

from __future__ import annotations

import heapq
from functools import partial
from random import Random

from simulation.oracle import Broken
from simulation.sim_world import (
    HEAL_AT,
    ITEM_BYTES,
    MAX_EVENTS,
    RESULT_BYTES,
    Log,
    SimJob,
    SimSlot,
    SimWorker,
    SimWorld,
)

from distmap.core import events as ev
from distmap.core.limits import LIMITS
from distmap.core.progress import ROWS

Order = ev.Assign | ev.Revoke | ev.Interrupt | ev.Kill


class World(SimWorld):
    """The world of one seed, with jobs and faults."""

    def __init__(self, seed: int, *, keep: bool = False) -> None:
        super().__init__(seed, keep=keep)
        #: Seconds that consumers take for each item, one after the other; 0: they take it at once, or now and then not.
        self.steady = Random(f"consumers of {seed}").choice((0.0, 0.0, 0.0, 0.005))
        self.busy_until: dict[int, float] = {}

    def perform(self, command: ev.Command) -> None:
        match command:
            case ev.Read():
                self.read(command)
            case ev.Take(job=job, chunk=chunk, count=count):
                work = self.jobs[job]
                work.chunks[chunk] = work.handed
                work.handed += count
            case ev.SetUp(job=job, chunk=chunk):
                work = self.jobs[job]
                work.chunks[chunk] = work.handed
                work.handed += 1
            case ev.Deliver(job=job, lo=lo, hi=hi):
                self.consume(self.jobs[job], hi - lo, (hi - lo) * RESULT_BYTES)
            case ev.DeliverLoss(job=job):
                self.consume(self.jobs[job], 1, 0)
            case ev.Finish(job=job):
                self.jobs[job].over = True
                if command.outcome == "done" and self.jobs[job].left:
                    raise Broken(f"{command} with {self.jobs[job].left} items left to read")
            case ev.Assign() | ev.Revoke() | ev.Interrupt() | ev.Kill():
                worker = self.workers[command.worker]
                slot = worker.slots[command.slot]
                self.order(worker, slot, command)
            case _:
                pass

    def order(self, worker: SimWorker, slot: SimSlot, command: Order) -> None:
        """Send a command to its slot."""
        self.after_in_order(slot, self.delay(worker), lambda: self.arrive(worker, slot, command))

    def cause_fault(self) -> None:
        """Cause a fault of a worker or a job, and plan the next one."""
        if self.now >= HEAL_AT:
            return
        rng = self.rng
        kind = rng.choice(("joins", "losses", "silences", "drains", "pressure", "cancels", "pauses", "crashloop"))
        live = self.live()
        if self.has_fault(kind) and kind == "joins":
            self.join()
        elif self.has_fault(kind) and kind in ("cancels", "pauses"):
            job = rng.choice(list(self.jobs))
            if kind == "cancels":
                self.count("a job was cancelled")
                self.post(ev.CancelRequested(job))
            elif not self.jobs[job].spec.each:  # nobody can pause a set-up
                self.post(ev.PauseRequested(job))
                self.after(rng.uniform(0.0, 1.0), lambda: self.post(ev.ResumeRequested(job)))
        elif self.has_fault(kind) and live:
            self.hit_worker(kind, rng.choice(live))
        self.after(rng.expovariate(6.0), self.cause_fault)

    def hit_worker(self, kind: str, worker: SimWorker) -> None:
        if kind == "losses" and self.loss_budget:
            self.lose(worker, charged=True)
        elif kind == "silences":
            self.count("a worker was silent")
            self.post(ev.WorkerSuspected(worker.id))
            self.after(self.rng.uniform(0.1, 1.0), lambda: self.post(ev.WorkerTrusted(worker.id)))
        elif kind == "drains" and self.loss_budget:
            self.post(ev.WorkerDraining(worker.id))
            self.after(self.rng.uniform(0.05, 0.5), lambda: self.lose(worker, charged=False))
        elif kind == "pressure":
            memory = self.rng.choice((0.2, 0.95))
            ahead = self.outages.choice((0.0, 1.0, 6.0)) if "silences" in self.faults else 0.0
            self.post(ev.WorkerMeasured(worker.id, worker.latency, 0.5, memory, ahead))
        elif kind == "crashloop":
            for slot in worker.slots:
                self.die(worker, slot, "died")

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def submit(self) -> None:
        rng = self.rng
        number = len(self.jobs) + 1
        total = rng.choice((0, 1, 2, rng.randint(3, 30), rng.randint(3, 30), rng.randint(30, 120)))
        pushed = rng.random() < 0.25
        gather = "list" if pushed else rng.choice(("list", "ordered", "unordered", "fold"))
        kinds: dict[int, str] = {}
        for kind in ("raises", "flaky", "fragile", "poison", "hangs", "hostile"):
            if ("raises" if kind == "flaky" else kind) in self.faults:
                kinds.update((rng.randrange(max(1, total)), kind) for _ in range(rng.randint(0, 2)))
        announced = max(1, total + rng.choice((0, 0, -3, 5))) if total else 0
        spec = ev.JobSpec(
            size=None if pushed or rng.random() < 0.4 else announced,
            gather=gather,  # type: ignore[arg-type]
            chunksize=rng.choice((None, None, None, 1, 7)),
            retries=rng.choice((0, 0, 1, 2)),
            priority=rng.choice((0, 0, 0, 1, 5)),
            stop_on_failure=rng.random() < 0.3,
            buffer=None if gather == "list" else rng.choice((None, None, 1, 5, 20)),
            pushed=pushed,
            tags=frozenset({"gpu"}) if rng.random() < 0.2 else frozenset(),
            # Some call what others call, though their items are quicker or slower.
            function="same" if number % 2 else "",
        )
        seconds = rng.choice((0.00001, 0.001, 0.005, 0.02))
        work = SimJob(number, spec, total, seconds, kinds, left=0 if pushed else total)
        self.jobs[number] = work
        self.post(self.with_first_chunk(work))
        if pushed:
            self.push(work, total)

    def with_first_chunk(self, work: SimJob) -> ev.JobSubmitted:
        """The first items come with some of the jobs, in about half of the worlds."""
        rng, spec = self.first_chunks, work.spec
        if spec.pushed or rng is None or rng.random() < 0.3:
            return ev.JobSubmitted(work.id, spec)
        count = min(work.total, spec.chunksize or rng.choice((1, 1, 3)), spec.buffer or work.total)
        work.left -= count
        last = not work.left and rng.random() < 0.5
        return ev.JobSubmitted(work.id, spec, count, count * ITEM_BYTES, last)

    def set_up(self) -> None:
        """Submit a set-up, some of whose calls fail, and cancel it later."""
        rng = self.rng
        number = len(self.jobs) + 1
        kinds = {}
        if bad := rng.random() < 0.5:
            choices = ("raises", "flaky", "fragile", "poison", "hangs", "hostile")
            kinds = {rng.randrange(8): rng.choice(choices) for _ in range(rng.randint(1, 3))}
        tags = frozenset({"gpu"}) if rng.random() < 0.3 else frozenset[str]()
        each = rng.choice(("slot", "slot", "worker"))
        spec = ev.JobSpec(pushed=True, stop_on_failure=rng.random() < 0.2, tags=tags, each=each)  # type: ignore[arg-type]
        self.jobs[number] = SimJob(number, spec, 0, rng.choice((0.0, 0.005, 0.2)), kinds, left=0)
        self.post(ev.JobSubmitted(number, spec))
        end = HEAL_AT + 0.1 if bad or "refusals" in self.faults else 100.0
        self.after(min(rng.choice((0.1, 1.0, end)), end), lambda: self.post(ev.CancelRequested(number)))

    def push(self, work: SimJob, rest: int) -> None:
        if work.over:
            return
        if not rest:
            return self.post(ev.InputClosed(work.id))
        some = self.rng.randint(1, rest)
        self.post(ev.ItemsAdded(work.id, some, some * ITEM_BYTES))
        self.after(self.rng.choice((0.0, 0.001, 0.1)), lambda: self.push(work, rest - some))

    def read(self, command: ev.Read) -> None:
        slow = self.rng.expovariate(10.0) if self.has_fault("slow_input") and self.rng.random() < 0.2 else 0.0
        self.after(slow + self.rng.choice((0.0, 0.0001)), lambda: self.answer(self.jobs[command.job], command))

    def answer(self, work: SimJob, command: ev.Read) -> None:
        if self.has_fault("input_fails") and self.rng.random() < 0.02:
            return self.post(ev.InputFailed(work.id, command.chunk))
        if self.has_fault("short_input") and self.rng.random() < 0.02:
            work.left = 0
        items = min(command.count, work.left)
        if items > 1 and self.rng.random() < 0.05:
            items -= 1
        work.left -= items
        work.chunks[command.chunk] = work.handed
        work.handed += items
        if items and self.has_fault("grows") and self.rng.random() < 0.3:
            grown = ev.InputGrew(work.id, command.chunk, self.rng.choice((0, ITEM_BYTES, 50 * ITEM_BYTES)))
            self.after(self.rng.choice((0.0, 0.001, 0.1)), lambda: self.post(grown))
        last = not items or (not work.left and self.rng.random() < 0.5)
        self.post(ev.ChunkRead(work.id, command.chunk, items, items * ITEM_BYTES, last))

    def consume(self, work: SimJob, items: int, nbytes: int) -> None:
        if work.spec.gather == "list":
            return
        if self.steady:
            for _ in range(items):
                self.busy_until[work.id] = due = max(self.now, self.busy_until.get(work.id, 0.0)) + self.steady
                self.at(due, partial(self.take_one, work, nbytes // items))
            return
        slow = self.rng.expovariate(5.0) if self.has_fault("slow_consumer") and self.rng.random() < 0.3 else 0.0
        self.after(slow + 0.0001, lambda: None if work.over else self.post(ev.Consumed(work.id, items, nbytes)))

    def take_one(self, work: SimJob, nbytes: int) -> None:
        if not work.over:
            self.post(ev.Consumed(work.id, 1, nbytes))

    # --- the play -----------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """End all faults that go on; from now on every job must come to its end."""
        for worker in self.live():
            self.post(ev.WorkerTrusted(worker.id))
            self.post(ev.WorkerMeasured(worker.id, worker.latency, 0.1, 0.1))
        for job in self.jobs:
            self.post(ev.ResumeRequested(job))
        self.join(good=True)

    def play(self) -> Log:
        """Play from the first worker to the last Finish."""
        for _ in range(self.rng.randint(1, 3)):
            self.join()
        self.submit()
        for _ in range(self.rng.choice((0, 0, 1, 2))):
            self.after(self.rng.uniform(0.0, 0.5), self.submit)
        if "setups" in self.faults:
            for _ in range(self.rng.randint(1, 3)):
                self.after(self.rng.uniform(0.0, 1.0), self.set_up)
        for at in range(1, 4):
            cost = ev.DispatchMeasured(self.outages.expovariate(1000))
            self.after(at * self.outages.random(), partial(self.post, cost))
        self.after(0.01, self.cause_fault)
        self.after(HEAL_AT, self.heal)
        checked = 0
        while self.heap:
            self.step()
            if self.log.events > MAX_EVENTS or (self.now > self.longest and not self.resting):
                raise Broken(f"not at rest after {self.log.events} events and {self.now:.0f} s")
            if self.log.events - checked >= 16:
                checked = self.log.events
                self.check_snapshots()
        self.oracle.done()
        self.log.ended = self.now
        return self.log

    def step(self) -> None:
        """Do what is due next."""
        self.now, _, action = heapq.heappop(self.heap)
        action()

    def check_snapshots(self) -> None:
        """Check that progress never goes back, and that timelines are short and within the job's time."""
        for job, work in self.jobs.items():
            if work.over and self.shown.get(job, -1) < 0:
                continue
            seen = self.scheduler.snapshot(job, self.now)
            done = seen.done
            for lane in seen.lanes:
                inside = all(0.0 <= block.begin <= block.end <= seen.elapsed + 1e-9 for block in lane.blocks)
                if not inside or len(lane.blocks) > LIMITS.timeline_blocks + 2 * ROWS:
                    raise Broken(f"job {job}: {lane.name} has the timeline {lane.blocks}")
            if done < self.shown.get(job, 0):
                raise Broken(f"job {job}: progress went back from {self.shown[job]} to {done}")
            self.shown[job] = -1 if work.over else done
