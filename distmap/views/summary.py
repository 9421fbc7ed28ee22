"""All calls of a cell, as HTML and as text: a row for each function, and the calls to look at.

Owns how `FunctionStats` look; pure functions from numbers to strings, as in `cards.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from distmap.core.progress import Snapshot
from distmap.tasks._typing import NamedTuple
from distmap.views.base import QUICK
from distmap.views.cards import issues_html
from distmap.views.html import (
    JOB_WORDS,
    NO_NUMBER,
    details_html,
    pill_html,
    row_html,
    table_html,
    text_html,
    title_html,
)
from distmap.views.lanes import lanes_html
from distmap.views.stats import FinishedCall, FunctionStats, overall_state
from distmap.views.words import counted, duration, number, printable

#: Functions with a row of their own, and calls that went wrong with a line; further ones are counted.
MAX_ROWS = 8
MAX_LINES = 8
#: Calls whose workers are shown when they are unfolded: timelines take room in the file.
MAX_DRAWN = 4


class CallDetails(NamedTuple):
    """The calls that went wrong and the slowest ones: both halves of the title, as text, and what unfolds, as HTML."""

    wrong: str
    slowest: str
    lines: str


def summary_html(functions: Sequence[FunctionStats]) -> str:
    """Head, numbers, and the calls to look at."""
    html, details = numbers_html(functions), call_details(functions)
    if details is None:
        return html
    title = " · ".join(filter(None, (details.wrong and f"<b>{details.wrong}</b>", details.slowest)))
    return html + details_html(title, details.lines)


def numbers_html(functions: Sequence[FunctionStats]) -> str:
    """Head and numbers."""
    state = overall_state(functions)
    pill = pill_html(state, JOB_WORDS[state])
    if len(functions) == 1:
        [function] = functions
        title, numbers = title_html(function.title, function.kind), _counts(function)
    else:
        title, numbers = f"<b>{counted(len(functions), 'function')}</b>", _table(functions)
    return f'<div class="dm-top"><div class="dm-head">{title} {pill}</div></div>{numbers}'


def _counts(function: FunctionStats) -> str:
    f = function
    words, time = "call" if f.begun == 1 else "calls", ""
    if f.ended:
        words += f" · {counted(f.items, 'item')}"
        rate = f"{number(round(f.ended / f.seconds))} calls/s · " if f.ended >= 10 * f.seconds > 0 else ""
        time = f'<span class="dm-muted">{rate}{duration(f.seconds)} in all</span>'
        time = f'<span class="dm-hidden"> · </span>{time}'
    return (
        f'<div class="dm-counts"><span><b>{number(f.begun)}</b> '
        f'<span class="dm-muted">{words}</span></span>{time}</div>'
    )


def _chosen_rows(functions: Sequence[FunctionStats]) -> tuple[list[FunctionStats], list[FunctionStats]]:
    """Functions with a row, in their order, and the others: what runs, went wrong or took long is chosen first."""
    ranks = sorted(functions, key=lambda one: (not one.running, not one.wrong, -one.seconds))
    shown = set(map(id, ranks[:MAX_ROWS]))
    return [one for one in functions if id(one) in shown], [one for one in functions if id(one) not in shown]


def _table(functions: Sequence[FunctionStats]) -> str:
    shown, others = _chosen_rows(functions)
    rows = "".join(_row(_dot(one) + title_html(one.title, one.kind), [one]) for one in shown)
    if others:
        rows += _row(f'<span class="dm-muted">and {number(len(others))} more</span>', others)
    return table_html("calls", ("Function", "Calls", "Went wrong", "Items", "Time"), rows)


def _row(title: str, functions: Sequence[FunctionStats]) -> str:
    wrong = sum(one.wrong for one in functions)
    over = any(one.ended for one in functions)
    return row_html(
        (
            title,
            number(sum(one.begun for one in functions)),
            f'<b class="dm-error">{number(wrong)}</b>' if wrong else NO_NUMBER,
            number(sum(one.items for one in functions)) if over else NO_NUMBER,
            duration(sum(one.seconds for one in functions)) if over else NO_NUMBER,
        )
    )


def _dot(function: FunctionStats) -> str:
    state = overall_state([function])
    return f'<span class="dm-dot dm-dot-{state}"></span><span class="dm-hidden">({JOB_WORDS[state]}) </span>'


def call_details(functions: Sequence[FunctionStats]) -> CallDetails | None:
    """The calls to look at; None while no call is over."""
    wrong = sum(one.wrong for one in functions)
    failed = [(one, call) for one in functions for call in one.failed][:MAX_LINES]
    listed = {id(call) for _, call in failed}
    slow = [(one, call) for one in functions for call in one.slowest if id(call) not in listed and not call.went_wrong]
    slow.sort(key=lambda pair: -pair[1].snapshot.elapsed)
    if not failed and not slow:
        return None
    lines, drawn = [], 0
    for function, call in [*failed, *slow[:3]]:
        workers = _workers_html(call) if drawn < MAX_DRAWN else ""
        drawn += workers != ""
        body = workers + issues_html(call.issues, call.dropped)
        line = _call_line(function if len(functions) > 1 else None, call)
        lines.append(details_html(line, body, kind="call") if body else f'<div class="dm-call">{line}</div>')
    if failed and wrong > len(failed):
        lines.insert(len(failed), f'<div class="dm-call">and {number(wrong - len(failed))} more that went wrong</div>')
    slowest = max(call.snapshot.elapsed for one in functions for call in one.slowest)
    wrong_words = f"{counted(wrong, 'call')} went wrong" if wrong else ""
    return CallDetails(wrong_words, f"slowest call {duration(slowest)}", "".join(lines))


def _call_line(function: FunctionStats | None, call: FinishedCall) -> str:
    snapshot = call.snapshot
    title = f"<code>{text_html(function.title)}</code> " if function is not None else ""
    facts = [f"{title}call {number(call.number)}", _items(snapshot), duration(snapshot.elapsed)]
    if call.went_wrong:
        failed = f"{number(snapshot.failed)} failed" if snapshot.failed else ""
        how = failed if snapshot.state == "done" else JOB_WORDS[snapshot.state].lower()
        facts.append(f'<b class="dm-error">{how}</b>')
        facts += [f"<code>{text_html(issue.text)}</code>" for issue in call.issues[:1]]
    return " · ".join(facts)


def _items(snapshot: Snapshot) -> str:
    of = "" if snapshot.total in (None, snapshot.done) else f" of {number(snapshot.total or 0)}"
    return f"{number(snapshot.done)}{of} {'item' if snapshot.done == 1 and not of else 'items'}"


def _workers_html(call: FinishedCall) -> str:
    """The workers, if they did enough to be seen."""
    drawn = call.snapshot.elapsed >= QUICK and any(lane.blocks for lane in call.snapshot.lanes)
    return lanes_html(call.snapshot) if drawn else ""


def summary_plain(functions: Sequence[FunctionStats]) -> str:
    """A line of text for each function."""
    shown, others = _chosen_rows(functions)
    lines = [_plain_line(one) for one in shown]
    return "\n".join([*lines, f"and {number(len(others))} more functions"] if others else lines)


def _plain_line(function: FunctionStats) -> str:
    facts = [overall_state([function]), counted(function.begun, "call")]
    if function.ended:
        facts.append(f"{counted(function.items, 'item')} in {duration(function.seconds)}")
    if function.wrong:
        facts.append(f"{counted(function.wrong, 'call')} went wrong")
    return f"{printable(function.title)}: {', '.join(facts)}"
