"""Many calls as text and as HTML."""

from __future__ import annotations

import re

from distmap.core.progress import Block, Lane, Snapshot
from distmap.views.base import Issue
from distmap.views.stats import FinishedCall, FunctionStats
from distmap.views.summary import MAX_DRAWN, MAX_LINES, MAX_ROWS, summary_html, summary_plain

LANE = Lane("local", 2, "idle", 4, 1, 0, 0.5, 1, (Block(0, 0.0, 0.1, "done"),))
DONE = Snapshot("f", "done", 4, 4, 0, 0, 0, 0, 0, 0, 0, 0.1, 0.0, None, (LANE,))
BAD = Issue("failed", 2, "local", 1, "ValueError: <b>")


def stats(name: str, *snapshots: Snapshot, issues: tuple[Issue, ...] = ()) -> FunctionStats:
    made = FunctionStats(name, "map")
    for snapshot in snapshots:
        made.end_call(FinishedCall(made.begin_call(name), snapshot, issues if snapshot.failed else ()))
    return made


def words(html: str) -> str:
    """The text without tags, as an untrusted notebook shows it."""
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


def test_one_function_has_no_table() -> None:
    """How many calls and items, how fast, and the slowest in a fold."""
    html = summary_html([stats("score", *[DONE._replace(elapsed=0.002)] * 1000)])
    assert words(html).startswith("map score Done 1 000 calls · 4 000 items · 500 calls/s · 2.0 s in all")
    assert "slowest call 2.0 ms" in words(html)
    assert "dm-calls" not in html


def test_a_row_for_each_function_up_to_a_few() -> None:
    """Those that went wrong or took long have a row; the others are counted."""
    many = [stats(f"f{n}", DONE._replace(elapsed=n)) for n in range(MAX_ROWS + 3)]
    many.append(stats("bad", DONE._replace(failed=1), issues=(BAD,)))
    html = summary_html(many)
    assert html.partition("</table>")[0].count("<tr>") == 1 + MAX_ROWS + 1
    assert f"{MAX_ROWS + 4} functions" in html
    assert "and 4 more" in html
    assert "bad" in words(html).partition("call went wrong")[0]
    assert "f0" not in words(html).partition("call went wrong")[0]
    text = summary_plain(many).splitlines()
    assert len(text) == MAX_ROWS + 1
    assert text[-1] == "and 4 more functions"
    assert text[-2] == "bad: done, 1 call, 4 items in 0.10 s, 1 call went wrong"


def test_what_went_wrong_unfolds() -> None:
    """Each call that went wrong says what, names are escaped, and the rest of them is counted."""
    many = [stats(f"g{n}", *[DONE._replace(failed=1)] * 9, issues=(BAD,)) for n in range(3)]
    html = summary_html(many)
    assert "27 calls went wrong" in html
    assert html.count('<details class="dm-call">') == MAX_LINES
    assert f"and {27 - MAX_LINES} more that went wrong" in html
    assert "ValueError: &lt;b&gt;" in html
    assert '<b class="dm-error">1 failed</b>' in html


def test_a_call_is_listed_once() -> None:
    """One that was slow and failed stands with those that failed."""
    html = words(summary_html([stats("f", DONE._replace(failed=1), DONE)]))
    assert (html.count("call 1 ·"), html.count("call 2 ·")) == (1, 1)


def test_a_broken_off_call_says_how() -> None:
    """Cancelled, interrupted or failed as a whole: its state stands in its line."""
    html = summary_html([stats("f", DONE, DONE._replace(state="interrupted", done=3))])
    assert "Interrupted" in html
    assert "call 2 · 3 of 4 items · 0.10 s · interrupted" in words(html)


def test_long_calls_unfold_to_their_workers() -> None:
    """A few of them: timelines take room in the file."""
    long = [stats(f"h{n}", *[DONE._replace(elapsed=5.0 + n, failed=1)] * 4) for n in range(2)]
    assert summary_html(long).count("<svg") == MAX_DRAWN
    assert "<svg" not in summary_html([stats("f", DONE, DONE)])


def test_nothing_yet() -> None:
    """While the first calls run there is no fold, and no number of items or time that would say that none was done."""
    made = FunctionStats("f", "map")
    made.begin_call("f")
    assert words(summary_html([made])) == "map f Running 1 call"
    assert summary_plain([made]) == "f: running, 1 call"
    both = words(summary_html([made, stats("g", DONE)]))
    assert "(Running) map f 1 – – – (Done) map g 1 – 4 0.10 s" in both
