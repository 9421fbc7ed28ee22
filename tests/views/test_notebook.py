"""The panel in a real kernel, run by nbclient as `jupyter execute` does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest

# nbclient keeps the sockets and threads of its kernel's channels.
pytestmark = [pytest.mark.own_leaks("threads", "descriptors"), pytest.mark.timeout(90)]

SET_UP = """
import threading
from distmap.core.progress import Lane, Snapshot
from distmap.views import cell_card, notebook
from distmap.views.base import Issue
from distmap.views.choose import choose_view
S = Snapshot("map", "running", 100, 0, 0, 4, 0, 0, 0, 0, 0, 1.0, 0.0, None, (Lane("local", 2, "busy", 0, 0, 4, 0.5),))
"""

RUN = """
view = choose_view(None, "score")
print(type(view).__name__)
for done in range(1, 100):
    view.update(S._replace(done=done))
view.add_issue(Issue("failed", 7, "local", 1, "ValueError('<b>')"))
view.update(S._replace(done=99, failed=1))
view.close(S._replace(state="done", done=100, failed=1, elapsed=2.0, rate=50.0))
view.close(S)
"""

CLOSED = """
import ipywidgets
print(len(ipywidgets.Widget.get_manager_state()["state"]))
"""

# The view is made in this cell and used by a thread while the next one runs.
BACKGROUND_1 = """
go = threading.Event()
view = choose_view(True, "background")
def work():
    go.wait()
    view.update(S._replace(done=50))
    view.close(S._replace(state="cancelled", done=50))
thread = threading.Thread(target=work)
thread.start()
"""
BACKGROUND_2 = "go.set(); thread.join()"

SHORT = """
before = len(ipywidgets.Widget.get_manager_state()["state"])
view = choose_view(True, "short")
view.close(S._replace(state="done", done=100))
print(len(ipywidgets.Widget.get_manager_state()["state"]) - before)
"""

NO_WIDGETS = """
view = cell_card.CallView(
    cell_card.CellCard(widgets=False, over=True, between_cells=threading.Event()), "card", "", None, ("card", ""))
view.update(S)
view.close(S._replace(state="failed", done=3))
"""

# An ipywidgets that does not import, such as one of another Python.
BROKEN = """
import sys
kept = sys.modules["ipywidgets"]
ours = sys.modules.pop("distmap.views.widgets")
sys.modules["ipywidgets"], found = None, notebook.importlib.util.find_spec
notebook.importlib.util.find_spec = lambda name: object()
view = choose_view(True, "broken")
print(type(view).__name__)
for done in range(6):
    view.update(S._replace(done=done))
view.close(S._replace(state="done", done=100))
sys.modules["ipywidgets"], sys.modules["distmap.views.widgets"] = kept, ours
notebook.importlib.util.find_spec = found
"""


def execute(*cells: str) -> list[list[dict[str, Any]]]:
    import nbformat  # more than a second, as it reads grammars
    from nbclient import NotebookClient

    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    client = NotebookClient(book, timeout=60, kernel_name="python3")
    asyncio.run(client.async_execute())
    return [cell.outputs for cell in book.cells]


@pytest.fixture(scope="module")
def outputs(needs: Callable[[bool, str], None]) -> list[list[dict[str, Any]]]:
    """One kernel for all: its start is nearly all the time."""
    needs(find_spec("nbclient") is not None, "nbclient")
    return execute(SET_UP, RUN, CLOSED, BACKGROUND_1, BACKGROUND_2, NO_WIDGETS, SHORT, BROKEN)


def data(outputs: list[dict[str, Any]]) -> dict[str, str]:
    [shown] = [o for o in outputs if o["output_type"] == "display_data"]
    return shown["data"]


def text(outputs: list[dict[str, Any]]) -> list[str]:
    return "".join(o["text"] for o in outputs if o.get("name") == "stdout").splitlines()


def test_the_panel_ends_as_static_html(outputs: list[list[dict[str, Any]]]) -> None:
    """What stays in the notebook is one display of HTML and text, no widget, with names escaped."""
    assert text(outputs[1]) == ["CallView"]
    shown = data(outputs[1])
    assert set(shown) == {"text/html", "text/plain"}
    assert shown["text/plain"] == "score: done, 100 of 100 items in 2.0 s, 50 items/s, 1 worker, 1 failed"
    assert "ValueError(&#x27;&lt;b&gt;&#x27;)" in shown["text/html"]


def test_no_widget_stays_in_the_kernel(outputs: list[list[dict[str, Any]]]) -> None:
    """Every widget that the panel made is closed at its end, layouts and styles too."""
    assert outputs[2][0]["text"] == "0\n"


def test_a_background_job_shows_in_its_own_cell(outputs: list[list[dict[str, Any]]]) -> None:
    """Updates from a thread, made while another cell runs, land in the cell where the view was made."""
    assert data(outputs[3])["text/plain"].startswith("background: cancelled, 50 of 100 items")
    assert outputs[4] == []


def test_without_widgets_there_is_a_card(outputs: list[list[dict[str, Any]]]) -> None:
    """The card needs no ipywidgets and is replaced in place."""
    assert "Failed" in data(outputs[5])["text/html"]


def test_a_short_job_makes_no_widget(outputs: list[list[dict[str, Any]]]) -> None:
    """A view that is closed before its first update shows the summary only."""
    assert data(outputs[6])["text/plain"].startswith("short: done, 100 of 100 items")
    assert outputs[6][1]["text"] == "0\n"


def test_broken_widgets_cost_the_buttons_only(outputs: list[list[dict[str, Any]]]) -> None:
    """If ipywidgets is there but does not work, the card is shown in its place."""
    assert text(outputs[7]) == ["CallView"]
    assert data(outputs[7])["text/plain"].startswith("broken: done, 100 of 100 items")


def test_nothing_of_the_machine_is_shown(outputs: list[list[dict[str, Any]]]) -> None:
    """The panel's HTML holds no path."""
    assert "/home/" not in json.dumps(outputs)
