"""All calls of a cell in one card, as HTML and as text: a row for each function, and the calls worth a look.

Owns how tallies look; pure functions from numbers to strings, as in `static.py`, whose parts it uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from distmap.core.progress import Snapshot
from distmap.views.base import QUICK
from distmap.views.calls import Call, Tally, state_of
from distmap.views.lanes import lanes_html
from distmap.views.static import JOB_WORDS, issues_html, name_html, pill_html, row_html, text_html
from distmap.views.words import brief, counted, number, printable

#: More functions than this are counted, not shown; so are calls that went wrong.
ROWS = 8
LINES = 8
#: Of the calls that can be unfolded so many show their workers: a timeline for each of them takes room in the file.
UNFOLDED = 4

#: No call is over, or none went wrong: a 0 would say that nothing was done.
_NONE = "\N{EN DASH}"


class Fold(NamedTuple):
    """The calls that went wrong and the slowest ones: two pieces of its title, as text, and what unfolds, as HTML."""

    wrong: str
    slowest: str
    lines: str


def summary_html(tallies: Sequence[Tally]) -> str:
    """Head, numbers, and a fold with the calls worth a look."""
    html, fold = numbers_html(tallies), fold_of(tallies)
    if fold is None:
        return html
    title = " · ".join(filter(None, (fold.wrong and f"<b>{fold.wrong}</b>", fold.slowest)))
    return f'{html}<details class="dm-foot"><summary>{title}</summary>{fold.lines}</details>'


def numbers_html(tallies: Sequence[Tally]) -> str:
    """Head and numbers."""
    state = state_of(tallies)
    pill = pill_html(state, JOB_WORDS[state])
    if len(tallies) == 1:
        [tally] = tallies
        name, numbers = name_html(tally.title, tally.kind), _counts(tally)
    else:
        name, numbers = f"<b>{counted(len(tallies), 'function')}</b>", _table(tallies)
    return f'<div class="dm-top"><div class="dm-head">{name} {pill}</div></div>{numbers}'


def _counts(tally: Tally) -> str:
    calls = "call" if tally.calls == 1 else "calls"
    items = f" · {counted(tally.items, 'item')}" if tally.ended else ""
    pace = f"{number(round(tally.ended / tally.seconds))} calls/s · " if tally.ended >= 10 * tally.seconds > 0 else ""
    time = (
        f'<span class="dm-alt"> · </span><span class="dm-soft">{pace}{brief(tally.seconds)} in all</span>'
        if tally.ended
        else ""
    )
    return (
        f'<div class="dm-counts"><span><b>{number(tally.calls)}</b> '
        f'<span class="dm-soft">{calls}{items}</span></span>{time}</div>'
    )


def _chosen(tallies: Sequence[Tally]) -> tuple[list[Tally], list[Tally]]:
    """Those with a row, in their order, and the others: what runs, went wrong or took long comes first."""
    ranks = sorted(tallies, key=lambda one: (not one.running, not one.wrong, -one.seconds))
    shown = set(map(id, ranks[:ROWS]))
    return [one for one in tallies if id(one) in shown], [one for one in tallies if id(one) not in shown]


def _table(tallies: Sequence[Tally]) -> str:
    shown, others = _chosen(tallies)
    rows = "".join(_row(_dot(one) + name_html(one.title, one.kind), [one]) for one in shown)
    if others:
        rows += _row(f'<span class="dm-soft">and {number(len(others))} more</span>', others)
    head = row_html(("Function", "Calls", "Went wrong", "Items", "Time"), "th")
    return f'<table class="dm-table dm-calls"><thead>{head}</thead><tbody>{rows}</tbody></table>'


def _row(name: str, tallies: Sequence[Tally]) -> str:
    wrong = sum(one.wrong for one in tallies)
    over = any(one.ended for one in tallies)
    return row_html(
        (
            name,
            number(sum(one.calls for one in tallies)),
            f'<b class="dm-wrong">{number(wrong)}</b>' if wrong else _NONE,
            number(sum(one.items for one in tallies)) if over else _NONE,
            brief(sum(one.seconds for one in tallies)) if over else _NONE,
        )
    )


def _dot(tally: Tally) -> str:
    state = state_of([tally])
    return f'<span class="dm-dot dm-dot-{state}"></span><span class="dm-alt">({JOB_WORDS[state]}) </span>'


def fold_of(tallies: Sequence[Tally]) -> Fold | None:
    """The calls worth a look; None while none is over."""
    wrong = sum(one.wrong for one in tallies)
    listed = [(one, call) for one in tallies for call in one.failed][:LINES]
    slowest = max((call.snapshot.elapsed for one in tallies for call in one.slowest), default=0.0)
    known = {id(call) for _, call in listed}
    slow = [(one, call) for one in tallies for call in one.slowest if id(call) not in known and not call.went_wrong]
    slow.sort(key=lambda pair: -pair[1].snapshot.elapsed)
    rest = wrong - len(listed)
    if not listed and not slow:
        return None
    lines, unfolded = "", 0
    for tally, call in [*listed, *slow[:3]]:
        body = _body(call) if unfolded < UNFOLDED else issues_html(call.issues, call.dropped)
        unfolded += "<svg" in body
        line = _line(tally if len(tallies) > 1 else None, call)
        lines += (
            f'<details class="dm-call"><summary>{line}</summary>{body}</details>'
            if body
            else f'<div class="dm-call">{line}</div>'
        )
        if rest > 0 and listed and call is listed[-1][1]:
            lines += f'<div class="dm-call">and {number(rest)} more that went wrong</div>'
    return Fold(f"{counted(wrong, 'call')} went wrong" if wrong else "", f"slowest call {brief(slowest)}", lines)


def _line(tally: Tally | None, call: Call) -> str:
    snapshot = call.snapshot
    name = f"<code>{text_html(tally.title)}</code> " if tally is not None else ""
    facts = [f"{name}call {number(call.number)}", _items(snapshot), brief(snapshot.elapsed)]
    if call.went_wrong:
        failed = f"{number(snapshot.failed)} failed" if snapshot.failed else ""
        how = failed if snapshot.state == "done" else JOB_WORDS[snapshot.state].lower()
        facts.append(f'<b class="dm-wrong">{how}</b>')
        facts += [f"<code>{text_html(issue.text)}</code>" for issue in call.issues[:1]]
    return " · ".join(facts)


def _items(snapshot: Snapshot) -> str:
    of = "" if snapshot.total in (None, snapshot.done) else f" of {number(snapshot.total or 0)}"
    return f"{number(snapshot.done)}{of} {'item' if snapshot.done == 1 and not of else 'items'}"


def _body(call: Call) -> str:
    """What unfolds: the workers, if they did enough to be seen, and what was noted."""
    drawn = call.snapshot.elapsed >= QUICK and any(lane.blocks for lane in call.snapshot.lanes)
    return (lanes_html(call.snapshot) if drawn else "") + issues_html(call.issues, call.dropped)


def summary_plain(tallies: Sequence[Tally]) -> str:
    """A line of text for each function."""
    shown, others = _chosen(tallies)
    lines = [_line_plain(one) for one in shown]
    return "\n".join([*lines, f"and {number(len(others))} more functions"] if others else lines)


def _line_plain(tally: Tally) -> str:
    facts = [state_of([tally]), counted(tally.calls, "call")]
    if tally.ended:
        facts.append(f"{counted(tally.items, 'item')} in {brief(tally.seconds)}")
    if tally.wrong:
        facts.append(f"{counted(tally.wrong, 'call')} went wrong")
    return f"{printable(tally.title)}: {', '.join(facts)}"
