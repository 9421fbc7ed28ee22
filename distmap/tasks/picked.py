"""One item out of a chunk, as a chunk of its own.

Owns the copy: it shares no memory with the chunk, so that whoever keeps one item keeps no other. Must not know tasks or
who keeps it. For the kernel: task processes do not import this.
"""

from __future__ import annotations

import _pickle
from itertools import accumulate

from distmap.tasks.broadcast import Dependencies
from distmap.tasks.items import Items, encode
from distmap.tasks.payload import Payload


def pick(payload: Payload, at: int) -> Payload:
    """The item at offset `at`; `Items(...)` opens it. Runs nothing of the user's, unless the chunk has classes."""
    items = Items(payload.parts)
    if items.whole is not None:
        picked, _ = encode(items.whole[at : at + 1], Dependencies(), what="the item")
        return Payload(bytes(picked.head), tuple(map(bytearray, picked.buffers)))
    # With the item go the classes that all items of the chunk share, which follow the last item.
    parts = [at] if len(items.ends) == items.count else [at, items.count]
    pickles = [bytes(items.pickled(part)) for part in parts]
    buffers: list[bytearray] = []
    used: dict[int, list[int]] = {}
    for number, part in enumerate(parts):
        if found := items.buffers_of(part):
            used[number] = list(range(len(buffers), len(buffers) + len(found)))
            buffers += map(bytearray, found)
    ends = list(accumulate(map(len, pickles), initial=1))
    table = _pickle.dumps((1, ends[1:], used), 5)
    return Payload(b"".join([b"i", *pickles, table, ends[-1].to_bytes(8, "little")]), tuple(buffers))
