"""A snapshot as text and as HTML: pure functions from numbers to strings.

Owns how a job and a pool look. Knows no widget, notebook, clock or thread; the notebook view shows these strings
live, a saved notebook keeps them. Every string that comes from a worker or a user is escaped here, and only here. All
class names begin with `dm-`, as a style sheet in a notebook is global to its page.

A notebook that is not trusted keeps words, tables and `<details>`, and loses the style sheet and all of `<svg>`. So
every fact is a word in the text, at times one that the style sheet hides (`dm-alt`, which screen readers read too),
and what only makes sense beside the drawing (legend, axis) is text of the style sheet's (`data-t`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Literal, NamedTuple

from distmap.core.progress import JobState, Snapshot
from distmap.views.base import Issue
from distmap.views.lanes import lanes_html as lanes_html
from distmap.views.style import STYLE as STYLE
from distmap.views.words import clock, counted, number, pace, printable, speed, took
from distmap.views.words import ended as ended
from distmap.views.words import is_live as is_live
from distmap.views.words import plain as plain
from distmap.views.words import troubles as troubles

#: More workers than this are counted, not shown: a cell is no log.
WORKERS = 20


class WorkerRow(NamedTuple):
    """One worker of a pool."""

    name: str
    host: str
    python: str
    slots: int
    #: One word, such as "idle".
    state: str
    #: Of the host, 0 to 1; seconds of a round trip, 0 for this machine.
    cpu: float
    memory: float
    latency: float


class PoolFacts(NamedTuple):
    """What the card of a pool tells. Holds no secret."""

    state: Literal["open", "closing", "closed"]
    workers: tuple[WorkerRow, ...]
    #: Where workers may dial in; None: nowhere.
    url: str | None
    #: Current work in a few words; empty if there is none.
    work: str
    #: The command line that starts a worker elsewhere; empty: none can be added so.
    command: str


JOB_WORDS: dict[JobState, str] = {
    "running": "Running",
    "paused": "Paused",
    "done": "Done",
    "failed": "Failed",
    "cancelled": "Cancelled",
    "interrupted": "Interrupted",
}
_ISSUE_WORDS = {"failed": "failed", "retried": "retried", "lost": "lost", "died": "process died"}


def text_html(words: str) -> str:
    """Somebody else's words, made harmless."""
    return escape(printable(words))


# --- a job ------------------------------------------------------------------------------------------------------------


def name_html(title: str, kind: str) -> str:
    """What a job is called.

    Args:
        title: Name of the function; or, if `kind` is empty, whatever the user called the job.
        kind: Name of the call, such as "map" or "imap".
    """
    return f"<b>{text_html(kind)}</b> <code>{text_html(title)}</code>" if kind else f"<b>{text_html(title)}</b>"


def head_html(title: str, state: JobState, kind: str = "map", call: int = 0) -> str:
    """What runs and its state, in words as well as in colour; `call`: which one of its cell, if there are more."""
    which = f' <span class="dm-soft">call {number(call)}</span>' if call else ""
    return f'<div class="dm-head">{name_html(title, kind)}{which} {pill_html(state, JOB_WORDS[state])}</div>'


def pill_html(state: str, words: str) -> str:
    """A state as a word in its colour."""
    return f'<span class="dm-pill dm-{state}"><i></i>{words}</span>'


def hint_html() -> str:
    """How to cancel where no button can."""
    return '<span class="dm-hint">Interrupt the kernel (\N{BLACK SQUARE}) to cancel</span>'


def _part(kind: str, share: float) -> str:
    return f'<span class="dm-part dm-part-{kind}" style="width:{100 * share:.2f}%"></span>' if share > 0 else ""


def bar_html(snapshot: Snapshot) -> str:
    """The bar (done, failed, in flight) and the line of counts below it."""
    s = snapshot
    whole = s.total if s.total is not None else s.done
    share = 1 / whole if whole else 0.0
    if s.total is None and is_live(s):
        parts = '<span class="dm-part dm-part-some"></span>'
    else:
        parts = _part("ok" if s.state == "done" else "go", (s.done - s.failed) * share) + _part("bad", s.failed * share)
        if is_live(s):
            parts += _part("fly", min(s.in_flight, max(0, whole - s.done)) * share)
    # While the length is not known the bar has no value: readers say "busy" then.
    aria = f' aria-valuenow="{s.done}" aria-valuemax="{s.total}"' if s.total is not None else ""
    left = f"<b>{number(s.done)}</b>"
    if s.total is None:
        left += ' <span class="dm-soft">items, length not known</span>' if is_live(s) else " items"
    else:
        percent = int(100 * s.done / s.total) if s.total else 100
        left += f' <span class="dm-soft">of {number(s.total)} · {percent}%</span>'
    right = [speed(pace(s)), f"{took(s)} elapsed"]
    if s.eta is not None and s.state == "running":
        right.append(f"<b>{clock(s.eta)}</b> left")
    return (
        f'<div class="dm-bar" role="progressbar" aria-label="items done" aria-valuemin="0"{aria}>{parts}</div>'
        f'<div class="dm-counts"><span>{left}</span><span class="dm-alt"> · </span>'
        f'<span class="dm-soft">{" · ".join(filter(None, right))}</span></div>'
    )


def troubles_html(snapshot: Snapshot) -> str:
    """Failures, retries, requeues and losses in one line; empty if there were none."""
    words = troubles(snapshot)
    if words and snapshot.failed:
        words[0] = f"<b>{words[0]}</b>"
    return " · ".join(words)


def row_html(cells: Iterable[str], tag: str = "td") -> str:
    """A row of a table."""
    return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>"


def issues_html(issues: Sequence[Issue], dropped: int = 0) -> str:
    """A table of what went wrong, and how many lines were left out; empty if there are none."""
    rows = "".join(
        row_html(
            (
                ("" if issue.item is None else f"item {number(issue.item)} ") + _ISSUE_WORDS[issue.kind],
                text_html(issue.worker),
                str(issue.attempt or ""),
                f"<code>{text_html(issue.text)}</code>",
            )
        )
        for issue in issues
    )
    more = f'<div class="dm-soft">and {counted(dropped, "more line")}</div>' if dropped else ""
    if not rows:
        return more
    head = row_html(("Item", "Worker", "Attempt", "Error"), "th")
    return f'<table class="dm-table dm-issues"><thead>{head}</thead><tbody>{rows}</tbody></table>{more}'


def begun_html(title: str, kind: str = "map") -> str:
    """The card before its first snapshot."""
    return framed(f'<div class="dm-top">{head_html(title, "running", kind)}</div>')


def card_html(title: str, snapshot: Snapshot, issues: Sequence[Issue] = (), dropped: int = 0, kind: str = "map") -> str:
    """The whole job as one piece of HTML that needs neither a kernel nor a script."""
    return framed(call_html(title, snapshot, issues, dropped, kind))


def framed(html: str) -> str:
    """A card."""
    return f'{STYLE}<div class="dm-card">{html}</div>'


def call_html(
    title: str, snapshot: Snapshot, issues: Sequence[Issue] = (), dropped: int = 0, kind: str = "map", call: int = 0
) -> str:
    """What a card says of a job; arguments as for `card_html` and `head_html`."""
    trouble, lines = troubles_html(snapshot), issues_html(issues, dropped)
    foot = ""
    if lines:
        foot = f'<details class="dm-foot"><summary>{trouble or "Notes"}</summary>{lines}</details>'
    elif trouble:
        foot = f'<div class="dm-foot">{trouble}</div>'
    return (
        f'<div class="dm-top">{head_html(title, snapshot.state, kind, call)}</div>'
        f"{bar_html(snapshot)}{lanes_html(snapshot)}{foot}"
    )


# --- a pool -----------------------------------------------------------------------------------------------------------


def pool_html(facts: PoolFacts) -> str:
    """The card of a pool: state, workers, and how to add one."""
    slots = sum(worker.slots for worker in facts.workers)
    pairs = [("Workers", f"{number(len(facts.workers))} connected · {counted(slots, 'slot')}")]
    if facts.url is not None:
        pairs.append(("Listening", f"<code>{text_html(facts.url)}</code>"))
    pairs.append(("Current work", text_html(facts.work) or "none"))
    rows = "".join(row_html((f'<span class="dm-soft">{key}</span>', value)) for key, value in pairs)
    html = f'<table class="dm-table dm-facts"><tbody>{rows}</tbody></table>'
    if facts.workers:
        head = row_html(("Name", "Host", "Python", "Slots", "State", "Load"), "th")
        lines = "".join(_worker_html(worker) for worker in facts.workers[:WORKERS])
        more = len(facts.workers) - WORKERS
        rest = f'<div class="dm-soft">and {counted(more, "more worker")}</div>' if more > 0 else ""
        html += (
            '<details class="dm-foot" open><summary>Workers</summary><table class="dm-table dm-workers">'
            f"<thead>{head}</thead><tbody>{lines}</tbody></table>{rest}</details>"
        )
    if facts.command:
        html += (
            '<details class="dm-foot"><summary>Add a worker from another machine</summary>'
            f'<code class="dm-command">{text_html(facts.command)}</code></details>'
        )
    pill = pill_html(facts.state, facts.state.capitalize())
    return framed(f'<div class="dm-head"><b>Pool</b> {pill}</div>{html}')


def _worker_html(worker: WorkerRow) -> str:
    # Nothing at all is in no use: nothing is known before the first heartbeat.
    load = [f"cpu {worker.cpu:.0%}", f"memory {worker.memory:.0%}"] if worker.memory > 0 else []
    if worker.latency > 0:
        load.append(f"{1000 * worker.latency:.1f} ms")
    dot = f'<span class="dm-dot dm-dot-{text_html(worker.state)}"></span>'
    cells = (f"{dot}{text_html(worker.name)}", text_html(worker.host), text_html(worker.python), number(worker.slots))
    return row_html((*cells, text_html(worker.state), " · ".join(load)))
