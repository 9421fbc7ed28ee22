"""The oracle: checks that the commands of a scheduler keep its promises.

It is given every event and every command, keeps its own state (`ledger.py`), and must not read the scheduler's. Owns
the promises: each item is accepted exactly once or lost for a named cause; order and windows are kept; nothing is
sent to a slot that cannot take it; items are charged by the rules only; Finish comes once and last. It raises Broken
otherwise.
"""

from __future__ import annotations

from simulation.ledger import AttemptAccount, Broken, JobAccount, Ledger, SlotAccount

from distmap.core import events as ev

__all__ = ["Broken", "Oracle"]


class Oracle(Ledger):
    """Takes all events and commands, and checks the commands."""

    # --- commands -----------------------------------------------------------------------------------------------------

    def check_command(self, command: ev.Command) -> None:
        """Check a command of the scheduler."""
        job = getattr(command, "job", None)
        if job is not None:
            self.require(self.jobs[job].finish is None, f"{command} after Finish")
        getattr(self, f"_do_{type(command).__name__}")(command)

    def _settling(self, job: JobAccount) -> bool:
        return job.cancelled or job.final_failure or job.refused

    def _takes(self, slot: SlotAccount) -> bool:
        if slot.state == "resting" and (slot.rest_until <= self.now or slot.wakes_early):
            slot.state = "ready"
        return slot.state == "ready"

    def _do_Read(self, command: ev.Read) -> None:
        job = self.jobs[command.job]
        self.require(job.first == (0, 0), f"{command}: the first items are there")
        self.require(job.reading is None, f"{command}: another Read is under way")
        self.require(not job.spec.pushed, f"{command}: its items are there")
        self._may_grow(job, command)
        job.reading = (command.chunk, command.count)

    def _do_Take(self, command: ev.Take) -> None:
        job = self.jobs[command.job]
        count, nbytes = job.first
        if count:
            self.require(command.count == count, f"{command}: {count} items came with the job")
            self.require(command.chunk > self.last_chunk, f"{command}: no new chunk")
            self.last_chunk = command.chunk
            job.first = (0, 0)
            return self.enter(job, command.chunk, count, nbytes)
        self.require(job.spec.pushed, f"{command}: its items are to be read")
        self.require(job.read + command.count <= job.added, f"{command}: more than was added")
        self._may_grow(job, command)
        # The bytes of each item are unknown: all count the same.
        nbytes = job.added_bytes * command.count // (job.added - job.read)
        job.added_bytes -= nbytes
        self.enter(job, command.chunk, command.count, nbytes)

    def _do_SetUp(self, command: ev.SetUp) -> None:
        job, worker = self.jobs[command.job], self.workers[command.worker]
        slots = job.owed.get(command.worker)
        self.require(job.spec.each, f"{command}: it is no set-up")
        self.require(slots is not None and worker.state in ("trusted", "suspect"), f"{command}: not for that worker")
        assert slots is not None
        self.require(command.slot < len(worker.slots) and command.slot not in slots, f"{command}: no such call")
        self.require(not slots or job.spec.each == "slot", f"{command}: a second call on that worker")
        self.require(command.chunk > self.last_chunk, f"{command}: no new chunk")
        self.last_chunk = command.chunk
        slots.append(command.slot)
        if command.job in worker.required:
            worker.required[command.job].add(command.slot)
        job.places[job.read] = (command.worker, command.slot)
        self._wake_early()  # the slot may have rested long enough for a call that nothing else can take
        self.enter(job, command.chunk, 1, 0)

    def _may_run(self, command: ev.Assign, job: JobAccount) -> None:
        """A call of a set-up runs in its own slot; anything else only on a worker whose earlier set-ups succeeded."""
        if job.spec.each:
            place = job.places[job.chunks[command.chunk][0]]
            return self.require(place == (command.worker, command.slot), f"{command}: this call is for {place}")
        for number, slots in self.workers[command.worker].required.items():
            over = not self.goes_on(self.jobs[number])
            self.require(over or not slots, f"{command}: set-up {number} has not succeeded in slots {slots} there")

    def _may_grow(self, job: JobAccount, command: ev.Read | ev.Take) -> None:
        """Check that another chunk of the job may come now."""
        limits = self.limits
        self.require(not job.ended and not job.paused and not self._settling(job), f"{command}: nothing is wanted")
        self.require(command.chunk > self.last_chunk and command.count >= 1, f"{command}: no new chunk")
        self.last_chunk = command.chunk
        if job.spec.chunksize is not None:
            self.require(command.count <= job.spec.chunksize, f"{command}: more than chunksize")
        slots = self.slots_for(job)
        place = any(self._takes(slot) and len(slot.held) < self.depth(slot) for slot in slots)
        other = any(self.attempts[number].job != command.job for slot in slots for number in slot.held)
        self.require(place or other, f"{command}: there is no place for it")
        streaming = job.spec.gather != "list"
        waiting = job.read - (job.consumed if streaming else sum(state == "done" for state in job.items.values()))
        if streaming and job.spec.buffer is not None:
            self.require(waiting + command.count <= job.spec.buffer, f"{command}: over the buffer, {waiting} wait")
        elif streaming and waiting:
            full = limits.window(job.spec.gather) * max(1, len(slots))
            more = full + limits.ahead_chunks * sum(slot.ahead > limits.ahead_least for slot in slots)
            self.require(len(job.open_chunks) < more, f"{command}: over the window of {more} chunks")
            most = self._most_ahead(job, full, max((slot.ahead for slot in slots), default=0.0))
            self.require(waiting + command.count <= most, f"{command}: {waiting} wait, its consumer takes {most}")
        if waiting:
            self.require(job.bytes < limits.job_bytes, f"{command}: {job.bytes} bytes are held")

    def depth(self, slot: SlotAccount) -> int:
        """Attempts that the slot may hold."""
        return 1 + self.limits.ahead_chunks if slot.ahead else self.limits.slot_depth

    def _most_ahead(self, job: JobAccount, chunks: int, outage: float) -> float:
        """Items that a stream may have read and not consumed: what its consumer takes in `stream_seconds`, and more."""
        least = chunks * (job.spec.chunksize or 1)
        if not any(items for _, items in job.taken):
            return least * self.limits.growth
        items, seconds, best = 0.0, 0.0, 0.0
        for lasted, count in job.taken:
            items, seconds = items + count, seconds + lasted
            items *= min(1.0, self.limits.pace_seconds / max(seconds, 1e-12))
            seconds = min(seconds, self.limits.pace_seconds)
            best = items * (self.limits.stream_seconds + outage) / seconds if seconds else float("inf")
        return max(least, best * (1 + 1e-9))

    def _do_Assign(self, command: ev.Assign) -> None:
        job = self.jobs[command.job]
        worker = self.workers[command.worker]
        self.require(worker.state == "trusted", f"{command}: the worker is {worker.state}")
        self.require(self.may_use(job, worker), f"{command}: the worker lacks tags, or has refused the job")
        slot = worker.slots[command.slot]
        self.require(self._takes(slot), f"{command}: the slot is {slot.state}")
        self.require(len(slot.held) < self.depth(slot), f"{command}: the slot holds {slot.held}")
        if len(slot.held) >= self.limits.slot_depth:
            self._may_send_ahead(command, job, slot)
        self.require(not job.paused and not self._settling(job), f"{command}: the job wants nothing to run")
        self.require(command.attempt > self.last_attempt, f"{command}: no new attempt")
        self.last_attempt = command.attempt
        self._may_run(command, job)
        start, count, _ = job.chunks[command.chunk]
        self.require(0 <= command.lo < command.hi <= count, f"{command}: no such span")
        for item in range(start + command.lo, start + command.hi):
            self.require(item not in job.items, f"{command}: item {item} is {job.items.get(item)}")
            job.items[item] = "running"
        slot.held.append(command.attempt)
        self.attempts[command.attempt] = AttemptAccount(
            command.job, command.chunk, command.lo, command.hi, (command.worker, command.slot), command.lo
        )

    def _may_send_ahead(self, command: ev.Assign, job: JobAccount, slot: SlotAccount) -> None:
        """Nothing is sent ahead to a slot while another one is idle, and no more than so many bytes."""
        held = [self.attempts[number] for number in slot.held]
        # One that may end its rest early need not have done so yet.
        idle = [one for one in self.slots_for(job) if self._takes(one) and not one.held and one.rest_until <= self.now]
        waits = any(need for worker in self.workers.values() for need in worker.required.values())
        # A worker is kept quiet for an item that has to run alone.
        waits = waits or any(
            losses >= self.limits.host_losses_beside
            for other in self.jobs.values()
            if other.finish is None
            for losses in other.hosts.values()
        )
        self.require(not idle or waits, f"{command}: it is sent ahead, and {len(idle)} slots are idle")
        nbytes = sum(self.jobs[one.job].chunks[one.chunk][2] for one in held[1:])
        self.require(nbytes < self.limits.ahead_bytes, f"{command}: {nbytes} bytes wait there")

    def _on_slot(self, command: ev.Revoke | ev.Interrupt) -> AttemptAccount:
        attempt = self.attempts[command.attempt]
        self.require(attempt.slot == (command.worker, command.slot), f"{command}: it is on {attempt.slot}")
        self.require(attempt.live, f"{command}: it is no longer on record")
        return attempt

    def _do_Revoke(self, command: ev.Revoke) -> None:
        attempt = self._on_slot(command)
        self.require(not attempt.revoked, f"{command}: a second Revoke")
        self.require(attempt.lo <= command.stop < attempt.hi, f"{command}: nothing to take back")
        attempt.revoked = True

    def _do_Interrupt(self, command: ev.Interrupt) -> None:
        attempt = self._on_slot(command)
        job = self.jobs[attempt.job]
        crashed = job.dry >= self.limits.crash_loop_deaths
        job.crashed = job.crashed or (crashed and not self._settling(job))
        self.require(self._settling(job) or job.crashed, f"{command}: its job goes on")
        self.require(attempt.interrupted is None, f"{command}: a second Interrupt")
        attempt.interrupted = self.now

    def _do_Kill(self, command: ev.Kill) -> None:
        slot = self.workers[command.worker].slots[command.slot]
        self.require(slot.state == "ready" and slot.held, f"{command}: the slot is {slot.state}")
        head = self.attempts[slot.held[0]]
        stopping = head.interrupted is not None or head.revoked
        self.require(
            self.jobs[head.job].finish is None and stopping,
            f"{command}: its job is not being stopped",
        )
        slot.state = "killing"

    def _settle(self, job: JobAccount, item: int, what: str) -> None:
        self.require(job.items.get(item) != "done", f"{what}: item {item} is accepted a second time")
        job.items[item] = "done"
        if job.delivered == job.consumed:
            job.waits_since = self.now
        job.delivered += 1
        if job.spec.gather in ("ordered", "fold"):
            self.require(item == job.next or job.final_failure, f"{what}: item {item} out of order, {job.next} is due")
            job.next = item + 1

    def _take(self, attempt: AttemptAccount, at: int, command: ev.Command, *, counted: bool) -> tuple[bool, int]:
        """Take one result of the attempt, to be delivered (`counted`) or discarded."""
        pending = attempt.pending.get(at, [])
        self.require(pending, f"{command}: offset {at} was not reported, or settled before")
        result = max(pending) if counted else min(pending)
        self.require(result[0] or not counted, f"{command}: the attempt had been given up")
        pending.remove(result)
        if not pending:
            del attempt.pending[at]
        return result

    def _do_Deliver(self, command: ev.Deliver) -> None:
        job, attempt = self.jobs[command.job], self.attempts[command.attempt]
        self.require((command.job, command.chunk) == (attempt.job, attempt.chunk), f"{command}: not of that chunk")
        start = job.chunks[command.chunk][0]
        self.require(command.lo < command.hi, f"{command}: empty")
        for at in range(command.lo, command.hi):
            item = start + at
            self._take(attempt, at, command, counted=True)
            if at in attempt.failed:
                due = job.raised[item] > job.spec.retries
                self.require(due, f"{command}: item {item} raised {job.raised[item]} times, to be run again")
                if job.spec.stop_on_failure:
                    self.require(not job.final_failure or job.cancelled, f"{command}: a second final failure")
                    job.final_failure = True
            self._settle(job, item, str(command))

    def _do_DeliverLoss(self, command: ev.DeliverLoss) -> None:
        job = self.jobs[command.job]
        item = job.chunks[command.chunk][0] + command.at
        charged = {
            "poison": job.deaths[item] == self.limits.item_deaths,
            "timeout": item in job.timeouts,
            "hosts": job.hosts[item] >= self.limits.host_losses,
            "refused": item in job.turned_down,
            "gone": item in job.places and self.workers[job.places[item][0]].state == "lost",
        }
        self.require(charged[command.cause], f"{command}: item {item} was not charged so")
        if job.spec.stop_on_failure and command.cause != "gone":
            job.final_failure = True
        self._settle(job, item, str(command))

    def _do_Discard(self, command: ev.Discard) -> None:
        attempt = self.attempts[command.attempt]
        job = self.jobs[attempt.job]
        start = job.chunks[attempt.chunk][0]
        self.require(command.lo < command.hi, f"{command}: empty")
        for at in range(command.lo, command.hi):
            counted, nbytes = self._take(attempt, at, command, counted=False)
            if counted:
                again = at in attempt.failed and job.raised[start + at] <= job.spec.retries
                given_up = self._settling(job) or job.crashed or job.dry >= self.limits.crash_loop_deaths
                self.require(again or given_up, f"{command}: item {start + at} is a result")
                job.bytes -= nbytes if job.spec.gather != "list" else 0
                if at in attempt.failed:
                    job.items.pop(start + at, None)

    def _do_Release(self, command: ev.Release) -> None:
        job = self.jobs[command.job]
        self.require(command.chunk in job.chunks, f"{command}: not read")
        start, count, nbytes = job.chunks[command.chunk]
        self.require(nbytes >= 0, f"{command}: a second time")
        job.chunks[command.chunk] = (start, count, -1)
        job.bytes -= nbytes

    def _do_Finish(self, command: ev.Finish) -> None:
        job = self.jobs[command.job]
        why = {
            "done": (job.closed and job.read == job.added if job.spec.pushed else job.ended) and not job.input_failed,
            "cancelled": job.cancelled,
            "failed": job.final_failure or job.refused or job.input_failed or command.crashed,
        }
        self.require(why[command.outcome], f"{command}: for no reason")
        self._all_were_called(command.job)
        if command.outcome == "done" or (job.input_failed and not self._settling(job) and not command.crashed):
            self.require(job.delivered == job.read, f"{command}: {job.delivered} of {job.read} items were delivered")
        self.require(not command.refused or job.refused, f"{command}: a worker is left that may run it")
        if command.crashed:
            enough = job.crashed or job.dry >= self.limits.crash_loop_deaths
            self.require(enough, f"{command}: after {job.dry} deaths only")
        kept = [chunk for chunk, (_, count, nbytes) in job.chunks.items() if count and nbytes >= 0]
        self.require(not kept, f"{command}: chunks {kept} were not released")
        job.finish = command
        for attempt in self.attempts.values():
            if attempt.job == command.job:
                if attempt.live and attempt.interrupted is not None:
                    grace = self.now - attempt.interrupted
                    self.require(grace <= self.limits.interrupt_grace + 1e-6, f"{command}: {grace} s after Interrupt")
                    worker, index = attempt.slot
                    state = self.workers[worker].slots[index].state
                    self.require(state != "ready", f"{command}: {attempt.slot} still runs it and was not killed")
                attempt.live = False

    def _all_were_called(self, number: int) -> None:
        """Check that a set-up had a call in every slot, or on every worker, that was there before it ended."""
        job = self.jobs[number]
        for worker, slots in job.owed.items():
            right = len(self.workers[worker].slots) if job.spec.each == "slot" else 1
            fits = len(slots) == right or (not slots and worker in job.doubtful)
            self.require(fits, f"set-up {number} had calls in slots {slots} of worker {worker}")

    def done(self) -> None:
        """At the end of a world: check that all jobs are over, and every result was delivered or discarded."""
        for number, job in self.jobs.items():
            self.require(job.finish is not None, f"job {number} never ended")
        for number, attempt in self.attempts.items():
            self.require(not attempt.pending, f"attempt {number}: results {attempt.pending} were forgotten")
