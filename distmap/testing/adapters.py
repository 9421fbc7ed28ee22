"""A small engine behind the port of foreign engines, for tests: members with threads of this process.

Owns the engine and its adapter. It does what engines do: members come and go, there is a store for large payloads, and
it may end. What runs there is treated as if it were elsewhere: nothing but the store is shared.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from distmap.engine import foreign_host
from distmap.engine.adapter import AdapterEvents, Call, Fate, Member, Run
from distmap.engine.attempt import Answer, BlobParts, portable
from distmap.engine.base import Parts
from distmap.wire.messages import Task


class MemberEnded(Exception):
    """What ran the call has ended."""


class ClusterEnded(Exception):
    """The engine takes no more calls."""


class SmallCluster:
    """An engine of somebody else's; a context manager that leaves no thread behind.

    Args:
        members: how many calls each runs at once, by name.
        store: whether it has a store for large payloads.
    """

    def __init__(self, store: bool = True, **members: int) -> None:
        self.store: dict[int, BlobParts] | None = {} if store else None
        #: How many payloads were handed over, and how many calls were made.
        self.puts = self.calls = 0
        #: Why it ended; empty while it goes on.
        self.ended = ""
        self.events: AdapterEvents | None = None
        self._numbers = itertools.count(1)
        self._members: dict[str, tuple[Member, ThreadPoolExecutor]] = {}
        for name, slots in members.items():
            self.join(name, slots)

    def __enter__(self) -> SmallCluster:
        return self

    def __exit__(self, *error: object) -> None:
        for name in [member.name for member in self.members]:
            self.leave(name)
        foreign_host.end()

    @property
    def members(self) -> list[Member]:
        """Who is there."""
        return [member for member, _ in self._members.values()]

    def join(self, name: str, slots: int, *tags: str) -> None:
        """A member comes."""
        member = Member(f"{name} {next(self._numbers)}", name, "here", slots, tags=frozenset(tags))
        self._members[member.key] = member, ThreadPoolExecutor(slots, f"member-{name}")
        self._tell()

    def leave(self, name: str) -> None:
        """A member goes: what it runs is answered by nobody."""
        for key in [key for key, (member, _) in self._members.items() if member.name == name]:
            _, threads = self._members.pop(key)
            self._tell()
            threads.shutdown(wait=False, cancel_futures=True)

    def end(self, why: str) -> None:
        """All of it ends."""
        self.ended = why
        if self.events is not None:
            self.events.ended(why)

    def _tell(self) -> None:
        if self.events is not None:
            self.events.members(self.members)

    def submit(self, member: str, fn: Any, *args: Any) -> Future[Answer]:
        """Run a call at a member."""
        if self.ended:
            raise ClusterEnded(self.ended)
        self.calls += 1
        answer: Future[Answer] = Future()
        if member in self._members:
            self._members[member][1].submit(self._call, member, answer, fn, args)
        else:
            answer.set_exception(MemberEnded(member))
        return answer

    def _call(self, member: str, answer: Future[Answer], fn: Any, args: tuple[Any, ...]) -> None:
        try:
            value = fn(*args)
        except BaseException as error:
            answer.set_exception(error)
        else:
            if member in self._members:
                answer.set_result(value)


class SmallAdapter:
    """The adapter of a `SmallCluster`.

    Args:
        isolated: whether chunks run in task processes of distmap.
        side_channel: whether they are heard before their end then, and hear what is wished.
    """

    here = False
    tagged = True

    def __init__(self, cluster: SmallCluster, *, isolated: bool = False, side_channel: bool = False) -> None:
        self.name = "a small cluster"
        self.isolated = isolated
        self.side_channel = side_channel
        self._cluster = cluster

    def open(self, events: AdapterEvents) -> Sequence[Member]:
        """See Adapter."""
        if self._cluster.ended:
            raise ClusterEnded(self._cluster.ended)
        self._cluster.events = events
        return self._cluster.members

    def submit(
        self, member: str, run: Run, task: Task, blobs: Sequence[BlobParts], handles: Sequence[Any], parts: Parts
    ) -> Call:
        """See Adapter."""
        sent = [blob._replace(parts=tuple(portable(blob.parts))) for blob in blobs]
        return self._cluster.submit(member, self._run, run, task, sent, list(handles), portable(parts))

    def _run(self, run: Run, task: Task, blobs: Sequence[BlobParts], handles: Sequence[int], parts: Parts) -> Answer:
        store = self._cluster.store or {}
        events = self._cluster.events
        emit = events.received if self.side_channel and events is not None else None
        return run(task, [*blobs, *[store[handle] for handle in handles]], parts, emit)

    def put(self, blob: BlobParts, members: Sequence[str]) -> Call | None:
        """See Adapter."""
        store = self._cluster.store
        if store is None:
            return None
        handed: Future[Any] = Future()
        self._cluster.puts += 1
        store[self._cluster.puts] = blob._replace(parts=tuple(portable(blob.parts)))
        handed.set_result(self._cluster.puts)
        return handed

    def drop(self, handle: Any) -> None:
        """See Adapter."""
        assert self._cluster.store is not None
        del self._cluster.store[handle]

    def cancel(self, call: Call) -> bool:
        """See Adapter."""
        return False

    def forget(self, call: Call) -> None:
        """See Adapter."""

    def fate(self, error: BaseException) -> Fate:
        """See Adapter."""
        if isinstance(error, MemberEnded):
            return "died"
        return "shut" if isinstance(error, ClusterEnded) else "failed"

    def send(self, member: str, data: bytes) -> bool:
        """See Adapter."""
        if self.side_channel:
            foreign_host.control(data)
        return self.side_channel

    def renew(self) -> bool:
        """See Adapter."""
        return False

    def unanswering(self, member: str) -> str | None:
        """See Adapter."""
        return self._cluster.ended or None

    def close(self) -> None:
        """See Adapter."""
        self._cluster.events = None
