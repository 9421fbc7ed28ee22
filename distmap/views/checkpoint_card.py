"""What is in a checkpoint, as HTML and as text.

Owns how a checkpoint looks; pure functions from numbers and words to strings, as in `cards.py`.
"""

from __future__ import annotations

from distmap.tasks._typing import NamedTuple
from distmap.views.html import NO_NUMBER, framed_html, more_html, pill_html, row_html, table_html, text_html
from distmap.views.words import counted, number, printable, size_words

#: Functions with a row of their own; further ones are counted.
MAX_FUNCTIONS = 20
_HEAD = ("Function", "Results", "Size", "Python", "Last call", "Options")


class FunctionFacts(NamedTuple):
    """One function of a checkpoint."""

    name: str
    items: int
    nbytes: int
    python: str
    last_used: str
    options: str
    #: False: a later version of it took its place.
    current: bool


class CheckpointFacts(NamedTuple):
    """What the card of a checkpoint shows."""

    path: str
    items: int
    nbytes: int
    #: Who writes to it; empty if nobody does.
    owner: str
    functions: tuple[FunctionFacts, ...]


def checkpoint_html(facts: CheckpointFacts) -> str:
    """The card of a checkpoint."""
    pill = pill_html("running", "In use") if facts.owner else ""
    html = f'<div class="dm-head"><b>Checkpoint</b> <code>{text_html(facts.path)}</code> {pill}</div>'
    pairs = [("Results", f"{number(facts.items)} · {size_words(facts.nbytes)} on disk")]
    if facts.owner:
        pairs.append(("Written by", text_html(facts.owner)))
    rows = "".join(row_html((f'<span class="dm-muted">{key}</span>', value)) for key, value in pairs)
    html += f'<table class="dm-table dm-facts"><tbody>{rows}</tbody></table>'
    if facts.functions:
        shown = facts.functions[:MAX_FUNCTIONS]
        rows = "".join(
            row_html((f"<code>{text_html(one.name)}</code>{_note(one)}", *map(text_html, _cells(one)))) for one in shown
        )
        html += table_html("functions", _HEAD, rows) + more_html(len(facts.functions) - len(shown), "function")
    return framed_html(html)


def checkpoint_text(facts: CheckpointFacts) -> str:
    """The same for a terminal."""
    head = f"Checkpoint {printable(facts.path)}: {counted(facts.items, 'result')}, {size_words(facts.nbytes)} on disk"
    lines = [head + (f", written by {printable(facts.owner)}" if facts.owner else "")]
    shown = facts.functions[:MAX_FUNCTIONS]
    if shown:
        table = [_HEAD, *[(printable(one.name), *map(printable, _cells(one))) for one in shown]]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        notes = ["", *["" if one.current else "  (an earlier version)" for one in shown]]
        for row, note in zip(table, notes, strict=True):
            cells = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            lines.append(f"  {cells}{note}".rstrip())
    if len(facts.functions) > len(shown):
        lines.append(f"  and {counted(len(facts.functions) - len(shown), 'more function')}")
    return "\n".join(lines)


def _note(function: FunctionFacts) -> str:
    return "" if function.current else ' <span class="dm-muted">earlier version</span>'


def _cells(function: FunctionFacts) -> tuple[str, ...]:
    one = function
    return number(one.items), size_words(one.nbytes), one.python, one.last_used, one.options or NO_NUMBER
