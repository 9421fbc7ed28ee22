"""Jobs and pools as HTML."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from distmap.core.progress import Block, Lane, Snapshot
from distmap.views import cards
from distmap.views.base import Issue
from distmap.views.cards import PoolFacts, WorkerRow
from distmap.views.style import STYLE

LANES = (
    Lane("local", 2, "busy", 700, 20, 12, 0.95, 2, (Block(0, 0.0, 3.0, "done"),)),
    Lane("gpu1", 4, "lost", 70, 3, 0, 0.5),
)
RUNNING = Snapshot(
    name="score",
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
ISSUE = Issue("failed", 3, "gpu1", 2, "ValueError: no")
FACTS = PoolFacts(
    "open",
    (
        WorkerRow("local", "this machine", "3.11.7", 4, "idle", 0.12, 0.41, 0.0),
        WorkerRow("gpu1", "10.0.0.12", "3.11.9", 16, "busy", 0.97, 0.63, 0.0031),
    ),
    "wss://127.0.0.1:40213",
    "1 map · 412 of 2 000 items",
    "distmap-worker wss://host:40213",
)
EVIL = "<script>alert(1)</script>\"'\x1b[2J"


class Balanced(HTMLParser):
    """Fails on tags that do not close in order; gathers the text outside style sheet and drawings."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open and "svg" not in self.open:
            self.text += data


def test_nothing_wrong_is_not_mentioned() -> None:
    """A job without troubles has no foot."""
    calm = RUNNING._replace(failed=0, retried=0, requeued=0, deaths=0, losses=0)
    assert cards.problems_html(calm) == ""
    assert "dm-foot" not in cards.card_html("t", calm).split("</style>")[1]
    assert "<b>1 failed</b> · 2 retries" in cards.card_html("t", RUNNING)


def test_the_head_names_call_function_and_state() -> None:
    """A job that the user named shows that name only."""
    assert Balanced(cards.head_html("score(x)", "running", "imap")).text == "imap score(x) Running"
    assert "<code>score(x)</code>" in cards.head_html("score(x)", "running")
    assert Balanced(cards.head_html("Night run", "interrupted", "")).text == "Night run Interrupted"
    assert "code" not in cards.head_html("Night run", "done", "")


def test_the_card_is_whole_and_readable_without_its_style() -> None:
    """The card's tags balance, and its words alone tell the story (a notebook that is not trusted shows only them)."""
    text = Balanced(cards.card_html("score", RUNNING, [ISSUE], dropped=2)).text
    for words in ("map score Running", "of 20\u202f000 · 38%", "0:14 elapsed", "0:23 left", "local (busy)", "lost"):
        assert words in text
    assert "item 3 failed" in text
    assert "ValueError: no" in text
    assert "and 2 more lines" in text
    assert Balanced(cards.new_card_html("score", "imap")).text == "imap score Running"


def test_strings_of_others_are_escaped() -> None:
    """Names of jobs and workers and noted lines cannot add tags, attributes or control characters."""
    hostile = RUNNING._replace(lanes=(Lane(EVIL, 1, "busy", 1, 1, 1, 0.1),))
    html = cards.card_html(EVIL, hostile, [Issue("died", 1, EVIL, 2, EVIL)], kind=EVIL)
    html += cards.new_card_html(EVIL, EVIL)
    assert "<script" not in html
    assert 'title="&lt;script&gt;alert(1)&lt;/script&gt;&quot;' in html
    assert "\x1b" not in html
    Balanced(html)


@pytest.mark.parametrize("state", ["running", "paused", "done", "failed", "cancelled", "interrupted"])
@pytest.mark.parametrize("total", [None, 0, 10, 20_000])
def test_every_state_and_length_has_a_look(state: str, total: int | None) -> None:
    """No combination of state and length fails, and bars never pass the end."""
    done = 7_770 if total is None else min(total, 7_770)
    snapshot = RUNNING._replace(state=state, total=total, done=done, failed=min(1, done), eta=None)  # type: ignore[arg-type]
    html = cards.card_html("t", snapshot)
    Balanced(html)
    assert f"dm-pill dm-{state}" in html
    assert f".dm-{state}" in STYLE
    widths = [float(w.split("%")[0]) for w in cards.bar_html(snapshot).split("width:")[1:]]
    assert sum(widths) <= 100.02


def test_the_bar_can_be_read_aloud() -> None:
    """It has its role and its numbers; none while the length is not known, as nobody knows how far it is."""
    bar = cards.bar_html(RUNNING)
    assert 'role="progressbar"' in bar
    assert 'aria-valuemin="0" aria-valuenow="7770" aria-valuemax="20000"' in bar
    unknown = cards.bar_html(RUNNING._replace(total=None))
    assert "aria-valuenow" not in unknown
    assert "length not known" in unknown
    assert "dm-part-unknown" in unknown
    assert "width:100" in cards.bar_html(RUNNING._replace(total=None, failed=0, state="cancelled"))


def test_notes_are_a_table() -> None:
    """Item, worker, attempt and line; what is not known is left empty."""
    html = cards.issues_html(
        [ISSUE, Issue("lost", None, "gpu2", 0, "silent for 30 s"), Issue("retried", 12_000, "", 1, "E")]
    )
    rows = [re.findall(r"<t[dh]>(.*?)</t[dh]>", row) for row in html.split("<tr>")[1:]]
    assert rows == [
        ["Item", "Worker", "Attempt", "Error"],
        ["item 3 failed", "gpu1", "2", "<code>ValueError: no</code>"],
        ["lost", "gpu2", "", "<code>silent for 30 s</code>"],
        ["item 12\u202f000 retried", "", "1", "<code>E</code>"],
    ]
    assert cards.issues_html([]) == ""
    assert Balanced(cards.issues_html([], 3)).text == "and 3 more lines"


def test_the_hint_says_how_to_cancel() -> None:
    """Where no button can."""
    assert Balanced(cards.hint_html()).text == "Interrupt the kernel (■) to cancel"


def test_the_card_of_a_pool() -> None:
    """Workers, where it listens, what it does, and how to add a worker: in words, in two folds."""
    html = cards.pool_html(FACTS)
    text = Balanced(html).text
    for words in ("Pool Open", "2 connected · 20 slots", "wss://127.0.0.1:40213", "1 map · 412 of 2 000 items"):
        assert words in text
    assert "gpu1 10.0.0.12 3.11.9 16 busy cpu 97% · memory 63% · 3.1 ms".replace(" ", "") in text.replace(" ", "")
    assert "cpu 12% · memory 41%<" in html
    assert html.count("<details") == 2
    assert html.count("<details open") + html.count('<details class="dm-foot" open>') == 1
    assert '<code class="dm-command">distmap-worker wss://host:40213</code>' in html


def test_the_card_begins_with_the_line_while_nobody_dials_in() -> None:
    """A pool that listens and has no worker leads with the line and what is needed for it, unfolded."""
    notes = ("In a terminal, `cat token` shows it.",)
    html = cards.pool_html(FACTS._replace(workers=(), notes=notes, waiting=2))
    assert html.index("Add a worker") < html.index("0 connected · 0 slots · 2 on call")
    assert html.count('<details class="dm-foot" open>') == 1
    assert "<li>In a terminal, <code>cat token</code> shows it.</li>" in html
    assert cards.pool_html(FACTS).index("Add a worker") > cards.pool_html(FACTS).index("gpu1")


def test_the_card_of_a_pool_at_a_relay() -> None:
    """It does not listen there: it waits, and says where."""
    text = Balanced(cards.pool_html(FACTS._replace(at_relay=True))).text
    assert "At relay" in text
    assert "Listening" not in text


def test_the_card_of_an_empty_pool() -> None:
    """Nothing to fold, nothing to paste."""
    html = cards.pool_html(PoolFacts("closed", (), None, "", ""))
    text = Balanced(html).text
    assert "Pool Closed" in text
    assert "none" in text
    assert "Listening" not in text
    assert "<details" not in html


def test_a_large_pool_is_counted() -> None:
    """Past the limit workers are counted, not shown."""
    html = cards.pool_html(FACTS._replace(workers=FACTS.workers * 20))
    assert "40 connected · 400 slots" in html
    assert "and 20 more workers" in html


def test_strings_of_a_pool_are_escaped() -> None:
    """Whatever a worker calls itself."""
    row = WorkerRow(EVIL, EVIL, EVIL, 1, EVIL, 0.0, 0.0, 0.0)
    html = cards.pool_html(PoolFacts("open", (row,), EVIL, EVIL, EVIL, (EVIL,)))
    assert "<script" not in html
    assert "\x1b" not in html
    assert "\"'" not in html
    Balanced(html)
