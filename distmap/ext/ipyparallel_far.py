"""What runs in an engine of ipyparallel's: the far end of a call, and what is kept there between calls.

Owns both, and the engine's two ends of the side channel. Must not know what a call does. It is imported by name in the
engine: ipyparallel sends these functions as code, which runs with the names of this module.

Threads: calls run in the engine's main thread, one at a time. Wishes come in its control thread.
"""

from __future__ import annotations

import platform
import socket
from collections.abc import Callable
from typing import Any

from distmap.engine.attempt import BlobParts
from distmap.engine.foreign_host import control
from distmap.ext.packing import pack_answer, unpack_call
from distmap.tasks._typing import Buffer
from distmap.wire.messages import BlobKind

#: Types of messages beside those of ipyparallel's: from a call, and to an engine.
MESSAGE = "distmap_message"
WISH = "distmap_wish"

_kept: dict[bytes, BlobParts] = {}


def _kernel() -> Any:
    from ipykernel.kernelapp import IPKernelApp

    return IPKernelApp.instance().kernel


def about() -> tuple[str, str]:
    """Host and version of Python; from now on, wishes are heard."""
    _kernel().control_handlers[WISH] = lambda _stream, _ident, wish: control(bytes(wish["buffers"][0]))
    return socket.gethostname(), platform.python_version().rpartition(".")[0]


def keep(digest: bytes, kind: BlobKind, *parts: Buffer) -> None:
    """Have a large payload for the calls that name it."""
    _kept[digest] = BlobParts(digest, kind, parts)


def forget(digest: bytes) -> None:
    _kept.pop(digest, None)


def far_end(head: Buffer, kept: list[bytes], *beside: Buffer) -> list[Any]:
    """One call; `kept` are the digests of what `keep` was given."""
    run, task, blobs, parts = unpack_call(head, beside)
    blobs += [_kept[digest] for digest in kept if digest in _kept]
    answer, results = pack_answer(run(task, blobs, parts, _channel()))
    return [answer, *results]


def _channel() -> Callable[[bytes], None]:
    """The way to the client, from the call that runs now."""
    kernel = _kernel()
    request, topic = kernel.get_parent("shell"), kernel._topic(MESSAGE)

    def emit(data: bytes) -> None:
        kernel.session.send(kernel.iopub_socket, MESSAGE, content={}, parent=request, ident=topic, buffers=[data])

    return emit
