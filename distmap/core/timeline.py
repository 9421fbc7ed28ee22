"""What a worker's time went to, for one job: a bounded number of blocks, however many chunks there were.

Owns how blocks are kept and joined. Knows no record of the scheduler; times are arguments, in seconds since the job
began.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from distmap.core.progress import Block, BlockKind

#: Rows of a worker's timeline; slots beyond that share them.
ROWS = 4
#: Blocks kept for each worker and job, in all rows together.
BLOCKS = 240

#: A NamedTuple made without its checks, at a third of the cost.
_new = tuple.__new__


def thin(blocks: Iterable[Block], grain: float) -> list[Block]:
    """Join neighbours of one row and kind that lie within `grain` seconds.

    What is joined begins where the first began and lasts as long as both did; the gap moves behind it. So a drawing
    gets coarser and keeps its shares: no colour vanishes, none spreads, and half a row that was idle still is.
    """
    out: list[Block] = []
    last: dict[tuple[int, BlockKind], tuple[int, Block]] = {}
    for block in blocks:
        row, begin, end, kind = block
        key = row, kind
        if key in last:
            at, before = last[key]
            if end - before[1] <= grain:
                joined = out[at] = _new(Block, (row, before[1], before[2] + (end - begin), kind))
                last[key] = at, joined
                continue
        last[key] = len(out), block
        out.append(block)
    return out


@dataclass(slots=True)
class Track:
    """One row of a timeline. Blocks are entered as they end, each in constant time on average."""

    row: int
    most: int = BLOCKS
    #: All blocks but the last, which is spread out here: it may still grow.
    blocks: list[Block] = field(default_factory=list)
    attempt: int = -1
    begin: float = 0.0
    end: float = 0.0
    kind: BlockKind | None = None
    #: Seconds: neighbours within so much are joined at once.
    grain: float = 0.0

    def add(self, attempt: int, begin: float, end: float, kind: BlockKind) -> None:
        """Enter what an attempt did from `begin` to `end`; what is in the row already is not covered again."""
        # This runs for every report: hence no `max`, and no Block before it is sure to stay.
        if begin < self.end:
            begin = self.end
        if kind == self.kind:
            if attempt == self.attempt:
                self.end = end
                return
            if end - self.begin <= self.grain:
                self.end += end - begin
                self.attempt = -1
                return
        if begin >= end and kind in ("done", "running"):
            return
        if self.kind is not None:
            self.blocks.append(_new(Block, (self.row, self.begin, self.end, self.kind)))
            if len(self.blocks) >= self.most:
                self._thin(end)
        self.attempt, self.begin, self.end, self.kind = attempt, begin, end, kind

    def show(self, out: list[Block]) -> None:
        """Add all its blocks to a list."""
        out += self.blocks
        if self.kind is not None:
            out.append(_new(Block, (self.row, self.begin, self.end, self.kind)))

    def _thin(self, elapsed: float) -> None:
        """To half of what is allowed, so that the next time is far off."""
        while len(self.blocks) > self.most // 2:
            self.grain = max(2 * self.grain, elapsed / self.most)
            self.blocks = thin(self.blocks, self.grain)


def tracks(slots: int) -> list[Track]:
    """The empty timeline of a worker with so many slots."""
    rows = min(slots, ROWS)
    return [Track(row, BLOCKS // rows) for row in range(rows)]
