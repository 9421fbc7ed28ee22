"""What `pool.run` returns: a function that runs in every slot or on every worker, and what it gave there.

Owns the results by worker and slot, and the life of the set-up: it lasts as long as somebody keeps this. Which slots it
runs in, and when, is the scheduler's business (`core/`); that it runs before anything else in a process is
`runner.py`'s.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from distmap.calls.arguments import name_of as label
from distmap.calls.job import Mailbox, Seat, refusal_of
from distmap.calls.options import MapOptions
from distmap.calls.results import exception_of, results_of
from distmap.core.events import JobSpec
from distmap.driver.jobs import JobEntry
from distmap.driver.messages import Finished, JobMessage, Landed, Lost, Placed, Printed
from distmap.driver.output import OutputRouter
from distmap.driver.workers import WorkerStatus
from distmap.errors import JobCancelled, NoWorkers
from distmap.tasks.code import Code, name_of
from distmap.tasks.extras import warn_of_versions
from distmap.tasks.failures import throw
from distmap.tasks.items import load_results

#: Worker and slot.
Place = tuple[str, int]


class SetUp(Mapping[str, Any]):
    """Results of `pool.run` by worker: a list with one for each slot, or with `each="worker"` the one of the worker.

    As long as you keep it the function also runs in slots and on workers that come later, before anything else there,
    and their results are added when they are there. `close()` ends that.

    Examples:
        >>> from distmap import Pool
        >>> with Pool(2) as pool:
        ...     pool.run(lambda: "ready")
        {'local': ['ready', 'ready']}
    """

    def __init__(
        self,
        seat: Seat,
        code: Code,
        fn: Callable[[], Any],
        each: Literal["slot", "worker"],
        options: MapOptions,
        aside: Callable[[Callable[[], object]], object],
    ) -> None:
        self.fn = fn
        self.each = each
        self.tags = frozenset(options.tags)
        #: It runs nowhere else any more; what broke it, if that was the pool.
        self.closed = False
        self._error: BaseException | None = None
        self._name = name_of(fn)
        self._on_error = options.on_error
        self._seat = seat
        self._box = Mailbox()
        self._lock = threading.RLock()
        #: What each call is for, by its index, and what it gave; an error where it failed.
        self._places: dict[int, Place] = {}
        self._results: dict[Place, Any] = {}
        self._failures: dict[Place, BaseException] = {}
        #: Workers that left meanwhile, and why.
        self._left: dict[str, None] = {}
        spec = JobSpec(pushed=True, stop_on_failure=False, each=each, tags=self.tags, name=label(fn))
        router = OutputRouter(item=options.output == "item") if options.output else None
        #: What is printed is shown by whoever waits; later by a thread of the pool.
        self._waiting = threading.Event()
        sink = _sink(self._box, self._waiting, router, aside)
        self._record = JobEntry(
            spec, code, sink, timeout=options.timeout or 0.0, router=router, id=seat.driver.new_id()
        )
        # The driver must not hold this object: the set-up ends when nobody keeps it.
        self._end = weakref.finalize(self, seat.portal.call, seat.driver.cancel, self._record.id)
        self._end.atexit = False

    def begin(self) -> None:
        """Run it in all there is, and wait for that.

        Raises:
            Exception: the first error, if errors are to be raised.
        """
        __tracebackhide__ = True
        self._waiting.set()
        try:
            members = self._seat.portal.ask(self._open)
            self._catch_up()  # the places of all that is there are told at once
            if not self._places and self.tags:
                raise _nobody(self.tags, members)
            begun = bool(self._places)
            while self._pending and not self.closed:
                self._take(self._box.first())
                self._box.drop()
            if self.closed:
                raise self._error or JobCancelled(f"run of {self._name} was cut short: the pool was closed")
            if begun and not self._places:
                raise NoWorkers(f"every worker left while {self._name} ran there: {'; '.join(self._left)}")
        except BaseException:
            self.close()
            raise
        finally:
            self._waiting.clear()
            self._show()
            notices, self._record.notices = self._record.notices, {}
            warn_of_versions(notices)
        if self._on_error != "raise":
            self.close()
        elif self._failures:
            self.close()
            throw(next(iter(self._failures.values())))

    def _open(self) -> list[WorkerStatus]:
        self._seat.driver.open(self._record)
        return self._seat.driver.worker_statuses()

    def close(self) -> None:
        """Run it nowhere else. What it did where it ran stays."""
        self.closed = True
        self._end()

    @property
    def failures(self) -> dict[Place, BaseException]:
        """What it raised, by worker and slot."""
        self._catch_up()
        return dict(self._failures)

    # --- results ----------------------------------------------------------------------------------------------------

    def __getitem__(self, worker: str) -> Any:
        found = self._by_worker()[worker]
        return found if self.each == "slot" else found[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_worker())

    def __len__(self) -> int:
        return len(self._by_worker())

    def __repr__(self) -> str:
        return repr(dict(self))

    def _by_worker(self) -> dict[str, list[Any]]:
        """The results of workers where all calls are over."""
        self._catch_up()
        with self._lock:
            pending = {place[0] for place in self._pending}
            found: dict[str, list[Any]] = {}
            for place in self._places.values():
                if place[0] not in pending and not (place in self._failures and self._on_error != "return"):
                    found.setdefault(place[0], []).append(self._results[place])
            return found

    # --- inside -----------------------------------------------------------------------------------------------------

    @property
    def _pending(self) -> list[Place]:
        return [place for place in self._places.values() if place not in self._results]

    def _catch_up(self) -> None:
        """Take in what came since somebody looked last."""
        with self._lock:
            while (message := self._box.peek()) is not None:
                self._take(message)
                self._box.drop()

    def _take(self, message: JobMessage) -> None:
        if isinstance(message, Placed):
            self._places[message.item] = message.worker, message.slot
        elif isinstance(message, Landed):
            index = message.start + message.lo
            values, failed = results_of(message)
            place = self._places[index]
            if index in failed:
                self._fail(place, failed[index], message.report.attempts.get(message.lo, 1))
            else:
                self._results[place] = values[0]
        elif isinstance(message, Lost):
            place = self._places[message.item]
            if message.cause == "gone":
                del self._places[message.item]
                self._left.update(
                    (f"{worker} ({why or 'no reason came back'})", None) for worker, why in message.deaths
                )
            elif message.refusal is not None:
                (failure,) = load_results(message.refusal[0], 0, 1)
                self._fail(place, refusal_of(failure, place[0]), 1)
            else:
                self._fail(place, exception_of(message, self._named(place)))
        elif isinstance(message, Printed):
            self._show()
        elif isinstance(message, Finished):
            self.closed, self._error = True, message.error

    def _fail(self, place: Place, error: BaseException, attempt: int | None = None) -> None:
        if attempt is not None:  # the last note names an item
            error.__notes__ = [*error.__notes__[:-1], f"raised by {self._named(place)}, attempt {attempt}"]
        self._failures[place] = self._results[place] = error

    def _named(self, place: Place) -> str:
        slot = f"in slot {place[1]} " if self.each == "slot" else ""
        return f"{self._name} {slot}on worker {place[0]}"

    def _show(self) -> None:
        if self._record.router is not None:
            self._record.router.show()


def _sink(
    box: Mailbox,
    waiting: threading.Event,
    router: OutputRouter | None,
    aside: Callable[[Callable[[], object]], object],
) -> Callable[[JobMessage], None]:
    def sink(message: JobMessage) -> None:
        if isinstance(message, Printed) and router is not None and not waiting.is_set():
            aside(router.show)
        else:
            box.put(message)

    return sink


def _nobody(tags: frozenset[str], members: list[WorkerStatus]) -> NoWorkers:
    """Why a set-up found no worker."""
    there = ", ".join(f"{m.info.name} ({', '.join(sorted(m.info.tags)) or 'no tags'})" for m in members) or "none"
    return NoWorkers(f"no worker has the tags {sorted(tags)}; there are: {there}")
