"""One card for all calls of a cell, in JupyterLab: it moves, unfolds, and is readable in both themes."""

from __future__ import annotations

import re
from collections.abc import Callable

from support.jupyterlab_page import DEADLINE, Lab, contrast
from support.waiting import until

Open = Callable[..., Lab]

#: `held(x)` ends at once for the first items, and for the others when the test makes the file `open`.
SET_UP = """
    from distmap import Pool

    def held(x):
        import os, time
        end = time.monotonic() + 60
        while x >= 6 and not os.path.exists("open"):
            assert time.monotonic() < end
            time.sleep(0.01)
        return x

    def picky(x):
        if x == 3:
            raise ValueError(f"no reading for {x}")
        return x

    pool = Pool(2)
"""
LOOP = """
    for _ in range(300):
        pool.map(abs, [1, 2])
    for _ in range(3):
        pool.map(picky, range(6), on_error="return")
    results = pool.map(held, range(50), chunksize=1)
"""
STEPS = """
    def step(n):
        import os, time
        end = time.monotonic() + 60
        while not os.path.exists(f"step{n}"):
            assert time.monotonic() < end
            time.sleep(0.01)

    for n in range(3):
        pool.map(picky, range(6), on_error="return")
        pool.map(step, [n])
"""
MANY = """
    for n in range(12):
        exec(f"def f{n}(x): return x")
        pool.map(globals()[f"f{n}"], [1])
"""


def test_a_loop_has_one_card_that_moves(lab: Open) -> None:
    """Rows of what is over, below them the call that runs, with its buttons; at the end one static card, saved too."""
    book = lab(SET_UP, LOOP)
    book.run_through(0)
    book.run(1)
    book.see(1, re.compile("3 functions.*Running.*abs.*300.*picky.*held.*call 1", re.S))
    until(
        lambda: book.output(1).locator(".dm-panel .dm-counts b").first.inner_text() == "6",
        DEADLINE,
        "the call that runs moves",
    )
    assert book.output(1).get_by_role("button", name="Cancel").count() == 1
    parts = {
        "title": (".dm-head b", 4.5),
        "state": (".dm-pill", 3.0),
        "function": (".dm-calls tbody code", 4.5),
        "number": (".dm-calls tbody td:nth-child(2)", 4.5),
        "column": (".dm-calls th:last-child", 4.5),
        "went wrong": (".dm-error", 3.0),
        "fold": (".dm-foot > summary, .jupyter-widget-Collapse-header", 4.5),
        "which call": (".dm-panel .dm-head .dm-muted", 4.5),
    }

    def look(theme: str, names: set[str]) -> None:
        book.theme(f"JupyterLab {theme}")
        for name in names:
            part, least = parts[name]
            ink, ground = book.colours(book.panel(1).first.locator(part).first)
            assert contrast(ink, ground) >= least, (theme, name, ink, ground)
            assert (min(ground) > 200) if theme == "Light" else (max(ground) < 100), (theme, name)

    try:
        for theme in ("Light", "Dark"):
            look(theme, set(parts))
        (book.folder / "open").touch()
        book.wait_ended(1)
        book.see(1, "Done")
        for theme in ("Dark", "Light"):
            look(theme, set(parts) - {"which call"})
    finally:
        # The server keeps it as the user's choice, for the next test too.
        book.theme("JupyterLab Light")
    assert book.panel(1).count() == 1
    assert book.output(1).locator(".jupyter-widgets").count() == 0
    [output] = book.save()["cells"][1]["outputs"]
    assert set(output["data"]) == {"text/html", "text/plain"}


def test_what_went_wrong_unfolds(lab: Open) -> None:
    """The fold lists the calls that went wrong, each with its items; twelve functions are eight rows and a rest."""
    book = lab(SET_UP, 'for _ in range(3): pool.map(picky, range(6), on_error="return")', MANY)
    book.run_through(0, 1, 2)
    book.see(1, re.compile("3 calls · 18 items"))
    book.output(1).locator("details.dm-foot > summary").click()
    call = book.output(1).locator("details.dm-call").first
    call.locator("summary").click()
    book.see(call, re.compile("call 1.*1 failed.*item 3 failed.*ValueError: no reading for 3", re.S))
    assert call.locator(".dm-issues").is_visible()
    book.see(2, re.compile("12 functions.*and 4 more", re.S))
    assert book.output(2).locator(".dm-calls tbody tr").count() == 9


def test_a_fold_stays_open_while_calls_go_on(lab: Open) -> None:
    """What the user has unfolded stays so when the next call of a loop ends, and says what is new."""
    book = lab(SET_UP, STEPS)
    book.run_through(0)
    book.run(1)
    book.see(1, re.compile("2 functions.*Running.*step.*call 1", re.S))
    book.output(1).get_by_text("1 call went wrong · slowest call").click()
    line = book.output(1).locator(".dm-call").first
    line.wait_for(state="visible")
    for n, ended in enumerate(("2 calls went wrong", "3 calls went wrong")):
        (book.folder / f"step{n}").touch()
        book.see(1, ended)
        book.see(1, f"call {n + 2}")
        assert line.is_visible()
    (book.folder / "step2").touch()
    book.wait_ended(1)
    book.see(1, "2 functions Done")
