"""Pool: the composition root.

Owns what the user meets first: which engines there are, the public calls with their documentation, and the end of it
all. Everything else happens elsewhere: `calls/factory.py` makes the jobs, `core/` decides, `driver/` has the bytes.
Longer than 400 lines because each public call has its documentation here.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, overload

from distmap.calls.arguments import (
    Workers,
    label_of,
    mp_arguments,
    mp_keywords,
    mp_options,
    mp_positional,
    positional_chunksize,
    sort_out,
    tell_of_columns,
    variables,
)
from distmap.calls.checks import WAIT, checked, function, functions
from distmap.calls.launching import launches
from distmap.calls.plan import follows_plan
from distmap.calls.remote import remote
from distmap.calls.traces import gate
from distmap.driver.portal import Portal
from distmap.tasks.nesting import cores, depth, importing

if TYPE_CHECKING:
    from types import TracebackType

    from distmap.calls.arguments import Wanted
    from distmap.calls.checking import Check, Checks
    from distmap.calls.ending import Ending
    from distmap.calls.executor import PoolExecutor
    from distmap.calls.factory import Call, Jobs
    from distmap.calls.futures import TaskFuture
    from distmap.calls.inspect import Look, Worker
    from distmap.calls.installing import Installation
    from distmap.calls.interrupts import Held
    from distmap.calls.job import Job
    from distmap.calls.reader import JobContext
    from distmap.calls.setups import SetUp
    from distmap.calls.stream import StreamJob
    from distmap.calls.submissions import Submissions
    from distmap.calls.worker_command import Way
    from distmap.core.events import Gather, OnError
    from distmap.core.progress import ProgressOption
    from distmap.driver.driver import Driver
    from distmap.driver.messages import WorkerStatus
    from distmap.engine.base import Part
    from distmap.engine.hub import HubEngine
    from distmap.slots.slots import Slots
    from distmap.tasks.broadcast import Broadcast
    from distmap.tasks.code import Code, Setup, Style
    from distmap.tasks.codecache import CodeCache
    from distmap.tasks.surroundings import Watch
    from distmap.transport.token import Secret


class Pool:
    """A parallel `map` on this machine and on any worker you can reach.

    Args:
        workers: who computes. None (default): this machine, one slot (task process) for each core. A number: so many
            slots. "gpu": one slot for each GPU of this machine, which is then the only one that it sees.
            "wss://host:8786": a `distmap-worker` that listens there. "ssh://user@host": a host that `ssh` logs in to; a
            worker is started there, and ends with the pool. "slurm://?workers=20&cpus=8": workers are jobs of Slurm
            that are started now, and end with the pool. An engine that already runs: a `Client` or cluster of
            Dask, or "dask://scheduler:8786"; "ray" or "ray://head:10001"; a client or view of ipyparallel; any
            `concurrent.futures.Executor`; if that does not say how many calls it runs at once, give `processes` too.
            A list of these: all of them together.
        listen: "wss://host:port" to wait for workers that dial in (`distmap-worker wss://thishost:port`); port 0
            picks one, `pool.url` tells. True: for workers that come through a proxy on this machine, such as that of
            a JupyterHub; only such a proxy reaches the port. The address of this notebook in the browser, such as
            "https://hub.example/user/ann/lab": the same, where the hub does not tell its own address.
            "ssh://user@login": workers come to a socket on that host, to which both sides log in (`distmap-worker` with
            `pool.url`).
        token: the secret that pool and workers share; None (default) takes `DISTMAP_TOKEN_FILE`, `DISTMAP_TOKEN` or
            the file that is made in your home on first use.
        relay: "wss://relay.example/" to wait for workers at a `distmap-relay` (`distmap-worker --relay
            wss://relay.example/`), where neither side can reach the other. Pools that have the same token use rooms
            of their own there: "wss://relay.example/?room=NAME", on both sides.
        connect_timeout: seconds in which a worker must have come before a call gives up with `NoWorkers`; default
            10 when dialling, 60 when workers dial in, and as long as any is queued where a launcher starts them.
        tls_cert: certificate file for `listen`; default: an ephemeral certificate.
        tls_key: file of its private key.
        headers: HTTP headers for a proxy in front of a worker: a mapping, or a file with a line `Name: value` each that
            only you can read, which is read anew for each connection. None (default): the file `DISTMAP_HEADER_FILE`,
            if it is set. They are sent over TLS to a host whose certificate is trusted, and never shown.
        launch: a command line that starts workers, such as "mpiexec -n 32 distmap-worker {url}"; see `scale`. It is run
            by a shell, and ended with the pool. `{url}` is the address of the pool, `{n}` a number of workers,
            `{token_file}` the file of the token, which the command has as `DISTMAP_TOKEN_FILE` too.
        ca: file of certificates to trust, besides those of the system, for a proxy in front of a worker; None
            (default): `DISTMAP_CA`. Workers themselves need none: they prove the token.
        proxy: URL of a proxy to go out through: "http://host:3128", "socks5h://host:1080"; "" for none. None
            (default): what `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` say.
        install: whether distmap may be installed on hosts of "ssh://" that lack it, into an environment of its own.
        processes: the same as a number for `workers`, as in `multiprocessing.Pool`. Beside an executor: how many items
            it is to run at once.
        initializer: called once in each task process before its first item, as in `multiprocessing.Pool`; again if
            what it captures, or a local module that it uses, has changed since.
        initargs: its arguments.
        maxtasksperchild: a slot of this machine gets a fresh process after so many chunks (with `chunksize=1`: items),
            for functions that leak memory; default: it keeps its process.
        progress: what calls show that say nothing themselves: True, False or a callable, as for a call. None (default):
            `DISTMAP_PROGRESS` (0: nothing, 1: a bar) if it is set, else a card in a notebook and nothing elsewhere.
        context: None, or a "spawn" context of multiprocessing: slots are fresh processes in any case.
        memory_limit: memory that a slot of this machine may use for itself: a number of bytes, text such as "2GB", or
            "80%" of the memory of this machine, in equal parts for its slots. An item that passes it fails with
            `WorkerMemoryError`, before the machine runs short of memory. Default: no limit. A `distmap-worker` has
            `--memory-limit`.
        env: environment variables to set in every slot, on workers too; slots of this machine have those of this
            process besides, as they are at each call.

    Raises:
        ConnectError: a worker address is not a wss:// URL.
        TokenError: the token cannot be read.

    Examples:
        >>> from distmap import Pool
        >>> with Pool(2) as pool:
        ...     pool.map(lambda x: x * x, range(5))
        [0, 1, 4, 9, 16]
    """

    @gate
    @follows_plan
    def __init__(
        self,
        workers: Workers = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: Any = None,
        *,
        listen: str | bool | None = None,
        token: str | Secret | None = None,
        connect_timeout: float | None = None,
        tls_cert: str | None = None,
        tls_key: str | None = None,
        headers: Mapping[str, str] | str | os.PathLike[str] | None = None,
        ca: str | os.PathLike[str] | None = None,
        proxy: str | None = None,
        relay: str | None = None,
        launch: str | None = None,
        install: bool = False,
        processes: int | None = None,
        env: Mapping[str, str] | None = None,
        progress: ProgressOption = None,
        memory_limit: int | str | None = None,
    ) -> None:
        self._closed = True  # until everything is there: __del__ and repr may come early
        self._pid = os.getpid()
        self._remote = remote(
            listen=listen,
            token=token,
            tls_cert=tls_cert,
            tls_key=tls_key,
            headers=headers,
            ca=ca,
            proxy=proxy,
            connect_timeout=connect_timeout,
            relay=relay,
            launches=launches(workers, launch),
        )._replace(install=checked("install", install))
        wanted = sort_out(workers, self._remote.dialled, checked("processes", processes))
        self._connect_timeout = self._remote.patience(wanted.urls)
        self._tasks = checked("maxtasksperchild", maxtasksperchild)
        self._memory_limit: int | str | None = checked("memory_limit", memory_limit)
        mp_options(wanted, self._tasks, context, self._memory_limit)
        self._progress: ProgressOption = checked("progress", progress)
        self._added = variables(env, wanted)
        functions(initializer=initializer)
        given = checked("initargs", initargs)
        self._initializer = partial(initializer, *given) if initializer is not None and given else initializer
        #: Digest of the initializer as it was at the last call.
        self._initialized = b""
        #: What `run` returned and somebody keeps, the oldest first.
        self._set_up: list[weakref.ref[SetUp]] = []
        self._members_changed = threading.Condition()
        self._beginning = threading.RLock()
        #: How and where it was closed, for messages.
        self._how_closed = "closed"

        def begin() -> None:
            self._begin(wanted)

        if importing() is None:
            begin()
        else:
            # A global of a module that a task process imports: nothing is started before a task uses it.
            self._late: Callable[[], None] = begin
            self._closed = False

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """What a pool that has not begun lacks: begin, and give that."""
            begin = self.__dict__.get("_late")
            if begin is None or (name.startswith("__") and name.endswith("__")):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            if (module := importing()) is not None:
                raise RuntimeError(
                    f"module {module!r} uses a Pool at its top level, and a worker imports that module to run one of "
                    "its functions: this would start pools inside pools without end. Put the call into a function and "
                    'call that from the notebook, or under `if __name__ == "__main__":` in a script'
                )
            with self._beginning:
                if "_late" in self.__dict__:  # else another thread was quicker
                    begin()
                    del self._late
            return object.__getattribute__(self, name)

    def _begin(self, wanted: Wanted) -> None:
        from distmap.core.limits import LIMITS

        if depth >= LIMITS.pool_depth:
            raise RuntimeError(
                f"a Pool inside a Pool inside a Pool: {depth} deep, and {LIMITS.pool_depth} is the limit; give the "
                "inner work to one of the outer pools, or run it in the task itself"
            )
        started: list[Slots] = []
        wanted = wanted.found()
        memory_limit = wanted.memory_of_each(self._memory_limit)
        spawned, tasks = threading.Event(), self._tasks
        # Every process of this machine starts with it, also one that comes later: changes are told against it.
        self._base = env = {**os.environ, **self._added}

        def first() -> None:
            try:
                if wanted.here:
                    from distmap.slots.slots import Slots as Processes

                    each = () if wanted.devices is None else wanted.devices.variables
                    for count, own in ((wanted.local, ()), (len(each), each)):
                        if count:
                            slots = Processes(count, None, env=env, tasks=tasks, memory_limit=memory_limit, each=own)
                            # One core is left to this process, which has much to import: its slot starts after that,
                            # with its first task or a moment later.
                            slots.spawn(max(1, cores() - 1))
                            started.append(slots)
            except BaseException:
                for slots in started:
                    slots.stop()
                raise
            finally:
                spawned.set()

        from distmap.calls.interrupts import Held

        # The thread and the loop hold no reference to the pool, or a forgotten pool would never end.
        crashed = weakref.WeakMethod(self._crashed)
        with Held() as held:  # or an interrupt would leave processes, the thread or connections behind
            self._portal = Portal(first=first, crashed=lambda error: _call(crashed, error))
            self._engines: list[Part] = []
            # Two threads that import take turns: the task processes first, so that they boot while the rest is
            # imported.
            spawned.wait()
            try:
                self._assemble(started, wanted, held)
            except BaseException:
                self._undo(started)
                raise
            from distmap.calls.ending import Ending

            self._ending = Ending(self._portal, self._driver, self._engines, self._submissions)
            weakref.finalize(self, self._ending.end)
            self._closed = False

    def _undo(self, started: list[Slots]) -> None:
        """End what there is of a pool that cannot be made."""
        from distmap.core.limits import LIMITS

        for engine in self._engines:
            with contextlib.suppress(Exception):  # what went wrong first is told
                self._portal.run(engine.close(now=True)).result(LIMITS.end_wait)
        for slots in started:
            self._portal.ask(slots.stop)
        self._portal.close()
        if (launching := self.__dict__.get("_launching")) is not None:
            launching.forget()  # launchers that have not begun are not closed

    def _assemble(self, started: list[Slots], wanted: Wanted, held: Held) -> None:
        # These imports run while the task processes boot; in this order, the costly ones last.
        from distmap.calls.factory import Jobs
        from distmap.calls.launching import Launching
        from distmap.calls.reader import JobContext
        from distmap.calls.submissions import Submissions
        from distmap.core.limits import LIMITS
        from distmap.driver.driver import Driver
        from distmap.tasks.codecache import CodeCache
        from distmap.tasks.extras import remote_workers
        from distmap.tasks.surroundings import Watch

        self._hub: HubEngine | None = None
        # Those that have begun, and those that will.
        engines = self._engines
        planned: list[Part] = []
        loop = self._portal.loop
        no_workers = weakref.WeakMethod(self._no_workers)
        self._driver: Driver = self._portal.ask(
            lambda: Driver(
                loop,
                worker_timeout=self._connect_timeout,
                no_workers=lambda: _call(no_workers),
                none_can_come=lambda tags: _broken(engines, tags),
            )
        )
        if wanted.here:
            from distmap.engine.local import local_engines

            planned += local_engines(started, wanted.local, wanted.devices)
        elsewhere = bool(wanted.urls or self._remote.dialled)
        remote_workers.expected = remote_workers.expected or elsewhere or bool(wanted.foreign)
        if elsewhere:
            self._hub = self._remote.hub(wanted.urls)
            self._driver.on_open = self._hub.waiting.call
            planned.append(self._hub)
        if wanted.foreign:
            from distmap.engine.adapters import adapter_for
            from distmap.engine.foreign import ForeignEngine

            planned += [ForeignEngine(adapter_for(one, wanted.at_once)) for one in wanted.foreign]
        if wanted.inline:
            from distmap.engine.inline import InlineEngine

            planned.append(InlineEngine())
        self._launching = Launching(self._remote, self._hub, self._driver)
        planned += self._launching.scalers
        changed = weakref.WeakMethod(self._tell_members)
        self._driver.workers.on_change = self._launching.before(lambda: _call(changed))
        portal, driver = self._portal, self._driver
        self._watch: Watch = Watch(
            self._base, self._added, lambda around: portal.call(driver.blobs.keep_surroundings, around)
        )
        self._context: JobContext = JobContext(self._portal, self._driver)
        self._submissions: Submissions = Submissions(self._context)
        self._jobs: Jobs = Jobs(self._context, self._progress)
        self._codes: CodeCache = CodeCache()
        for engine in planned:
            held.check()
            engines.append(engine)
            begun = self._portal.run(engine.start(self._driver))
            while not begun.done():
                held.check()  # somebody else's engine may take its time
                with contextlib.suppress(TimeoutError):
                    begun.exception(0.1)
            begun.result()
        if self._hub is not None:
            # So that `pool.workers` and the repr show who is there; who is not goes on being dialled.
            dialled = self._portal.run(self._hub.dialled())
            end = time.monotonic() + min(LIMITS.dial_wait, self._connect_timeout)
            while not dialled.done() and time.monotonic() < end:
                held.check()
                with contextlib.suppress(TimeoutError):
                    dialled.exception(0.02)
            if dialled.done():
                dialled.result()
        held.check()

    # --- map and its kin --------------------------------------------------------------------------------------------

    @gate
    @mp_keywords("func", "iterable")
    def map(self, fn: Callable[..., Any], *iterables: Any, **options: Any) -> list[Any]:
        """`[fn(x) for x in iterable]`, in parallel, in input order; with several iterables, `fn(x, y, ...)`.

        Options, all keyword only: chunksize, progress, desc, total, retries, timeout, on_error, tags, priority,
        seed, output, checkpoint, on_change; see `distmap.calls.options.MapOptions`. A whole number after the iterable
        is taken as chunksize, as in `multiprocessing.Pool`.

        Raises:
            Exception: the first item's own exception, with a note that names the item, and the remote traceback as
                its cause. What had been finished is in `pool.last.partial`.
            NoWorkers: no worker came in time.
            KeyboardInterrupt: after the remote items were stopped; the pool stays usable.
        """
        self._ensure_workers()
        result: list[Any] = self._collect(self._call("map", fn, iterables, options))
        return result

    @gate
    @mp_keywords("func", "iterable")
    def starmap(
        self, fn: Callable[..., Any], iterable: Iterable[Sequence[Any]], *rest: Any, **options: Any
    ) -> list[Any]:
        """`[fn(*args) for args in iterable]`, in parallel, in input order. Options as for `map`."""
        self._ensure_workers()
        result: list[Any] = self._collect(self._call("starmap", fn, (iterable, *rest), options))
        return result

    @gate
    @mp_keywords("func", "iterable")
    def map_async(
        self,
        fn: Callable[..., Any],
        *iterables: Any,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        **options: Any,
    ) -> Job:
        """As `map`, but returns a `Job` at once. Callbacks are called in the job's thread.

        The input may be an async generator (or another async iterable): it runs on the event loop of the caller.
        """
        iterables, callback, error_callback = mp_positional(iterables, callback, error_callback)
        return self._begin_call("map", fn, iterables, options, callback, error_callback)

    @gate
    @mp_keywords("func", "iterable")
    def starmap_async(
        self,
        fn: Callable[..., Any],
        iterable: Iterable[Sequence[Any]],
        *rest: Any,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        **options: Any,
    ) -> Job:
        """As `starmap`, but returns a `Job` at once."""
        iterables, callback, error_callback = mp_positional((iterable, *rest), callback, error_callback)
        return self._begin_call("starmap", fn, iterables, options, callback, error_callback)

    @gate
    @mp_keywords("func", "iterable")
    def imap(self, fn: Callable[..., Any], *iterables: Any, buffer: int | None = None, **options: Any) -> StreamJob:
        """A lazy iterator of results in input order. The input may be infinite; it is read ahead, in another thread.

        Args:
            buffer: at most so many items are read from the input and not yet taken from the iterator. Default: two
                chunks for each slot, but no more items than are taken from the iterator in two seconds (and 256 MB of
                them at most). Where items are slow to take, that is still two for each slot.

        Items of a chunk are read before any of them is run. Where the input waits for results (the next item depends
        on an earlier one), give `chunksize=1`: each item is then sent as soon as it is read.

        The input may be an async generator (or another async iterable): it runs on the event loop of the caller, which
        then takes the results by `async for`.
        """
        return self._stream("imap", fn, iterables, buffer, options)

    @gate
    @mp_keywords("func", "iterable")
    def imap_unordered(
        self, fn: Callable[..., Any], *iterables: Any, buffer: int | None = None, **options: Any
    ) -> StreamJob:
        """As `imap`, but each result as soon as it is there."""
        return self._stream("imap_unordered", fn, iterables, buffer, options)

    @gate
    def map_reduce(
        self,
        fn: Callable[[Any], Any],
        data: Iterable[Any],
        reduce: Callable[[Any, Any], Any],
        *,
        initial: Any = ...,
        combine: Callable[[Any, Any], Any] | None = None,
        **options: Any,
    ) -> Any:
        """`functools.reduce(reduce, map(fn, data), initial)`: folds here, in input order, as results land.

        Args:
            initial: the first value; without one, the first result is.
            combine: folds results on the workers first, so that less travels; `reduce` then folds what it gives. Not
                with `checkpoint=`, which keeps the result of each item.
        """
        from distmap.calls.factory import Call
        from distmap.calls.inputs import from_iterables
        from distmap.calls.options import MapOptions
        from distmap.calls.results import EMPTY, Fold

        chosen = MapOptions.of(options)
        function("reduce", reduce)
        functions(combine=combine)
        self._ensure_workers()
        sink = Fold(chosen.on_error, reduce, EMPTY if initial is ... else initial)
        # A retried item would come after the fold of its neighbours: then everything is folded here, in order. A
        # checkpoint keeps the results of single items.
        alone = chosen.retries or chosen.checkpoint is not None
        code = self._code(fn, "one", combine=None if alone else combine, seed=chosen.seed)
        tell_of_columns((data,))
        return self._jobs.run(Call("map_reduce", fn, code, from_iterables((data,)), chosen, self), sink, "fold")

    @gate
    def map_batches(self, fn: Callable[[Any], Any], data: Any, batch_size: int | None = None, **options: Any) -> Any:
        """`fn` gets slices of the data and returns one; the returned ones are joined.

        Slices are cut from a list, tuple, range or text; from arrays along their first axis (NumPy, masked and
        structured ones too, xarray, sparse ones that can be sliced); and by rows from frames, Series and columns of
        pandas, polars and pyarrow. Of any other iterable `fn` gets lists of items. Lists are chained, the others are
        joined by their own library if all are of one type, dtype, columns and names. What does not fit together comes
        back as a list with one entry for each slice, unchanged. Of data without rows `fn` is given nothing, and the
        result is `data[:0]` for an array or frame, else `[]`.

        Args:
            batch_size: rows of a slice; default: four slices for each slot.
        """
        from distmap.calls.batches import concatenate, nothing_of
        from distmap.calls.factory import Call
        from distmap.calls.inputs import from_batches
        from distmap.calls.options import MapOptions
        from distmap.calls.results import Collect

        chosen = MapOptions.of(options)
        batch_size = checked("batch_size", batch_size)
        self._ensure_workers()
        slots = sum(member.info.slots for member in self._members())
        if chosen.checkpoint is not None and batch_size is None:
            from distmap.calls.checkpointing import kept_batch_size

            batch_size = kept_batch_size(chosen.checkpoint, fn)
        source, batch_size = from_batches(data, batch_size, slots)
        empty = nothing_of(data)
        sink = Collect(chosen.on_error, join=lambda batches: concatenate(batches) if batches else empty)
        code = self._code(fn, "one", seed=chosen.seed)
        kept = {"batch_size": batch_size}
        return self._jobs.run(Call("map_batches", fn, code, source, chosen, self, kept=kept), sink)

    @gate
    @mp_keywords("func")
    def apply(self, fn: Callable[..., Any], args: Iterable[Any] = (), kwds: dict[str, Any] | None = None) -> Any:
        """`fn(*args, **kwds)` on some worker; waits for the result."""
        self._ensure_workers()
        args, kwds = mp_arguments("apply", args, kwds)
        future = self.submit(fn, *args, **kwds)
        try:
            return future.result()
        except KeyboardInterrupt:
            if not future.cancel():
                self._submissions.cancel_if_alone(future)
            raise

    @gate
    @mp_keywords("func")
    def apply_async(
        self,
        fn: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: dict[str, Any] | None = None,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> TaskFuture:
        """As `apply`, but returns at once, what `submit` returns: a `concurrent.futures.Future` that can be awaited and
        also has the methods of `multiprocessing.pool.AsyncResult`. Callbacks are called in a thread of the pool.
        """
        functions(callback=callback, error_callback=error_callback)
        before = None
        if callback is not None or error_callback is not None:

            def before(value: Any, error: BaseException | None) -> None:
                if error is None and callback is not None:
                    callback(value)
                elif error is not None and error_callback is not None:
                    error_callback(error)

        code, name = self._submission(fn)
        return self._submissions.submit(code, name, *mp_arguments("apply_async", args, kwds), before, keep=self)

    @gate
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> TaskFuture:
        """Run `fn(*args, **kwargs)` on some worker; returns a `concurrent.futures.Future`.

        Waiting submits of the same function are sent together. Arguments and captured values are taken as they are now;
        changing them afterwards does no harm. A large captured array is sent once, but looked through at each call
        to see whether it has changed (0.6 s for a GB); a handle of `broadcast` is not.
        """
        code, name = self._submission(fn)
        return self._submissions.submit(code, name, args, kwargs, keep=self)

    def executor(self) -> PoolExecutor:
        """This pool as a `concurrent.futures.Executor`."""
        from distmap.calls.executor import PoolExecutor

        self._check_open()
        return PoolExecutor(self)

    @gate
    def broadcast(self, value: Any, *, writable: bool = False) -> Broadcast:
        """A handle whose `.value` is usable inside functions; the value is sent once to each worker.

        It stays there as long as the handle lives, or until `handle.release()`. Do not change the value in place: who
        has it keeps the old one.

        Args:
            writable: False: arrays of 1 MB or more in it are shared by the slots of a host, and read-only there. True:
                functions may write to them; what is written to is copied then, and only its slot sees the change.
        """
        from distmap.tasks.broadcast import Broadcast, call_on_release

        self._check_open()
        handle = Broadcast(value, writable=writable)
        driver, portal = self._driver, self._portal
        portal.call(driver.blobs.pin, handle.digest)
        unpin = weakref.finalize(handle, portal.call, driver.blobs.unpin, handle.digest)
        unpin.atexit = False
        codes, submissions = weakref.ref(self._codes), weakref.ref(self._submissions)

        def released() -> None:
            unpin()
            # Cached code holds what it mentions, and so do functions that were submitted.
            if (cache := codes()) is not None:
                cache.clear()
            if (submitted := submissions()) is not None:
                submitted.released(handle_digest)

        handle_digest = handle.digest
        call_on_release(handle, released)
        return handle

    @gate
    def run(
        self,
        fn: Callable[[], Any],
        *,
        each: Literal["slot", "worker"] = "slot",
        timeout: float | None = None,
        on_error: OnError = "raise",
        tags: Iterable[str] = (),
        output: bool | Literal["item"] = True,
    ) -> SetUp:
        """Call `fn()` in every slot, or once on every worker: to set them up, or to look around there.

        What it returns is a mapping of results: `pool.run(f)["gpu1"][0]` is that of slot 0 of worker gpu1. While you
        keep it, the set-up holds for what comes: workers that join run `fn` first, and so does every task process that
        takes the place of another, before any item. Variables of the notebook that `fn` sets by `global` are seen by
        the functions that run there.

        Args:
            each: "slot": in every task process. "worker": once for a host, in one of its slots (to fetch a file, say).
            timeout: seconds that one call may take; not where it runs again in a process that takes another's place.
            on_error: "raise" (default) raises the first error, which names worker and slot. "return" puts errors in
                the place of results, "skip" leaves them out; then this was a look around, and holds for nothing that
                comes. `failures` has the errors in any case.
            tags: only on workers that carry all of these.
            output: as for `map`.

        Over an executor that you gave to the pool its own scheduler decides which process or thread takes a call, so
        results do not tell which; but each of them runs `fn` before its first item. `Pool("inline")` has one slot,
        this process.

        Raises:
            Exception: what `fn` raised, unless `on_error` says otherwise.
            NoWorkers: there is none with the tags.
        """
        __tracebackhide__ = True
        from distmap.calls.options import MapOptions
        from distmap.calls.setups import SetUp

        self._ensure_workers(set_up=True)
        chosen = MapOptions.of({"timeout": timeout, "on_error": on_error, "tags": tags, "output": output})
        if each not in ("slot", "worker"):
            raise ValueError(f'each must be "slot" or "worker"; got {each!r}')
        function("the first argument", fn)
        code = self._codes.get(fn, "setup", self._setups()).own()._replace(surroundings=self._watch.look())
        handle = SetUp(self._context, code, fn, each, chosen, self._submissions.aside)
        handle.begin()
        self._set_up.append(weakref.ref(handle))
        return handle

    @gate
    def install(
        self,
        *requirements: str | os.PathLike[str],
        timeout: float | None = None,
        tags: Iterable[str] = (),
        progress: ProgressOption = None,
    ) -> Installation:
        """Run `pip install` with these arguments on all workers, each for its own interpreter.

        Slots of this machine share the interpreter of this process. pip's lines are shown as they come, each with its
        worker in front. Afterwards every task process is replaced once it has finished what it runs, so that the next
        call finds the new packages, also where an older version was imported before.

        Args:
            requirements: as for pip: "polars==1.9.0", "--upgrade", a path that the worker can read. An index address
                with a password is kept out of command lines, logs and messages.
            timeout: seconds that pip may take on a worker; default: as long as it takes.
            tags: only on workers that carry all of these.
            progress: as for `map`.

        Returns:
            a mapping of what was done, by worker.

        Raises:
            InstallError: pip failed on a worker; the message has its last lines, for each such worker.
            TypeError: there are workers that an executor runs.

        Examples:
            >>> pool.install("polars==1.9.0")  # doctest: +SKIP
            gpu1: installed polars-1.9.0
            gpu2: had all of it
        """
        __tracebackhide__ = True
        from distmap.calls.installing import check_members, checked_requirements, job_of, run
        from distmap.calls.options import MapOptions
        from distmap.views.choose import resolve_progress

        wanted = checked_requirements(requirements)
        self._ensure_workers(set_up=True)
        check_members(self._members())
        chosen = MapOptions.of({"timeout": timeout, "on_error": "return", "tags": tags, "progress": progress})
        code = self._codes.get(job_of(wanted), "setup", ()).own()._replace(surroundings=self._watch.look())
        shown = resolve_progress(chosen.progress, self._progress)
        return run(self._context, code, wanted, chosen, shown, self._submissions.aside)

    # --- looking and steering ---------------------------------------------------------------------------------------

    @property
    def workers(self) -> list[Worker]:
        """The workers there are now."""
        from distmap.calls.inspect import worker_of

        return [] if self._gone else [worker_of(member) for member in self._members()]

    @property
    def url(self) -> str | None:
        """What workers dial, when the pool listens: behind a JupyterHub or a Jupyter server, the address through it.

        With `relay=`, the address of the relay (`distmap-worker --relay`).
        """
        return self._remote.reached_at(self._hub)

    def worker_command(self, kind: str | None = None, **options: Any) -> str:
        """What to type to start a worker for this pool on another machine, and what it needs there; no secret is in it.

        A pool that listens gives the command for the other machine. What else is needed follows as comments, so all of
        it can be pasted. Any other pool gives the two lines that make one that workers can reach.

        Args:
            kind: None (default): the command. "slurm" or "pbs": a job script with one worker on each node.
            options: of the job script, all by keyword: `nodes=1`, `cpus=` and `gpus=` of each node, `time="1:00:00"`,
                `token_file=` (where the token lies on the nodes; default: where it is here), `setup=` (lines that make
                `distmap-worker` available there) and `more=` (further options of the job, such as "--partition=gpu").

        Raises:
            ValueError: there is no such kind, an option is not what it must be, or the pool does not listen and so no
                job can reach it.

        Examples:
            >>> from distmap import Pool
            >>> with Pool(listen="wss://127.0.0.1:0") as pool:
            ...     print(pool.worker_command())  # doctest: +ELLIPSIS
            distmap-worker wss://127.0.0.1:...
            # It asks for the token of this pool: ...
        """
        self._check_open()
        from distmap.calls.worker_command import script_of, text_of

        if kind is None:
            return text_of(self._way())
        return script_of(kind, self.url, options, at_relay=self._remote.at_relay)

    def _way(self) -> Way:
        from distmap.calls.worker_command import token_words, way_to

        words, at_relay = token_words(self._remote.token), self._remote.at_relay
        return way_to(self.url, self._remote.server, words, at_relay=at_relay)

    @property
    def jobs(self) -> list[Job | StreamJob]:
        """Jobs that are not over, the oldest first."""
        return self._jobs.running

    @property
    def last(self) -> Job | StreamJob | None:
        """The last map-like call; None if there was none, or if it was a stream that nobody holds any more.

        It keeps figures, failures and the card; of a call that was interrupted, cancelled or failed also `partial`.
        What a call has returned belongs to its caller alone.
        """
        return self._jobs.last

    @last.setter
    def last(self, job: Job | StreamJob | None) -> None:
        self._jobs.last = job

    @gate
    def wait_for_workers(self, n: int = 1, timeout: float | None = None) -> list[Worker]:
        """Wait until there are `n` workers, and return them.

        Args:
            timeout: seconds; default: the pool's `connect_timeout`.

        Raises:
            NoWorkers: they did not come in time; the message says what was tried.
        """
        self._check_open()
        n, timeout = checked("n", n), checked("timeout", timeout, WAIT)
        limit = self._connect_timeout if timeout is None else timeout
        deadline = time.monotonic() + limit
        if self._hub is not None and len(self._hub.waiting):
            self._portal.call(self._hub.waiting.call)
        while len(found := self.workers) < n:
            if not found and (why := (self._hub and self._hub.fatal) or _broken(self._engines)):
                raise self._none(f"no worker can come: {why}")
            left = deadline - time.monotonic()
            if left <= 0 and (timeout is not None or not self._launching.coming()):
                raise self._none(f"{len(found)} of {n} workers came within {limit:g} s. {self._what_was_tried()}")
            # The loop must never wait for this lock while we wait for the loop: it is held for the wait only.
            with self._members_changed:
                self._members_changed.wait(min(left, 0.1) if left > 0 else 0.1)
            self._check_open()
        return found

    @overload
    def check(self, url: None = None, *, timeout: float = 10.0) -> Checks: ...

    @overload
    def check(self, url: str, *, timeout: float = 10.0) -> Check: ...

    @gate
    def check(self, url: str | None = None, *, timeout: float = 10.0) -> Check | Checks:
        """Go the way to a worker hop by hop, from its host name to the bandwidth, and tell which hop fails.

        What it shows has a line for each hop, and says at the first one that failed what to do. It disturbs nobody: a
        worker goes on with the pool that it serves. On the other machine `distmap-worker --check URL` does the same.

        Args:
            url: a worker, or a listening pool. None (default): all workers that this pool dials, and, if it listens,
                the way that workers take to it.
            timeout: seconds for the way; the measurements at its end take at most ten seconds more.

        Returns:
            A `Check`; without `url` a tuple of them, with `ok` and `summary`.

        Raises:
            ConnectError: the URL is none, or a file of headers or certificates cannot be read.

        Examples:
            >>> from distmap import Pool
            >>> with Pool(listen="wss://127.0.0.1:0") as pool:
            ...     found = pool.check(pool.url)
            >>> found.ok, found["token"].state
            (True, 'ok')
        """
        self._check_open()
        from distmap.calls.checking import checks

        timeout = checked("timeout", timeout) or 10.0
        found = checks(self._portal, self._remote, self._hub, checked("url", url), self.url, timeout)
        return found if url is None else found[0]

    @gate
    def add(self, workers: int | str) -> None:
        """Add local slots (a number) or a worker ("wss://host:port", "ssh://user@host") while the pool runs."""
        self._check_open()
        wanted = sort_out(workers, None)
        if wanted.foreign or wanted.inline or launches(workers, None):
            raise TypeError(f"add(...) takes a number of slots or a wss:// URL; got {workers!r}")
        if wanted.local:
            from distmap.engine.local import LocalEngine

            engine = LocalEngine(wanted.local, env=self._base, tasks=self._tasks)
            self._portal.run(self._ending.add(engine)).result()
        for url in wanted.urls:
            self._add_url(url)

    @gate
    def scale(self, least: int, most: int | None = None) -> None:
        """Say how many workers a launcher has to keep ("slurm://...", `launch=`): so many, or between two bounds.

        With one number there are so many from now on. With two, there are more as more work waits, and fewer after a
        minute in which fewer were enough. Workers that end, by their time limit say, are replaced. What is too much is
        ended: starts that are still queued first, then workers that have nothing to do; the others finish what they
        run, and nothing is lost. Of a command with `{n}` whole runs are ended only; one without `{n}` is run so many
        times, whatever workers each run has.

        Does not wait for workers: `wait_for_workers` does.

        Args:
            least: workers that there always are.
            most: workers that there never are more than; None (default): as `least`.

        Raises:
            ValueError: the pool has no launcher, or several; more than 10,000 workers are asked for.
            LaunchError: more cannot be started; the message has the last words of what was asked.
        """
        self._check_open()
        self._launching.scale(self._portal, least, most)

    def _add_url(self, text: str) -> None:
        from distmap.tasks.extras import remote_workers

        way = self._remote.way(text)
        self._connect_timeout = max(self._connect_timeout, self._remote.patience([text]))
        remote_workers.expected = True
        self._codes.clear()
        if self._hub is None:
            self._hub = self._remote.hub([])
            self._portal.run(self._ending.add(self._hub)).result()
        self._portal.call(self._hub.add, *way)

    def trace(self) -> list[tuple[float, Any, list[Any]]]:
        """The last events of the scheduler: the time, the event and the commands that it caused; for bug reports."""
        return self._portal.ask(lambda: [*self._driver.trace])

    def __repr__(self) -> str:
        if "_late" in self.__dict__:
            return "<Pool: not started, nothing has used it yet>"
        from distmap.calls.inspect import repr_of

        return repr_of(self._look())

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """The card that a notebook shows: state, workers, work, and how to add a worker. The token is never in it."""
        from distmap.calls.inspect import card_of, repr_of

        look = self._look()
        return {"text/plain": repr_of(look), "text/html": card_of(look, self._way() if look.state == "open" else None)}

    def _look(self) -> Look:
        """What is shown of the pool, without waiting long for the loop."""
        from distmap.calls.inspect import CLOSED, look_at

        if self._gone:
            return CLOSED
        here = os.getpid() == self._pid
        return look_at(
            self._context if here else None,
            self._jobs,
            self._submissions.outstanding,
            self.url,
            self._closed,
            0 if self._hub is None else len(self._hub.waiting),
        )._replace(at_relay=self._remote.at_relay, launched=self._launching.words)

    def __reduce__(self) -> Any:
        raise TypeError(
            "a Pool cannot be pickled: a function that runs on a worker must not refer to the pool; pass it the data"
        )

    # --- the end ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Take no new work; what was given goes on. Then `join`."""
        self._shut("closed")
        if (ending := self._its_ending()) is not None:
            self._submissions.close()
            # Workers and slots are let go when the last job is over, also if nobody joins.
            ending.when_idle()

    def terminate(self) -> None:
        """Stop everything now: running items are killed, workers are let go."""
        self._terminate("terminated")

    def _terminate(self, how: str) -> None:
        how = self._shut(how)
        if (ending := self._its_ending()) is not None:
            ending.end(how)

    def _shut(self, how: str) -> str:
        """Take no new work; gives how and where the user did that."""
        from distmap.tasks.failures import call_site

        how = f"{how} at {call_site()}"
        if not self._closed:
            self._how_closed, self._closed = how, True
        return how

    def _its_ending(self) -> Ending | None:
        """None if the pool ends before anything has used it; then it never begins."""
        self.__dict__.pop("_late", None)
        return self.__dict__.get("_ending")

    def join(self) -> None:
        """Wait until all work is done, then let the workers go.

        Raises:
            ValueError: the pool was not closed.
        """
        if not self._closed:
            raise ValueError("Pool is still running: close() or terminate() it before join()")
        from distmap.calls.ending import finish_streams, join_threads

        servings = self._jobs.servings
        finish_streams(servings)
        if (ending := self._its_ending()) is not None:
            ending.wait()
        join_threads(servings)

    def __enter__(self) -> Pool:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._terminate("closed by the end of its `with` block")

    async def __aenter__(self) -> Pool:
        self._check_open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        import asyncio

        from distmap.calls.awaiting import await_interruptible

        how = self._shut("closed by the end of its `async with` block")
        if (ending := self._its_ending()) is not None:
            ending.begin(how)  # here: an interrupt may come before the other thread begins
            await await_interruptible(
                asyncio.get_running_loop().run_in_executor(None, ending.end), lambda interrupted: None
            )

    # --- inside -----------------------------------------------------------------------------------------------------

    @property
    def _gone(self) -> bool:
        ending = self.__dict__.get("_ending")
        return "_late" not in self.__dict__ if ending is None else ending.begun

    def _members(self) -> list[WorkerStatus]:
        return self._portal.ask(self._driver.worker_statuses)

    def _check_open(self) -> None:
        if not self._closed and os.getpid() == self._pid:
            return
        from distmap.errors import PoolClosed

        if os.getpid() != self._pid:
            raise PoolClosed("this Pool belongs to the process that made it; make a new one here")
        raise PoolClosed(f"Pool not running: it was {self._how_closed}; make a new one")

    def _ensure_workers(self, *, set_up: bool = False) -> None:
        self._check_open()
        # Where workers are started, work has to wait for them in the open: it says how many are needed. A set-up does
        # not: it is for those that are there.
        if self._hub is not None and (not self._launching.scalers or (set_up and self._launching.awaited())):
            self.wait_for_workers(1)

    def _what_was_tried(self) -> str:
        tried = [] if self._hub is None else list(self._hub.errors.copy().values())
        tried += self._launching.tried
        if self.url and not self._remote.only_launched:
            how = f"{'--relay ' if self._remote.at_relay else ''}{self.url}"
            tried.append(
                f"On the worker's machine run: distmap-worker {how} (with the same token); pool.check() tells whether "
                "the way from there to here is open"
            )
        return "; ".join(tried) or "pool.add(...) brings new ones"

    def _no_workers(self) -> BaseException:
        if broken := _broken(self._engines):
            return self._none(broken)
        return self._none(f"no worker for {self._connect_timeout:g} s. {self._what_was_tried()}")

    def _none(self, sentence: str) -> BaseException:
        from distmap.errors import NoWorkers

        error = NoWorkers(sentence)
        causes = [getattr(engine, "cause", None) for engine in self._engines]
        error.__cause__ = next(filter(None, causes), None)
        return error

    def _tell_members(self) -> None:
        with self._members_changed:
            self._members_changed.notify_all()

    def _crashed(self, error: BaseException) -> None:
        driver = self.__dict__.get("_driver")
        if driver is not None:
            driver.crashed(error)

    def _code(self, fn: Callable[..., Any], style: Style, **rest: Any) -> Code:
        self._check_open()
        function("the first argument", fn)
        setups, surroundings = self._setups(), self._watch.look()
        if all(constant is None for constant in rest.values()):
            return self._codes.get(fn, style, setups, surroundings, exact=False)
        from distmap.tasks.code import dump_code

        return dump_code(fn, style=style, setups=setups, surroundings=surroundings, **rest)

    def _submission(self, fn: Callable[..., Any]) -> tuple[Code, str]:
        if self._closed or os.getpid() != self._pid:
            self._check_open()
        function("the first argument", fn)
        return self._codes.get(fn, "call", self._setups(), self._watch.look()), label_of(fn)

    def _setups(self) -> tuple[Setup, ...]:
        """What has to run in every slot before its first item, as it is now: the initializer, and what `run` keeps."""
        if self._initializer is None and not self._set_up:
            return ()
        self._set_up = [one for one in self._set_up if one() is not None]
        setups: tuple[Setup, ...] = ()
        if self._initializer is not None:
            setups = (self._codes.setup(self._initializer, frozenset(), ()),)
            if (digest := setups[0].code.digest) != self._initialized:
                # What it captured has changed, or this is the first call. It stays on the workers between two calls.
                self._portal.call(self._driver.blobs.unpin, self._initialized)
                self._portal.call(self._driver.blobs.pin, digest)
                self._initialized = digest
        for ref in self._set_up:
            if (handle := ref()) is not None and handle.each == "slot" and not handle.closed:
                setups = (*setups, self._codes.setup(handle.fn, handle.tags, setups))
        return setups

    def _call(
        self,
        name: str,
        fn: Callable[..., Any],
        iterables: tuple[Any, ...],
        options: dict[str, Any],
        *,
        snapshot: bool = False,
    ) -> Call:
        """Prepare a call over iterables: its options checked, its function pickled, its input opened."""
        from distmap.calls.factory import Call
        from distmap.calls.inputs import from_iterables
        from distmap.calls.options import MapOptions

        iterables = positional_chunksize(iterables, options)
        chosen = MapOptions.of(options)
        style: Style = "star" if len(iterables) > 1 or name == "starmap" else "one"
        code = self._code(fn, style, seed=chosen.seed)
        tell_of_columns(iterables)
        return Call(name, fn, code, from_iterables(iterables, snapshot=snapshot), chosen, self, style)

    def _collect(self, call: Call) -> Any:
        from distmap.calls.results import Collect

        return self._jobs.run(call, Collect(call.options.on_error))

    def _begin_call(
        self,
        name: str,
        fn: Callable[..., Any],
        iterables: tuple[Any, ...],
        options: dict[str, Any],
        callback: Callable[[Any], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> Job:
        from distmap.calls.controls import Callbacks
        from distmap.calls.results import Collect

        functions(callback=callback, error_callback=error_callback)
        call = self._call(name, fn, iterables, options, snapshot=True)
        return self._jobs.begin(call, Collect(call.options.on_error), Callbacks(callback, error_callback))

    def _stream(
        self,
        name: str,
        fn: Callable[..., Any],
        iterables: tuple[Any, ...],
        buffer: int | None,
        options: dict[str, Any],
    ) -> StreamJob:
        call = self._call(name, fn, iterables, options)
        gather: Gather = "ordered" if name == "imap" else "unordered"
        return self._jobs.stream(call, gather, checked("buffer", buffer))


def _broken(engines: Sequence[Part], tags: frozenset[str] = frozenset()) -> str:
    """Why there are no workers, and none with these tags can come, if nobody comes by himself; else empty."""
    causes = [getattr(engine, "broken", None) for engine in engines]
    if tags:
        causes = [cause or getattr(engine, "tagless", None) for cause, engine in zip(causes, engines, strict=True)]
    return "" if None in causes else "; ".join(filter(None, causes))


def _call(method: weakref.WeakMethod[Callable[..., Any]], *args: Any) -> Any:
    function = method()
    return function(*args) if function is not None else None
