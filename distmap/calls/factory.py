"""Where a job is made, whole, and the jobs of one pool.

Owns the one place that makes a `JobEntry` of an iterable's items, with its server and its handle, and what the pool
remembers of its jobs. All methods are called in the thread that makes the call.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeGuard

from distmap.calls.arguments import label_of
from distmap.calls.controls import Callbacks
from distmap.calls.inputs import AsyncPulled, Input, Pulled, Sliced, check_wait, failing
from distmap.calls.job import Job, hand_over, serving_of, weakly
from distmap.calls.options import MapOptions
from distmap.calls.reader import JobContext
from distmap.calls.results import ResultSink, Stream
from distmap.calls.serving import MapServing, Serving
from distmap.core.events import Gather, JobSpec
from distmap.core.limits import LIMITS
from distmap.core.progress import ProgressOption
from distmap.driver.jobs import JobEntry, ReadItems
from distmap.driver.messages import Finished, JobMessage
from distmap.driver.output import OutputRouter
from distmap.tasks._typing import NamedTuple
from distmap.tasks.code import Code, Style
from distmap.tasks.items import dump_items
from distmap.views.choose import resolve_progress

if TYPE_CHECKING:
    from distmap.calls.stream import StreamJob


class Call(NamedTuple):
    """One call of the user's, prepared: everything but what becomes of its results."""

    #: Name of the call, such as "map".
    name: str
    fn: Callable[..., Any]
    code: Code
    source: Input
    options: MapOptions
    #: The pool, which lives as long as the job: `Pool().map_async(...)` must not end with its pool.
    pool: object
    #: How an item is given to the function, and what else than options of all calls changes results: a checkpoint asks.
    style: Style = "one"
    kept: Mapping[str, Any] = {}


class Jobs:
    """Makes the jobs of one pool, and remembers those that are not over, and the last one.

    Args:
        progress: what the pool was given for calls that say nothing themselves.
    """

    def __init__(self, context: JobContext, progress: ProgressOption) -> None:
        self._context = context
        self._progress: ProgressOption = progress
        #: Orders additions and looks; handles leave by themselves.
        self._lock = threading.Lock()
        self._handles: weakref.WeakSet[Job | StreamJob] = weakref.WeakSet()
        self._last: Callable[[], Job | StreamJob | None] = lambda: None

    def run(self, call: Call, results: ResultSink, gather: Gather = "list") -> Any:
        """Make a map, serve it in this thread, and return its result.

        Its first chunk is read here, before the job begins, if that runs no iterator of the user's: it travels to the
        loop with the job, so that the loop need not ask for it. Plain items are left to the loop.
        """
        check_wait(call.source, call.name)
        first = None
        if call.source.prompt and call.source.size and call.options.checkpoint is None and not _is_plain(call.source):
            try:
                first = _read_first(call)
            except Exception as error:  # of a frame that cannot be cut, say; the job then fails with it
                call = call._replace(source=Pulled(failing(error), call.source.size))
        job, serving, progress = self._map(call, results, gather, Callbacks())
        serving.run_here(progress, first)
        return hand_over(job)

    def begin(self, call: Call, results: ResultSink, callbacks: Callbacks) -> Job:
        """Make a map that is served in a thread of its own."""
        job, serving, progress = self._map(call, results, "list", callbacks)
        serving.run_aside(progress)
        return job

    def stream(self, call: Call, gather: Gather, buffer: int | None) -> StreamJob:
        """Make a stream."""
        from distmap.calls.stream import StreamJob, StreamServing

        results = Stream(call.options.on_error)
        entry, progress = self._entry(call, gather, buffer=buffer, stop=False)
        serving = StreamServing(self._context, entry, call.source, results, call=call.name, function=label_of(call.fn))
        _keep(call, serving)
        _end_with(call.source, entry)
        stream = StreamJob(serving, results, call.pool)
        # A stream that is left behind is cancelled: only whoever iterates over it may keep it.
        self._remember(stream, weakref.ref(stream))
        serving.run_aside(progress)
        return stream

    def _map(
        self, call: Call, results: ResultSink, gather: Gather, callbacks: Callbacks
    ) -> tuple[Job, MapServing, ProgressOption]:
        entry, progress = self._entry(call, gather)
        serving = MapServing(
            self._context, entry, call.source, results,
            call=call.name, function=label_of(call.fn), callbacks=callbacks,
        )  # fmt: skip
        _keep(call, serving)
        _end_with(call.source, entry)
        job = Job(serving, on_given=partial(_given, weakref.ref(self)))
        serving.keep = (job, call.pool)
        self._remember(job, lambda: job)
        return job, serving, progress

    def _entry(
        self, call: Call, gather: Gather, *, buffer: int | None = None, stop: bool = True
    ) -> tuple[JobEntry, ProgressOption]:
        options = call.options
        spec = JobSpec(
            size=call.source.size,
            gather=gather,
            chunksize=options.chunksize,
            retries=options.retries,
            priority=options.priority,
            stop_on_failure=stop and options.on_error == "raise",
            buffer=buffer,
            tags=frozenset(options.tags),
            name=options.desc or label_of(call.fn),
            function=call.code.digest.hex(),
        )
        progress = resolve_progress(options.progress, self._progress)
        entry = JobEntry(
            spec,
            call.code,
            timeout=options.timeout or 0.0,
            total=options.total,
            router=OutputRouter(item=options.output == "item") if options.output else None,
            watched=progress is not False,
            # Not on the loop: a cancel may be on its way before the loop knows of the job.
            id=self._context.driver.new_id(),
            # A checkpoint has to see the items.
            read_plain=call.source.read_plain if _is_plain(call.source) and options.checkpoint is None else None,
        )
        return entry, progress

    # --- what is remembered -----------------------------------------------------------------------------------------

    def _remember(self, job: Job | StreamJob, last: Callable[[], Job | StreamJob | None]) -> None:
        self._last = last
        with self._lock:
            self._handles.add(job)

    def given(self, job: Job) -> None:
        """The results of a job were given away: `last` keeps them no more."""
        if self._last() is job:
            self._last = weakly(job)

    @property
    def last(self) -> Job | StreamJob | None:
        """The last job; None if there was none, or if it was a stream that nobody holds any more."""
        return self._last()

    @last.setter
    def last(self, job: Job | StreamJob | None) -> None:
        self._last = lambda: job

    @property
    def running(self) -> list[Job | StreamJob]:
        """Jobs that are not over, the oldest first."""
        with self._lock:
            return sorted((job for job in self._handles if not job.ready()), key=lambda job: job.id)

    @property
    def servings(self) -> list[tuple[Job | StreamJob, Serving]]:
        """As `running`, with the server of each."""
        return [(job, serving_of(job)) for job in self.running]


def _keep(call: Call, serving: Serving) -> None:
    """Open the checkpoint of a call, if it has one."""
    if call.options.checkpoint is not None:
        from distmap.calls.checkpointing import Checkpointed

        serving.checkpoint = Checkpointed(serving, call.fn, call.source, call.options, style=call.style, kept=call.kept)


def _end_with(source: Input, entry: JobEntry) -> None:
    """Let an async input end with its job, also while an item is waited for."""
    if not isinstance(source, AsyncPulled):
        return
    sink = entry.sink

    def route(message: JobMessage) -> None:
        if isinstance(message, Finished):
            source.close()
            entry.sink = sink  # whoever keeps the job does not keep its input
        sink(message)

    entry.sink = route


def _given(ref: weakref.ref[Jobs], job: Job) -> None:
    jobs = ref()
    if jobs is not None:
        jobs.given(job)


def _is_plain(source: Input) -> TypeGuard[Sliced]:
    """Whether the loop may read the input itself, as far as its first item tells."""
    return isinstance(source, Sliced) and source.plain


def _read_first(call: Call) -> ReadItems:
    """The first chunk: as many items as the scheduler would ask for, one unless `chunksize=` says otherwise."""
    most = min(call.options.chunksize or 1, LIMITS.chunk_items)
    (payload, blobs), count, last = call.source.read(most, dump_items)
    return ReadItems(payload, blobs, count, last)
