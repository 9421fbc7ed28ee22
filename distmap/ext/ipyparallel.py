"""ipyparallel behind the port of foreign engines: each of its engines is a member with one slot.

Owns the calls to an ipyparallel client, and what its engines keep for it. A chunk is a request to one engine. Large
buffers travel beside the pickle, so that nothing copies them on the way. Must not know what is run.

The side channel is made of ipyparallel's own: messages of a call come on the channel of its output (IOPub), wishes
reach an engine on its control channel, which has a thread of its own there.

Threads: the client sends and calls back in its own thread. Engines are looked up in a thread of ours. The names of
messages are counted without a lock in the client, so there is one here. Errors of calls are told after the next look
at the engines: so who is gone is known first.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from functools import partial
from time import monotonic
from typing import Any

from ipyparallel import error as errors
from ipyparallel.serialize import PrePickled

from distmap.engine.adapter import AdapterEvents, Call, Fate, Member, Run
from distmap.engine.attempt import Answer, BlobParts
from distmap.engine.base import Parts
from distmap.ext.ipyparallel_far import MESSAGE, WISH, about, far_end, forget, keep
from distmap.ext.packing import pack_call, unpack_answer
from distmap.wire.messages import Task

log = logging.getLogger("distmap")

#: Seconds between two looks at who is there.
LOOK_EVERY = 1.0
#: Seconds to wait for the first engine that says what it is. Others may be at work, and come later.
OPEN_LIMIT = 10.0
#: Seconds between two questions to the controller, which keeps a line of each in its log.
ASK_EVERY = 5.0
#: A controller that has not answered for so many seconds is gone.
GONE_AFTER = 10.0

_FAR_END, _ABOUT, _KEEP, _FORGET = [PrePickled(call) for call in (far_end, about, keep, forget)]


class _Request(Future[Answer]):
    """A call, with its engine and its name there."""

    def __init__(self, member: str, name: str) -> None:
        super().__init__()
        self.member = member
        self.name = name


class IPyParallelAdapter:
    """Engines of an IPython cluster.

    Args:
        given: a client, for all of its engines, also those that come later; or a view, or a view's executor, for the
            engines that it names.
    """

    isolated = True
    here = False
    tagged = False

    def __init__(self, given: Any) -> None:
        view = getattr(given, "view", given)
        self._client: Any = getattr(view, "client", view)
        targets = None if view is self._client else view.targets
        #: Numbers of engines; None: all.
        self._only = {targets} if isinstance(targets, int) else None if targets in (None, "all") else {*targets}
        self.name = f"ipyparallel at {self._client.profile or 'a controller'}"
        self._lock = threading.Lock()
        self._look = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None
        #: What engines said when they were asked what they are, by their permanent names: a sentence if they are of no
        #: use, None while they are at work.
        self._asked: dict[str, Member | str | None] = {}
        #: Calls that ended with an error, which is not told yet.
        self._failed: list[tuple[Future[Any], BaseException]] = []

    def open(self, events: AdapterEvents) -> Sequence[Member]:
        self._events = events
        begun = monotonic()
        while not (members := self._members()) and None in self._asked.values() and monotonic() - begun < OPEN_LIMIT:
            self._look.wait(LOOK_EVERY)
            self._look.clear()
        unfit = [said for said in self._asked.values() if isinstance(said, str)]
        if unfit and len(unfit) == len(self._asked):
            raise RuntimeError(f"no engine can run distmap: {unfit[0]}")
        self._thread = threading.Thread(target=self._watch, name="distmap-ipyparallel", daemon=True)
        self._thread.start()
        return members

    # --- engines -----------------------------------------------------------------------------------------------------

    def _members(self) -> list[Member]:
        """Those that have said what they are; the others are asked."""
        there = {uuid: at for at, uuid in dict(self._client._engines).items() if self._only is None or at in self._only}
        self._asked = {uuid: said for uuid, said in list(self._asked.items()) if uuid in there}
        for uuid in there.keys() - self._asked.keys():
            self._asked[uuid] = None
            self._send(_ABOUT, uuid, []).add_done_callback(partial(self._told, uuid, there[uuid]))
        return [said for said in self._asked.values() if isinstance(said, Member)]

    def _told(self, uuid: str, at: int, future: Future[Any]) -> None:
        answer = future.result()
        if isinstance(answer, Exception):
            log.warning("! engine %d of %s cannot run distmap: %s", at, self.name, answer)
            self._asked[uuid] = str(answer)
        else:
            host, python = answer
            self._asked[uuid] = Member(uuid, f"engine-{at}", host, 1, python)
        self._look.set()

    def _watch(self) -> None:
        ping: Future[Any] | None = None
        asked = 0.0
        while not self._closed:
            self._look.wait(LOOK_EVERY)
            self._look.clear()
            failed, self._failed = self._failed, []
            if self._client._closed:
                return self._end(f"the client of {self.name} was closed")
            if ping is None or (ping.done() and monotonic() - asked > ASK_EVERY):
                asked = monotonic()
                with self._lock:
                    ping = self._client._send(self._client._query_stream, "connection_request")
            elif not ping.done() and monotonic() - asked > GONE_AFTER:
                return self._end(f"the controller of {self.name} has not answered for {GONE_AFTER:.0f} s")
            self._events.members(self._members())
            for call, error in failed:
                call.set_exception(error)

    def _end(self, why: str) -> None:
        if not self._closed:
            self._events.ended(why)

    # --- calls -------------------------------------------------------------------------------------------------------

    def _send(self, function: Any, member: str, args: list[Any], hear: Callable[[Any], None] | None = None) -> Any:
        client = self._client

        def begin(future: Any) -> None:
            if hear is not None:
                future.iopub_callbacks.append(hear)

        with self._lock:
            sent: Any = client.send_apply_request(
                client._mux_stream, function, args, ident=member.encode(), message_future_hook=begin
            )
            client.history.remove(sent.msg_id)  # it keeps the names of all, for ever
        return sent

    def _control(self, kind: str, member: str, content: dict[str, Any], *buffers: bytes) -> None:
        client = self._client
        with self._lock:
            message = client.session.msg(kind, content=content)
        send = partial(client.session.send, client._control_stream, message)
        client._io_loop.add_callback(send, ident=member.encode(), buffers=list(buffers))

    def submit(
        self, member: str, run: Run, task: Task, blobs: Sequence[BlobParts], handles: Sequence[Any], parts: Parts
    ) -> Call:
        head, beside = pack_call(run, task, blobs, parts)
        sent = self._send(_FAR_END, member, [head, list(handles), *beside], self._heard)
        call = _Request(member, sent.msg_id)
        sent.add_done_callback(partial(self._ended, call))
        return call

    def _ended(self, call: Future[Answer], future: Future[Any]) -> None:
        try:
            answer = future.result()
            if isinstance(answer, errors.TaskAborted):
                raise CancelledError
            if isinstance(answer, Exception):
                raise answer
            head, *beside = answer
            call.set_result(unpack_answer(head, beside))
        except (Exception, CancelledError) as error:
            self._failed.append((call, error))
            self._look.set()

    def _heard(self, message: Any) -> None:
        if message["msg_type"] == MESSAGE:
            self._events.received(bytes(message["buffers"][0]))

    def put(self, blob: BlobParts, members: Sequence[str]) -> Call:
        for member in members:
            self._send(_KEEP, member, [blob.digest, blob.kind, *blob.parts])
        handle: Future[Any] = Future()
        handle.set_result(blob.digest)  # requests of one client reach an engine in order
        return handle

    def drop(self, handle: Any) -> None:
        for member, said in list(self._asked.items()):
            if isinstance(said, Member):
                self._send(_FORGET, member, [handle])

    def cancel(self, call: Call) -> bool:
        self.forget(call)
        return False  # if it had not begun, that is its answer

    def forget(self, call: Call) -> None:
        assert isinstance(call, _Request)
        self._control("abort_request", call.member, {"msg_ids": [call.name]})

    def fate(self, error: BaseException) -> Fate:
        if self._client._closed:
            return "shut"
        return "died" if getattr(error, "ename", "") == "EngineError" else "failed"

    def send(self, member: str, data: bytes) -> bool:
        self._control(WISH, member, {}, data)
        return True

    def renew(self) -> bool:
        return False

    def unanswering(self, member: str) -> str | None:
        return None  # an engine that is gone is no member any more

    def close(self) -> None:
        self._closed = True
        self._look.set()
        if self._thread is not None:
            self._thread.join()
