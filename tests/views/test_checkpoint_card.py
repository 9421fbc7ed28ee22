"""A checkpoint shows what it has as a table, in HTML and as text."""

from __future__ import annotations

from distmap.views.checkpoint_card import CheckpointFacts, FunctionFacts, checkpoint_html, checkpoint_text

ROW = FunctionFacts("score", 7412, 12_300_000, "3.12", "2026-11-28 12:00:01", "seed=1", True)
FACTS = CheckpointFacts("scores.sqlite", 7412, 13_000_000, "process 71 on lab7", (ROW,))


def test_the_text_has_a_row_for_each_function() -> None:
    """Path, numbers, who writes to it, and a table with aligned columns."""
    lines = checkpoint_text(FACTS).replace("\N{NARROW NO-BREAK SPACE}", " ").split("\n")
    assert lines == [
        "Checkpoint scores.sqlite: 7 412 results, 13.0 MB on disk, written by process 71 on lab7",
        "  Function  Results  Size     Python  Last call            Options",
        "  score     7 412    12.3 MB  3.12    2026-11-28 12:00:01  seed=1",
    ]


def test_an_earlier_version_is_marked() -> None:
    """A function that was replaced keeps its row, with a word for that."""
    facts = FACTS._replace(functions=(ROW, ROW._replace(current=False)))
    assert checkpoint_text(facts).endswith("(an earlier version)")
    assert checkpoint_html(facts).count("earlier version") == 1


def test_an_empty_checkpoint_has_no_table() -> None:
    """Only its head, and nobody who writes."""
    facts = CheckpointFacts("empty.sqlite", 0, 4096, "", ())
    assert checkpoint_text(facts) == "Checkpoint empty.sqlite: 0 results, 4.1 kB on disk"
    html = checkpoint_html(facts)
    assert "<th>" not in html
    assert "Written by" not in html


def test_texts_of_users_are_escaped() -> None:
    """A path or a name cannot bring HTML, nor control characters."""
    facts = FACTS._replace(path="<b>\x1b", owner="<s>", functions=(ROW._replace(name="<lambda>", options="<u>"),))
    html = checkpoint_html(facts)
    assert not any(bad in html for bad in ("<b>\x1b", "<s>", "<lambda>", "<u>", "\x1b"))
    assert "&lt;lambda&gt;" in html
    assert "\x1b" not in checkpoint_text(facts)


def test_many_functions_are_counted() -> None:
    """Twenty rows are shown, the rest is a number."""
    facts = FACTS._replace(functions=(ROW,) * 25)
    assert checkpoint_html(facts).count("<code>score</code>") == 20
    assert "and 5 more functions" in checkpoint_html(facts)
    assert checkpoint_text(facts).endswith("and 5 more functions")
