"""The world with a network: scheduler, sessions and workers, and connections between them that fail.

Owns what the hub and a worker's session with its pool make of messages, in few lines and as they do it
(`engine/hub.py`, `worker/serving.py`), and when faults of the network happen. The way of frames is in
`sim_network.py`; jobs, slots and their faults are those of `sim_jobs.World`.

Times of liveness are 20 times as short as in the real one, so that several graces fit into the time with faults.
"""

from __future__ import annotations

from functools import partial

from simulation.ledger import Broken
from simulation.sim_jobs import Order, World
from simulation.sim_network import POOL, WORKER, End, Link
from simulation.sim_world import HEAL_AT, ITEM_BYTES, Log, SimSlot, SimWorker

from distmap.core import events as ev
from distmap.core.limits import LIMITS, Limits
from distmap.wire import messages as msg

#: Faults of the network; each seed has about half of them.
NET_FAULTS = ("cut", "half_open", "partition", "one_way", "stop_worker", "stop_pool", "jump", "duplicate", "slow_link")
#: Faults of the world without network that the network has in its own way, or that workers do not have.
REPLACED = frozenset({"twice", "executor", "silences", "late", "shuffled"})

NET_LIMITS = LIMITS._replace(
    # small, so that every bound is met
    frame_bytes=400,
    credit_bytes=1500,
    log_bytes=2500,
    ack_bytes=500,
    ack_frames=8,
    # a twentieth
    ack_delay=0.005,
    beat_every=0.25,
    suspect_after=0.5,
    reconnect_grace=1.5,
    slot_deaths_window=3.0,
    slot_rest=6.0,
    slot_rest_alone=0.5,
)


class NetWorld(World):
    """The world of one seed, with a network."""

    base_limits: Limits = NET_LIMITS
    tick_every = NET_LIMITS.beat_every / 2.5
    refused_after = 0.15
    #: Seconds after which a world that still goes on counts as never ending.
    longest = HEAL_AT + 300.0

    def __init__(self, seed: int, *, keep: bool = False) -> None:
        super().__init__(seed, keep=keep)
        rng = self.rng
        network = [name for name in NET_FAULTS if rng.random() < 0.5]
        self.log.faults = (*(name for name in self.log.faults if name not in REPLACED), *network)
        self.faults = frozenset(self.log.faults)
        self.links: dict[int, Link] = {}
        self.orders: dict[int, ev.Assign] = {}
        #: Worker -> per slot, attempts given to it and not ended, as the hub counts them.
        self.given: dict[int, list[set[int]]] = {}
        #: Worker -> functions that the pool put there, and those that have arrived.
        self.put: dict[int, set[bytes]] = {}
        self.have: dict[int, set[bytes]] = {}
        self.memory: dict[int, float] = {}

    # --- the pool's end -----------------------------------------------------------------------------------------------

    def connect(self, worker: SimWorker) -> None:
        if "slow_link" in self.faults and self.rng.random() < 0.3:
            worker.latency *= 10
        self.links[worker.id] = Link(self, worker.id, worker.latency)
        self.given[worker.id] = [set() for _ in worker.slots]
        self.put[worker.id], self.have[worker.id] = set(), set()

    def perform(self, command: ev.Command) -> None:
        super().perform(command)
        if isinstance(command, ev.Finish):
            code = command.job.to_bytes(16, "big")
            for number, there in self.put.items():
                if code in there:
                    there.discard(code)
                    self.links[number].ends[POOL].send(msg.Drop(code))

    def order(self, worker: SimWorker, slot: SimSlot, command: Order) -> None:
        end = self.links[worker.id].ends[POOL]
        match command:
            case ev.Assign(attempt=attempt, job=job, lo=lo, hi=hi):
                code = job.to_bytes(16, "big")
                if code not in self.put[worker.id]:
                    self.put[worker.id].add(code)
                    end.send(msg.Put(code, "code"), self.rng.choice((1, 100, 1000)))
                self.orders[attempt] = command
                self.given[worker.id][slot.index].add(attempt)
                start = self.jobs[job].chunks[command.chunk]
                end.send(msg.Task(slot.index, attempt, code, (), lo, hi, start, 0.0), (hi - lo) * ITEM_BYTES)
            case ev.Revoke(attempt=attempt, stop=stop):
                end.send(msg.Revoke(slot.index, attempt, stop))
            case ev.Interrupt(attempt=attempt):
                end.send(msg.Interrupt(slot.index, attempt))
            case ev.Kill():
                end.send(msg.Kill(slot.index))

    def pool_takes(self, link: Link, message: msg.Message) -> None:
        """What `HubEngine` and the driver make of a message of a worker."""
        number, given = link.worker, self.given[link.worker]
        if self.workers[number].lost:
            return
        match message:
            case msg.Report(slot, attempt, lo, hi, seconds, ended, failed):
                if ended:
                    given[slot].discard(attempt)
                self.post(ev.AttemptReported(attempt, lo, hi, failed, seconds, (hi - lo) * 10, ended))
            case msg.Refused(slot, attempt, unfit):
                given[slot].discard(attempt)
                self.post(ev.AttemptRefused(attempt, unfit))
            case msg.Died(slot, attempt, at, reason):
                given[slot].discard(attempt)
                for other in sorted(given[slot]):
                    link.ends[POOL].send(msg.Revoke(slot, other, 0))
                given[slot].clear()
                known = attempt >= 0
                self.post(ev.SlotDied(number, slot, attempt if known else None, at if known else None, reason))
            case msg.Ready(slot):
                self.post(ev.SlotReady(number, slot))
            case msg.Draining():
                self.post(ev.WorkerDraining(number))
            case msg.Bye():
                self.lost(link, charged=False, why="it left")
            case msg.Beat(cpu, memory, slots, _):
                rtt, ahead = link.ends[POOL].session.peer.rtt or link.latency, self.outages.choice((0.0, 1.0, 6.0))
                if rtt > 60.0:
                    raise Broken(f"a round trip to worker {number} took {rtt:.0f} s")
                self.post(ev.WorkerMeasured(number, rtt, cpu, memory, ahead))
                for attempts, (attempt, at, _) in zip(given, slots, strict=False):
                    if attempt in attempts:
                        self.post(ev.AttemptProgressed(attempt, at))

    def lost(self, link: Link, *, charged: bool, why: str) -> None:
        """The pool gives the worker up."""
        worker = self.workers[link.worker]
        if worker.lost:
            return
        self.note(f"lost {link.worker}: {why}")
        self.loss_budget -= 1
        self.count("a worker was lost" if charged else "a worker left")
        worker.lost = True
        link.ends[POOL].session.end()
        self.post(ev.WorkerLost(worker.id, charged))

    # --- the worker's end ---------------------------------------------------------------------------------------------

    def worker_takes(self, link: Link, message: msg.Message) -> None:
        """What `PoolSession` makes of a message of the pool."""
        worker = self.workers[link.worker]
        match message:
            case msg.Put(digest):
                self.have[worker.id].add(digest)
            case msg.Drop(digest):
                self.have[worker.id].discard(digest)
            case msg.Task(slot, attempt, code, _, lo, hi):
                command = self.orders[attempt]
                if code not in self.have[worker.id]:
                    raise Broken(f"{message} came before its function")
                if (command.worker, command.slot, command.lo, command.hi) != (worker.id, slot, lo, hi):
                    raise Broken(f"{message} came instead of {command}")
                self.arrive(worker, worker.slots[slot], command)
            case msg.Revoke(slot, attempt, stop):
                self.arrive(worker, worker.slots[slot], ev.Revoke(worker.id, slot, attempt, stop))
            case msg.Interrupt(slot, attempt):
                self.arrive(worker, worker.slots[slot], ev.Interrupt(worker.id, slot, attempt))
            case msg.Kill(slot):
                self.arrive(worker, worker.slots[slot], ev.Kill(worker.id, slot))

    def tell(self, worker: SimWorker, key: object, event: ev.Event) -> None:
        end = self.links[worker.id].ends[WORKER]
        if worker.cut_off or end.defer(lambda: self.tell(worker, key, event)):
            return
        match event:
            case ev.AttemptReported(attempt, lo, hi, failed, seconds, nbytes, ended):
                slot = self.orders[attempt].slot
                end.send(msg.Report(slot, attempt, lo, hi, seconds, ended, failed), nbytes)
            case ev.AttemptRefused(attempt, unfit):
                end.send(msg.Refused(self.orders[attempt].slot, attempt, unfit), 10)
            case ev.AttemptProgressed():
                pass  # heartbeats say it

    def tell_death(self, worker: SimWorker, slot: SimSlot, key: object, died: ev.SlotDied) -> None:
        end = self.links[worker.id].ends[WORKER]
        if worker.cut_off or end.defer(lambda: self.tell_death(worker, slot, key, died)):
            return
        attempt, at = (-1, -1) if died.attempt is None or died.at is None else (died.attempt, died.at)
        end.send(msg.Died(slot.index, attempt, at, died.reason, ""))
        self.after(self.rng.uniform(0.0, 0.1), partial(self.revive, worker, slot))

    def revive(self, worker: SimWorker, slot: SimSlot) -> None:
        end = self.links[worker.id].ends[WORKER]
        if worker.cut_off or end.defer(lambda: self.revive(worker, slot)):
            return
        slot.alive = True
        end.send(msg.Ready(slot.index))
        self.start_next_item(worker, slot)

    def beat(self, link: Link) -> None:
        """The heartbeat of a worker; at the end of a world none, so that it comes to rest."""
        if self.jobs_over():
            return
        worker = self.workers[link.worker]
        heads = (slot.queue[0] if slot.queue else None for slot in worker.slots)
        slots = tuple((-1, 0, 0.0) if head is None else (head.attempt, head.at, 0.1) for head in heads)
        link.ends[WORKER].send(msg.Beat(0.5, self.memory.get(worker.id, 0.1), slots))

    # --- both ---------------------------------------------------------------------------------------------------------

    def on_message(self, link: Link, side: int, message: msg.Message) -> None:
        if self.keep:
            self.note(f"{'pool' if side == POOL else 'worker'} {link.worker} takes {message}")
        if side == POOL:
            self.pool_takes(link, message)
        else:
            self.worker_takes(link, message)

    def on_liveness(self, link: Link, side: int, liveness: str) -> None:
        self.note(f"{'worker' if side == POOL else 'pool of worker'} {link.worker} is {liveness}")
        if side == WORKER:
            if liveness == "lost":
                self.leave(link)
        elif liveness == "suspect":
            self.count("a worker was silent")
            self.post(ev.WorkerSuspected(link.worker))
        elif liveness == "fine":
            self.post(ev.WorkerTrusted(link.worker))
        else:
            limits, end = self.limits, link.ends[POOL]
            silence = self.now - link.delivered
            if silence < limits.reconnect_grace - end.jumps * limits.beat_every - 1e-6:
                raise Broken(f"worker {link.worker} was lost after a silence of {silence} s")
            self.lost(link, charged=True, why="silent")

    def on_channel(self, link: Link, side: int, *, attached: bool) -> None:
        """The pool gives nothing new to a worker that is out of reach."""
        if side == POOL and not self.workers[link.worker].lost:
            self.post(ev.WorkerTrusted(link.worker) if attached else ev.WorkerSuspected(link.worker))

    def leave(self, link: Link) -> None:
        """The worker ends its session, and what it runs."""
        worker = self.workers[link.worker]
        worker.cut_off = True
        link.ends[WORKER].session.end()

    def fence(self, link: Link) -> None:
        """The ends meet again, and one of them has given the other up: the worker begins anew."""
        if link.closed:
            return
        self.lost(link, charged=True, why="it has given this pool up")
        link.closed = True
        self.log.mended["a worker was fenced"] += 1
        self.leave(link)
        if not self.finished():
            self.after(self.rng.uniform(0.0, 0.05), partial(self.join, good=self.now >= HEAL_AT))

    # --- faults -------------------------------------------------------------------------------------------------------

    def lose(self, worker: SimWorker, *, charged: bool) -> None:
        """The worker's process ends, without a word or with one. A new one may come."""
        link = self.links[worker.id]
        if link.dead or worker.cut_off:
            return
        worker.cut_off = True
        if charged:
            self.count("a worker crashed")
            link.dead = True
            link.cut(notices=(self.rng.random() < 0.7, False))
        else:
            link.ends[WORKER].send(msg.Bye("bye"))
            self.after(0.3, lambda: link.ends[WORKER].session.end())
        if self.now >= HEAL_AT or not self.live() or self.rng.random() < 0.5:
            self.after(self.rng.uniform(0.01, 0.5), partial(self.restart, link))

    def restart(self, link: Link) -> None:
        """A new process of the worker comes: the pool learns by it that the old one is gone."""
        self.lost(link, charged=True, why="a new one came")
        link.closed = True
        self.join(good=True)

    def hit_worker(self, kind: str, worker: SimWorker) -> None:
        link = self.links[worker.id]
        if kind == "drains" and self.loss_budget > 0:
            link.ends[WORKER].send(msg.Draining())
            self.after(self.rng.uniform(0.05, 0.5), lambda: self.lose(worker, charged=False))
        elif kind == "pressure":
            self.memory[worker.id] = self.rng.choice((0.2, 0.95))
        elif kind == "losses" and self.loss_budget <= 0:
            pass
        else:
            super().hit_worker(kind, worker)

    def cause_net_fault(self) -> None:
        """Cause a fault of the network, and plan the next one."""
        if self.now >= HEAL_AT or self.resting:
            return
        rng = self.rng
        self.after(rng.expovariate(30.0 if self.now < 0.5 else 6.0), self.cause_net_fault)
        live = [link for link in self.links.values() if not (link.closed or link.dead)]
        kind = rng.choice(NET_FAULTS[:-2])
        if not live or kind not in self.faults:
            return
        link = rng.choice(live)
        seconds = rng.choice((0.02, 0.1, 0.4, 1.0)) if self.loss_budget <= 0 else rng.choice((0.02, 0.3, 1.0, 2.0, 4.0))
        self.note(f"fault {kind} of {link.worker}, {seconds} s")
        if kind in ("cut", "half_open"):
            self.count("a connection was reset" if kind == "cut" else "a connection was half open")
            self.count_losses(link)
            link.cut(
                notices=(True, True) if kind == "cut" else rng.choice(((True, False), (False, True), (False, False)))
            )
        elif kind in ("partition", "one_way"):
            self.count("a partition" if kind == "partition" else "a one-sided partition")
            for side in (POOL, WORKER) if kind == "partition" else (rng.randrange(2),):
                link.block(side, seconds)
        elif kind == "stop_worker":
            self.count("a worker was stopped")
            link.ends[WORKER].stop(seconds)
        elif kind == "stop_pool":
            self.count("the pool was stopped")
            for one in live:
                one.ends[POOL].stop(seconds)
        elif kind == "jump":
            self.count("a clock jumped")
            link.jump(rng.randrange(2), rng.choice((0.1, 1.0, 3600.0)))

    def count_losses(self, link: Link) -> None:
        """Count what a cut loses: tasks, reports, or the connection while an item runs."""
        pool, worker = link.ends
        if any(isinstance(message, msg.Task) and left for message, left in pool.under_way.items()):
            self.count("a request was lost on its way")
        if any(isinstance(message, msg.Report) and left for message, left in worker.under_way.items()):
            self.count("a reply was lost on its way")
        if any(slot.busy for slot in self.workers[link.worker].slots):
            self.count("a connection was lost while an item ran")

    # --- the play -----------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        for link in self.links.values():
            for side in (POOL, WORKER):
                link.unblock(side)
        self.memory.clear()
        for job in self.jobs:
            self.post(ev.ResumeRequested(job))
        self.join(good=True)

    def jobs_over(self) -> bool:
        """Whether all jobs that this world has are over."""
        return self.now > 1.1 and all(work.over for work in self.jobs.values())

    def finished(self) -> bool:
        """Whether jobs are over, and the links of live workers have nothing under way. From then on it stays so."""
        if not self.resting and self.jobs_over():
            self.resting = all(link.settled() for link in self.links.values() if link.alive())
        return self.resting

    def play(self) -> Log:
        self.after(0.01, self.cause_net_fault)
        log = super().play()
        for number, link in self.links.items():
            if link.alive():
                for end in link.ends:
                    self.check_end(number, end)
        sessions = [end.session for link in self.links.values() for end in link.ends]
        log.mended["a session was resumed at one end"] = sum(session.resumes for session in sessions)
        log.mended["a frame was sent again"] = sum(session.replayed for session in sessions)
        log.mended["a frame that came twice was dropped"] = sum(session.repeated for session in sessions)
        return log

    def check_end(self, number: int, end: End) -> None:
        """At the end of a world nothing is kept for a live worker, and all that was sent to it has come out."""
        if end.session.log.nbytes or end.session.queued_bytes or +end.under_way:
            raise Broken(f"link {number}: {end.session} keeps {end.session.log.nbytes} bytes, {dict(+end.under_way)}")

    def note(self, text: str) -> None:
        if self.keep:
            self.log.lines.append(f"{self.now:.6f} = {text}")
