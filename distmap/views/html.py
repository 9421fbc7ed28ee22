"""The HTML elements that all cards consist of.

Owns escaping: every text of a worker or a user is escaped by `text_html`, and only there. All class names begin with
`dm-`, as a style sheet in a notebook is global to its page. Knows no snapshot.

A notebook that is not trusted keeps words, tables and `<details>`, and loses the style sheet and all of `<svg>`. So
every fact is a word in the text, if need be one that the style sheet hides (`dm-hidden`; screen readers read it), and
what makes sense only beside a drawing (legend, axis) is text of the style sheet (`data-t`).
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from distmap.core.progress import JobState
from distmap.views.style import STYLE
from distmap.views.words import counted, printable

#: Where a number would say nothing.
NO_NUMBER = "\N{EN DASH}"

JOB_WORDS: dict[JobState, str] = {
    "running": "Running",
    "paused": "Paused",
    "done": "Done",
    "failed": "Failed",
    "cancelled": "Cancelled",
    "interrupted": "Interrupted",
}


def text_html(text: str) -> str:
    """Text of a worker or a user: without control characters, escaped."""
    return escape(printable(text))


def title_html(title: str, kind: str) -> str:
    """The title of a job.

    Args:
        title: name of the function; or, if `kind` is empty, what the user called the job.
        kind: name of the call, such as "map" or "imap".
    """
    return f"<b>{text_html(kind)}</b> <code>{text_html(title)}</code>" if kind else f"<b>{text_html(title)}</b>"


def pill_html(state: str, words: str) -> str:
    """A state as a word in its colour."""
    return f'<span class="dm-pill dm-{state}"><i></i>{words}</span>'


def row_html(cells: Iterable[str], tag: str = "td") -> str:
    """A row of a table."""
    return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>"


def table_html(kind: str, head: Iterable[str], rows: str) -> str:
    """A table with a class of its own for the widths of its columns."""
    return f'<table class="dm-table dm-{kind}"><thead>{row_html(head, "th")}</thead><tbody>{rows}</tbody></table>'


def details_html(summary: str, body: str, *, kind: str = "foot", is_open: bool = False) -> str:
    """A line that unfolds."""
    state = " open" if is_open else ""
    return f'<details class="dm-{kind}"{state}><summary>{summary}</summary>{body}</details>'


def more_html(count: int, one: str) -> str:
    """How many lines or workers are not shown; empty if all are."""
    return f'<div class="dm-muted">and {counted(count, f"more {one}")}</div>' if count > 0 else ""


def framed_html(html: str) -> str:
    """A card, with its style sheet: needs neither a kernel nor a script."""
    return f'{STYLE}<div class="dm-card">{html}</div>'
