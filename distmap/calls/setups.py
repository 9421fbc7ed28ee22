"""What `pool.run` returns: a function that runs in every slot or on every worker, and what it gave there.

Owns the results by worker and slot, and the life of the set-up: it lasts as long as somebody holds a reference to the
returned object. Which slots it runs in, and when, is the scheduler's business (`core/`); that it runs before anything
else in a process is `runner.py`'s.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Literal

from distmap.calls.arguments import label_of
from distmap.calls.notices import warn_of
from distmap.calls.options import MapOptions
from distmap.calls.reader import JobContext, JobReader, Mailbox
from distmap.calls.results import decode, exception_of
from distmap.calls.shortfalls import failure_in, refusal_of
from distmap.core.events import JobSpec
from distmap.driver.jobs import JobEntry
from distmap.driver.messages import Finished, JobMessage, Landed, Lost, Placed, Printed, WorkerStatus
from distmap.driver.output import OutputRouter
from distmap.errors import JobCancelled, NoWorkers
from distmap.tasks.code import Code, name_of
from distmap.tasks.failures import throw

#: Worker and slot.
SlotKey = tuple[str, int]


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
        context: JobContext,
        code: Code,
        fn: Callable[[], Any],
        each: Literal["slot", "worker"],
        options: MapOptions,
        aside: Callable[[Callable[[], object]], object],
        *,
        name: str = "",
    ) -> None:
        self.fn = fn
        self.each = each
        self.tags = frozenset(options.tags)
        self._on_error = options.on_error
        self._context = context
        self._lock = threading.RLock()
        spec = JobSpec(pushed=True, stop_on_failure=False, each=each, tags=self.tags, name=name or label_of(fn))
        router = OutputRouter(item=options.output == "item") if options.output else None
        self._record = JobEntry(spec, code, timeout=options.timeout or 0.0, router=router, id=context.driver.new_id())
        self._calls = calls = _Calls(name_of(fn), each, router)
        self._record.sink = partial(_route, calls.box, calls.waiting, router, aside)
        # The driver must not hold this object: the set-up ends when nobody keeps it.
        self._end = weakref.finalize(self, context.portal.call, context.driver.cancel, self._record.id)
        self._end.atexit = False

    def begin(self) -> None:
        """Run it in all there is, and wait for that.

        Raises:
            Exception: the first error, if errors are to be raised.
        """
        __tracebackhide__ = True
        calls = self._calls
        calls.waiting.set()
        try:
            members = self._context.portal.ask(self._open)
            self._catch_up()  # the places of all that is there are sent at once
            if not calls.places and self.tags:
                raise _nobody(self.tags, members)
            begun = bool(calls.places)
            while calls.pending and not calls.closed:
                calls.handle(calls.box.first())
                calls.box.drop()
            if calls.closed:
                raise calls.error or JobCancelled(f"run of {calls.name} was cut short: the pool was closed")
            if begun and not calls.places:
                raise NoWorkers(f"every worker left while {calls.name} ran there: {'; '.join(calls.left)}")
        except BaseException:
            self.close()
            raise
        finally:
            calls.waiting.clear()
            calls.printed()
            notices, self._record.notices = self._record.notices, {}
            warn_of(notices)
        if self._on_error != "raise":
            self.close()
        elif calls.failures:
            self.close()
            throw(next(iter(calls.failures.values())))

    def _open(self) -> list[WorkerStatus]:
        self._context.driver.open(self._record)
        return self._context.driver.worker_statuses()

    def close(self) -> None:
        """Run it nowhere else. What it did where it ran stays."""
        self._calls.closed = True
        self._end()

    @property
    def closed(self) -> bool:
        """True once it runs nowhere else any more."""
        return self._calls.closed

    @property
    def failures(self) -> dict[SlotKey, BaseException]:
        """What it raised, by worker and slot."""
        self._catch_up()
        return dict(self._calls.failures)

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
        calls = self._calls
        with self._lock:
            pending = {place[0] for place in calls.pending}
            found: dict[str, list[Any]] = {}
            for place in calls.places.values():
                if place[0] not in pending and not (place in calls.failures and self._on_error != "return"):
                    found.setdefault(place[0], []).append(calls.results[place])
            return found

    def _catch_up(self) -> None:
        """Take in what came since somebody looked last."""
        calls = self._calls
        with self._lock:
            while (message := calls.box.peek()) is not None:
                calls.handle(message)
                calls.box.drop()


def record_of(handle: SetUp) -> JobEntry:
    """The driver's record of a set-up: for a call that shows it."""
    return handle._record


class _Calls(JobReader):
    """The calls of a set-up: which worker and slot each is for, and what it gave.

    Read by whoever waits for the set-up or looks at its results, under the set-up's lock once `begin` is over.
    """

    def __init__(self, name: str, each: str, router: OutputRouter | None) -> None:
        self.name = name
        self._each = each
        self._router = router
        self.box = Mailbox()
        #: What is printed is shown by whoever waits; when nobody does, by a thread of the pool.
        self.waiting = threading.Event()
        #: It runs nowhere else any more; what broke it, if that was the pool.
        self.closed = False
        self.error: BaseException | None = None
        #: What each call is for, by its index, and what it gave; an error where it failed.
        self.places: dict[int, SlotKey] = {}
        self.results: dict[SlotKey, Any] = {}
        self.failures: dict[SlotKey, BaseException] = {}
        #: Workers that left meanwhile, and why.
        self.left: dict[str, None] = {}

    @property
    def pending(self) -> list[SlotKey]:
        """Places whose call is not over."""
        return [place for place in self.places.values() if place not in self.results]

    def placed(self, message: Placed) -> None:
        """Note the worker and the slot."""
        self.places[message.item] = message.worker, message.slot

    def landed(self, message: Landed) -> None:
        """A call returned, or raised."""
        index, _, values, failed, _ = decode(message)
        place = self.places[index]
        if index in failed:
            self._fail(place, failed[index], message.report.attempts.get(message.lo, 1))
        else:
            self.results[place] = values[0]

    def lost(self, message: Lost) -> None:
        """A call ended its process, its worker left, or the function did not load there."""
        place = self.places[message.item]
        if message.cause == "gone":
            del self.places[message.item]
            self.left.update((f"{worker} ({why or 'no reason came back'})", None) for worker, why in message.deaths)
        elif message.refusal is not None:
            self._fail(place, refusal_of(failure_in(message.refusal), place[0]), 1)
        else:
            self._fail(place, exception_of(message, self._named(place)))

    def printed(self) -> None:
        """Write what it printed, in this thread."""
        if self._router is not None:
            self._router.show()

    def finished(self, message: Finished) -> None:
        """The pool ended it."""
        self.closed, self.error = True, message.error

    def _fail(self, place: SlotKey, error: BaseException, attempt: int | None = None) -> None:
        if attempt is not None:  # the last note names an item
            error.__notes__ = [*error.__notes__[:-1], f"raised by {self._named(place)}, attempt {attempt}"]
        self.failures[place] = self.results[place] = error

    def _named(self, place: SlotKey) -> str:
        slot = f"in slot {place[1]} " if self._each == "slot" else ""
        return f"{self.name} {slot}on worker {place[0]}"


def _route(
    box: Mailbox,
    waiting: threading.Event,
    router: OutputRouter | None,
    aside: Callable[[Callable[[], object]], object],
    message: JobMessage,
) -> None:
    """The sink of a set-up, on the loop. It does not refer to the handle: the set-up ends when nobody keeps that."""
    if isinstance(message, Printed) and router is not None and not waiting.is_set():
        aside(router.show)
    else:
        box.put(message)


def _nobody(tags: frozenset[str], members: list[WorkerStatus]) -> NoWorkers:
    """Why a set-up found no worker."""
    there = ", ".join(f"{m.info.name} ({', '.join(sorted(m.info.tags)) or 'no tags'})" for m in members) or "none"
    return NoWorkers(f"no worker has the tags {sorted(tags)}; there are: {there}")
