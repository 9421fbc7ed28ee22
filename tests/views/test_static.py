"""Snapshots as text and HTML."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from distmap.core.progress import Lane, Snapshot
from distmap.views import static
from distmap.views.static import Note

LANES = (
    Lane("local", 2, "busy", 700, 20, 12, 0.95),
    Lane("gpu1", 4, "lost", 70, 3, 0, 0.5),
)
RUNNING = Snapshot(
    name="map score",
    state="running",
    total=20_000,
    done=7_770,
    failed=1,
    in_flight=12,
    retried=2,
    requeued=3,
    duplicates=0,
    deaths=1,
    losses=1,
    elapsed=14.2,
    rate=527.4,
    eta=23.0,
    lanes=LANES,
)


class Balanced(HTMLParser):
    """Fails on tags that do not close in order; gathers the text outside the style sheet."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def test_numbers_read_well() -> None:
    """Thousands are spaced, times are clocks, slow rates are told per item."""
    assert static.number(1234567) == "1\u202f234\u202f567"
    assert [static.clock(s) for s in (0, 59.6, 205, 3723)] == ["0:00", "1:00", "3:25", "1:02:03"]
    assert [static.speed(r) for r in (0, 0.1, 3.14, 527.4)] == ["", "10.0 s/item", "3.1 items/s", "527 items/s"]


def test_the_line_of_text_tells_everything() -> None:
    """The text has state, counts, time, rate, workers and what went wrong."""
    assert static.plain("map score", RUNNING) == (
        "map score: running, 7\u202f770 of 20\u202f000 items in 0:14, 527 items/s, 2 workers, 1 failed, 2 retries, "
        "3 requeued, 1 process died, 1 worker lost"
    )


def test_nothing_wrong_is_not_mentioned() -> None:
    """Counters at zero are left out."""
    calm = RUNNING._replace(failed=0, retried=0, requeued=0, deaths=0, losses=0)
    assert static.troubles(calm) == []
    assert static.troubles_html(calm) == ""
    assert "dm-foot" not in static.card_html("t", calm).split("</style>")[1]


def test_the_card_is_whole_and_readable_without_its_style() -> None:
    """The card's tags balance, and its words alone tell the story (a notebook that is not trusted shows only them)."""
    text = Balanced(
        static.card_html("map score", RUNNING, [Note("failed", 3, "gpu1", 1, "ValueError: no")], dropped=2)
    ).text
    for words in ("map score", "Running", "of 20\u202f000 · 38%", "0:14 elapsed", "0:23 left", "local", "gpu1", "lost"):
        assert words in text
    assert "item 3 failed" in text
    assert "ValueError: no" in text
    assert "and 2 more lines" in text


def test_strings_of_others_are_escaped() -> None:
    """Names of jobs and workers and noted lines cannot add tags, attributes or control characters."""
    evil = "<script>alert(1)</script>\"'\x1b[2J"
    hostile = RUNNING._replace(lanes=(Lane(evil, 1, "busy", 1, 1, 1, 0.1),))
    html = static.card_html(evil, hostile, [Note("died", None, evil, 2, evil)])
    assert "<script" not in html
    assert 'title="&lt;script&gt;alert(1)&lt;/script&gt;&quot;' in html
    assert "\x1b" not in html
    assert "\x1b" not in static.plain(evil, hostile)
    Balanced(html)


@pytest.mark.parametrize("state", ["running", "paused", "done", "failed", "cancelled", "interrupted"])
@pytest.mark.parametrize("total", [None, 0, 10, 20_000])
def test_every_state_and_length_has_a_look(state: str, total: int | None) -> None:
    """No combination of state and length fails, and bars never pass the end."""
    done = 7_770 if total is None else min(total, 7_770)
    snapshot = RUNNING._replace(state=state, total=total, done=done, failed=min(1, done), eta=None)  # type: ignore[arg-type]
    html = static.card_html("t", snapshot)
    Balanced(html)
    widths = [float(w.split("%")[0]) for w in static.bar_html(snapshot).split("width:")[1:]]
    assert sum(widths) <= 100.02


def test_many_lanes_are_counted() -> None:
    """Past the limit lanes are counted, not shown."""
    many = RUNNING._replace(lanes=tuple(Lane(f"w{i}", 1, "idle", 0, 0, 0, 0.0) for i in range(static.LANES + 24)))
    html = static.lanes_html(many)
    assert html.count("<tr") == static.LANES + 2
    assert "and 24 more workers" in html


def test_no_worker_yet_is_said() -> None:
    """A job without workers says what it waits for, and says nothing when it is over."""
    assert "Waiting for a worker" in static.lanes_html(RUNNING._replace(lanes=()))
    assert static.lanes_html(RUNNING._replace(lanes=(), state="cancelled")) == ""


def test_a_job_that_nobody_serves_is_over() -> None:
    """The last snapshot of a job that was broken off reads "Cancelled"; an ended one stays as it is."""
    assert static.ended(RUNNING).state == "cancelled"
    assert static.ended(RUNNING).in_flight == 0
    assert [lane.state for lane in static.ended(RUNNING).lanes] == ["idle", "lost"]
    assert static.ended(RUNNING._replace(state="done")).state == "done"


def test_the_pace_of_an_ended_job_is_the_whole_one() -> None:
    """While a job runs its pace is that of late, afterwards items by seconds."""
    assert static.pace(RUNNING) == RUNNING.rate
    assert static.pace(RUNNING._replace(state="done", done=200, elapsed=8.0)) == 25.0
