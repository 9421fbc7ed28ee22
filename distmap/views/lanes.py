"""The lanes of a job: a table with a timeline for each worker.

Owns which workers are shown and how a timeline is drawn: one `<svg>` for each lane, with one path for each colour,
about eight bytes for a block. Colours and measures are the style sheet's.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import frexp

from distmap.core.progress import Block, BlockKind, Lane, Snapshot, WorkerState
from distmap.core.timeline import thin
from distmap.views.words import counted, is_live, number, printable, took

#: More lanes than this are counted, not shown: a cell is no log.
LANES = 8
#: Blocks drawn in a lane, joined if there are more: eight lanes stay under 8 kB, which is sent four times a second.
DRAWN = 64

_WORKER_WORDS: dict[WorkerState, str] = {
    "idle": "idle",
    "busy": "busy",
    "resting": "resting after crashes",
    "suspect": "silent",
    "draining": "leaving",
    "lost": "lost",
}
#: Where a number would say nothing.
_NONE = "\N{EN DASH}"
#: Kind of block -> class of its colour, in the order of drawing: what went wrong is on top.
_COLOURS: dict[BlockKind, str] = {
    "running": "fly",
    "done": "go",
    "lost": "gone",
    "retried": "again",
    "failed": "bad",
}


def _fitting(blocks: Sequence[Block], elapsed: float) -> Sequence[Block]:
    """The blocks, joined until they are few enough to draw."""
    if len(blocks) <= DRAWN:
        return blocks
    # A power of two, so that the borders of what is joined stay where they are from one drawing to the next.
    grain = 2.0 ** (frexp(elapsed / DRAWN)[1] - 1)
    while len(blocks) > DRAWN:
        blocks = thin(blocks, grain)
        grain *= 2
    return blocks


def _drawing(lane: Lane, elapsed: float) -> str:
    """The timeline: one path for each colour, a line for each block, as wide as its row is high.

    A thousand units are the whole time, about half a pixel each; 24 the height.
    """
    scale = 1000 / elapsed if elapsed > 0 else 0.0
    height = 24 // lane.rows
    moves: dict[BlockKind, list[str]] = {kind: [] for kind in _COLOURS}
    ends: dict[tuple[BlockKind, int], int] = {}
    for row, begin, end, kind in _fitting(lane.blocks, elapsed):
        x, width = round(begin * scale), round((end - begin) * scale)
        # What went wrong is seen however short it was.
        width = max(width, 1 if kind in ("done", "running") else 4)
        x = max(0, min(x, 1000 - width))
        before = ends.get((kind, row))
        if before is None:
            moves[kind].append(f"M{x} {height * row + height // 2}h{width}")
        else:
            # A hair between neighbours that touch.
            hair = 2 - (x - before) if width > 5 and 0 <= x - before < 2 else 0
            moves[kind].append(f"m{x - before + hair} 0h{width - hair}")
        ends[kind, row] = x + width
    paths = "".join(f'<path class="dm-{_COLOURS[kind]}" d="{"".join(d)}"/>' for kind, d in moves.items() if d)
    view = 'viewBox="0 0 1000 24" preserveAspectRatio="none"'
    return f'<svg class="dm-time dm-rows-{lane.rows}" {view}>{paths}</svg>'


def _lane_html(lane: Lane, snapshot: Snapshot) -> str:
    name, state, live = escape(printable(lane.name)), _WORKER_WORDS[lane.state], is_live(snapshot)
    lost = lane.state == "lost"
    dim = ' class="dm-gone"' if lost else ""
    busy = f"{lane.busy:.0%}" if not lost else _NONE if live else state
    flight = state if lane.state not in ("idle", "busy") else number(lane.in_flight) if lane.in_flight else _NONE
    return (
        f'<tr{dim}><td title="{name}, {counted(lane.slots, "slot")}, {state}">'
        f'<span class="dm-dot dm-dot-{lane.state}"></span>{name}<span class="dm-alt"> ({state})</span></td>'
        f'<td><span class="dm-alt">{number(lane.items)}</span>{_drawing(lane, snapshot.elapsed)}</td>'
        f"<td>{busy}</td><td>{number(lane.chunks)}</td>{f'<td>{flight}</td>' if live else ''}</tr>"
    )


def _chosen(lanes: Sequence[Lane]) -> tuple[list[Lane], list[Lane]]:
    """Lanes to show, in their order, and the others.

    Those in trouble come first, then those that do most. Rough measures only: the choice must not change with every
    drawing.
    """
    if len(lanes) <= LANES:
        return list(lanes), []
    lost = [at for at, lane in enumerate(lanes) if lane.state == "lost"]
    # Half of the rows at most: a dead fleet must not hide the one that works.
    shown = set(lost[-LANES // 2 :])
    for at in sorted(range(len(lanes)), key=lambda at: (_weight(lanes[at]), at)):
        if len(shown) < LANES:
            shown.add(at)
    return [lanes[at] for at in sorted(shown)], [lane for at, lane in enumerate(lanes) if at not in shown]


def _weight(lane: Lane) -> tuple[bool, bool, int]:
    """The less, the sooner it is shown."""
    return lane.state == "lost", lane.state not in ("suspect", "draining"), -lane.items.bit_length()


def _rest_html(lanes: Sequence[Lane], live: bool) -> str:
    """One row for all workers that have none of their own."""
    slots = sum(lane.slots for lane in lanes if lane.state != "lost")
    busy = sum(lane.busy * lane.slots for lane in lanes if lane.state != "lost") / slots if slots else 0.0
    lost = sum(lane.state == "lost" for lane in lanes)
    words = f"and {counted(len(lanes), 'more worker')}" + (f", {number(lost)} of them lost" if lost else "")
    flight = f"<td>{number(sum(lane.in_flight for lane in lanes))}</td>" if live else ""
    items, chunks = sum(lane.items for lane in lanes), sum(lane.chunks for lane in lanes)
    return (
        f'<tr class="dm-rest"><td>{words}</td><td><span class="dm-alt">{number(items)}</span></td>'
        f"<td>{busy:.0%}</td><td>{number(chunks)}</td>{flight}</tr>"
    )


def _legend(snapshot: Snapshot, lanes: Sequence[Lane]) -> str:
    """What the colours mean: those that the job has, as a narrow notebook has no room for more."""
    live = is_live(snapshot)
    left = not live and any(block.kind == "running" for lane in lanes for block in lane.blocks)
    words: list[tuple[BlockKind, str, bool | int]] = [
        ("done", "done", True),
        ("running", "running" if live else "broken off", live or left),
        ("retried", "retried", snapshot.retried),
        ("failed", "failed", snapshot.failed),
        ("lost", "lost", snapshot.deaths or snapshot.losses),
    ]
    return "".join(f'<i class="dm-{_COLOURS[kind]}" data-t="{word}"></i>' for kind, word, there in words if there)


def lanes_html(snapshot: Snapshot) -> str:
    """A row for each worker: what its time went to, how busy it was, chunks, and what it has in flight.

    The timeline is that of the whole job, so that it shows when a worker came, rested or was lost.
    """
    live = is_live(snapshot)
    if not snapshot.lanes:
        return '<div class="dm-foot">Waiting for a worker</div>' if live else ""
    lanes, others = _chosen(snapshot.lanes)
    rows = "".join(_lane_html(lane, snapshot) for lane in lanes)
    if others:
        rows += _rest_html(others, live)
    whole = took(snapshot)
    ends = (f"\N{MINUS SIGN}{whole}", "now") if live else ("0:00" if ":" in whole else "0 s", whole)
    axis = (
        f'<span class="dm-axis"><i data-t="{ends[0]}"></i><span class="dm-key">{_legend(snapshot, lanes)}</span>'
        f'<i data-t="{ends[1]}"></i></span>'
    )
    flight = "<th>In flight</th>" if live else ""
    return (
        f'<table class="dm-lanes"><thead><tr><th>Worker</th><th><span class="dm-alt">Items</span>{axis}</th>'
        f"<th>Busy</th><th>Chunks</th>{flight}</tr></thead><tbody>{rows}</tbody></table>"
    )
