"""Ray behind the port of foreign engines: each node of the cluster is a member, and its CPUs are slots.

Owns the calls to Ray, and whether Ray is started and shut down in this process. A chunk is a Ray task of one CPU, bound
to its node, which is never retried by Ray. What is large goes through Ray's object store. Must not know what is run.

Threads: Ray calls back in threads of its own. Nodes are looked up in a thread of ours; large values are put into the
object store in another one. Errors of calls are told after the next look at the nodes: so who is gone is known first.
"""

from __future__ import annotations

import logging
import socket
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from time import monotonic
from typing import Any

import ray
from ray import exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distmap.engine.adapter import AdapterEvents, Call, Fate, Member, Run
from distmap.engine.attempt import Answer, BlobParts
from distmap.engine.base import Parts
from distmap.ext.packing import pack_call, pickled, unpack_answer
from distmap.ext.ray_far import NAMESPACE, Switchboard, far_end
from distmap.ext.ray_session import client_address, enter, head_address, leave
from distmap.wire.messages import Task

log = logging.getLogger("distmap")

#: Seconds between two looks at who is there.
LOOK_EVERY = 1.0
#: A head that has taken no connection for so many seconds is gone. Ray ends this process a minute after that.
GONE_AFTER = 10.0
#: Each process of the cluster waits in one call to the actor for what the pool wishes.
MOST_AT_ONCE = 10_000
#: What is not told as a tag: every node has it.
_COMMON = ("CPU", "memory", "object_store_memory")


class RayAdapter:
    """The Ray that this process uses, or one that it joins or starts.

    Args:
        address: "ray": what `ray.init()` finds or starts; "ray://host:10001": a cluster, through its client port.
    """

    isolated = True
    here = False
    tagged = True

    def __init__(self, address: str = "ray") -> None:
        self._address = None if address == "ray" else address
        self.name = "Ray" if self._address is None else f"Ray at {address}"
        #: Ray's function for a call, by node.
        self._far: dict[str, Any] = {}
        #: Calls that ended with an error, which is not told yet.
        self._failed: list[tuple[Future[Any], BaseException]] = []
        self._look = threading.Event()
        self._entered = self._closed = self._gone = False
        self._switchboard: Any = None
        self._thread: threading.Thread | None = None
        self._sender = ThreadPoolExecutor(1, thread_name_prefix="distmap-ray-sender")

    def open(self, events: AdapterEvents) -> Sequence[Member]:
        enter(self._address)
        self._entered = True
        self._events = events
        self._client = client_address()
        self._head = head_address()
        self.name = f"Ray at {self._client or '{}:{}'.format(*self._head)}"
        self._channel = f"distmap-{uuid.uuid4().hex}"
        options = {"num_cpus": 0, "max_concurrency": MOST_AT_ONCE, "name": self._channel, "namespace": NAMESPACE}
        self._switchboard = ray.remote(Switchboard).options(**options).remote()
        self._listen()
        members = self._members()
        self._thread = threading.Thread(target=self._watch, name="distmap-ray", daemon=True)
        self._thread.start()
        return members

    def _members(self) -> list[Member]:
        members = []
        nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
        names = Counter(_name_of(node) for node in nodes)
        for node in nodes:
            resources, labels, name = node["Resources"], node["Labels"], _name_of(node)
            tags = {name for name in resources if name not in _COMMON and not name.startswith("node:")}
            tags |= {f"{key}={value}" for key, value in labels.items() if not key.startswith("ray.io/")}
            key, host, slots = node["NodeID"], node["NodeManagerHostname"], int(resources["CPU"])
            python = f"{sys.version_info[0]}.{sys.version_info[1]}"  # Ray takes no other one
            name = name if names[name] == 1 else f"{name}-{key[:4]}"
            members.append(Member(key, name, host, slots, python, frozenset(tags)))
        return members

    def _watch(self) -> None:
        answered = monotonic()
        while not self._closed:
            self._look.wait(LOOK_EVERY)
            self._look.clear()
            failed, self._failed = self._failed, []
            try:
                if not ray.is_initialized():
                    return self._end("Ray was shut down in this process")
                socket.create_connection(self._head, timeout=LOOK_EVERY).close()
                self._events.members(self._members())
            except Exception as error:
                self._failed += failed
                if monotonic() - answered > GONE_AFTER:
                    return self._end(f"{self.name} has not answered for {GONE_AFTER:.0f} s ({error!r})")
                continue
            answered = monotonic()
            for call, problem in failed:
                call.set_exception(problem)

    def _end(self, why: str) -> None:
        self._gone = True
        if not self._closed:
            self._events.ended(why)

    def submit(
        self, member: str, run: Run, task: Task, blobs: Sequence[BlobParts], handles: Sequence[Any], parts: Parts
    ) -> Call:
        call: Future[Answer] = Future()
        head, beside = pack_call(run, task, blobs, parts)
        if beside or self._client:
            # Into the object store, which may be full, or there and back for the name of the task: both may wait.
            self._sender.submit(self._start, call, member, head, beside, handles)
        else:
            self._start(call, member, head, beside, handles)
        return call

    def _start(
        self, call: Future[Answer], member: str, head: bytes, beside: list[memoryview], handles: Sequence[Any]
    ) -> None:
        try:
            self._check()
            if member not in self._far:
                where = NodeAffinitySchedulingStrategy(member, soft=False)
                self._far[member] = ray.remote(far_end).options(num_cpus=1, max_retries=0, scheduling_strategy=where)
            ref = self._far[member].remote(self._channel, head, pickled(beside), *handles)
            ref.future().add_done_callback(partial(self._answered, call))
        except Exception as error:
            self._fail(call, error)

    def _check(self) -> None:
        if not ray.is_initialized():  # Ray would start a new cluster by itself
            raise ConnectionError("Ray was shut down in this process")

    def _answered(self, call: Future[Answer], future: Future[Any]) -> None:
        try:
            answer = future.result()
            head, beside = (answer, ()) if isinstance(answer, bytes) else answer
            call.set_result(unpack_answer(head, beside))
        except Exception as error:
            self._fail(call, error)

    def _fail(self, call: Future[Answer], error: BaseException) -> None:
        self._failed.append((call, error))
        self._look.set()

    def put(self, blob: BlobParts, members: Sequence[str]) -> Call:
        return self._sender.submit(self._put, blob._replace(parts=pickled(blob.parts)))

    def _put(self, blob: BlobParts) -> Any:
        self._check()
        return ray.put(blob)

    def drop(self, handle: Any) -> None:
        """Ray frees what nobody refers to any more."""

    def cancel(self, call: Call) -> bool:
        return False  # Ray's own says only that it will try

    def forget(self, call: Call) -> None:
        """To cancel a task of Ray's that has begun would interrupt what runs it, in the middle of anything."""

    def fate(self, error: BaseException) -> Fate:
        if isinstance(error, (exceptions.RayTaskError, exceptions.RuntimeEnvSetupError)):
            return "failed"
        return "died" if isinstance(error, (exceptions.RayError, ConnectionError)) else "failed"

    def send(self, member: str, data: bytes) -> bool:
        self._switchboard.wish.remote(member, data)
        return True

    def _listen(self) -> None:
        self._switchboard.told.remote().future().add_done_callback(self._heard)

    def _heard(self, future: Future[list[bytes]]) -> None:
        try:
            messages = future.result()
        except Exception as error:
            log.info("the side channel of %s has ended: %r", self.name, error)
            return
        for message in messages:
            self._events.received(message)
        if not self._closed:
            self._listen()

    def renew(self) -> bool:
        return False

    def unanswering(self, member: str) -> str | None:
        return None  # a node that is gone is no member any more; until then Ray takes calls

    def close(self) -> None:
        self._closed = True
        self._look.set()
        if self._thread is not None:
            self._thread.join()
        self._sender.shutdown(cancel_futures=True)
        if self._switchboard is not None and not self._gone and ray.is_initialized():
            ray.kill(self._switchboard)
        if self._entered:
            self._entered = False
            leave()


def _name_of(node: dict[str, Any]) -> str:
    """The name that its owner gave it, or else that of its host."""
    named = node["NodeName"] != node["NodeManagerAddress"]
    return str(node["NodeName"] if named else node["NodeManagerHostname"])
