"""Blocks of a worker's time."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest

from distmap.core.progress import ROWS, Block
from distmap.core.timeline import Track, join_blocks, tracks

BLOCKS = 240


def shown(*rows: Track) -> list[Block]:
    out: list[Block] = []
    for row in rows:
        row.show(out)
    return out


def test_slots_have_rows_up_to_a_number() -> None:
    """More slots share the rows, and the rows share the blocks."""
    assert [len(tracks(slots, BLOCKS)) for slots in (1, 3, ROWS, 64)] == [1, 3, ROWS, ROWS]
    assert [track.row for track in tracks(3, BLOCKS)] == [0, 1, 2]
    assert sum(track.most for track in tracks(64, BLOCKS)) <= BLOCKS
    assert shown(*tracks(2, BLOCKS)) == []


def test_reports_of_one_attempt_are_one_block() -> None:
    """Each attempt has its own; one that turned out otherwise begins another."""
    track = Track(1, BLOCKS)
    track.add(7, 0.0, 1.0, "done")
    track.add(7, 1.1, 2.0, "done")
    track.add(7, 2.0, 3.0, "failed")
    track.add(8, 3.0, 4.0, "failed")
    assert shown(track) == [Block(1, 0.0, 2.0, "done"), Block(1, 2.0, 3.0, "failed"), Block(1, 3.0, 4.0, "failed")]


def test_what_is_in_the_row_is_not_covered_again() -> None:
    """Slots that share a row may overlap; of a block that would be empty only troubles are kept."""
    track = Track(0, BLOCKS)
    track.add(1, 0.0, 10.0, "done")
    track.add(2, 5.0, 12.0, "done")
    track.add(3, 8.0, 12.0, "done")
    track.add(4, 11.0, 12.0, "lost")
    assert shown(track) == [Block(0, 0.0, 10.0, "done"), Block(0, 10.0, 12.0, "done"), Block(0, 12.0, 12.0, "lost")]


def test_neighbours_are_joined_and_keep_their_shares() -> None:
    """Half idle stays half idle; nothing is joined over the grain, over rows or over kinds."""
    halves = [Block(0, float(at), at + 0.5, "done") for at in range(8)]
    assert join_blocks(halves, 2.0) == [Block(0, at, at + 1.0, "done") for at in (0.0, 2.0, 4.0, 6.0)]
    assert join_blocks(halves, 0.9) == halves
    mixed = [Block(0, 0.0, 1.0, "done"), Block(1, 0.0, 1.0, "done"), Block(0, 1.0, 2.0, "failed")]
    assert join_blocks(mixed, 9.0) == mixed
    ended = [Block(0, 2.0, 3.0, "done"), Block(0, 3.0, 4.0, "failed")]
    assert join_blocks(mixed + ended, 9.0) == [
        Block(0, 0.0, 2.0, "done"),
        Block(1, 0.0, 1.0, "done"),
        Block(0, 1.0, 3.0, "failed"),
    ]


@pytest.mark.parametrize("seconds", [0.0, 1e-6, 0.02, 3.0])
def test_however_many_chunks_the_blocks_are_few(seconds: float) -> None:
    """A hundred thousand chunks leave no more blocks than allowed, in order, without one over the other."""
    (track,) = tracks(1, BLOCKS)
    now = 0.0
    for attempt in range(100_000):
        track.add(attempt, now, now + seconds, "done")
        now += 1.25 * seconds
        assert len(track.blocks) <= BLOCKS
    blocks = shown(track)
    assert len(blocks) > BLOCKS // 4 or not seconds
    assert all(a.begin <= a.end <= b.begin for a, b in pairwise(blocks))
    assert sum(b.end - b.begin for b in blocks) == pytest.approx(100_000 * seconds)


def test_troubles_stay_visible() -> None:
    """One failure among ten thousand chunks is there at the end, where it was and as long as it was."""
    (track,) = tracks(1, BLOCKS)
    for attempt in range(10_000):
        track.add(attempt, attempt * 0.1, attempt * 0.1 + 0.09, "failed" if attempt == 4_000 else "done")
    (failed,) = [block for block in shown(track) if block.kind == "failed"]
    assert failed.begin == pytest.approx(400.0)
    assert failed.end - failed.begin == pytest.approx(0.09)


def test_a_wild_mix_keeps_the_time_of_each_kind() -> None:
    """Whatever comes, kinds keep the time that they took."""
    random = Random(1)
    (track,) = tracks(1, BLOCKS)
    spent = {"done": 0.0, "retried": 0.0, "failed": 0.0, "lost": 0.0}
    now = 0.0
    for attempt in range(20_000):
        kind = random.choices(list(spent), (80, 10, 5, 5))[0]
        seconds = random.expovariate(10)
        track.add(attempt, now, now + seconds, kind)  # type: ignore[arg-type]
        spent[kind] += seconds
        now += seconds * random.choice((1.0, 1.5))
    blocks = shown(track)
    assert len(blocks) <= BLOCKS + 1
    for kind, seconds in spent.items():
        assert sum(block.end - block.begin for block in blocks if block.kind == kind) == pytest.approx(
            seconds, rel=0.02
        )
