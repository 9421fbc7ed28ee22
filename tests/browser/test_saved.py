"""What is left of a panel when its page or its kernel is gone."""

from __future__ import annotations

from collections.abc import Callable

from support.jupyterlab_page import DEADLINE, Lab
from support.waiting import until

Open = Callable[..., Lab]

WIDGET = "application/vnd.jupyter.widget-view+json"


def test_a_saved_notebook_keeps_the_card(lab: Open) -> None:
    """The file holds HTML and text and no widget; opened again with a new kernel it shows the card and no error."""
    book = lab(
        """
        from distmap import Pool

        def score(x):
            import time
            time.sleep(0.01)
            return x

        with Pool(2) as pool:
            results = pool.map(score, range(100))
        """
    )
    book.run_through(0)
    book.see(0, "Done")
    saved = book.save()
    [output] = saved["cells"][0]["outputs"]
    assert set(output["data"]) == {"text/html", "text/plain"}
    assert "".join(output["data"]["text/plain"]).startswith("score: done, 100 of 100 items")
    assert "widgets" not in saved["metadata"]
    book.close()
    book.server.end_kernels()
    again = lab()
    again.see(again.panel(0), "Done")
    again.see(again.panel(0), "100 of 100")
    everything = again.page.locator(".jp-NotebookPanel").inner_text()
    assert "Error displaying widget" not in everything
    assert "model not found" not in everything


def test_a_job_is_shown_again_after_a_reload(lab: Open) -> None:
    """A job that runs while the page is loaded again is shown live in another cell, to its end."""
    book = lab(
        """
        import os
        from distmap import Pool

        def held(x):
            import os, time
            end = time.monotonic() + 60
            while x >= 6 and not os.path.exists("open"):
                assert time.monotonic() < end
                time.sleep(0.01)
            return x

        pool = Pool(2)
        """,
        "job = pool.map_async(held, range(500), chunksize=1)",
        "job",
        "print(sum(job.result()))",
    )
    book.run_through(0, 1)
    until(lambda: book.done_items(1) == 6, DEADLINE, "the panel shows the items that are finished")
    book.save()
    book.reload()
    book.run(2)
    book.see(2, "Running")
    until(lambda: book.done_items(2) == 6, DEADLINE, "the panel shows the items that are finished")
    (book.folder / "open").touch()
    book.see(2, "Done")
    assert book.done_items(2) == 500
    book.run(3)
    book.see(3, str(sum(range(500))))
    outputs = book.save()["cells"][2]["outputs"]
    assert all(WIDGET not in output["data"] for output in outputs)
