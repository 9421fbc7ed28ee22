"""The cards of a job and of a pool: pure functions from numbers to HTML.

Owns how a job and a pool look. Knows no widget, notebook, clock or thread: the notebook's view shows these strings
live, a saved notebook keeps them. Rules for HTML that notebooks keep: `html.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from distmap.core.progress import JobState, Snapshot
from distmap.tasks._typing import NamedTuple
from distmap.views.base import Issue
from distmap.views.html import (
    JOB_WORDS,
    details_html,
    framed_html,
    more_html,
    pill_html,
    row_html,
    table_html,
    text_html,
    title_html,
)
from distmap.views.lanes import lanes_html
from distmap.views.words import clock, counted, elapsed, is_live, number, problems, rate_of, rate_words, recalled

#: Workers of a pool that its card shows; further ones are counted.
MAX_WORKERS = 20

_ISSUE_WORDS = {
    "failed": "failed",
    "retried": "retried",
    "lost": "lost",
    "died": "process died",
    "left out": "left out",
    "note": "note",
}


class WorkerRow(NamedTuple):
    """One worker of a pool."""

    name: str
    host: str
    python: str
    slots: int
    #: One word, such as "idle".
    state: str
    #: Load of the host, 0 to 1; before the first heartbeat the memory is 0.
    cpu: float
    memory: float
    #: Seconds of a round trip; 0 for this machine.
    latency: float
    #: How busy its GPUs are, in words; empty: it has none, or nobody knows.
    gpus: str = ""


class PoolFacts(NamedTuple):
    """What the card of a pool shows. Holds no secret."""

    state: Literal["open", "closing", "closed"]
    workers: tuple[WorkerRow, ...]
    #: Where workers may dial in; None: nowhere.
    url: str | None
    #: Current work in a few words; empty if there is none.
    work: str
    #: The command line that starts a worker elsewhere; empty: none can be added so.
    command: str
    #: What else is needed for that, a sentence each.
    notes: tuple[str, ...] = ()
    #: Workers that were idle for long, and come when there is work.
    waiting: int = 0
    #: Whether they meet the pool at a relay there.
    at_relay: bool = False
    #: What was started for the pool; empty: nothing ever is.
    launched: str = ""


# --- a job ------------------------------------------------------------------------------------------------------------


def head_html(title: str, state: JobState, kind: str = "map", call: int = 0) -> str:
    """What runs and its state, as a word and a colour; `call`: its number in its cell, if there are several."""
    which = f' <span class="dm-muted">call {number(call)}</span>' if call else ""
    return f'<div class="dm-head">{title_html(title, kind)}{which} {pill_html(state, JOB_WORDS[state])}</div>'


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
        parts = '<span class="dm-part dm-part-unknown"></span>'
    else:
        parts = _part("success" if s.state == "done" else "done", (s.done - s.failed) * share)
        parts += _part("failed", s.failed * share)
        if is_live(s):
            parts += _part("running", min(s.in_flight, max(0, whole - s.done)) * share)
    # While the length is not known the bar has no value: screen readers then say "busy".
    aria = f' aria-valuenow="{s.done}" aria-valuemax="{s.total}"' if s.total is not None else ""
    left = f"<b>{number(s.done)}</b>"
    if s.total is None:
        left += ' <span class="dm-muted">items, length not known</span>' if is_live(s) else " items"
    else:
        percent = int(100 * s.done / s.total) if s.total else 100
        left += f' <span class="dm-muted">of {number(s.total)} · {percent}%</span>'
    if s.known:
        left += f' <span class="dm-muted">· {text_html(recalled(s))}</span>'
    right = [rate_words(rate_of(s)), f"{elapsed(s)} elapsed"]
    if s.eta is not None and s.state == "running":
        right.append(f"<b>{clock(s.eta)}</b> left")
    return (
        f'<div class="dm-bar" role="progressbar" aria-label="items done" aria-valuemin="0"{aria}>{parts}</div>'
        f'<div class="dm-counts"><span>{left}</span><span class="dm-hidden"> · </span>'
        f'<span class="dm-muted">{" · ".join(filter(None, right))}</span></div>'
    )


def problems_html(snapshot: Snapshot) -> str:
    """Failures, retries, requeues and losses in one line; empty if there were none."""
    words = problems(snapshot)
    if words and snapshot.failed:
        words[0] = f"<b>{words[0]}</b>"
    return " · ".join(words)


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
    table = table_html("issues", ("Item", "Worker", "Attempt", "Error"), rows) if rows else ""
    return table + more_html(dropped, "line")


def new_card_html(title: str, kind: str = "map") -> str:
    """The card of a job before its first snapshot."""
    return framed_html(f'<div class="dm-top">{head_html(title, "running", kind)}</div>')


def card_html(title: str, snapshot: Snapshot, issues: Sequence[Issue] = (), dropped: int = 0, kind: str = "map") -> str:
    """The card of a job."""
    return framed_html(job_html(title, snapshot, issues, dropped, kind))


def job_html(
    title: str, snapshot: Snapshot, issues: Sequence[Issue] = (), dropped: int = 0, kind: str = "map", call: int = 0
) -> str:
    """What a card shows of a job; arguments as for `card_html` and `head_html`."""
    line, table = problems_html(snapshot), issues_html(issues, dropped)
    foot = ""
    if table:
        foot = details_html(line or "Notes", table)
    elif line:
        foot = f'<div class="dm-foot">{line}</div>'
    return (
        f'<div class="dm-top">{head_html(title, snapshot.state, kind, call)}</div>'
        f"{bar_html(snapshot)}{lanes_html(snapshot)}{foot}"
    )


# --- a pool -----------------------------------------------------------------------------------------------------------


def pool_html(facts: PoolFacts) -> str:
    """The card of a pool: state, workers, and how to add one."""
    slots = sum(worker.slots for worker in facts.workers)
    connected = f"{number(len(facts.workers))} connected · {counted(slots, 'slot')}"
    if facts.waiting:
        connected += f" · {number(facts.waiting)} on call"
    pairs = [("Workers", connected)]
    if facts.url is not None:
        pairs.append(("At relay" if facts.at_relay else "Listening", f"<code>{text_html(facts.url)}</code>"))
    if facts.launched:
        pairs.append(("Started", text_html(facts.launched)))
    pairs.append(("Current work", text_html(facts.work) or "none"))
    rows = "".join(row_html((f'<span class="dm-muted">{key}</span>', value)) for key, value in pairs)
    html = f'<table class="dm-table dm-facts"><tbody>{rows}</tbody></table>'
    add = ""
    if facts.command:
        command = f'<code class="dm-command">{text_html(facts.command)}</code>'
        notes = "".join(f"<li>{_with_code(note)}</li>" for note in facts.notes)
        # Where workers dial in, nobody works before the line has been typed: it comes first.
        is_open = facts.url is not None and not facts.workers and not facts.launched
        add = details_html(
            "Add a worker from another machine",
            command + (f'<ul class="dm-notes">{notes}</ul>' if notes else ""),
            is_open=is_open,
        )
        if is_open:
            html, add = add + html, ""
    if facts.workers:
        rows = "".join(_worker_html(worker) for worker in facts.workers[:MAX_WORKERS])
        table = table_html("workers", ("Name", "Host", "Python", "Slots", "State", "Load"), rows)
        more = more_html(len(facts.workers) - MAX_WORKERS, "worker")
        html += details_html("Workers", table + more, is_open=True)
    pill = pill_html(facts.state, facts.state.capitalize())
    return framed_html(f'<div class="dm-head"><b>Pool</b> {pill}</div>{html}{add}')


def _with_code(note: str) -> str:
    """A sentence; what stands between backquotes in it is typed somewhere."""
    parts = note.split("`")
    return "".join(f"<code>{text_html(part)}</code>" if i % 2 else text_html(part) for i, part in enumerate(parts))


def _worker_html(worker: WorkerRow) -> str:
    # No host uses no memory at all: 0 means that there was no heartbeat yet.
    load = [f"cpu {worker.cpu:.0%}", f"memory {worker.memory:.0%}"] if worker.memory > 0 else []
    if worker.gpus:
        load.append(text_html(worker.gpus))
    if worker.latency > 0:
        load.append(f"{1000 * worker.latency:.1f} ms")
    dot = f'<span class="dm-dot dm-dot-{text_html(worker.state)}"></span>'
    cells = (f"{dot}{text_html(worker.name)}", text_html(worker.host), text_html(worker.python), number(worker.slots))
    return row_html((*cells, text_html(worker.state), " · ".join(load)))
