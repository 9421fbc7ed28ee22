"""What a call to a worker of somebody else's engine runs there if its adapter is isolated.

Owns the slots of ours in this foreign process (`foreign_slots.py`): a chunk runs there in a task process of ours. A
crash, `os._exit` or a time limit so ends one item, and neither the engine's worker nor the engine; and code that holds
the GIL does not keep it from its heartbeats. Where no process can be started, a chunk runs in the call itself, and says
so once. What was started leaves after a time without work, and ends with the foreign process.

Threads: `run` is called by any thread of the foreign process, which waits there; `control` by any.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Sequence

from distmap.core.limits import LIMITS
from distmap.engine.adapter import Run
from distmap.engine.attempt import Answer, BlobParts, Emit, Messages, portable, run_there
from distmap.engine.base import Parts
from distmap.engine.foreign_slots import ForeignSlots, HostedCall
from distmap.engine.side_channel import Origin
from distmap.wire.messages import REMARK, Output, Task

#: Seconds between two looks for proof that the loop lives.
_LOOK_AGAIN = 5.0

#: Guards `_host`, and `callers` of it.
_lock = threading.Lock()
_host: ForeignSlots | None = None
#: Of this process: who runs a call knows by it whether it is at home. With the process id, as a fork copies it.
_mark = os.urandom(8)


def _forked() -> None:
    """The thread of the host, and what it had, are not here."""
    global _lock, _host
    _lock, _host = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def home() -> tuple[int, bytes]:
    """This process, for `run_elsewhere`."""
    return os.getpid(), _mark


def run_elsewhere(
    pool: tuple[int, bytes], run: Run, task: Task, blobs: Sequence[BlobParts], parts: Parts, emit: Emit | None
) -> Answer:
    """As `run`, but in the call itself if this is the pool's own process: some executors run calls in threads of it."""
    return (run_there if home() == pool else run)(task, blobs, parts, emit)


def run(slots: int, origin: Origin, task: Task, blobs: Sequence[BlobParts], parts: Parts, emit: Emit | None) -> Answer:
    """Run one attempt in a task process of ours.

    Args:
        slots: how many calls run in this process at once, as far as the engine says.
        origin: who gave the call.
        task, blobs, parts, emit: as of any call, see `adapter.Run`. `emit` is called on the loop's thread.
    """
    call = HostedCall(origin, task, blobs, parts, emit)
    host = _enter(slots)
    try:
        host.portal.call(host.begin, call)
        while not call.done.wait(_LOOK_AGAIN):
            if host.portal.join(0):
                raise RuntimeError("the thread of distmap in this worker has ended, as the worker does")
    except BaseException:  # an interrupt
        if not host.portal.join(0):
            host.portal.call(host.abandon, call)
        raise
    finally:
        _leave(host)
    if call.error is not None:
        raise RuntimeError("a bug of distmap showed in this worker; please report its cause") from call.error
    if call.unable is not None:
        answer = run_there(task, blobs, parts, emit)
        return answer if answer.missing else answer._replace(messages=[*_remark(host, call), *answer.messages])
    messages: Messages = [(message, portable(parts)) for message, parts in call.messages]
    return Answer(messages, call.missing, call.ended - call.begun, call.first)


def control(data: bytes) -> None:
    """A wish of a pool for a call that runs in this process, or will; others are ignored. From any thread."""
    with _lock:
        if _host is not None:
            _host.portal.call(_host.wish, data)


def _remark(host: ForeignSlots, call: HostedCall) -> Messages:
    """What is said once of a process in which no task process can be started."""
    with _lock:
        said, host.unable = host.unable, ""
    if not said:
        return []
    text = (
        f"no task process can be started there ({said}): items run in the process of the engine's own worker, so an "
        "item that ends its process ends that, and timeout= has no effect"
    ).encode()
    return [(Output(call.task.slot, call.task.attempt, 0, ((-1, REMARK, len(text)),)), [text])]


def _enter(slots: int) -> ForeignSlots:
    global _host
    with _lock:
        if _host is None:
            _host = ForeignSlots(max(1, slots), _forget_if_idle)
        _host.callers += 1
        return _host


def _leave(host: ForeignSlots) -> None:
    with _lock:
        host.callers -= 1
        if not host.callers and _host is host:
            host.portal.call(host.rest)


def _forget_if_idle(host: ForeignSlots) -> bool:
    """Let a call that comes from now on start anew, if this one has none."""
    global _host
    with _lock:
        if host.callers or _host is not host:
            return False
        _host = None
        return True


def end() -> None:
    """End what was started in this process, now. A call that comes later starts anew."""
    global _host
    with _lock:
        host, _host = _host, None
    if host is not None:
        host.portal.run(host.close()).result(LIMITS.engine_close)
        host.portal.close()


atexit.register(end)
