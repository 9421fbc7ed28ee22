"""A pool as a `concurrent.futures.Executor`.

Owns this interface only: it uses public methods of the pool.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from distmap.calls.checks import WAIT, checked
from distmap.calls.stream import run_to_end
from distmap.tasks.failures import HIDDEN


class _Pool(Protocol):
    """What is needed of a pool."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]: ...

    def imap(self, fn: Callable[..., Any], *iterables: Any, buffer: int | None = None, **options: Any) -> Any: ...


class PoolExecutor(concurrent.futures.Executor):
    """A pool as a `concurrent.futures.Executor`: `submit`, `map`, `shutdown`, usable with `wait`, `as_completed` and
    `asyncio`. Shutting it down leaves the pool open.

    Examples:
        >>> from distmap import Pool
        >>> with Pool(2) as pool, pool.executor() as executor:
        ...     executor.submit(pow, 2, 5).result()
        32
    """

    def __init__(self, pool: _Pool) -> None:
        self._pool = pool
        self._lock = threading.Lock()
        #: The pool keeps those that are not done.
        self._futures: weakref.WeakSet[concurrent.futures.Future[Any]] = weakref.WeakSet()
        self._streams: weakref.WeakSet[Any] = weakref.WeakSet()
        self._down = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        """Run `fn(*args, **kwargs)` on some worker; returns its future.

        Raises:
            RuntimeError: after `shutdown`.
        """
        with self._lock:
            if self._down:
                raise RuntimeError("cannot schedule new futures after shutdown")
            future = self._pool.submit(fn, *args, **kwargs)
            self._futures.add(future)
        return future

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[Any]:
        """As `concurrent.futures.Executor.map`, but chunks size themselves unless `chunksize` is over 1.

        Raises:
            TimeoutError: the next result was not there `timeout` seconds after the call.
        """
        if self._down:
            raise RuntimeError("cannot schedule new futures after shutdown")
        timeout, chunksize = checked("timeout", timeout, WAIT), checked("chunksize", chunksize)
        buffersize = checked("buffersize", buffersize)
        end = None if timeout is None else time.monotonic() + timeout
        size = None if chunksize == 1 else chunksize
        if buffersize is None:
            # The input is read in full, as Executor.map does: the caller may change it afterwards.
            iterables, buffersize = tuple(list(iterable) for iterable in iterables), 1 << 30
        return self._track(self._pool.imap(fn, *iterables, progress=False, chunksize=size, buffer=buffersize), end)

    def _track(self, stream: Any, end: float | None) -> Iterator[Any]:
        with self._lock:
            self._streams.add(stream)
        return _Results(stream, end)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more; by default wait for what was submitted."""
        with self._lock:
            self._down = True
            futures, streams = list(self._futures), list(self._streams)
        if cancel_futures:
            for future in futures:
                future.cancel()
            for stream in streams:
                stream.cancel()
        if wait:
            for stream in streams:
                run_to_end(stream)
            concurrent.futures.wait(futures)


class _Results:
    """What `map` returns: an iterator that any thread may take from, and that ends with the first error."""

    def __init__(self, stream: Any, end: float | None) -> None:
        self._stream = stream
        self._end = end

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        __tracebackhide__ = HIDDEN
        try:
            return self._stream.next(None if self._end is None else max(0.0, self._end - time.monotonic()))
        except multiprocessing.TimeoutError:
            self.close()
            raise TimeoutError from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Take no more: what waits is dropped, what runs is interrupted."""
        self._stream.close()
