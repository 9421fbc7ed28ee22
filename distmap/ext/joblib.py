"""joblib's `Parallel` on a pool: `with joblib.parallel_config("distmap"): ...`, so scikit-learn runs on it too.

Owns the backend: what joblib asks of one (`joblib._parallel_backends.ParallelBackendBase`, joblib 1.4 and later), and
which arguments are sent once for a whole call. Must not know how a pool runs items. joblib decides when the next tasks
come (`pre_dispatch`, batches by run time); each task of a batch is an item of its own here, so that progress counts
tasks, a crash costs one task, and an error names its task.

Importing this module registers the name "distmap" with joblib. If joblib was imported before distmap, the name is
known without it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import chain
from types import BuiltinFunctionType, FunctionType
from typing import Any

import joblib
from joblib.parallel import (
    AutoBatchingMixin,
    FallbackToBackend,
    ParallelBackendBase,
    SequentialBackend,
    parallel_config,
    register_parallel_backend,
)

from distmap.calls.arguments import label_of
from distmap.calls.feed import Feed, open_feed
from distmap.errors import PayloadError
from distmap.ext.sharing import Shared
from distmap.pool import Pool
from distmap.tasks._typing import NamedTuple
from distmap.tasks.plain import are_plain
from distmap.tasks.reprs import shown

#: Kinds of functions that are the same object for each task, and do not change.
_LASTING = frozenset({FunctionType, BuiltinFunctionType})
_default: Pool | None = None
_default_lock = threading.Lock()


def default_pool(slots: int) -> Pool:
    """The pool of calls that name none: on this machine, at least so many slots. It lasts as long as the process."""
    global _default
    with _default_lock:
        # A fork of this process has the object, and nothing that it needs.
        if _default is None or _default._closed or _default._pid != os.getpid():
            _default = Pool(slots)
        elif (missing := slots - slots_of(_default)) > 0:
            _default.add(missing)
        return _default


def slots_of(pool: Pool) -> int:
    """How many tasks it runs at once; waits for the first worker."""
    workers = pool.workers or pool.wait_for_workers()
    return max(1, sum(worker.slots for worker in workers))


class DistmapBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]  # joblib has no types
    """Runs the tasks of `joblib.Parallel` on a pool.

    Tasks go to all workers of the pool. `n_jobs=-1` means all of its slots; a smaller number is kept; a larger one is
    all of them. Arguments over 1 MB (arrays, frames, sparse matrices) that several tasks of one call have in common are
    sent once to each worker, and are read-only there, as with joblib's own memmaps: do not change them between tasks.

    Args:
        pool: None: a pool of this process on this machine, made at the first call, which has as many slots as the
            largest `n_jobs` that was asked for.
        progress: as for `Pool.map`, for the calls of this backend.

    Examples:
        >>> import joblib
        >>> from distmap import Pool
        >>> with Pool(2) as pool, joblib.parallel_config(DistmapBackend(pool)):
        ...     joblib.Parallel()(joblib.delayed(abs)(x) for x in [-1, -2])
        [1, 2]
    """

    default_n_jobs = -1
    supports_retrieve_callback = True
    supports_inner_max_num_threads = False
    supports_sharedmem = False
    uses_threads = False

    def __init__(self, pool: Pool | None = None, *, progress: Any = None, nesting_level: int | None = None) -> None:
        super().__init__(nesting_level=nesting_level)
        if pool is not None and not isinstance(pool, Pool):
            raise TypeError(f"pool= takes a distmap.Pool, not {type(pool).__name__}")
        self.parallel: Any = None
        self._pool = pool
        self._progress = progress
        self._at_once: int | None = None
        self._call: _Call | None = None
        self._lock = threading.Lock()

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many tasks run at once if this is asked for."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        slots = joblib.cpu_count() if self._pool is None else slots_of(self._pool)
        if n_jobs < 0:
            return max(1, slots + 1 + n_jobs)
        return int(n_jobs) if self._pool is None else min(int(n_jobs), slots)

    def configure(
        self, n_jobs: int = 1, parallel: Any = None, prefer: Any = None, require: Any = None, **kwargs: Any
    ) -> int:
        """Prepare for the calls of `parallel`; returns how many tasks run at once.

        Raises:
            FallbackToBackend: only one would; joblib then runs them itself, one by one.
        """
        at_once = self.effective_n_jobs(n_jobs)
        if at_once == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        self._at_once = at_once
        return at_once

    def submit(self, func: Any, callback: Callable[[Future[Any]], object] | None = None) -> Future[Any]:
        """Run a batch of tasks. `callback(future)` is called when all are done, or the first one failed."""
        with self._lock:
            if self._call is None:
                self._call = self._open(func)
            call = self._call
        return call.submit(func, callback)

    #: What joblib before 1.5 calls it.
    apply_async = submit

    def _open(self, func: Any) -> _Call:
        assert self._at_once is not None
        pool = default_pool(self._at_once) if self._pool is None else self._pool
        total = getattr(self.parallel, "n_tasks", None)
        first = func.items[0][0]
        at_once = self._at_once if self._at_once < slots_of(pool) else None

        def opened(function: Any) -> _Call:
            run = partial(run_task, Nested(*self.get_nested_backend()), function)
            feed = open_feed(
                pool, run, title=name_of(first), kind="Parallel", total=total, at_once=at_once, progress=self._progress
            )
            return _Call(pool, feed, function)

        # What is made for each task anew, or may change between two of them, travels with its task.
        if type(first) in _LASTING:
            with contextlib.suppress(PayloadError):  # then it is the error of its tasks
                return opened(first)
        return opened(None)

    def retrieve_result_callback(self, out: Future[Any]) -> list[Any]:
        """The results of a batch, or what its task raised."""
        results: list[Any] = out.result()
        return results

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Interrupt what runs and drop what waits; the next call begins anew."""
        with self._lock:
            call, self._call = self._call, None
        if call is not None:
            call.abort()

    def stop_call(self) -> None:
        """All results of the call are there, or it is given up."""
        with self._lock:
            call, self._call = self._call, None
        if call is not None:
            call.end()

    def terminate(self) -> None:
        """The `Parallel` object needs nothing more; the pool stays as it is."""
        self.stop_call()
        self.reset_batch_stats()


class _Call:
    """One call of a `Parallel` object. The function of its first task travels once, as the code of the call."""

    def __init__(self, pool: Pool, feed: Feed, function: Any) -> None:
        self._feed = feed
        self._function = function
        self._shared = Shared(pool)

    def submit(self, batch: Any, callback: Callable[[Future[Any]], object] | None) -> Future[Any]:
        """Hand in all tasks of a batch; its future has the list of their results."""
        tasks = batch.items
        try:
            future = self._feed.submit(self._items(tasks), partial(_name_the_task, tasks))
        except Exception as error:  # the pool is closed, or what tasks share does not pickle
            future = Future()
            future.set_exception(error)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def _items(self, tasks: Sequence[tuple[Any, Any, Any]]) -> list[Any]:
        """What `run_task` gets on a worker."""
        arguments = [args for function, args, kwargs in tasks if function is self._function and not kwargs]
        if len(arguments) == len(tasks) and are_plain(arguments):
            return arguments
        return [self._item(*task) for task in tasks]

    def _item(self, function: Any, args: Any, kwargs: Any) -> tuple[Any, ...]:
        lift = self._shared.lift
        if function is self._function and not kwargs:
            return tuple(map(lift, args))
        return _Task(lift(function), lift(args), lift(kwargs))

    def abort(self) -> None:
        self._feed.cancel()
        self._shared.clear()

    def end(self) -> None:
        self._feed.end()
        self._shared.clear()


class _Task(NamedTuple):
    """A task that is not only arguments of the first task's function."""

    function: Any
    args: Any
    kwargs: Any

    def __repr__(self) -> str:
        return call_of(self)


def call_of(task: tuple[Any, Any, Any]) -> str:
    """A task as a call: `fit(X, 3, ...)`."""
    function, args, _ = task
    few = ", ".join(map(shown, args[:3])) + ", ..." * (len(args) > 3)
    return f"{name_of(function)}({few})"


def _name_the_task(tasks: Sequence[tuple[Any, Any, Any]], at: int, number: int, error: BaseException) -> None:
    error.add_note(f"task {number} of this Parallel call: {call_of(tasks[at])}")


def run_task(nested: Nested, first: Callable[..., Any] | None, item: tuple[Any, ...]) -> Any:
    """On a worker: one task. `item`: a `_Task`, or the arguments of the function of the first task."""
    task: Any = item if type(item) is _Task else (first, item, {})
    function, args, kwargs = task
    if _TRANSPORT in sys.modules and _has_lost_its_monitor(*args, *kwargs.values()):
        raise RuntimeError(_NO_CALLBACKS)
    try:
        return nested.run(function, args, kwargs)
    except OSError as error:
        if _is_of_callbacks(error):
            raise RuntimeError(_NO_CALLBACKS) from error
        raise


class Nested:
    """Runs a task whose own `Parallel` calls use the nested backend, as in `joblib.BatchedCalls`.

    `parallel_config` takes longer than a small task, and is for whole batches in joblib. So what it sets, for this
    thread, is made once and then set by itself, provided that joblib keeps it where it is looked for.
    """

    def __init__(self, backend: Any, n_jobs: int | None) -> None:
        self._wanted = backend, n_jobs
        self._made: Any = None

    def __reduce__(self) -> tuple[type[Nested], tuple[Any, int | None]]:
        return Nested, self._wanted

    def run(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Call the function."""
        kept: Any = getattr(joblib.parallel, "_backend", None)
        if self._made is None:
            backend, n_jobs = self._wanted
            with parallel_config(backend=backend, n_jobs=n_jobs) as made:
                if getattr(kept, "config", None) is made:
                    self._made = made
                return function(*args, **kwargs)
        before = getattr(kept, "config", None)
        try:
            kept.config = self._made
            return function(*args, **kwargs)
        finally:
            if before is None:
                del kept.config
            else:
                kept.config = before


#: How callbacks of scikit-learn report from other processes.
_TRANSPORT = "sklearn.callback._transport"
_NO_CALLBACKS = (
    "a callback of scikit-learn reports to the process that fits, over a socket of that machine, and this task ran on "
    "another machine; fit without callbacks, or on slots of that machine: Pool(4)"
)


def _is_of_callbacks(error: OSError) -> bool:
    """Whether `sklearn.callback._transport` raised it, which connects to a path."""
    where = os.path.join("sklearn", "callback", "_transport.py")
    return any(frame.filename.endswith(where) for frame in traceback.extract_tb(error.__traceback__))


def _has_lost_its_monitor(*values: Any) -> bool:
    """Whether a callback of one of these estimators reports to this process, where nobody would see it.

    `ScoringMonitor` does so, without a word, if it cannot reach the process that it comes from.
    """
    transport = sys.modules[_TRANSPORT]
    found = (getattr(value, "_skl_callbacks", ()) for value in values)
    handles = (getattr(callback, "_listener_handle", None) for callback in chain.from_iterable(found))
    return any(handle is not None and handle.address in transport._listeners for handle in handles)


def name_of(function: Any) -> str:
    """The name of a task's function; scikit-learn wraps it once more."""
    return label_of(getattr(function, "function", function))


register_parallel_backend("distmap", DistmapBackend)
