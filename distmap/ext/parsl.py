"""Parsl behind the port of foreign engines: each executor of its configuration is one member, tagged with its label.

Owns what is known of Parsl. A call is sent to one label; Parsl decides which worker of it runs the call. It cannot
cancel, never says whether a call runs, and has no store: large payloads travel with the calls that lack them.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from typing import Any

from parsl.app.python import PythonApp

from distmap.core.limits import LIMITS
from distmap.engine.adapter import AdapterEvents, Call, Fate, Member, Run
from distmap.engine.attempt import Answer, BlobParts, portable
from distmap.engine.base import Parts
from distmap.engine.traits import is_death
from distmap.wire.messages import Task

#: Seconds between looks at what has become of the executors.
_LOOK_EVERY = 1.0
#: Errors of `submit` which mean that no call is taken any more.
_SHUT = frozenset({"NoDataFlowKernelError", "BadStateException"})


def _call(run: Run, task: Task, blobs: Sequence[BlobParts], parts: Parts) -> Answer:
    """What Parsl runs: a plain function, as it asks for its name."""
    return run(task, blobs, parts, None)


class ParslAdapter:
    """A `ParslPoolExecutor`.

    Args:
        executor: stays yours; closing the pool does not shut it down.
        slots: how many calls it runs at once, all labels together; by default what its configuration allows.

    Raises:
        ValueError: it was shut down.
    """

    name = "Parsl"
    isolated = True
    here = False
    tagged = True

    def __init__(self, executor: Any, *, slots: int | None = None) -> None:
        self._kernel = executor._dfk
        if self._kernel is None:
            raise ValueError("this ParslPoolExecutor was shut down: make a new one, and a new Pool with it")
        chosen = self._kernel.executors if executor.executors == "all" else executor.executors
        self._labels = [str(label) for label in chosen if label != "_parsl_internal"]
        self._slots = slots
        self._apps: dict[str, Any] = {}
        self._closed = threading.Event()
        self._watcher: threading.Thread | None = None

    def open(self, events: AdapterEvents) -> Sequence[Member]:
        """See Adapter. Waits for the first worker where nothing else tells how many there will be."""
        host = socket.gethostname()
        members = [
            Member(label, f"Parsl {label}", host, self._slots_of(label), tags=frozenset({label}))
            for label in self._labels
        ]
        self._watcher = threading.Thread(target=self._watch, args=(events, members), name="distmap-parsl", daemon=True)
        self._watcher.start()
        return members

    def _slots_of(self, label: str) -> int:
        """How many calls the label runs at once when all its blocks are there."""
        if self._slots is not None:
            return max(1, self._slots // len(self._labels))
        executor = self._kernel.executors[label]
        each = getattr(executor, "max_threads", None) or getattr(executor, "max_workers_per_node", None)
        if each == float("inf"):
            each = self._first_node(executor)
        if each is None:
            raise ValueError(
                f'the executor "{label}" does not say how many calls it runs at once: set its max_workers_per_node=, '
                "or say it to the pool: Pool(executor, processes=8)"
            )
        provider = getattr(executor, "provider", None)
        blocks, nodes = getattr(provider, "max_blocks", 1), getattr(provider, "nodes_per_block", 1)
        return int(each * max(1, blocks) * max(1, nodes))

    def _first_node(self, executor: Any) -> int | None:
        """How many workers the first node has that comes."""
        deadline = time.monotonic() + LIMITS.engine_open
        while time.monotonic() < deadline and executor.executor_exception is None:
            for manager in executor.connected_managers():
                return int(manager["worker_count"])
            self._closed.wait(_LOOK_EVERY / 4)
        return None

    def _watch(self, events: AdapterEvents, members: Sequence[Member]) -> None:
        left = list(members)
        while not self._closed.wait(_LOOK_EVERY):
            if self._kernel.cleanup_called:
                return events.ended("Parsl was shut down")
            well = [member for member in left if self._error_of(member.key) is None]
            if not well:
                return events.ended("; ".join(str(self.unanswering(member.key)) for member in left))
            if well != left:
                left = well
                events.members(left)

    def _error_of(self, label: str) -> BaseException | None:
        error: BaseException | None = getattr(self._kernel.executors[label], "executor_exception", None)
        return error

    def submit(
        self, member: str, run: Run, task: Task, blobs: Sequence[BlobParts], handles: Sequence[Any], parts: Parts
    ) -> Call:
        """See Adapter."""
        if member not in self._apps:
            self._apps[member] = PythonApp(_call, data_flow_kernel=self._kernel, executors=[member])
        travelling = [blob._replace(parts=tuple(portable(blob.parts))) for blob in blobs]
        call: Call = self._apps[member](run, task, travelling, portable(parts))
        return call

    def put(self, blob: BlobParts, members: Sequence[str]) -> Call | None:
        """See Adapter."""
        return None

    def drop(self, handle: Any) -> None:
        """See Adapter."""

    def cancel(self, call: Call) -> bool:
        """See Adapter. The one of Parsl raises."""
        return False

    def forget(self, call: Call) -> None:
        """See Adapter."""

    def fate(self, error: BaseException) -> Fate:
        """See Adapter."""
        if is_death(error):
            return "died"
        if type(error).__name__ in _SHUT or any(error is self._error_of(label) for label in self._labels):
            return "shut"
        return "failed"

    def send(self, member: str, data: bytes) -> bool:
        """See Adapter."""
        return False

    def renew(self) -> bool:
        """See Adapter."""
        return False

    def unanswering(self, member: str) -> str | None:
        """See Adapter."""
        if self._kernel.cleanup_called:
            return "Parsl was shut down"
        error = self._error_of(member)
        return None if error is None else f'the executor "{member}" of Parsl takes nothing any more ({error!r})'

    def close(self) -> None:
        """See Adapter."""
        self._closed.set()
        if self._watcher is not None:
            self._watcher.join()
