"""A check shows itself as a table of hops, and several as a table of ways."""

from __future__ import annotations

from distmap.views.check_card import CheckFacts, check_html, checks_html

GOOD = CheckFacts(
    "wss://gpu1:8786", True, "Every hop is passed.", [("name", "ok", "10.0.0.3"), ("proxy", "not needed", "none")]
)
BAD = CheckFacts(
    "wss://gpu2:8786", False, "Failed: TCP.", [("TCP", "failed", "nothing listens"), ("proxy", "not tried", "")]
)


def test_a_row_for_each_hop() -> None:
    """With its state as a word too, which is left where the style sheet is lost."""
    html = check_html(GOOD)
    assert "<code>wss://gpu1:8786</code>" in html
    assert html.count("<tr>") == 3
    assert '<span class="dm-hidden">ok </span>name' in html
    assert '<span class="dm-hidden">not needed </span>proxy' in html
    assert "Every hop is passed." in html


def test_a_hop_that_failed_stands_out() -> None:
    """What is wrong is in the colour of errors; what was not tried says so."""
    html = check_html(BAD)
    assert '<span class="dm-error">nothing listens</span>' in html
    assert '<span class="dm-muted">not tried</span>' in html
    assert "<b>Failed: TCP.</b>" in html


def test_a_row_for_each_way() -> None:
    """With the sentence of each, and one for all of them."""
    html = checks_html([GOOD, BAD], "2 ways checked, 1 failed.")
    assert html.count("<tr>") == 3
    assert "Failed: TCP." in html
    assert "<b>2 ways checked, 1 failed.</b>" in html


def test_no_way_at_all() -> None:
    """There is no table then."""
    assert "<table" not in checks_html([], "There is no way to check.")


def test_texts_of_others_are_escaped() -> None:
    """What a hop says cannot bring HTML."""
    facts = BAD._replace(url="wss://<b>", summary="<i>", hops=[("TCP", "failed", "<script>\x1b")])
    for html in (check_html(facts), checks_html([facts], "<u>")):
        assert not any(bad in html for bad in ("wss://<b>", "<i>", "<script>", "<u>", "\x1b"))
