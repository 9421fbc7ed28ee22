"""The lanes of a job: a table with a timeline for each worker.

Owns which workers are shown and how a timeline is drawn: one `<svg>` for each lane, with one path for each kind of
block, about eight bytes for a block. Colours and measures are in the style sheet (`.dm-block-...`).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import frexp

from distmap.core.progress import Block, BlockKind, Lane, Snapshot, WorkerState
from distmap.core.timeline import join_blocks
from distmap.views.html import NO_NUMBER, text_html
from distmap.views.words import counted, device_words, devices_words, elapsed, held_up, is_live, number, out_of_reach

#: Workers with a row of their own; further ones share a row.
MAX_LANES = 8
#: Blocks drawn in a lane, joined if there are more: eight lanes stay under 8 kB, which is sent four times a second.
MAX_BLOCKS = 64

_WORKER_WORDS: dict[WorkerState, str] = {
    "idle": "idle",
    "busy": "busy",
    "resting": "resting after crashes",
    "suspect": "silent",
    "reconnecting": "reconnecting",
    "draining": "leaving",
    "lost": "lost",
}
#: In the order of drawing: what went wrong is on top.
_KINDS: tuple[BlockKind, ...] = ("running", "done", "lost", "retried", "failed")


def _joined(blocks: Sequence[Block], seconds: float) -> Sequence[Block]:
    """The blocks, joined until they are few enough to draw."""
    if len(blocks) <= MAX_BLOCKS:
        return blocks
    # A power of two, so that the borders of joined blocks stay in place from one drawing to the next.
    grain = 2.0 ** (frexp(seconds / MAX_BLOCKS)[1] - 1)
    while len(blocks) > MAX_BLOCKS:
        blocks = join_blocks(blocks, grain)
        grain *= 2
    return blocks


def _timeline_svg(lane: Lane, seconds: float) -> str:
    """One path for each kind of block, and in it a line for each block, as wide as its row is high.

    The drawing is 1000 units wide, about half a pixel each, for the whole time of the job; and 24 units high.
    """
    scale = 1000 / seconds if seconds > 0 else 0.0
    height = 24 // lane.rows
    moves: dict[BlockKind, list[str]] = {kind: [] for kind in _KINDS}
    ends: dict[tuple[BlockKind, int], int] = {}
    for row, begin, end, kind in _joined(lane.blocks, seconds):
        x, width = round(begin * scale), round((end - begin) * scale)
        # What went wrong must be visible, however short it was.
        width = max(width, 1 if kind in ("done", "running") else 4)
        x = max(0, min(x, 1000 - width))
        before = ends.get((kind, row))
        if before is None:
            moves[kind].append(f"M{x} {height * row + height // 2}h{width}")
        else:
            # A gap of two units between neighbours that touch.
            gap = 2 - (x - before) if width > 5 and 0 <= x - before < 2 else 0
            moves[kind].append(f"m{x - before + gap} 0h{width - gap}")
        ends[kind, row] = x + width
    paths = "".join(f'<path class="dm-block-{kind}" d="{"".join(d)}"/>' for kind, d in moves.items() if d)
    view = 'viewBox="0 0 1000 24" preserveAspectRatio="none"'
    return f'<svg class="dm-timeline dm-rows-{lane.rows}" {view}>{paths}</svg>'


def _gpu_html(lane: Lane) -> str:
    """The cell that says how busy its GPUs are, all together; what it is of each is shown under the pointer."""
    if not lane.devices or lane.state == "lost":
        return f"<td>{NO_NUMBER}</td>"
    each = "\n".join(map(device_words, lane.devices))
    words = devices_words(lane.devices).replace("GPU memory", "memory").removeprefix("GPU ")
    return f'<td title="{text_html(each)}">{words or NO_NUMBER}</td>'


def _lane_html(lane: Lane, snapshot: Snapshot, gpu: bool) -> str:
    name, state, live = text_html(lane.name), _WORKER_WORDS[lane.state], is_live(snapshot)
    lost = lane.state == "lost"
    dim = ' class="dm-lost"' if lost else ""
    busy = f"{lane.busy:.0%}" if not lost else NO_NUMBER if live else state
    flight = number(lane.in_flight) if lane.in_flight else NO_NUMBER
    if lane.state not in ("idle", "busy", "reconnecting"):
        flight = state
    gpus = "" if not gpu else _gpu_html(lane)
    return (
        f'<tr{dim}><td title="{name}, {counted(lane.slots, "slot")}, {state}">'
        f'<span class="dm-dot dm-dot-{lane.state}"></span>{name}<span class="dm-hidden"> ({state})</span></td>'
        f'<td><span class="dm-hidden">{number(lane.items)}</span>{_timeline_svg(lane, snapshot.elapsed)}</td>'
        f"<td>{busy}</td><td>{number(lane.chunks)}</td>{f'<td>{flight}</td>' if live else ''}{gpus}</tr>"
    )


def _chosen_lanes(lanes: Sequence[Lane]) -> tuple[list[Lane], list[Lane]]:
    """Lanes with a row of their own, in their order, and the others.

    Workers with problems are chosen first, then those that do most. The measures are coarse, so that the choice does
    not change with every drawing.
    """
    if len(lanes) <= MAX_LANES:
        return list(lanes), []
    lost = [at for at, lane in enumerate(lanes) if lane.state == "lost"]
    # Half of the rows at most: lost workers must not hide those that work.
    shown = set(lost[-MAX_LANES // 2 :])
    for at in sorted(range(len(lanes)), key=lambda at: (_rank(lanes[at]), at)):
        if len(shown) < MAX_LANES:
            shown.add(at)
    return [lanes[at] for at in sorted(shown)], [lane for at, lane in enumerate(lanes) if at not in shown]


def _rank(lane: Lane) -> tuple[bool, bool, int]:
    """Smaller ranks are shown first."""
    return lane.state == "lost", lane.state not in ("suspect", "reconnecting", "draining"), -lane.items.bit_length()


def _others_html(lanes: Sequence[Lane], live: bool, gpu: bool) -> str:
    """One row for all workers that have none of their own."""
    gpus = f"<td>{NO_NUMBER}</td>" if gpu else ""
    slots = sum(lane.slots for lane in lanes if lane.state != "lost")
    busy = sum(lane.busy * lane.slots for lane in lanes if lane.state != "lost") / slots if slots else 0.0
    lost = sum(lane.state == "lost" for lane in lanes)
    words = f"and {counted(len(lanes), 'more worker')}" + (f", {number(lost)} of them lost" if lost else "")
    flight = f"<td>{number(sum(lane.in_flight for lane in lanes))}</td>" if live else ""
    items, chunks = sum(lane.items for lane in lanes), sum(lane.chunks for lane in lanes)
    return (
        f'<tr class="dm-others"><td>{words}</td><td><span class="dm-hidden">{number(items)}</span></td>'
        f"<td>{busy:.0%}</td><td>{number(chunks)}</td>{flight}{gpus}</tr>"
    )


def _legend(snapshot: Snapshot, lanes: Sequence[Lane]) -> str:
    """What the colours mean; only those that the job has, as a narrow notebook has no room for more."""
    live = is_live(snapshot)
    left = not live and any(block.kind == "running" for lane in lanes for block in lane.blocks)
    words: list[tuple[BlockKind, str, bool | int]] = [
        ("done", "done", True),
        ("running", "running" if live else "broken off", live or left),
        ("retried", "retried", snapshot.retried),
        ("failed", "failed", snapshot.failed),
        ("lost", "lost", snapshot.deaths or snapshot.losses),
    ]
    return "".join(f'<i class="dm-block-{kind}" data-t="{word}"></i>' for kind, word, there in words if there)


def lanes_html(snapshot: Snapshot) -> str:
    """A row for each worker: what its time went to, how busy it was, chunks, and what it has in flight.

    All timelines begin with the job, so that they show when a worker joined, rested or was lost.
    """
    live = is_live(snapshot)
    if not snapshot.lanes:
        return f'<div class="dm-foot">Waiting for a worker</div>{_waiting_html(snapshot)}' if live else ""
    lanes, others = _chosen_lanes(snapshot.lanes)
    # How busy a GPU was at the end says nothing about the job.
    gpu = live and any(lane.devices for lane in snapshot.lanes)
    rows = "".join(_lane_html(lane, snapshot, gpu) for lane in lanes)
    if others:
        rows += _others_html(others, live, gpu)
    whole = elapsed(snapshot)
    ends = (f"\N{MINUS SIGN}{whole}", "now") if live else ("0:00" if ":" in whole else "0 s", whole)
    axis = (
        f'<span class="dm-axis"><i data-t="{ends[0]}"></i><span class="dm-legend">{_legend(snapshot, lanes)}</span>'
        f'<i data-t="{ends[1]}"></i></span>'
    )
    flight = "<th>In flight</th>" if live else ""
    if gpu:
        flight += "<th>GPU</th>"
    return (
        f'<table class="dm-lanes"><thead><tr><th>Worker</th><th><span class="dm-hidden">Items</span>{axis}</th>'
        f"<th>Busy</th><th>Chunks</th>{flight}</tr></thead><tbody>{rows}</tbody></table>{_waiting_html(snapshot)}"
    )


def _waiting_html(snapshot: Snapshot) -> str:
    """Which workers are out of reach, and which items do nothing, in a line below the table."""
    words = " \N{MIDDLE DOT} ".join(out_of_reach(snapshot) + held_up(snapshot))
    return f'<div class="dm-foot">{text_html(words)}</div>' if words else ""
