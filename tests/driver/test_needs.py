"""What tasks of a code need on a worker."""

from __future__ import annotations

import types
from typing import Any, cast

from distmap.driver.blobs import Blobs, Holder
from distmap.driver.needs import needs_of, that_travel
from distmap.driver.workers import WorkerEntry
from distmap.engine.base import WorkerInfo
from distmap.tasks.code import Code, Setup
from distmap.tasks.payload import Blob, Payload
from distmap.tasks.surroundings import CallSurroundings


def blob(name: str, kind: Any) -> Blob:
    return Blob(name.encode(), kind, Payload(b""))


HERE, THERE, TRACKER = blob("here", "surroundings"), blob("there", "surroundings"), blob("tracker", "descriptor")
EXTRAS, MODULE = blob("extras", "extras"), blob("module", "modules")
SURROUNDINGS = CallSurroundings(HERE, THERE, TRACKER)


def kept(*codes: Code) -> Blobs:
    blobs = Blobs(lambda digest: None, lambda holder, nbytes: None)
    for code in codes:
        blobs.keep(Holder(1), [*code.blobs, Blob(code.digest, "code", code.payload), HERE, THERE, TRACKER])
    return blobs


def worker(place: str, *tags: str) -> WorkerEntry:
    info = WorkerInfo("w", "host", 1, "3.13", tags=frozenset(tags))
    engine = cast(Any, types.SimpleNamespace(place=place))
    return WorkerEntry(cast(Any, types.SimpleNamespace(attempts=None, post=None)), 1, info, engine)


def test_each_place_is_sent_what_it_can_use() -> None:
    """What modules find on this machine stays here; what its processes share goes nowhere else."""
    code = Code(b"code", Payload(b""), (EXTRAS, MODULE), SURROUNDINGS)
    blobs = kept(code)
    assert needs_of(code, worker("here"), blobs) == (b"tracker", b"here", b"module")
    assert needs_of(code, worker("there"), blobs) == (b"there", b"extras", b"module")
    assert that_travel([b"tracker", b"module"], worker("there"), blobs) == (b"module",)


def test_a_set_up_is_needed_where_its_tags_are() -> None:
    """Before the code, with what itself needs; and the next call may have it for other workers."""
    first = Code(b"set-up", Payload(b""), (EXTRAS,))
    code = Code(b"code", Payload(b""), (MODULE,), setups=(Setup(first, None, frozenset({"gpu"})),))
    blobs, entry = kept(first, code), worker("there", "gpu")
    assert needs_of(code, worker("there"), blobs) == (b"module",)
    assert needs_of(code, entry, blobs) == (b"extras", b"set-up", b"module")
    moved = code._replace(setups=(Setup(first, None, frozenset({"cpu"})),))
    assert needs_of(moved, entry, blobs) == (b"module",)
