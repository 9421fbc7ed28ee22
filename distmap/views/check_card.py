"""What a notebook shows of a check of the way to a worker or pool.

Owns the HTML of one check and of several. It is given texts; what a hop is, and what its words say, is not known here.
"""

from __future__ import annotations

from collections.abc import Sequence

from distmap.tasks._typing import NamedTuple
from distmap.views.html import framed_html, row_html, table_html, text_html

#: State of a hop -> the class of its dot, and that of its words, in the style sheet.
_DOTS = {"ok": "done", "failed": "failed", "not needed": "unneeded", "not tried": "untried"}
_TONES = {"ok": "dm-found", "failed": "dm-error", "not needed": "dm-muted", "not tried": "dm-muted"}


class CheckFacts(NamedTuple):
    """What the card of one check shows."""

    url: str
    ok: bool
    summary: str
    #: Name, state and words of each hop.
    hops: Sequence[tuple[str, str, str]]


def check_html(facts: CheckFacts) -> str:
    """The card of one check: a row for each hop."""
    rows = "".join(
        row_html((f"{_dot(state)}{text_html(name)}", _words(state, words))) for name, state, words in facts.hops
    )
    head = f'<div class="dm-head"><b>Check</b> <code>{text_html(facts.url)}</code></div>'
    return framed_html(f"{head}{table_html('hops', ('Hop', 'Found'), rows)}{_foot(facts.summary, facts.ok)}")


def checks_html(checks: Sequence[CheckFacts], summary: str) -> str:
    """The card of several checks: a row for each URL."""
    rows = "".join(
        row_html((f"{_dot('ok' if one.ok else 'failed')}<code>{text_html(one.url)}</code>", text_html(one.summary)))
        for one in checks
    )
    table = table_html("checks", ("URL", "Found"), rows) if checks else ""
    return framed_html(f'<div class="dm-head"><b>Check</b></div>{table}{_foot(summary, all(one.ok for one in checks))}')


def _dot(state: str) -> str:
    # Where the style sheet is lost, the word is what is left.
    return f'<i class="dm-dot dm-dot-{_DOTS[state]}"></i><span class="dm-hidden">{state} </span>'


def _words(state: str, words: str) -> str:
    return f'<span class="{_TONES[state]}">{text_html(words or state)}</span>'


def _foot(summary: str, ok: bool) -> str:
    words = text_html(summary)
    return f'<div class="dm-foot">{words if ok else f"<b>{words}</b>"}</div>'
