"""The panel of a job in a notebook cell: ipywidgets while it runs, plain HTML for ever after.

Owns the widgets and the display. The only importer of ipywidgets; how things look is `static.py`'s business, when
they are drawn is `painter.py`'s. At the end the display is replaced by `text/html` and `text/plain` through its display
id: a saved notebook holds no widget state, so a widget left in it would read "model not found".
"""

from __future__ import annotations

import contextvars
import importlib.util
import logging
import threading
from collections.abc import Callable
from typing import Any

from IPython import get_ipython
from IPython.display import display

from distmap.core.progress import Snapshot
from distmap.views import static
from distmap.views.base import Steering, View
from distmap.views.static import Note, ended

log = logging.getLogger("distmap")

#: The lanes are ten times the size of the bar: drawn at every third turn of their panel. Counted in turns, which the
#: painter shares out, so that many panels together cost no more than one.
_LANES_TURNS = 3
#: Without widgets each update is the whole card.
_CARD_TURNS = 5


def notebook_view(title: str, kind: str = "", steering: Steering | None = None) -> View:
    """The best view that this kernel has: widgets if ipywidgets is installed, else HTML that is replaced in place."""
    if importlib.util.find_spec("ipywidgets") is None:
        return CardView(title, kind)
    return PanelView(title, kind, steering)


def has_subshells() -> bool:
    """Whether a click can reach this kernel while a cell blocks."""
    info = getattr(getattr(get_ipython(), "kernel", None), "kernel_info", None)
    return isinstance(info, dict) and "kernel subshells" in info.get("supported_features", ())


class CardView:
    """The static card, shown under one display id and replaced as it goes. Needs no ipywidgets.

    Made in the thread of the cell, which is where its display stays.
    """

    drawn = True

    def __init__(self, title: str, kind: str = "") -> None:
        self._title = title
        self._kind = kind
        self._turns = 0
        self._notes: list[Note] = []
        self._dropped = 0
        self._closed = False
        self._lock = threading.Lock()
        self._context = contextvars.copy_context()
        # At once, not with the first snapshot: a display made later by a thread would land in whatever cell runs then.
        self._handle: Any = display(self._begin(), raw=True, display_id=True)

    def update(self, snapshot: Snapshot) -> None:
        with self._lock:
            if not self._closed:
                self._run(self._show, snapshot)
                self._turns += 1

    def note(self, note: Note) -> None:
        self._notes.append(note)

    def close(self, snapshot: Snapshot, dropped: int = 0) -> None:
        with self._lock:
            if not self._closed:
                self._dropped = dropped
                self._run(self._finish, ended(snapshot))
                # Only now: a second interrupt may have cut it short, and then it is to be done again.
                self._closed = True

    def _run(self, call: Callable[[Snapshot], None], snapshot: Snapshot) -> None:
        try:
            # Not in the context of the cell: an update finds its place by display id, and nbclient drops what is
            # addressed to a cell that has ended.
            call(snapshot)
        except LookupError:
            # ipykernel 7.0 knows no thread without the context of a cell.
            self._context.copy().run(call, snapshot)

    def _begin(self) -> dict[str, Any]:
        return {"text/plain": f"{self._title}: running", "text/html": static.begun_html(self._title, self._kind)}

    def _replace(self, snapshot: Snapshot) -> None:
        bundle = {
            "text/plain": static.plain(self._title, snapshot),
            "text/html": static.card_html(self._title, snapshot, self._notes, self._dropped, self._kind),
        }
        self._handle.update(bundle, raw=True)

    def _show(self, snapshot: Snapshot) -> None:
        if self._turns % _CARD_TURNS == 0:
            self._replace(snapshot)

    def _finish(self, snapshot: Snapshot) -> None:
        self._replace(snapshot)


class PanelView(CardView):
    """Widgets: head with buttons, bar, lanes, and a fold of noted lines. Unchanged parts are not sent again."""

    def __init__(self, title: str, kind: str = "", steering: Steering | None = None) -> None:
        self._steering = steering
        self._parts: dict[str, Any] = {}
        self._pause: Any = None
        self._cancel: Any = None
        self._cancelled = False
        self._fold: Any = None
        self._box: Any = None
        #: Everything that was made, to be closed at the end.
        self._widgets: list[Any] = []
        self._broken = False
        #: Notes that are in the fold already.
        self._noted = 0
        super().__init__(title, kind)

    def _show(self, snapshot: Snapshot) -> None:
        if self._broken:
            return super()._show(snapshot)
        if self._box is None:
            try:
                # With the first update, not at once: most jobs are over before it, and need no widget.
                self._handle.update(self._build(), raw=True)
            except LookupError:
                raise
            except Exception:
                log.exception("! no widgets in this kernel; plain HTML instead")
                self._broken = True
                self._close_widgets()
                return super()._show(snapshot)
        self._set("head", static.head_html(self._title, snapshot.state, self._kind))
        self._set("bar", static.bar_html(snapshot))
        if self._turns % _LANES_TURNS == 0:
            self._set("lanes", static.lanes_html(snapshot))
        self._show_buttons()
        self._show_notes(snapshot)

    def _build(self) -> dict[str, Any]:
        import ipywidgets as widgets

        def keep(widget: Any) -> Any:
            self._widgets.append(widget)
            return widget

        self._parts = {name: keep(widgets.HTML()) for name in ("head", "bar", "lanes", "notes")}
        # The style sheet stands in a part of its own that never changes.
        style = keep(widgets.HTML(static.STYLE, layout=widgets.Layout(display="none")))
        # An accordion, as its fold is the front end's: an update of the text inside does not close it.
        self._fold = keep(widgets.Accordion([self._parts["notes"]], layout=widgets.Layout(display="none")))
        steering: list[Any] = []
        if self._steering is not None and has_subshells():
            self._pause = keep(widgets.Button(description="Pause", tooltip="Start no further items"))
            self._cancel = keep(widgets.Button(description="Cancel", tooltip="Stop; what is finished is kept"))
            self._cancel.add_class("dm-cancel")
            for button, press in ((self._pause, self._press_pause), (self._cancel, self._press_cancel)):
                button.add_class("dm-button")
                button.on_click(press)
                _route_by_front_end(button)
            steering = [self._pause, self._cancel]
        elif self._steering is not None:
            steering = [keep(widgets.HTML(static.hint_html()))]
        top = keep(widgets.HBox([self._parts["head"], *steering]))
        top.add_class("dm-top")
        self._box = keep(widgets.VBox([style, top, self._parts["bar"], self._parts["lanes"], self._fold]))
        self._box.add_class("dm-card")
        # The HTML travels along for front ends that know no widgets.
        return {**self._box._repr_mimebundle_(), **self._begin()}

    def _show_buttons(self) -> None:
        if self._cancel is None or self._steering is None:
            return
        words = "Resume" if self._steering.paused else "Pause"
        if self._pause.description != words:
            self._pause.description = words
        if self._cancelled and not self._cancel.disabled:
            self._pause.disabled = self._cancel.disabled = True

    def _show_notes(self, snapshot: Snapshot) -> None:
        words = ", ".join(static.troubles(snapshot))
        if not words and not self._notes:
            return
        if len(self._notes) > self._noted:
            self._noted = len(self._notes)
            self._set("notes", static.notes_html(self._notes[: self._noted]))
        # Unlike values, these are sent even if nothing changed.
        if self._fold.titles != (words,):
            self._fold.titles = (words,)
        if self._fold.layout.display is not None:
            self._fold.layout.display = None

    def _set(self, part: str, html: str) -> None:
        if self._parts[part].value != html:
            self._parts[part].value = html

    # Pressed on a thread of the kernel's subshell, or on the main thread while no cell runs. So: no signals, no loop,
    # no widgets; the painter shows what came of it.

    def _press_pause(self, _: Any) -> None:
        if self._steering is None or self._closed or self._cancelled:
            return
        if self._steering.paused:
            self._steering.resume()
        else:
            self._steering.pause()

    def _press_cancel(self, _: Any) -> None:
        if self._steering is not None and not self._closed:
            self._cancelled = True
            self._steering.cancel()

    def _finish(self, snapshot: Snapshot) -> None:
        # First the replacement, then the widgets: the other way round the cell would blink empty.
        self._replace(snapshot)
        self._close_widgets()

    def _close_widgets(self) -> None:
        while self._widgets:
            widget = self._widgets[-1]
            # Each widget made a layout and perhaps a style, which would outlive it and pile up job after job.
            for name in ("layout", "style"):
                if hasattr(widget, name):
                    getattr(widget, name).close()
            widget.close()
            self._widgets.pop()


def _route_by_front_end(widget: Any) -> None:
    """Let the front end say which subshell a click goes to (ipykernel 7.4).

    7.4 sends what comes for a widget to the subshell from which the widget was last changed. For a panel that is the
    main one, which is blocked by the very cell that the click is to end.
    """
    comm: Any = getattr(widget, "comm", None)
    if hasattr(comm, "_reply_subshell_for"):
        comm._reply_subshell_for = None
