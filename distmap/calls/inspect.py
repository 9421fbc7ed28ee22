"""What a pool shows of itself: its workers, its repr, its card in a notebook.

Owns the words and figures of these. Whoever looks must not wait: a loop that is held up gives "does not answer now".
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from distmap.calls.factory import Jobs
from distmap.calls.job import Job
from distmap.calls.reader import JobContext
from distmap.calls.serving import Serving
from distmap.calls.stream import StreamJob
from distmap.calls.worker_command import Way
from distmap.core.limits import LIMITS
from distmap.core.progress import Device, LongItem
from distmap.driver.messages import WorkerStatus
from distmap.tasks._typing import NamedTuple
from distmap.views.cards import PoolFacts, WorkerRow, pool_html
from distmap.views.words import HELD_UP, counted, devices_words, long_words, number


class Worker(NamedTuple):
    """One worker of a pool at one moment."""

    name: str
    host: str
    slots: int
    python: str
    #: "ready", "suspect" (silent for a while), "reconnecting" (out of reach; it goes on with what it holds), "draining"
    #: (it wants to leave), "resting" (all its slots rest) or "unready" (a set-up of `run` has not succeeded there).
    state: str
    #: Load of its host: cpu and memory in use, 0 to 1.
    cpu: float
    memory: float
    #: Seconds to it and back.
    latency: float
    address: str
    tags: frozenset[str]
    #: Slots that rest because their process died too often of late, and seconds until the first of them goes on.
    resting: int = 0
    rest: float = 0.0
    #: Items that have been running there for five seconds or more, the longest first.
    long_items: tuple[LongItem, ...] = ()
    #: How its connection is encrypted: "end to end" (no hop between this pool and the worker ends TLS), "end to end
    #: through a proxy" (one does; the two ends speak TLS inside that), or "" for slots of this machine.
    way: str = ""
    #: The GPU of each slot, with its load and its memory in use; empty if slots have none of their own.
    devices: tuple[Device, ...] = ()

    def __repr__(self) -> str:
        slots = f"{self.slots} slot{'s' * (self.slots != 1)}"
        load = f", cpu {self.cpu:.0%}, memory {self.memory:.0%}" if self.cpu or self.memory else ""
        load += f", {gpu}" if (gpu := devices_words(self.devices)) else ""
        far = f", {self.latency * 1e3:.1f} ms away" if self.latency else ""
        far += f", {self.way}" if "proxy" in self.way else ""
        rest = f", {self.resting} of them resting {self.rest:.0f} s after crashes" if self.resting else ""
        held = [item for item in self.long_items if item.state in HELD_UP]
        long = "".join(f", {long_words(item)}" for item in (held or self.long_items)[:1])
        python = f", Python {self.python}" if self.python else ""  # not every engine of somebody else's tells
        return f"<Worker {self.name} on {self.host}: {self.state}, {slots}{rest}{long}{python}{load}{far}>"


class Look(NamedTuple):
    """A pool at one moment."""

    state: Literal["open", "closing", "closed"]
    #: None: the loop did not answer.
    workers: Sequence[WorkerStatus] | None = ()
    jobs: Sequence[tuple[Job | StreamJob, Serving]] = ()
    #: Submitted items that are not done.
    submitted: int = 0
    #: What workers dial, when the pool listens.
    url: str | None = None
    #: Workers that were idle for long, and come when there is work.
    waiting: int = 0
    #: Whether that URL is the one of a relay.
    at_relay: bool = False
    #: What was started for the pool; empty: nothing ever is.
    launched: str = ""


CLOSED = Look("closed")


def look_at(
    context: JobContext | None, jobs: Jobs, submitted: int, url: str | None, closing: bool, waiting: int = 0
) -> Look:
    """A pool now, by any thread; waits at most LIMITS.look_wait seconds. A forked child has no context to ask."""
    workers = None
    if context is not None:
        with contextlib.suppress(TimeoutError):
            workers = context.portal.ask(context.driver.worker_statuses, timeout=LIMITS.look_wait)
    return Look("closing" if closing else "open", workers, jobs.servings, submitted, url, waiting)


def repr_of(look: Look) -> str:
    """One line about the pool."""
    if look.state == "closed":
        return "<Pool: closed>"
    if look.workers is None:
        return "<Pool: does not answer now>"
    slots = sum(worker.info.slots for worker in look.workers)
    listening = f" {'at relay' if look.at_relay else 'listening on'} {look.url}," if look.url else ""
    state = "closing, " if look.state == "closing" else ""
    running = len(look.jobs)
    doing = [f"{running} job{'s' * (running != 1)} running"] if running else []
    doing += [f"{look.submitted} submitted item{'s' * (look.submitted != 1)} under way"] if look.submitted else []
    work = ", ".join(doing) or "idle"
    workers = f"{len(look.workers)} worker{'s' * (len(look.workers) != 1)}"
    if look.waiting:
        workers += f" ({look.waiting} more on call)"
    launched = f"; {look.launched}" if look.launched else ""
    return f"<Pool:{listening} {state}{workers}, {slots} slot{'s' * (slots != 1)}, {work}{launched}>"


def card_of(look: Look, way: Way | None) -> str:
    """The card of the pool, as HTML. `way`: how a worker elsewhere comes to it, while it is open."""
    work = "not known: the pool does not answer now" if look.workers is None else _work(look)
    rows = tuple(map(_row, look.workers or ()))
    lines, notes = way or ((), ())
    facts = PoolFacts(look.state, rows, look.url, work, "\n".join(lines), notes, look.waiting, look.at_relay)
    return pool_html(facts._replace(launched=look.launched))


def _work(look: Look) -> str:
    """What is going on, in a few words."""
    calls = Counter(job.call for job, _ in look.jobs)
    moments = [moment for _, serving in look.jobs if (moment := serving.glance()) is not None]
    done, totals = sum(moment.done for moment in moments), [moment.total for moment in moments]
    of = "" if None in totals else f" of {number(sum(filter(None, totals)))}"
    names = ", ".join(f"{number(n)} {call}{'s' * (n != 1)}" for call, n in calls.items())
    parts = [names, f"{number(done)}{of} items"] if look.jobs else []
    if look.submitted:
        parts.append(counted(look.submitted, "submitted item"))
    return " \N{MIDDLE DOT} ".join(parts)


def worker_of(member: WorkerStatus) -> Worker:
    """A worker as users see it."""
    info = member.info
    state = "resting" if member.state == "ready" and member.resting == info.slots else member.state
    return Worker(
        info.name, info.host, info.slots, info.python, state, member.cpu, member.memory, member.rtt,
        info.address, info.tags, member.resting, member.rest, member.long_items, _way(member), member.devices,
    )  # fmt: skip


def _way(member: WorkerStatus) -> str:
    if member.place != "there":
        return ""
    return "end to end through a proxy" if member.info.through_hop else "end to end"


def _row(member: WorkerStatus) -> WorkerRow:

    info = member.info
    state = ("busy" if member.busy else "idle") if member.state == "ready" else member.state
    host, cpu, memory = info.host, member.cpu, member.memory
    if member.place == "here":
        host, cpu, memory = "this machine", *_load()
    return WorkerRow(
        info.name, host, info.python, info.slots, state, cpu, memory, member.rtt, devices_words(member.devices)
    )


def _load() -> tuple[float, float]:
    """Processor and memory in use on this machine, 0 to 1: nobody sends heartbeats for it."""
    from distmap.worker.load import Load

    cpu = 0.0
    with contextlib.suppress(OSError, AttributeError):  # Windows has no load average
        cpu = min(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    return cpu, Load().read()[1]
