"""What a cell shows besides the panel: what tasks print, tracebacks, and the card of a pool."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from support.jupyterlab_page import Lab

Open = Callable[..., Lab]


def test_a_print_lands_in_the_cell_of_its_job(lab: Open) -> None:
    """What a task of a background job prints comes in the cell that started the job while another cell runs."""
    book = lab(
        """
        import os, time
        from distmap import Pool

        def wait_for(name):
            import os, time
            end = time.monotonic() + 60
            while not os.path.exists(name):
                assert time.monotonic() < end
                time.sleep(0.01)

        def say(x):
            wait_for("open")
            print("hello from item", x)

        pool = Pool(2)
        """,
        "job = pool.map_async(say, range(3), chunksize=1)",
        "print('blocking')\nwait_for('release')\nprint('ended')",
    )
    book.run_through(0, 1)
    book.run(2)
    book.see(2, "blocking")
    (book.folder / "open").touch()
    for x in range(3):
        book.see(1, f"hello from item {x}")
    book.see(1, "Done")
    assert "hello" not in book.text(2)
    assert "ended" not in book.text(2)
    (book.folder / "release").touch()
    book.see(2, "ended")
    assert "hello" not in book.text(2)


def test_a_traceback_begins_with_the_users_frames(lab: Open) -> None:
    """The traceback of a failing map shows the cell and the function of the user, and nothing of the library."""
    book = lab(
        """
        from distmap import Pool

        def inner(x):
            return 1 / (x - 3)

        def bad(x):
            return inner(x)

        pool = Pool(2)
        """,
        "pool.map(bad, range(10))",
    )
    book.run_through(0, 1)
    book.see(1, "ZeroDivisionError")
    book.see(book.panel(1), "Failed")
    text = book.text(1)
    assert text.index("pool.map(bad, range(10))") < text.rindex("return inner(x)") < text.rindex("return 1 / (x - 3)")
    assert "item 3" in text
    for internal in ("distmap/", "run_here", "self._error", "site-packages", "<dynamic-code>"):
        assert internal not in text


def test_a_pool_shows_itself(lab: Open) -> None:
    """The card of a pool lists its workers, tells what it works at and how to add one; the token is nowhere."""
    book = lab(
        """
        import time
        from distmap import Pool
        pool = Pool([2], listen="wss://127.0.0.1:0")
        job = pool.map_async(time.sleep, [60] * 2_000, progress=False)
        """,
        "pool",
        "job.cancel()\nprint(pool.url)",
    )
    book.run_through(0, 1, 2)
    url = book.text(2).strip()
    card = book.panel(1)
    book.see(card, "Open")
    book.see(card, re.compile(r"1 map · \d+ of 2\s000 items"))
    row = card.get_by_role("row").filter(has_text="local")
    book.see(row, "2")
    more = card.locator("details", has_text="Add a worker")
    command = more.locator("code.dm-command")
    assert not command.is_visible()
    more.locator("summary").click()
    command.wait_for()
    assert f"distmap-worker {url}" in command.inner_text()
    token = Path(os.environ["DISTMAP_TOKEN_FILE"]).read_text(encoding="utf-8").strip()
    book.save()
    # The server got the session's token, and each test has one of its own: neither may be there.
    for text in (book.page.content(), book.file.read_text(encoding="utf-8")):
        assert url in text
        assert token not in text
        assert "dm1_" not in text
