"""Dask behind the port of foreign engines: each worker of the cluster is a member.

Owns the calls to a Dask client. A chunk is a task of Dask's that only its worker may run. What is large goes straight
to the worker where the network lets it, and never as a part of a task, which the scheduler would unpickle and keep.
Must not know what is run. Who is there is in `dask_workers.py`, the far end in `dask_far.py`.

Threads: Dask's client has a loop of its own, where calls run, each as a coroutine.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pickle
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, InvalidStateError
from typing import Any

import distributed
from distributed.cfexecutor import ClientExecutor

from distmap.engine.adapter import AdapterEvents, Call, Fate, Member, Run
from distmap.engine.attempt import Answer, BlobParts
from distmap.engine.base import Parts
from distmap.engine.traits import is_death
from distmap.ext.dask_far import Bundle, control, far_end, pack_blob, pack_call, unpack_answer
from distmap.ext.dask_workers import DaskWorkers, Place
from distmap.wire.messages import Task

log = logging.getLogger("distmap")

#: Parts of a call up to this many bytes travel in its task, which spares three round trips.
IN_TASK = 512 << 10
#: Seconds in which a scheduler is told that a pool is closed.
LEAVE_LIMIT = 2.0
#: So many messages the scheduler keeps of each topic (`distributed.admin.low-level-log-length`).
EVENTS_KEPT = 1000


class WorkerGone(Exception):
    """The Dask worker that had the call is no more."""


class DaskAdapter:
    """The workers of a Dask cluster.

    Args:
        source: a Client, the executor of one, a cluster, or an address such as "dask://scheduler:8786".
    """

    isolated = True
    here = False
    tagged = True

    def __init__(self, source: Any) -> None:
        self._source = source._client if isinstance(source, ClientExecutor) else source
        self._address = _address_of(self._source)
        #: The client is made here: not one that runs on the loop of this thread, as who makes a pool holds that up.
        self._ours = not isinstance(self._source, distributed.Client) or self._source.asynchronous
        self.name = f"Dask at {self._address}"
        self._topic = f"distmap-{uuid.uuid4().hex}"
        #: Who hears of the topic; emptied at the end, as a client never forgets its handlers.
        self._hearing: list[Callable[[bytes], None]] = []
        self._client: Any = None
        self._tasks: dict[Call, asyncio.Task[None]] = {}

    # --- beginning and end -------------------------------------------------------------------------------------------

    def open(self, events: AdapterEvents) -> Sequence[Member]:
        client, security = self._source, getattr(self._source, "security", None)
        if self._ours:
            client = distributed.Client(self._address, security=security, set_as_default=False)
        self._client = client
        self._loop: asyncio.AbstractEventLoop = client.loop.asyncio_loop
        hearing = self._hearing
        hearing.append(events.received)

        def heard(event: tuple[float, bytes]) -> None:
            for hear in hearing:
                hear(event[1])

        client.subscribe_topic(self._topic, heard)
        self._workers = DaskWorkers(client, self.name, events)
        self._workers.open()
        return [place.member for place in self._workers.places.values()]

    def close(self) -> None:
        if self._client is None:
            return
        self._hearing.clear()
        self._workers.close()
        if self._client.status == "running":
            with contextlib.suppress(OSError):  # the scheduler is gone
                self._workers.wait_for(self._leave())
        if self._ours:
            self._client.close()

    async def _leave(self) -> None:
        self._client.unsubscribe_topic(self._topic)
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # The scheduler keeps the last messages of every topic for ever: these are smaller.
        await asyncio.wait_for(self._client.scheduler.log_event(topic=[self._topic] * EVENTS_KEPT, msg=""), LEAVE_LIMIT)

    # --- calls -------------------------------------------------------------------------------------------------------

    def submit(
        self, member: str, run: Run, task: Task, blobs: Sequence[BlobParts], handles: Sequence[Any], parts: Parts
    ) -> Call:
        if self._workers.closed:
            raise RuntimeError("the client was closed")
        if (place := self._workers.places.get(member)) is None:
            raise WorkerGone(f"{self.name} has no worker {member} any more")
        call: Future[Answer] = Future()
        sent = pack_call(run, task, blobs, parts)

        def begin() -> None:
            if self._workers.places.get(member) is not place:
                return _settle(call, error=_gone(place))
            self._tasks[call] = made = asyncio.ensure_future(self._run(call, place, sent, handles))
            place.calls.add(made)
            made.add_done_callback(place.calls.discard)
            made.add_done_callback(lambda _: self._tasks.pop(call))

        self._loop.call_soon_threadsafe(begin)
        return call

    async def _run(self, call: Future[Answer], place: Place, sent: Bundle, handles: Sequence[Any]) -> None:
        try:
            answer = await self._answer(call, place, sent, handles)
        except asyncio.CancelledError:
            _settle(call, error=_gone(place))
        except Exception as error:
            # First it is told who is gone: then this call is lost with all else that ran there.
            with contextlib.suppress(asyncio.CancelledError):
                await self._workers.told()
            _settle(call, error=error)
        else:
            _settle(call, answer)

    async def _answer(self, call: Future[Answer], place: Place, sent: Bundle, handles: Sequence[Any]) -> Answer:
        small = sent.nbytes <= IN_TASK
        argument = pickle.dumps(sent, 5) if small else await self._scatter(sent, [place.address])
        if not call.set_running_or_notify_cancel():
            raise asyncio.CancelledError
        needed = [handle for handle in handles if handle not in place.has]
        pinned: dict[str, Any] = {"workers": [place.address], "allow_other_workers": False, "pure": False, "retries": 0}
        while True:
            key = f"distmap-{uuid.uuid4().hex}"
            future = self._client.submit(far_end, self._topic, argument, *needed, key=key, **pinned)
            if (error := await future.exception()) is not None:
                raise error
            if future.cancelled():  # by somebody else, or with all that its client had
                raise CancelledError(f"the Dask task {key} was cancelled")
            answer = unpack_answer(await self._client.gather(future, direct=self._workers.direct))
            if answer.missing and len(needed) < len(handles):  # it was dropped there, after others had come
                needed = list(handles)
                continue
            if not answer.missing:
                place.has.update(handles)
            return answer

    async def _scatter(self, value: Bundle, addresses: list[str], *, broadcast: bool = False) -> Any:
        """Give it to the workers; straight, if they can be reached."""
        where: dict[str, Any] = {"workers": addresses, "broadcast": broadcast, "hash": False}
        if self._workers.direct:
            with contextlib.suppress(OSError):
                return await self._client.scatter(value, direct=True, **where)
        return await self._client.scatter(value, direct=False, **where)

    def put(self, blob: BlobParts, members: Sequence[str]) -> Call | None:
        addresses = [place.address for key in members if (place := self._workers.places.get(key)) is not None]
        return asyncio.run_coroutine_threadsafe(self._scatter(pack_blob(blob), addresses, broadcast=True), self._loop)

    def drop(self, handle: Any) -> None:
        for place in self._workers.places.values():
            place.has.discard(handle)
        handle.release()

    def cancel(self, call: Call) -> bool:
        # A call is "running" from the moment when Dask has its task, as that does not tell whether a task has begun.
        return isinstance(call, Future) and call.cancel()

    def forget(self, call: Call) -> None:
        if (task := self._tasks.get(call)) is not None:
            self._loop.call_soon_threadsafe(task.cancel)

    def fate(self, error: BaseException) -> Fate:
        if isinstance(error, (WorkerGone, OSError)) or is_death(error):
            return "died"
        return "shut" if self._workers.closed else "failed"

    def send(self, member: str, data: bytes) -> bool:
        if (place := self._workers.places.get(member)) is None:
            return False
        asyncio.run_coroutine_threadsafe(self._send(place.address, data), self._loop)
        return True

    async def _send(self, address: str, data: bytes) -> None:
        try:
            await self._client.run(control, data, workers=[address], wait=False)
        except Exception as error:
            log.info("x %s could not be told something at %s: %r", self.name, address, error)

    def renew(self) -> bool:
        return False

    def unanswering(self, member: str) -> str | None:
        place = self._workers.places.get(member)
        if place is None or self._client.status != "running":
            return f"{self.name} has it no more"
        return None if place.status == "running" else f"{self.name} has {place.status} {place.member.name}"


def _address_of(source: Any) -> str:
    """Of the scheduler.

    Raises:
        ValueError: A client is not connected.
    """
    if isinstance(source, str):
        return f"tcp://{source.partition('://')[2].rstrip('/')}"
    if not isinstance(source, distributed.Client):
        return str(source.scheduler_address)
    if source.scheduler is None:
        raise ValueError(f"this client of Dask is not connected ({source.status}): await it first, or make a new one")
    return str(source.scheduler.address)


def _gone(place: Place) -> WorkerGone:
    return WorkerGone(f"the Dask worker {place.member.name} is gone")


def _settle(call: Future[Answer], answer: Answer | None = None, error: BaseException | None = None) -> None:
    with contextlib.suppress(InvalidStateError):  # it was taken back
        if answer is not None:
            call.set_result(answer)
        else:
            call.set_exception(error)
