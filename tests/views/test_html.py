"""The elements of cards."""

from __future__ import annotations

from distmap.views.html import details_html, more_html, row_html, table_html, text_html, title_html


def test_text_of_others_is_harmless() -> None:
    """Tags, quotes and control characters are shown as what they are."""
    assert text_html("<b>\"'\x1b[2J") == "&lt;b&gt;&quot;&#x27;\\x1b[2J"


def test_a_title_has_the_call_and_the_function() -> None:
    """The user's own title stands alone."""
    assert title_html("f<", "map") == "<b>map</b> <code>f&lt;</code>"
    assert title_html("Night run", "") == "<b>Night run</b>"


def test_a_table_has_a_head_and_rows() -> None:
    """Its class says which table it is."""
    html = table_html("issues", ("A", "B"), row_html(("1", "2")))
    assert html == (
        '<table class="dm-table dm-issues"><thead><tr><th>A</th><th>B</th></tr></thead>'
        "<tbody><tr><td>1</td><td>2</td></tr></tbody></table>"
    )


def test_what_unfolds() -> None:
    """Closed unless it is told to be open."""
    assert details_html("s", "b") == '<details class="dm-foot"><summary>s</summary>b</details>'
    assert details_html("s", "b", kind="call", is_open=True).startswith('<details class="dm-call" open>')


def test_what_is_left_out_is_counted() -> None:
    """Nothing is mentioned where all is shown."""
    assert more_html(0, "line") == ""
    assert more_html(2, "worker") == '<div class="dm-muted">and 2 more workers</div>'
