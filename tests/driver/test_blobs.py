"""What is kept for whom, and when it is forgotten."""

from __future__ import annotations

from distmap.driver.blobs import Blobs, Holder
from distmap.tasks.payload import Blob, Payload
from distmap.tasks.surroundings import CallSurroundings


def blob(name: str, nbytes: int = 10) -> Blob:
    return Blob(name.encode(), "value", Payload(bytes(nbytes)))


class Kept(Blobs):
    """Blobs that note what the workers are to forget, and what is one chunk's from now on."""

    def __init__(self) -> None:
        self.grown: list[tuple[Holder, int]] = []
        self._dropped: list[bytes] = []
        super().__init__(self._dropped.append, lambda holder, nbytes: self.grown.append((holder, nbytes)))

    def dropped(self) -> list[bytes]:
        """What was dropped since the last call."""
        dropped, self._dropped[:] = self._dropped[:], []
        return dropped


def test_a_blob_goes_with_its_last_holder() -> None:
    """What two chunks and a job need is kept until none of them does; equal digests are kept once."""
    blobs = Kept()
    holders = [Holder(1, 5), Holder(1, 6), Holder(2)]
    for holder in holders:
        blobs.keep(holder, [blob("a")])
    blobs.keep(holders[0], [blob("b", 7)])
    assert (len(blobs), blobs.nbytes, blobs[b"a"], b"b" in blobs) == (2, 17, blob("a"), True)
    blobs.let_go(holders[0])
    assert blobs.dropped() == [b"b"]
    blobs.let_go(holders[1])
    blobs.let_go(holders[1])
    assert blobs.dropped() == []
    blobs.let_go(holders[2])
    assert blobs.dropped() == [b"a"]
    assert (len(blobs), blobs.nbytes) == (0, 0)


def test_a_job_ends_with_all_its_chunks() -> None:
    """Nothing of a job that is over is kept, and nothing of another goes."""
    blobs = Kept()
    for holder in (Holder(1), Holder(1, 1), Holder(2, 1)):
        blobs.keep(holder, [blob(str(holder)), blob("all")])
    blobs.end(1)
    assert sorted(blobs.dropped()) == sorted(str(holder).encode() for holder in (Holder(1), Holder(1, 1)))
    blobs.end(2)
    assert sorted(blobs.dropped()) == sorted([str(Holder(2, 1)).encode(), b"all"])
    blobs.end(3)
    assert blobs.dropped() == []


def test_a_chunk_keeps_its_values_and_the_job_all_else() -> None:
    """A module that came with a chunk stays for the next ones; a value goes with its chunk."""
    blobs = Kept()
    module = Blob(b"m", "modules", Payload(bytes(100)))
    assert blobs.keep_for_chunk(1, 4, [blob("a"), module]) == 10
    assert blobs.keep_for_chunk(1, 5, [module]) == 0
    blobs.let_go(Holder(1, 4))
    blobs.let_go(Holder(1, 5))
    assert blobs.dropped() == [b"a"]
    blobs.end(1)
    assert blobs.dropped() == [b"m"]


def test_a_pinned_blob_outlives_its_holders() -> None:
    """A value whose handle lives stays, wherever it was pinned first; with the handle it goes at once."""
    blobs = Kept()
    blobs.pin(b"a")
    blobs.keep(Holder(1), [blob("a")])
    blobs.end(1)
    assert blobs.dropped() == []
    blobs.unpin(b"a")
    assert blobs.dropped() == [b"a"]
    blobs.unpin(b"a")
    assert (blobs.dropped(), blobs.grown) == ([], [])


def test_a_value_without_its_handle_counts_for_a_chunk() -> None:
    """When the handle goes, what a chunk still needs is that chunk's; what a whole call needs is nobody's growth."""
    blobs = Kept()
    blobs.keep(Holder(1), [blob("a"), blob("b")])
    blobs.keep(Holder(1, 4), [blob("b", 30)])
    blobs.unpin(b"a")
    assert blobs.grown == []
    blobs.unpin(b"b")
    assert blobs.grown == [(Holder(1, 4), 10)]
    assert blobs.dropped() == []


def test_a_value_counts_once_for_a_chunk_that_came_before_its_handle_was_heard_of() -> None:
    """The bytes of a value count once, whether its chunk or its handle comes first, and anew for a later chunk."""
    blobs = Kept()
    assert blobs.keep(Holder(1, 4), [blob("a"), blob("b", 7)]) == 17
    blobs.pin(b"a")
    assert blobs.keep(Holder(1, 5), [blob("a")]) == 0
    blobs.unpin(b"a")
    assert (blobs.dropped(), blobs.grown) == ([], [])
    blobs.let_go(Holder(1, 4))
    assert blobs.dropped() == [b"b"]
    blobs.unpin(b"a")
    assert blobs.grown == [(Holder(1, 5), 10)]
    blobs.let_go(Holder(1, 5))
    assert blobs.dropped() == [b"a"]


def test_the_surroundings_of_the_last_call_are_kept() -> None:
    """What the next job will most likely need stays on the workers, until a call comes with others."""
    blobs = Kept()
    first, second = (
        CallSurroundings(Blob(b"f", "extras", Payload(b"1"))),
        CallSurroundings(Blob(b"g", "extras", Payload(b"2"))),
    )
    blobs.keep_surroundings(first)
    blobs.keep(Holder(1), [one for one in first if one is not None])
    blobs.end(1)
    assert b"f" in blobs
    blobs.keep_surroundings(second)
    assert blobs.dropped() == [b"f"]
