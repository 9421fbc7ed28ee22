"""The panel of a job in JupyterLab: it moves, its buttons and the interrupt button work while the cell blocks."""

from __future__ import annotations

import re
from collections.abc import Callable

from lab import Lab, until

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

    pool = Pool(2)
"""
AFTER = "print('after', sum(pool.map(abs, range(-10, 0))), len(pool.last.partial))"


def test_a_map_moves_and_ends_as_a_card(lab: Open) -> None:
    """The count grows while the cell blocks; at the end a static card says Done and gives the whole."""
    book = lab(SET_UP, "results = pool.map(held, range(500), chunksize=1)", "print(sum(results))")
    book.run(0)
    book.run(1)
    book.see(1, "Running")
    until(lambda: book.done_items(1) == 6, "the panel shows the items that were finished")
    (book.folder / "open").touch()
    until(lambda: book.done_items(1) > 6, "the panel moves")
    book.see(1, "Done")
    assert book.done_items(1) == 500
    assert book.output(1).locator(".jupyter-widgets").count() == 0
    book.run(2)
    book.see(2, str(sum(range(500))))


def test_interrupt_while_the_cell_blocks(lab: Open) -> None:
    """■ ends the cell with KeyboardInterrupt, the card says so, what was finished is kept and the pool goes on."""
    book = lab(SET_UP, "pool.map(held, range(500), chunksize=1)", "print('kept', len(pool.last.partial))", AFTER)
    book.run(0)
    book.run(1)
    until(lambda: book.done_items(1) == 6, "the panel shows the items that were finished")
    book.interrupt()
    book.see(1, "KeyboardInterrupt")
    book.see(book.panel(1), "Interrupted")
    book.run(2)
    book.see(2, re.compile(r"kept 6\b"))
    book.run(3)
    book.see(3, "after 55 10")
