"""Any `concurrent.futures.Executor` behind the port of foreign engines: one member, which is all of it.

Owns the calls to an executor, and the word about its futures; `traits.py` has what is known of which executor. The
executor belongs to the user: it is not shut down.
"""

from __future__ import annotations

import logging
import socket
import sys
import weakref
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any

from distmap.engine.adapter import AdapterEvents, Call, Fate, Member, Run
from distmap.engine.attempt import Answer, BlobParts, portable
from distmap.engine.base import Parts
from distmap.engine.foreign_host import home, run_elsewhere
from distmap.engine.lent import Lent, is_unreadable, lend, run_with, take_back
from distmap.engine.traits import (
    call_or_default,
    dies_of_cancel,
    has_initializer,
    has_interpreters,
    has_process_per_call,
    has_reliable_cancel,
    is_broken,
    is_death,
    replacement_of,
    shares_memory,
    slots_of,
    unknown_slots,
    would_spawn,
)
from distmap.wire.messages import Task

log = logging.getLogger("distmap")


class ExecutorAdapter:
    """An executor that already runs.

    Args:
        executor: stays yours; closing the pool does not shut it down.
        slots: how many calls it runs at once; by default what it says itself.
        name: of the worker; by default the executor's type.

    Raises:
        ValueError: it does not say how many calls it runs at once, and `slots` does not either; or it must not be
            asked, as it would start processes that MPI may not start.
    """

    tagged = False

    def __init__(self, executor: Executor, *, slots: int | None = None, name: str | None = None) -> None:
        if (why := would_spawn(executor)) is not None:
            raise ValueError(why)
        found = slots_of(executor) if slots is None else slots
        if found is None:
            raise ValueError(unknown_slots(executor))
        self.name = name or type(executor).__name__
        self.here = shares_memory(executor)
        self._dies_of_cancel = dies_of_cancel(executor)
        self._process_per_call = has_process_per_call(executor)
        # What an initializer has set up lives in the executor's own process. One that ends with its call needs none.
        # In an interpreter of its own none can be driven.
        unable = self._process_per_call or has_interpreters(executor)
        self.isolated = not (self.here or unable or has_initializer(executor))
        self._home = home()
        self._executor = executor
        self._slots = found
        self._reliable_cancel = has_reliable_cancel(executor)
        self._replace = replacement_of(executor)
        #: The executor is one that `_replace` made, so that it is ours to shut down.
        self._replaced = False
        #: Its processes can open what this one lends, as far as is known.
        self._lends = True
        #: What is lent.
        self._lent: set[Lent] = set()
        #: What `submit` raised last because the executor was shut down.
        self._refusal = ""
        #: Where `cancel()` can be believed, `running()` can.
        self._calls: weakref.WeakSet[Future[Answer]] = weakref.WeakSet()

    def open(self, events: AdapterEvents) -> Sequence[Member]:
        """See Adapter."""
        python = f"{sys.version_info[0]}.{sys.version_info[1]}"
        return [Member("", self.name, socket.gethostname(), self._slots, python)]

    def submit(
        self, member: str, run: Run, task: Task, blobs: Sequence[BlobParts], handles: Sequence[Any], parts: Parts
    ) -> Call:
        """See Adapter."""
        items = None
        if not self.here:
            blobs = [blob._replace(parts=tuple(portable(blob.parts))) for blob in blobs]
            items = self._lend(BlobParts(task.code, "value", tuple(parts)))
            parts = portable(parts) if items is None else []
        if self.isolated:
            run = partial(run_elsewhere, self._home, run)
        if handles or items is not None:  # last: what is lent is to be opened wherever it runs
            run = partial(run_with, handles, items, run)
        try:
            call = self._executor.submit(run, task, blobs, parts, None)
        except BaseException as error:
            if items is not None:
                self.drop(items)
            if isinstance(error, RuntimeError):  # it was shut down, or broke
                self._refusal = repr(error)
            raise
        if items is not None:
            call.add_done_callback(partial(self._ended, items))
        if self._reliable_cancel:
            self._calls.add(call)
        return call

    def _lend(self, blob: BlobParts) -> Lent | None:
        if not self._lends or self.here:
            return None
        try:
            lent = lend(blob)
        except OSError as error:  # no memory or no descriptor to be had: the executor's own way takes everything
            log.info("x a payload cannot be lent: %r", error)
            return None
        if lent is not None:
            self._lent.add(lent)
        return lent

    def _ended(self, items: Lent, call: Any) -> None:
        """In whatever thread the executor calls back in, and perhaps twice, before anybody else hears of it."""
        self.drop(items)
        answer = None if call.cancelled() or call.exception() is not None else call.result()
        if isinstance(answer, Answer) and is_unreadable(answer):
            self._lends = False

    def put(self, blob: BlobParts, members: Sequence[str]) -> Call | None:
        """See Adapter. Most executors have their processes on this machine."""
        if (lent := self._lend(blob)) is None:
            return None
        done: Future[Any] = Future()
        done.set_result(lent)
        return done

    def drop(self, handle: Any) -> None:
        """See Adapter."""
        try:
            self._lent.remove(handle)
        except KeyError:  # it was taken back: its number may be that of another file by now
            return
        take_back(handle)

    def cancel(self, call: Call) -> bool:
        """See Adapter."""
        return self._reliable_cancel and self._cancel(call)

    def forget(self, call: Call) -> None:
        """See Adapter."""
        self._cancel(call)

    def _cancel(self, call: Any) -> bool:
        return not self._dies_of_cancel and bool(call_or_default(lambda: call.cancel(), False))

    def fate(self, error: BaseException) -> Fate:
        """See Adapter."""
        if is_broken(error):
            return "died" if self._process_per_call else "broken"
        if is_death(error):
            return "died"
        return "shut" if repr(error) == self._refusal else "failed"

    def send(self, member: str, data: bytes) -> bool:
        """See Adapter."""
        return False

    def renew(self) -> bool:
        """See Adapter."""
        if self._replace is None:
            return False
        self._executor = self._replace()
        self._replaced = True
        self._refusal = ""
        return True

    def unanswering(self, member: str) -> str | None:
        """See Adapter. A call of no consequence finds out."""
        if any(call_or_default(call.running, False) for call in list(self._calls)):
            return None
        try:
            self._executor.submit(int)
        except Exception as error:
            return f"{self.name} takes nothing any more ({type(error).__name__}: {error})"
        return None

    def close(self) -> None:
        """See Adapter."""
        for lent in list(self._lent):
            self.drop(lent)
        if self._replaced:
            shut: Any = partial(self._executor.shutdown, wait=True, kill_workers=True)  # type: ignore[call-arg]
            call_or_default(shut, None)
