"""A snapshot as text and as HTML: pure functions from numbers to strings.

Owns how a job looks. Knows no widget, notebook, clock or thread; the notebook view shows these strings live, a saved
notebook keeps them. Every string that comes from a worker or a user is escaped here, and only here. All class names
begin with `dm-`, as a style sheet in a notebook is global to its page.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from distmap.core.progress import JobState, Lane, Snapshot, WorkerState

#: More lanes and notes than this are counted, not shown: a cell is no log.
LANES = 8
NOTES = 20

_JOB_WORDS: dict[JobState, str] = {
    "running": "Running",
    "paused": "Paused",
    "done": "Done",
    "failed": "Failed",
    "cancelled": "Cancelled",
}
_WORKER_WORDS: dict[WorkerState, str] = {
    "idle": "idle",
    "busy": "busy",
    "suspect": "silent",
    "draining": "leaving",
    "lost": "lost",
}

# JupyterLab's variables first, then VS Code's, then fixed colours: the card follows the theme wherever it is shown.
# `!important` where JupyterLab styles rendered HTML by itself (.jp-RenderedHTMLCommon).
STYLE = """<style>
.dm-card{--dm-go:var(--jp-brand-color1,var(--vscode-progressBar-background,#1976d2));
--dm-ok:var(--jp-success-color1,var(--vscode-charts-green,#388e3c));
--dm-warn:var(--jp-warn-color1,var(--vscode-charts-orange,#f57c00));
--dm-bad:var(--jp-error-color1,var(--vscode-errorForeground,#d32f2f));
--dm-ink:var(--jp-ui-font-color1,var(--vscode-foreground,#212121));
--dm-soft:var(--jp-ui-font-color2,var(--vscode-descriptionForeground,#757575));
--dm-line:var(--jp-border-color2,var(--vscode-widget-border,#e0e0e0));
box-sizing:border-box;max-width:860px;padding:10px 14px;border:1px solid var(--dm-line);border-radius:8px;
color:var(--dm-ink);font:13px/1.5 var(--jp-ui-font-family,system-ui,sans-serif);font-variant-numeric:tabular-nums}
.dm-card .widget-html,.dm-card .widget-html-content{line-height:1.5;margin:0;width:100%;min-height:0;height:auto}
.dm-head b{font-weight:600}
.dm-pill{display:inline-block;margin-left:8px;padding:1px 10px;border-radius:10px;font-weight:600;font-size:12px}
.dm-running,.dm-paused{color:var(--dm-go);background:color-mix(in srgb,var(--dm-go) 14%,transparent)}
.dm-done{color:var(--dm-ok);background:color-mix(in srgb,var(--dm-ok) 14%,transparent)}
.dm-cancelled{color:var(--dm-warn);background:color-mix(in srgb,var(--dm-warn) 14%,transparent)}
.dm-failed{color:var(--dm-bad);background:color-mix(in srgb,var(--dm-bad) 14%,transparent)}
.dm-bar,.dm-track{display:flex;overflow:hidden;border-radius:4px;background:var(--dm-line)}
.dm-bar{height:8px;margin:8px 0 6px}
.dm-track{height:12px;border-radius:2px;min-width:120px}
.dm-part{display:block;height:100%}
.dm-part-go{background:var(--dm-go)}
.dm-part-ok{background:var(--dm-ok)}
.dm-part-bad{background:var(--dm-bad);min-width:2px}
.dm-part-fly{background:color-mix(in srgb,var(--dm-go) 35%,transparent)}
.dm-counts{display:flex;justify-content:space-between;gap:16px;flex-wrap:wrap}
.dm-soft{color:var(--dm-soft)}
.dm-lanes{width:100% !important;margin:8px 0 0 !important;border-collapse:collapse;
border-top:1px solid var(--dm-line) !important;table-layout:fixed;font-size:12px !important}
.dm-lanes th,.dm-lanes td{padding:2px 0 2px 12px !important;text-align:right !important;background:none !important;
border:0 !important;white-space:nowrap;overflow:hidden;text-overflow:ellipsis;vertical-align:middle}
.dm-lanes thead,.dm-lanes tr{border:0 !important;background:none !important}
.dm-lanes td{line-height:1.5 !important}
.dm-lanes th{color:var(--dm-soft);font-weight:400 !important;font-size:11px;padding-top:6px !important}
.dm-lanes th:first-child,.dm-lanes td:first-child{padding-left:0 !important;text-align:left !important;width:20%}
.dm-lanes th:nth-child(2),.dm-lanes td:nth-child(2){text-align:left !important;width:40%}
.dm-dot{display:inline-block;box-sizing:border-box;width:8px;height:8px;margin-right:6px;border-radius:50%;
border:2px solid var(--dm-soft)}
.dm-dot-busy{border-color:var(--dm-go);background:var(--dm-go)}
.dm-dot-suspect,.dm-dot-draining{border-color:var(--dm-warn);background:var(--dm-warn)}
.dm-dot-lost{border-color:var(--dm-bad);background:var(--dm-bad)}
.dm-card .jupyter-widget-Collapse,.dm-card .jupyter-widget-Collapse-contents{border:0;background:none;padding:0}
.dm-card .jupyter-widget-Collapse-header{border:0;background:none;padding:6px 0 0;color:var(--dm-soft);font-size:13px}
.dm-foot{margin-top:6px;padding-top:6px;border-top:1px solid var(--dm-line);color:var(--dm-soft)}
.dm-foot b,.dm-alarm{color:var(--dm-bad);font-weight:600}
.dm-notes{margin:4px 0 0 !important;padding:0 !important;list-style:none;white-space:pre-wrap;overflow-wrap:anywhere;
font:12px/1.5 var(--jp-code-font-family,ui-monospace,monospace)}
</style>"""


def number(n: int) -> str:
    """Whole number with narrow no-break spaces between thousands."""
    return f"{n:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def clock(seconds: float) -> str:
    """Seconds as 0:07, 3:25 or 1:02:03."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def speed(rate: float) -> str:
    """Items per second, or seconds per item where that is the readable number; empty while unknown."""
    if rate <= 0:
        return ""
    if rate < 0.5:
        return f"{1 / rate:.1f} s/item"
    return f"{number(round(rate))} items/s" if rate >= 10 else f"{rate:.1f} items/s"


def ended(snapshot: Snapshot) -> Snapshot:
    """The last snapshot of a job that nobody serves any more: one that still ran was broken off."""
    if snapshot.state in ("running", "paused"):
        return snapshot._replace(state="cancelled", in_flight=0, eta=None)
    return snapshot


def pace(snapshot: Snapshot) -> float:
    """Items per second: of late while the job runs, on the whole once it has ended."""
    s = snapshot
    if s.state in ("running", "paused") or s.elapsed <= 0:
        return s.rate
    return s.done / s.elapsed


def printable(text: str) -> str:
    """The text with control characters made visible, so that a worker cannot steer the user's terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def counted(n: int, one: str, many: str | None = None) -> str:
    """ "1 retry", "3 retries"."""
    return f"{number(n)} {one if n == 1 else many or one + 's'}"


def troubles(snapshot: Snapshot) -> list[str]:
    """What went not as planned, each as a few words; empty if nothing did."""
    s = snapshot
    parts = [
        (s.failed, f"{number(s.failed)} failed"),
        (s.retried, counted(s.retried, "retry", "retries")),
        (s.requeued, f"{number(s.requeued)} requeued"),
        (s.deaths, counted(s.deaths, "process died", "processes died")),
        (s.losses, counted(s.losses, "worker lost", "workers lost")),
        (s.duplicates, counted(s.duplicates, "late result refused", "late results refused")),
    ]
    return [words for n, words in parts if n]


def working(snapshot: Snapshot) -> int:
    """How many workers the job has that are not lost."""
    return sum(lane.state != "lost" for lane in snapshot.lanes)


def plain(title: str, snapshot: Snapshot) -> str:
    """The whole job in one line of text."""
    s = snapshot
    of = "" if s.total is None else f" of {number(s.total)}"
    facts = [f"{number(s.done)}{of} items in {clock(s.elapsed)}", speed(pace(s))]
    facts.append(counted(len(s.lanes), "worker") if s.lanes else "")
    facts += troubles(s)
    return f"{printable(title)}: {s.state}, " + ", ".join(filter(None, facts))


def head_html(title: str, state: JobState) -> str:
    """Name of the job and its state, in words as well as in colour."""
    return (
        f'<div class="dm-head"><b>{escape(printable(title))}</b> '
        f'<span class="dm-pill dm-{state}">\N{BLACK CIRCLE} {_JOB_WORDS[state]}</span></div>'
    )


def _part(kind: str, share: float) -> str:
    return f'<span class="dm-part dm-part-{kind}" style="width:{100 * share:.2f}%"></span>' if share > 0 else ""


def bar_html(snapshot: Snapshot) -> str:
    """The bar (done, failed, in flight) and the line of counts below it."""
    s = snapshot
    whole = s.total if s.total is not None else s.done + s.in_flight
    share = 1 / whole if whole else 0.0
    kind = "ok" if s.state == "done" else "go"
    parts = _part(kind, (s.done - s.failed) * share) + _part("bad", s.failed * share)
    if s.state in ("running", "paused"):
        parts += _part("fly", min(s.in_flight, max(0, whole - s.done)) * share)
    aria = f' aria-valuenow="{s.done}" aria-valuemax="{s.total}"' if s.total is not None else ""
    left = f"<b>{number(s.done)}</b>"
    if s.total is None:
        left += ' <span class="dm-soft">items, length not known</span>' if s.state == "running" else " items"
    else:
        percent = int(100 * s.done / s.total) if s.total else 100
        left += f' <span class="dm-soft">of {number(s.total)} · {percent}%</span>'
    right = [speed(pace(s)), f"{clock(s.elapsed)} elapsed"]
    if s.eta is not None and s.state == "running":
        right.append(f"<b>{clock(s.eta)}</b> left")
    return (
        f'<div class="dm-bar" role="progressbar" aria-valuemin="0"{aria}>{parts}</div>'
        f'<div class="dm-counts"><span>{left}</span> '
        f'<span class="dm-soft">{" · ".join(filter(None, right))}</span></div>'
    )


def _lane_html(lane: Lane, most: int) -> str:
    name, state = escape(printable(lane.name)), _WORKER_WORDS[lane.state]
    flight = number(lane.in_flight) if lane.state in ("idle", "busy") else state
    return (
        f'<tr><td title="{name}, {counted(lane.slots, "slot")}, {state}">'
        f'<span class="dm-dot dm-dot-{lane.state}"></span> {name}</td>'
        f'<td><span class="dm-track">{_part("go", lane.items / most if most else 0.0)}</span></td>'
        f"<td>{number(lane.items)}</td><td>{number(lane.chunks)}</td><td>{lane.busy:.0%}</td><td>{flight}</td></tr>"
    )


def lanes_html(snapshot: Snapshot) -> str:
    """A row for each worker: its share of the items, chunks, how busy it was."""
    lanes = snapshot.lanes
    if not lanes:
        return '<div class="dm-foot">Waiting for a worker</div>' if snapshot.state == "running" else ""
    most = max(lane.items for lane in lanes)
    rows = "".join(_lane_html(lane, most) for lane in lanes[:LANES])
    more = len(lanes) - LANES
    rest = f'<div class="dm-soft">and {counted(more, "more worker")}</div>' if more > 0 else ""
    return (
        '<table class="dm-lanes"><thead><tr><th>Worker</th><th>Share</th><th>Items</th><th>Chunks</th><th>Busy</th>'
        f"<th>In flight</th></tr></thead><tbody>{rows}</tbody></table>{rest}"
    )


def troubles_html(snapshot: Snapshot) -> str:
    """Failures, retries, requeues and losses in one line; empty if there were none."""
    words = troubles(snapshot)
    if words and snapshot.failed:
        words[0] = f"<b>{words[0]}</b>"
    return " · ".join(words)


def notes_html(notes: Sequence[str], dropped: int = 0) -> str:
    """The lines that were noted, and how many were left out."""
    lines = "".join(f"<li>{escape(printable(note))}</li>" for note in notes)
    more = f"<li>and {counted(dropped, 'more line')}</li>" if dropped else ""
    return f'<ul class="dm-notes">{lines}{more}</ul>' if lines or more else ""


def begun_html(title: str) -> str:
    """The card before its first snapshot."""
    return f'{STYLE}<div class="dm-card">{head_html(title, "running")}</div>'


def card_html(title: str, snapshot: Snapshot, notes: Sequence[str] = (), dropped: int = 0) -> str:
    """The whole job as one piece of HTML that needs neither a kernel nor a script."""
    trouble, lines = troubles_html(snapshot), notes_html(notes, dropped)
    foot = ""
    if lines:
        foot = f'<details class="dm-foot"><summary>{trouble or "Notes"}</summary>{lines}</details>'
    elif trouble:
        foot = f'<div class="dm-foot">{trouble}</div>'
    return (
        f'{STYLE}<div class="dm-card">{head_html(title, snapshot.state)}{bar_html(snapshot)}{lanes_html(snapshot)}'
        f"{foot}</div>"
    )
