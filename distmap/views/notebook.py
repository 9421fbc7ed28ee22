"""The panel of a job in a notebook cell: ipywidgets while it runs, plain HTML for ever after.

Owns the widgets and the display. The only importer of ipywidgets; how things look is `static.py`'s business. At the end
the display is replaced by `text/html` and `text/plain` through its display id: a saved notebook holds no widget state,
so a widget left in it would read "model not found".
"""

from __future__ import annotations

import contextvars
import importlib.util
import time
from collections.abc import Callable
from typing import Any

from IPython.display import display

from distmap.core.progress import Snapshot
from distmap.views import static
from distmap.views.base import View
from distmap.views.static import Note, ended

#: Seconds between two updates: a front end follows a hundred a second, eyes ten; a lane is ten times a bar's size.
_BAR_EVERY = 0.1
_LANES_EVERY = 0.3
#: Without widgets each update is the whole card.
_CARD_EVERY = 0.5


def notebook_view(title: str) -> View:
    """The best view that this kernel has: widgets if ipywidgets is installed, else HTML that is replaced in place."""
    if importlib.util.find_spec("ipywidgets") is None:
        return CardView(title)
    return PanelView(title)


class CardView:
    """The static card, shown under one display id and replaced twice a second. Needs no ipywidgets.

    Made in the thread of the cell, which is where its display stays; then used by any one thread.
    """

    _every = _CARD_EVERY

    def __init__(self, title: str, *, now: Callable[[], float] = time.monotonic) -> None:
        self._title = title
        self._now = now
        self._shown = -float("inf")
        self._notes: list[Note] = []
        self._dropped = 0
        self._closed = False
        self._context = contextvars.copy_context()
        # At once, not with the first snapshot: a display made later by a thread would land in whatever cell runs then.
        self._handle: Any = display(self._begin(), raw=True, display_id=True)

    def update(self, snapshot: Snapshot) -> None:
        now = self._now()
        if self._closed or now - self._shown < self._every:
            return
        self._shown = now
        self._run(self._show, snapshot)

    def note(self, text: str) -> None:
        if len(self._notes) < static.NOTES:
            self._notes.append(Note("failed", None, "", 0, text))
        else:
            self._dropped += 1

    def close(self, snapshot: Snapshot) -> None:
        if not self._closed:
            self._closed = True
            self._run(self._finish, ended(snapshot))

    def _run(self, call: Callable[[Snapshot], None], snapshot: Snapshot) -> None:
        try:
            # Not in the context of the cell: an update finds its place by display id, and nbclient drops what is
            # addressed to a cell that has ended.
            call(snapshot)
        except LookupError:
            # ipykernel 7.0 knows no thread without the context of a cell.
            self._context.copy().run(call, snapshot)

    def _begin(self) -> dict[str, Any]:
        return {"text/plain": f"{self._title}: running", "text/html": static.begun_html(self._title)}

    def _replace(self, snapshot: Snapshot) -> None:
        bundle = {
            "text/plain": static.plain(self._title, snapshot),
            "text/html": static.card_html(self._title, snapshot, self._notes, self._dropped),
        }
        self._handle.update(bundle, raw=True)

    def _show(self, snapshot: Snapshot) -> None:
        self._replace(snapshot)

    def _finish(self, snapshot: Snapshot) -> None:
        self._replace(snapshot)


class PanelView(CardView):
    """Widgets: head, bar, lanes, and a fold of noted lines. Unchanged parts are not sent again."""

    _every = _BAR_EVERY

    def __init__(self, title: str, *, now: Callable[[], float] = time.monotonic) -> None:
        self._lanes_shown = -float("inf")
        self._parts: dict[str, Any] = {}
        self._fold: Any = None
        self._box: Any = None
        super().__init__(title, now=now)

    def _build(self) -> dict[str, Any]:
        # With the first update, not at once: most jobs are over before it, and need no widget.
        import ipywidgets as widgets

        self._parts = {name: widgets.HTML() for name in ("head", "bar", "lanes", "notes")}
        # The style sheet stands in a part of its own that never changes.
        style = widgets.HTML(static.STYLE, layout=widgets.Layout(display="none"))
        # An accordion, as its fold is the front end's: an update of the text inside does not close it.
        self._fold = widgets.Accordion([self._parts["notes"]], layout=widgets.Layout(display="none"))
        shown = (self._parts[name] for name in ("head", "bar", "lanes"))
        self._box = widgets.VBox([style, *shown, self._fold])
        self._box.add_class("dm-card")
        # The HTML travels along for front ends that know no widgets.
        return {**self._box._repr_mimebundle_(), **self._begin()}

    def _show(self, snapshot: Snapshot) -> None:
        if self._box is None:
            self._handle.update(self._build(), raw=True)
        self._set("head", static.head_html(self._title, snapshot.state))
        self._set("bar", static.bar_html(snapshot))
        if self._shown - self._lanes_shown >= _LANES_EVERY:
            self._lanes_shown = self._shown
            self._set("lanes", static.lanes_html(snapshot))
        words = ", ".join(static.troubles(snapshot))
        if words or self._notes:
            self._set("notes", static.notes_html(self._notes, self._dropped))
            # Unlike values, these are sent even if nothing changed.
            if self._fold.titles != (words,):
                self._fold.titles = (words,)
            if self._fold.layout.display is not None:
                self._fold.layout.display = None

    def _set(self, part: str, html: str) -> None:
        if self._parts[part].value != html:
            self._parts[part].value = html

    def _finish(self, snapshot: Snapshot) -> None:
        # First the replacement, then the widgets: the other way round the cell would blink empty.
        self._replace(snapshot)
        if self._box is None:
            return
        for widget in (self._box, *self._box.children, self._parts["notes"]):
            # Each widget made a layout and perhaps a style, which would outlive it and pile up job after job.
            for name in ("layout", "style"):
                if hasattr(widget, name):
                    getattr(widget, name).close()
            widget.close()
