"""The panel of a job in JupyterLab: it moves, and its buttons and the interrupt button work while the cell blocks."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from support.jupyterlab_page import DEADLINE, Lab, contrast
from support.waiting import until

Open = Callable[..., Lab]

#: `held(x)` ends at once for the first six items, and for the others when the test makes the file `open`.
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
MAP = "results = pool.map(held, range(500), chunksize=1)"
KEPT = "print('kept', len(pool.last.partial))"
AFTER = "print('after', sum(pool.map(abs, range(-10, 0))))"

#: Two workers on the loopback interface, which the notebook starts; the first is behind a relay.
WORKERS = """
    import subprocess, sys
    from distmap.testing.relay import Relay

    def start(name):
        code = "import sys; from distmap.worker.cli import main; sys.exit(main())"
        command = [sys.executable, "-c", code, "--port", "0", "--slots", "1", "--name", name, "--exit-if-orphaned", "5"]
        worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        return worker, worker.stdout.readline().split()[-1]

    (ann, url1), (bob, url2) = start("ann"), start("bob")
    relay = Relay("127.0.0.1", int(url1.rpartition(":")[2])).__enter__()
    pool.terminate()
    pool = Pool([relay.url, url2])
    print(len(pool.wait_for_workers(2)), "workers")
"""
END_WORKERS = """
    pool.terminate()
    relay.__exit__(None, None, None)
    ann.terminate()
    print("ended", ann.wait(), bob.wait())
"""


def start_map(book: Lab, cell: int = 1) -> None:
    """Run all cells down to that of a map, and the map up to the items that wait for the file `open`."""
    book.run_through(*range(cell))
    book.run(cell)
    book.see(cell, "Running")
    until(lambda: book.done_items(cell) == 6, DEADLINE, "the panel shows the items that are finished")


def release(book: Lab) -> None:
    (book.folder / "open").touch()


def test_a_map_moves_and_ends_as_a_card(lab: Open) -> None:
    """The count grows while the cell blocks; at the end a static card says Done and gives the whole."""
    book = lab(SET_UP, MAP, "print(sum(results))")
    start_map(book)
    release(book)
    until(lambda: book.done_items(1) > 6, DEADLINE, "the panel moves")
    book.see(1, "Done")
    assert book.done_items(1) == 500
    assert book.output(1).locator(".jupyter-widgets").count() == 0
    book.run(2)
    book.see(2, str(sum(range(500))))


@pytest.mark.parametrize("app", ["lab", "notebook"])
def test_cancel_while_the_cell_blocks(lab: Open, app: str) -> None:
    """Cancel ends the cell with JobCancelled, the card says so, what was finished is kept and the pool goes on."""
    book = lab(SET_UP, MAP, KEPT, AFTER, app=app)
    start_map(book)
    book.click(1, "Cancel")
    book.see(1, "JobCancelled")
    book.see(book.panel(1), "Cancelled")
    book.run(2)
    book.see(2, re.compile(r"kept 6\b"))
    book.run(3)
    book.see(3, "after 55")


def test_pause_and_resume_while_the_cell_blocks(lab: Open) -> None:
    """Pause lets what runs end and begins nothing more; Resume goes on to the end."""
    book = lab(SET_UP, MAP)
    start_map(book)
    book.click(1, "Pause")
    book.see(1, "Paused")
    release(book)
    # Were it not paused, it would be over in a moment.
    until(lambda: book.done_items(1) > 6, DEADLINE, "what runs ends")
    book.see(book.panel(1).locator(".dm-lanes tbody td:last-child"), re.compile("^[–0]$"))
    assert book.done_items(1) < 50
    book.see(1, "Paused")
    book.click(1, "Resume")
    book.see(1, "Done")
    assert book.done_items(1) == 500


def test_interrupt_while_the_cell_blocks(lab: Open) -> None:
    """■ ends the cell with KeyboardInterrupt, the card says so, what was finished is kept and the pool goes on."""
    book = lab(SET_UP, MAP, KEPT, AFTER)
    start_map(book)
    book.interrupt()
    book.see(1, "KeyboardInterrupt")
    book.see(book.panel(1), "Interrupted")
    book.run(2)
    book.see(2, re.compile(r"kept 6\b"))
    book.run(3)
    book.see(3, "after 55")


def test_interrupt_while_the_cell_awaits(lab: Open) -> None:
    """■ reaches an awaited job too: the cell ends, the job is stopped and the pool goes on."""
    book = lab(SET_UP, "results = await pool.map_async(held, range(500), chunksize=1)", KEPT, AFTER)
    start_map(book)
    book.interrupt()
    book.see(1, re.compile("CancelledError|KeyboardInterrupt"))
    book.see(book.panel(1), "Interrupted")
    book.run(2)
    book.see(2, re.compile(r"kept 6\b"))
    book.run(3)
    book.see(3, "after 55")


def test_two_jobs_each_in_its_own_cell(lab: Open) -> None:
    """Two jobs in the background move at the same time, each in the cell that started it."""
    jobs = [f"job{n} = pool.map_async(held, range(300), chunksize=1, desc='{n} of two')" for n in (1, 2)]
    book = lab(SET_UP, *jobs)
    start_map(book)
    book.run(2)
    book.see(2, "Running")
    release(book)
    for cell in (1, 2):
        book.see(cell, "Done")
        assert book.done_items(cell) == 300
        assert f"{cell} of two" in book.text(cell)
        assert f"{3 - cell} of two" not in book.text(cell)
        assert book.panel(cell).count() == 1


def test_a_worker_out_of_reach_and_a_killed_one(lab: Open, pictures: Path) -> None:
    """The panel says that a worker reconnects, and counts that; one that is killed is lost; the others finish."""
    map_async = "job = pool.map_async(held, range(200), chunksize=1)"
    break_off, heal, kill = "relay.silence(); relay.reset()", "relay.speak()", "bob.kill()"
    book = lab(SET_UP, WORKERS, map_async, break_off, heal, kill, "print(sum(job.result()))", END_WORKERS)
    start_map(book, 2)
    book.see(1, "2 workers")
    book.run(3)
    lane = book.panel(2).locator(".dm-lanes tbody tr", has_text="ann")
    book.see(lane, "reconnecting")
    book.see(2, "ann: reconnecting for")
    book.picture(pictures / "reconnecting.png")
    book.run(4)
    book.see(2, "1 connection resumed")
    book.run(5)
    lane = book.panel(2).locator(".dm-lanes tbody tr", has_text="bob")
    book.see(lane, "lost")
    (red, green, blue), _ = book.colours(lane.locator(".dm-dot"), "borderTopColor")
    assert red > 150 > 100 > max(green, blue)
    release(book)
    book.see(2, "Done")
    book.see(lane, "lost")
    book.run(6)
    book.see(6, str(sum(range(200))))
    book.run(7)
    book.see(7, "ended 0 -9")


def test_the_panel_is_readable_in_both_themes(lab: Open) -> None:
    """Live and as a card, in light and in dark, text stands out from its ground, and the ground is the theme's."""
    book = lab(SET_UP, MAP)
    start_map(book)
    parts = {
        "title": (".dm-head b", 4.5),
        "state": (".dm-pill", 3.0),  # bold, and the only word in a coloured field
        "count": (".dm-counts b", 4.5),
        "rest of the count": (".dm-counts .dm-muted", 4.5),
        "column": (".dm-lanes th:last-child", 4.5),
        "worker": (".dm-lanes tbody td", 4.5),
    }

    def look(theme: str) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        book.theme(f"JupyterLab {theme}")
        seen = {name: book.colours(book.panel(1).locator(part).first) for name, (part, _) in parts.items()}
        for name, (ink, ground) in seen.items():
            assert contrast(ink, ground) >= parts[name][1], (theme, name, ink, ground)
        return seen

    try:
        for _ in ("live", "card"):
            light, dark = look("Light"), look("Dark")
            for name in parts:
                assert min(light[name][1]) > 200, name
                assert max(dark[name][1]) < 100, name
            release(book)
            book.see(1, "Done")
    finally:
        # The server keeps it as the user's choice, for the next test too.
        book.theme("JupyterLab Light")
