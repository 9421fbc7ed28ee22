"""What a user may ask of a job: result, progress, failures, cancel, iterate, await.

Owns `JobHandle`, which every call that makes a job returns in one of its forms, and `Job`, the form of a map. A handle
may be used from any thread; the work is done by its `Serving` (`serving.py`), which it only asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from functools import partial
from typing import Any

from distmap.calls.awaiting import await_interruptible
from distmap.calls.checks import WAIT, checked
from distmap.calls.interrupts import Interrupts
from distmap.calls.outcome import Completion
from distmap.calls.rerun import ItemFailure
from distmap.calls.results import ResultSink, TakenResults
from distmap.calls.serving import MapServing, Serving
from distmap.calls.traces import clean, gate
from distmap.core.limits import LIMITS
from distmap.core.progress import Snapshot
from distmap.tasks.failures import HIDDEN, throw
from distmap.views.kernel import in_kernel

#: The counts of `stats`, as a snapshot names them.
_COUNTS = (
    "total",
    "done",
    "known",
    "failed",
    "retried",
    "requeued",
    "duplicates",
    "deaths",
    "losses",
    "resumes",
    "elapsed",
    "rate",
)


class JobHandle:
    """One call over many items: its progress, its failures, and the means to stop it."""

    def __init__(self, serving: Serving, completion: Completion, results: ResultSink) -> None:
        self._serving = serving
        self._completion = completion
        self._results = results

    # --- asking -----------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The title: `desc=` or the function's name."""
        return self._serving.record.spec.name

    @property
    def call(self) -> str:
        """Name of the call that made it, such as "map"."""
        return self._serving.call

    @property
    def id(self) -> int:
        """Its number in its pool, from 1."""
        return self._serving.record.id

    def ready(self) -> bool:
        """True once the job is over, however it ended."""
        return self._completion.over.is_set()

    done = ready

    def successful(self) -> bool:
        """True if it ended without an error.

        Raises:
            ValueError: it is not over yet.
        """
        if not self.ready():
            raise ValueError(f"{self!r} is not ready yet; wait() for it first")
        return self._completion.error is None

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is over, at most `timeout` seconds; returns whether it is."""
        timeout = checked("timeout", timeout, WAIT)
        if timeout is None and not self.ready():
            self._serving.check_wait()
        return self._completion.over.wait(timeout)

    @property
    def partial(self) -> list[tuple[int, Any]]:
        """What has been finished so far: (index, value) pairs in input order. Kept after a cancel or an error.

        Raises:
            ValueError: all was finished and given to the caller of `map`, who alone keeps it.
        """
        self._serving.catch_up()
        return self._results.partial()

    @property
    def failures(self) -> list[ItemFailure]:
        """The items that failed for good: (index, exception) pairs in input order.

        `failures[0].rerun_locally()` runs the first of them again, in this process.
        """
        self._serving.catch_up()
        return [ItemFailure(*pair) for pair in sorted(self._results.failures.copy().items())]

    @property
    def progress(self) -> Snapshot | None:
        """How far it is, at this moment."""
        return self._serving.progress()

    @property
    def stats(self) -> dict[str, Any]:
        """The counts of the job: total, done, known (from the checkpoint), failed, retried, requeued, duplicates,
        deaths, losses, resumes (connections that dropped and came back), elapsed, rate, chunks.
        """
        snapshot = self.progress
        if snapshot is None:
            return dict.fromkeys(_COUNTS, 0)
        return {name: getattr(snapshot, name) for name in _COUNTS} | {
            "chunks": sum(lane.chunks for lane in snapshot.lanes),
        }

    @property
    def state(self) -> str:
        """ "running", "paused", "done", "failed", "cancelled" or "interrupted" (cancelled by the user's interrupt)."""
        return self._serving.state

    def __repr__(self) -> str:
        snapshot = self._serving.display.latest
        if snapshot is None:
            return f"<Job {self.name}: {self.state}>"
        of = f" of {snapshot.total}" if snapshot.total is not None else ""
        failed = f", {snapshot.failed} failed" if snapshot.failed else ""
        return f"<Job {self.name}: {self.state}, {snapshot.done}{of} items{failed}>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """Its card, as it is at this moment."""
        return {"text/plain": repr(self), "text/html": self._serving.display.html(self._serving.glance())}

    def _ipython_display_(self) -> None:
        """Its panel, live, in this cell too; its card once it is over."""
        if not in_kernel():
            raise NotImplementedError  # IPython then takes the repr
        display = self._serving.display
        if display.is_in_this_cell:
            return  # the call that made it is the last line of the cell
        self._serving.watch()
        display.show(True, apart=True)

    # --- steering ---------------------------------------------------------------------------------------------------

    def cancel(self) -> bool:
        """Stop it: what waits is dropped, what runs is interrupted. Returns False if it was over already.

        `result()` then raises `JobCancelled`; what had been finished stays in `partial`; the pool stays usable.
        """
        if self.ready():
            return False
        self._serving.controls.cancel()
        return True

    def pause(self) -> None:
        """Start no further items; those that run go on to their end."""
        self._serving.controls.pause()

    def resume(self) -> None:
        """Go on after `pause`."""
        self._serving.controls.resume()

    def add_done_callback(self, function: Callable[[Any], object]) -> None:
        """Call `function(job)` once the job is over, in the thread that finds out; at once if it is over already.

        What it raises is shown and changes nothing, as in `concurrent.futures`.
        """
        call = partial(self._serving.call_back, "add_done_callback", function, self)
        if not self._completion.add(call):
            call()


class Job(JobHandle):
    """One map call: its results, its progress, and the means to stop it.

    What `map_async` and `starmap_async` return, and what `pool.last` and `pool.jobs` hold. It has the
    methods of `multiprocessing.pool.AsyncResult`; in a notebook cell it can be awaited, and iterated with `for` or
    `async for` in input order while it runs.

    Examples:

        >>> from distmap import Pool
        >>> with Pool(2) as pool:
        ...     job = pool.map_async(abs, [-1, 2, -3])
        ...     job.result()
        [1, 2, 3]
    """

    def __init__(
        self,
        serving: MapServing,
        results: ResultSink | None = None,
        on_given: Callable[[Job], object] | None = None,
    ) -> None:
        super().__init__(serving, serving.completion, serving.results if results is None else results)
        #: Called once, when the results have been given away.
        self._on_given = on_given

    @gate
    def result(self, timeout: float | None = None) -> Any:
        """Wait for the result and return it.

        Args:
            timeout: seconds to wait; None (default) waits as long as it takes.

        Raises:
            multiprocessing.TimeoutError: it was not over in time; it goes on.
            JobCancelled: it was cancelled.
            KeyboardInterrupt: the wait was interrupted; the job is then cancelled.
            Exception: the first item's own exception, as `map` raises it.
        """
        timeout = checked("timeout", timeout, WAIT)
        try:
            over = self._wait_or_stop(timeout)
        except KeyboardInterrupt:
            with contextlib.suppress(KeyboardInterrupt):  # a second one: no waiting
                self._completion.over.wait(LIMITS.interrupt_wait)
            raise KeyboardInterrupt from None
        if not over:
            from multiprocessing import TimeoutError as Late

            raise Late(f"{self!r} was not over within {timeout} s; it goes on")
        self._completion.raise_error()
        value = self._results.result()
        self._tell_given()
        return value

    get = result

    def _wait_or_stop(self, timeout: float | None) -> bool:
        """As `wait`, but whoever interrupts it wants the work to stop; `wait` is the way to look only."""
        if self.ready():
            return True
        if timeout is None:
            self._serving.check_wait()
        with Interrupts():
            try:
                return self._completion.over.wait(timeout)
            except KeyboardInterrupt:
                self._serving.interrupt()
                raise

    def _tell_given(self) -> None:
        """The results were given away once; who wants them again holds the job."""
        told, self._on_given = self._on_given, None
        if told is not None:
            told(self)

    def __iter__(self) -> Iterator[Any]:
        """Results in input order, each as soon as it and all before it are there."""
        __tracebackhide__ = HIDDEN
        if not self.ready():
            self._serving.check_wait()
        index = 0
        news, results = self._completion.news, self._results
        try:
            while True:
                with news:
                    while (run := results.run_at(index)) is None and not self.ready():
                        news.wait()
                if run is None:
                    self._completion.raise_error()
                    self._tell_given()
                    return
                count, values = run
                failures = results.failures
                if failures and self._serving.record.spec.stop_on_failure:
                    failed = next((at for at in range(index, index + count) if at in failures), None)
                    if failed is not None:
                        yield from values[: failed - index]
                        throw(failures[failed])
                yield from values
                index += count
        except (Exception, KeyboardInterrupt) as error:  # not the end of a generator
            if isinstance(error, KeyboardInterrupt):  # raised here, not in the user's loop
                self._serving.interrupt()
            raise clean(error)  # noqa: B904  (it is the one that was caught)

    async def __aiter__(self) -> AsyncIterator[Any]:
        __tracebackhide__ = HIDDEN
        loop, interrupt = asyncio.get_running_loop(), self._serving.interrupt
        source, end = iter(self), object()
        while (value := await await_interruptible(loop.run_in_executor(None, next, source, end), interrupt)) is not end:
            yield value

    def __await__(self) -> Generator[Any, None, Any]:
        __tracebackhide__ = HIDDEN
        return self._await_result().__await__()

    async def _await_result(self) -> Any:
        __tracebackhide__ = HIDDEN
        loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()

        def finish() -> None:
            if not over.done():
                over.set_result(None)

        def wake(_: Job) -> None:
            with contextlib.suppress(RuntimeError):  # the awaiting loop is closed: nobody waits any more
                loop.call_soon_threadsafe(finish)

        self.add_done_callback(wake)
        await await_interruptible(over, self._serving.interrupt)
        return self.result()


def serving_of(job: JobHandle) -> Serving:
    """The server behind a handle: for the pool."""
    return job._serving


def hand_over(job: Job) -> Any:
    """The result of a job that is over; it then belongs to the caller alone. The handle keeps figures and failures."""
    job._on_given = None
    job._completion.raise_error()
    value = job._results.result()
    job._results = job._serving.results = TakenResults(job._results, job.name)
    return value


def weakly(job: Job) -> Callable[[], Job]:
    """This job for as long as somebody else holds it, then a handle without its results. For a job that is over."""
    serving = job._serving
    assert isinstance(serving, MapServing)
    serving.results = TakenResults(job._results, job.name)
    ref, rest = weakref.ref(job), Job(serving, serving.results)
    return lambda: ref() or rest
