"""What is kept for whom, and when it is forgotten."""

from __future__ import annotations

from distmap.driver.blobs import Blobs, Growth, Holder
from distmap.tasks.payload import Blob, Payload


def blob(name: str, nbytes: int = 10) -> Blob:
    return Blob(name.encode(), "value", Payload(bytes(nbytes)))


def test_a_blob_goes_with_its_last_holder() -> None:
    """What two chunks and a job need is kept until none of them does; equal digests are kept once."""
    blobs = Blobs(frozenset())
    holders = [Holder(1, 5), Holder(1, 6), Holder(2)]
    for holder in holders:
        blobs.keep(holder, [blob("a")])
    blobs.keep(holders[0], [blob("b", 7)])
    assert (len(blobs), blobs.nbytes, blobs[b"a"], b"b" in blobs) == (2, 17, blob("a"), True)
    assert blobs.let_go(holders[0]) == [b"b"]
    assert blobs.let_go(holders[1]) == []
    assert blobs.let_go(holders[1]) == []
    assert blobs.let_go(holders[2]) == [b"a"]
    assert (len(blobs), blobs.nbytes) == (0, 0)


def test_a_job_ends_with_all_its_chunks() -> None:
    """Nothing of a job that is over is kept, and nothing of another goes."""
    blobs = Blobs(frozenset())
    for holder in (Holder(1), Holder(1, 1), Holder(2, 1)):
        blobs.keep(holder, [blob(str(holder)), blob("all")])
    assert sorted(blobs.end(1)) == sorted(str(holder).encode() for holder in (Holder(1), Holder(1, 1)))
    assert sorted(blobs.end(2)) == sorted([str(Holder(2, 1)).encode(), b"all"])
    assert blobs.end(3) == []


def test_a_pinned_blob_outlives_its_holders() -> None:
    """A value whose handle lives stays, wherever it was pinned first; with the handle it goes at once."""
    pinned = {b"a"}
    blobs = Blobs(pinned)
    blobs.keep(Holder(1), [blob("a")])
    assert blobs.end(1) == []
    pinned.clear()
    assert blobs.unpinned(b"a") == ([b"a"], None)
    assert blobs.unpinned(b"a") == ([], None)


def test_a_value_without_its_handle_counts_for_a_chunk() -> None:
    """When the handle goes, what a chunk still needs is that chunk's; what a whole call needs is nobody's growth."""
    blobs = Blobs(frozenset())
    blobs.keep(Holder(1), [blob("a"), blob("b")])
    blobs.keep(Holder(1, 4), [blob("b", 30)])
    assert blobs.unpinned(b"a") == ([], None)
    assert blobs.unpinned(b"b") == ([], Growth(Holder(1, 4), 10))


def test_a_value_counts_once_for_a_chunk_that_came_before_its_handle_was_heard_of() -> None:
    """The bytes of a value are told once, whether its chunk or its handle comes first, and anew for a later chunk."""
    pinned: set[bytes] = set()
    blobs = Blobs(pinned)
    assert blobs.keep(Holder(1, 4), [blob("a"), blob("b", 7)]) == 17
    pinned.add(b"a")
    assert blobs.keep(Holder(1, 5), [blob("a")]) == 0
    pinned.clear()
    assert blobs.unpinned(b"a") == ([], None)
    assert blobs.let_go(Holder(1, 4)) == [b"b"]
    assert blobs.unpinned(b"a") == ([], Growth(Holder(1, 5), 10))
    assert blobs.let_go(Holder(1, 5)) == [b"a"]
