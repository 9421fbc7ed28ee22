"""Who is charged when a task process dies or a worker is lost, and what goes back.

Owns these rules: only the item that ran is charged with a death; where nobody knows which one ran, what may have run
is tried again in parts until one item is left (in halves, and from the second time on, for a lost worker; in eighths
and at once for a lost attempt, which nothing but its own items can have ended); slots that die too often rest; a job
that only kills is stopped.
"""

from __future__ import annotations

from distmap.core.board import Board
from distmap.core.events import SlotDied
from distmap.core.gather import Cause, Landed
from distmap.core.records import Attempt, Group, Job, Slot, Worker
from distmap.core.states import SLOT, step

#: Into how many parts a lost attempt is cut: each round costs whoever runs it at least one process.
PARTS = 8


def slot_died(board: Board, slot: Slot, event: SlotDied) -> None:
    """A task process ended; what it held goes back, and at most one item is charged."""
    if slot.state == "resting":
        board.resting.remove(slot)
    slot.state = step(SLOT, slot.state, "SlotDied", slot)
    head = slot.queue[0] if slot.queue else None
    held = board.withdraw(slot)
    board.fleet.touch(slot)
    if event.reason != "killed":
        board.deaths += 1
    for attempt in held:
        named = attempt.id == event.attempt and event.reason in ("died", "timeout")
        if named and event.at is not None and attempt.next <= event.at < attempt.hi:
            _charge(board, attempt, event.at, event.reason)
        else:
            _return(board, attempt)
    if event.reason in ("died", "idle"):
        _wear(board, slot)
        if head is not None and head in held:
            _despair(board, head.job)
    for attempt in held:
        board.conclude(attempt.job)


def worker_lost(board: Board, worker: Worker, *, charged: bool) -> None:
    """A worker is gone with all it held. Only what ran may be to blame, so only that is charged."""
    board.fleet.turn(worker, "lost")
    board.resting = [slot for slot in board.resting if slot.worker is not worker]
    board.losses += charged
    # All first, then the charges: one may halt a job, which must find none of its attempts there any more.
    held = []
    for slot in worker.slots:
        head = slot.queue[0] if slot.queue else None
        held += [(attempt, charged and attempt is head) for attempt in board.withdraw(slot)]
    board.fleet.leave(worker)
    for slot in worker.slots:
        board.leave(slot)
    for attempt, ran in held:
        if ran:
            _suspect(board, attempt)
        else:
            _return(board, attempt)
    for attempt, _ in held:
        board.conclude(attempt.job)


def attempt_lost(board: Board, attempt: Attempt) -> None:
    """What ran the attempt ended, alone. One of its items did it: one by itself is charged, several are tried apart."""
    board.deaths += 1
    counts = attempt.state != "void"
    board.share(attempt.job, attempt.slot.worker)
    board.detach(attempt)
    if counts:
        if attempt.hi - attempt.next == 1:
            _charge(board, attempt, attempt.next, "died")
        else:
            _apart(board, attempt, attempt.losses, PARTS)
        _despair(board, attempt.job)
    board.conclude(attempt.job)


def lose(board: Board, attempt: Attempt, at: int, cause: Cause) -> None:
    """One item failed for good without a report of its own."""
    job = attempt.job
    job.failed += 1
    ends = job.spec.stop_on_failure
    landed = Landed(attempt.chunk.id, at, at + 1, attempt.id, cause)
    board.land(job, attempt.chunk, landed, now_or_never=ends)
    if ends:
        board.halt(job, "failed")


def _return(board: Board, attempt: Attempt) -> None:
    """All that was not reported goes back free."""
    if attempt.job.state != "stopping":
        attempt.job.requeued += attempt.hi - attempt.next
        board.requeue(attempt.job, attempt.chunk, attempt.next, attempt.hi, attempt.losses)


def _charge(board: Board, attempt: Attempt, at: int, reason: str) -> None:
    """The item at `at` ended its process: it alone is charged."""
    job, chunk = attempt.job, attempt.chunk
    if job.state == "stopping":
        return
    board.requeue(job, chunk, attempt.next, at, attempt.losses)
    board.requeue(job, chunk, at + 1, attempt.hi, attempt.losses)
    job.requeued += attempt.hi - attempt.next - 1
    if reason == "timeout":
        return lose(board, attempt, at, "timeout")
    chunk.deaths[at] = chunk.deaths.get(at, 0) + 1
    if chunk.deaths[at] >= board.limits.item_deaths:
        return lose(board, attempt, at, "poison")
    # By itself from now on: its next death then costs nobody a second run.
    board.requeue(job, chunk, at, at + 1, attempt.losses)
    job.requeued += 1


def _suspect(board: Board, attempt: Attempt) -> None:
    """It ran on a worker that was lost; which of its items is to blame, if any, is unknown."""
    job, lo, hi = attempt.job, attempt.next, attempt.hi
    if job.state == "stopping":
        return
    losses = attempt.losses + 1
    if hi - lo == 1 and losses >= board.limits.host_losses:
        return lose(board, attempt, lo, "hosts")
    _apart(board, attempt, losses, 2 if losses >= 2 else 1)


def _apart(board: Board, attempt: Attempt, losses: int, parts: int) -> None:
    """What was not reported goes back in so many parts, of which one is (perhaps) to blame."""
    job, lo, hi = attempt.job, attempt.next, attempt.hi
    if job.state == "stopping" or lo == hi:
        return
    job.requeued += hi - lo
    size = -(-(hi - lo) // parts)
    for at in range(lo, hi, size):
        board.requeue(job, attempt.chunk, at, min(at + size, hi), losses)


def _wear(board: Board, slot: Slot) -> None:
    """Too many deaths in a short time: the slot will rest."""
    limits = board.limits
    slot.deaths.append(board.now)
    while board.now - slot.deaths[0] > limits.slot_deaths_window:
        slot.deaths.popleft()
    if len(slot.deaths) >= limits.slot_deaths:
        slot.deaths.clear()
        slot.rest_until = board.now + limits.slot_rest


def slot_ready(board: Board, slot: Slot) -> None:
    """A dead slot has a fresh process; it takes work now, or after its rest."""
    rests = slot.rest_until > board.now
    slot.state = step(SLOT, slot.state, "SlotReady.rest" if rests else "SlotReady", slot)
    if rests:
        board.resting.append(slot)
    board.fleet.touch(slot)


def rouse(board: Board) -> float | None:
    """Slots whose rest is over go on; gives when the next one is due, None if none rests."""
    for slot in list(board.resting):
        if rest_ends(board, slot) <= board.now:
            board.resting.remove(slot)
            slot.state = step(SLOT, slot.state, "rested", slot)
            slot.rest_until = board.now
            board.fleet.touch(slot)
    return min((rest_ends(board, slot) for slot in board.resting), default=None)


def rest_ends(board: Board, slot: Slot) -> float:
    """When a resting slot goes on: early where a job could not go on without it, or a call of a set-up is for it."""
    if slot.due or any(_stands_still(board, group) for group in slot.worker.groups):
        return slot.rest_until - board.limits.slot_rest + board.limits.slot_rest_alone
    return slot.rest_until


def _stands_still(board: Board, group: Group) -> bool:
    """All slots that its jobs could use rest, or will when their process is back."""
    return all(
        slot.state == "resting" or (slot.state == "dead" and slot.rest_until > board.now)
        for worker in board.fleet.workers.values()
        if worker.state == "trusted" and group in worker.groups
        for slot in worker.slots
    )


def _despair(board: Board, job: Job) -> None:
    """Death after death and nothing finished in between: stop the job."""
    if job.state == "stopping":
        return
    job.dry_deaths += 1
    limits = board.limits
    if job.dry_deaths >= max(limits.crash_loop_deaths, limits.crash_loop_deaths_per_slot * job.group.capacity):
        board.halt(job, "failed", crashed=True)
