"""What of a panel is left in the notebook: saved and opened again, in the other theme, after a reload."""

from __future__ import annotations

from collections.abc import Callable

from lab import Lab

Open = Callable[..., Lab]

WIDGET = "application/vnd.jupyter.widget-view+json"


def test_a_saved_notebook_keeps_the_card(lab: Open) -> None:
    """The file holds HTML and text and no widget; opened again without a kernel it shows the card and no error."""
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
    book.run(0)
    book.see(0, "Done")
    book.wait_ended(0)
    [output] = book.save()["cells"][0]["outputs"]
    assert set(output["data"]) == {"text/html", "text/plain"}
    assert "".join(output["data"]["text/plain"]).startswith("score: done, 100 of 100 items")
    assert "widgets" not in book.saved()["metadata"]
    book.close()
    book.server.end_kernels()
    again = lab()
    again.see(again.panel(0), "Done")
    again.see(again.panel(0), "100 of 100")
    everything = again.page.locator(".jp-NotebookPanel").inner_text()
    assert "Error displaying widget" not in everything
    assert "model not found" not in everything
