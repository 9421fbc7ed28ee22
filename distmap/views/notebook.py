"""The card of a cell: one for all calls that the cell makes, widgets while they run, plain HTML for ever after.

Owns the displays, the widgets and which cell has which card. The only importer of IPython and ipywidgets; how things
look is `static.py`'s and `summary.py`'s business, when they are drawn is `refresh.py`'s. A cell with one call shows
that call; from the second one on there is a row for each function, and below it what runs. A call that is over soon
draws nothing before it is over; what many calls change is drawn now and then, and when the cell ends.

At the end the display is replaced by `text/html` and `text/plain` through its display id: a saved notebook holds no
widget state, so a widget left in it would read "model not found".
"""

from __future__ import annotations

import contextvars
import importlib.util
import logging
import threading
import time
from collections import OrderedDict
from typing import Any

from IPython import get_ipython
from IPython.display import display

from distmap.core.progress import Snapshot
from distmap.views import static, summary
from distmap.views.base import QUICK, Controls, Issue, View
from distmap.views.calls import Call, Tally
from distmap.views.kernel import has_subshells
from distmap.views.refresh import REFRESH_THREAD
from distmap.views.static import ended

log = logging.getLogger("distmap")

#: The lanes are ten times the size of the bar: drawn at every third turn of their panel. Counted in turns, which the
#: refresh thread shares out, so that many panels together cost no more than one.
_LANES_TURNS = 3
#: Without widgets each update is the whole card.
_CARD_TURNS = 5
#: What calls that are over change is drawn so often, in seconds.
_SUMMARY_EVERY = 0.5
#: Calls that run at the same time in one cell have so many panels; the others wait for one.
_PANELS = 4
#: The cards of so many cells are kept: threads that a cell left behind may make calls later.
_CELLS = 32
#: More functions than this of one cell are counted together.
_FUNCTIONS = 64


def notebook_view(
    title: str,
    kind: str = "",
    controls: Controls | None = None,
    function: tuple[str, str] | None = None,
    cell: str | None = None,
) -> View:
    """A call on the card of its cell.

    Args:
        title, kind, controls: as for `choose`.
        function: name and kind of the calls that it is counted with; default: those of the call.
        cell: name of the cell; None: a card of its own.
    """
    view = CallView(_card_of(cell), title, kind, controls, function or (title, kind))
    if cell is None:
        view.card.flush()  # somebody asked to see it
    return view


class CallView:
    """One call, as its card shows it."""

    drawn = True

    def __init__(
        self, card: CellCard, title: str, kind: str, controls: Controls | None, function: tuple[str, str]
    ) -> None:
        self.card = card
        self.title = title
        self.kind = kind
        self.controls = controls
        self.issues: list[Issue] = []
        self.snapshot: Snapshot | None = None
        self.panel: Panel | None = None
        self.closed = False
        self.tally, self.number = card.begin(self, function)

    @property
    def is_seen(self) -> bool:
        """It has lasted long enough to be worth a drawing."""
        return self.snapshot is not None and self.snapshot.elapsed >= QUICK

    def update(self, snapshot: Snapshot) -> None:
        with self.card.lock:
            if not self.closed:
                self.snapshot = snapshot
                self.card.moved(self)

    def add_issue(self, issue: Issue) -> None:
        self.issues.append(issue)

    def close(self, snapshot: Snapshot, dropped: int = 0) -> None:
        with self.card.lock:
            if not self.closed:
                self.snapshot = ended(snapshot)
                self.card.end(self, Call(self.number, self.snapshot, tuple(self.issues), dropped))
                # Only now: a second interrupt may have cut it short, and then it is to be done again.
                self.closed = True
                self.controls = None  # the card stays, and must not keep the pool


class CellCard:
    """One display of a cell, for all its calls. Made in the thread of the cell, which is where it stays.

    Args:
        widgets: Whether there are any.
        over: No cell runs that will say when it ends; each drawing may be the last one.
    """

    def __init__(self, *, widgets: bool, over: bool) -> None:
        self.lock = threading.RLock()
        self._widgets = widgets
        self._over = over
        self._context = contextvars.copy_context()
        self._handle: Any = None
        self._tallies: dict[tuple[str, str], Tally] = {}
        #: Calls that go on.
        self._live: list[CallView] = []
        #: The only call that there ever was, and what it was in the end.
        self._single: CallView | None = None
        self._last: Call | None = None
        self._turns = 0
        self._drawn = -float("inf")
        #: Something is not drawn yet; the refresh thread will see to it.
        self._stale = False
        self._waits = False
        #: It was drawn while no cell ran.
        self._late = False
        #: The widgets, while there are any: box, and in it style sheet, numbers, fold and the panels.
        self._box: Any = None
        self._parts: list[Any] = []
        self._panels: list[Panel] = []

    # --- told by the calls --------------------------------------------------------------------------------------------

    def begin(self, view: CallView, function: tuple[str, str]) -> tuple[Tally, int]:
        """A call begins; gives its tally, and its number there."""
        with self.lock:
            if len(self._tallies) >= _FUNCTIONS and function not in self._tallies:
                function = ("other functions", "")
            self._single = None if self._tallies else view
            tally = self._tallies.get(function)
            if tally is None:
                tally = self._tallies[function] = Tally(view.title, view.kind, function)
            self._live.append(view)
            self._stale = True
            return tally, tally.begin(view.title)

    def moved(self, view: CallView) -> None:
        """A call has a new snapshot."""
        if view.is_seen:
            self._draw(view)

    def end(self, view: CallView, call: Call) -> None:
        """A call is over."""
        if view in self._live:  # not when it was cut short and is done again
            view.tally.end(call)
            self._last = call
            self._live.remove(view)
        self._stale = True
        quick = self._single is None and call.snapshot.elapsed < QUICK
        if not quick or time.monotonic() - self._drawn >= _SUMMARY_EVERY:
            self._draw()
        elif not self._waits:
            self._waits = True
            REFRESH_THREAD.add(self, call.snapshot._replace)  # ever a new one: it comes again until it is drawn

    # --- called by the refresh thread, where an end came too soon after another drawing -------------------------------

    def update(self, snapshot: Snapshot) -> None:
        with self.lock:
            if not self._stale or time.monotonic() - self._drawn >= _SUMMARY_EVERY:
                self.flush()

    # --- told by the notebook -----------------------------------------------------------------------------------------

    def flush(self, *, over: bool = False) -> None:
        """Draw what is not drawn yet. `over`: its cell has ended."""
        with self.lock:
            self._over = self._over or over
            if self._waits:
                self._waits = False
                REFRESH_THREAD.remove(self)
            if self._stale or self._late or (over and self._box is not None):
                self._draw()

    def forget(self) -> None:
        """The output of its cell was cleared: what comes now is shown anew."""
        with self.lock:
            self._close_widgets()
            self._handle = None

    # --- drawing ------------------------------------------------------------------------------------------------------

    def _draw(self, moved: CallView | None = None) -> None:
        """Show this moment; `moved`: only this call has anything new."""
        seen = [view for view in self._live if view.is_seen][:_PANELS]
        # Between two long calls of a loop the widgets stay: an output whose height jumps is hard to read.
        between = self._box is not None and self._single is None and not self._over
        if self._widgets and (seen or between):
            try:
                self._draw_widgets(seen, moved)
            except LookupError:  # ipykernel 7.0 knows no thread without the context of a cell
                self._context.copy().run(self._draw_widgets, seen, moved)
            except Exception:
                log.exception("! no widgets in this kernel; plain HTML instead")
                self._widgets = False
                self._draw_static(seen)
        elif moved is None or self._turns % _CARD_TURNS == 0:
            self._draw_static(seen)
        else:
            self._turns += 1
            return  # what is not drawn stays to be drawn
        self._turns += moved is not None
        self._drawn, self._stale, self._late = time.monotonic(), False, _between.is_set()

    def _place(self, bundle: dict[str, Any]) -> None:
        """Show it in the cell, or in the place of what is there."""
        if self._handle is None:
            # In the context of the cell, which is where a display goes to, whatever thread makes it.
            self._handle = self._context.copy().run(display, bundle, raw=True, display_id=True)
            return
        try:
            # Not in the context of the cell: an update finds its place by display id, and nbclient drops what is
            # addressed to a cell that has ended.
            self._handle.update(bundle, raw=True)
        except LookupError:
            self._context.copy().run(self._handle.update, bundle, raw=True)

    def _draw_static(self, seen: list[CallView]) -> None:
        # First the replacement, then the widgets: the other way round the cell would blink empty.
        self._place(self._static(seen))
        self._close_widgets()

    def _static(self, seen: list[CallView]) -> dict[str, Any]:
        """The card as text and as HTML that need nothing alive."""
        if (one := self._single) is not None and one.snapshot is None:
            plain, html = f"{one.title}: running", static.begun_html(one.title, one.kind)
        elif one is not None and one.snapshot is not None:
            dropped = 0 if self._last is None else self._last.dropped
            plain = static.plain(one.title, one.snapshot)
            html = static.card_html(one.title, one.snapshot, one.issues, dropped, one.kind)
        else:
            tallies = list(self._tallies.values())
            plain = summary.summary_plain(tallies)
            html = static.framed(summary.summary_html(tallies) + "".join(map(_panel_html, seen)))
        return {"text/plain": plain, "text/html": html}

    def _draw_widgets(self, seen: list[CallView], moved: CallView | None) -> None:
        begun = self._box is None
        if begun:
            self._build()
        for view in seen:
            if view.panel is None:
                view.panel = Panel(view)
                moved = None
        # The one that ended last stays until there is another one to be seen.
        panels = [view.panel for view in seen if view.panel is not None] or self._panels[-1:]
        alone = self._single is not None
        for panel in panels:
            if moved is None or panel.view is moved:
                panel.show(alone=alone)
        if not alone:
            self._show_summary()
        if panels != self._panels:
            gone, self._panels = [panel for panel in self._panels if panel not in panels], panels
            self._box.children = (*self._parts, *(panel.box for panel in panels))
            for panel in gone:
                _close(panel.box)
        if begun:
            # The HTML travels along for front ends that know no widgets.
            self._place({**self._box._repr_mimebundle_(), **self._static(seen)})

    def _build(self) -> None:
        import ipywidgets as widgets

        # The style sheet stands in a part of its own that never changes.
        hidden = {"display": "none"}
        self._parts = [
            widgets.HTML(static.STYLE, layout=widgets.Layout(**hidden)),
            widgets.HTML(layout=widgets.Layout(**hidden)),
            _fold(widgets.HTML()),
        ]
        self._box = widgets.VBox(self._parts)
        self._box.add_class("dm-card")

    def _show_summary(self) -> None:
        """What all calls together come to: from the second one on."""
        _, numbers, fold = self._parts
        tallies = list(self._tallies.values())
        _send(numbers, summary.numbers_html(tallies))
        if (worth := summary.fold_of(tallies)) is not None:
            _send_fold(fold, " · ".join(filter(None, (worth.wrong, worth.slowest))), worth.lines)

    def _close_widgets(self) -> None:
        for view in self._live:
            if view.panel is not None:
                _close(view.panel.box)
                view.panel = None
        if self._box is not None:
            _close(self._box)
            self._box, self._parts, self._panels = None, [], []


def _panel_html(view: CallView) -> str:
    """A call that runs, below the rows."""
    if view.snapshot is None:
        return ""
    html = static.call_html(view.title, view.snapshot, view.issues, 0, view.kind, view.number)
    return f'<div class="dm-panel">{html}</div>'


class Panel:
    """The widgets of a call that runs: head with buttons, bar, lanes, and a fold of noted lines.

    Unchanged parts are not sent again.
    """

    def __init__(self, view: CallView) -> None:
        import ipywidgets as widgets

        self.view = view
        self._turns = 0
        self._cancelled = False
        self._pause: Any = None
        self._cancel: Any = None
        self._parts = {name: widgets.HTML() for name in ("head", "bar", "lanes", "issues")}
        self._fold = _fold(self._parts["issues"])
        controls: list[Any] = []
        if view.controls is not None and has_subshells():
            self._pause = widgets.Button(description="Pause", tooltip="Start no further items")
            self._cancel = widgets.Button(description="Cancel", tooltip="Stop; what is finished is kept")
            self._cancel.add_class("dm-cancel")
            for button, press in ((self._pause, self._press_pause), (self._cancel, self._press_cancel)):
                button.add_class("dm-button")
                button.on_click(press)
                _route_by_front_end(button)
            controls = [self._pause, self._cancel]
        elif view.controls is not None:
            controls = [widgets.HTML(static.hint_html())]
        top = widgets.HBox([self._parts["head"], *controls])
        top.add_class("dm-top")
        self.box = widgets.VBox([top, self._parts["bar"], self._parts["lanes"], self._fold])
        self.box.add_class("dm-panel")

    def show(self, *, alone: bool) -> None:
        """Show the newest snapshot of the call. `alone`: it is the only one of its card."""
        view, snapshot = self.view, self.view.snapshot
        if snapshot is None:
            return
        if alone != ("dm-only" in self.box._dom_classes):
            (self.box.add_class if alone else self.box.remove_class)("dm-only")
        _send(self._parts["head"], static.head_html(view.title, snapshot.state, view.kind, 0 if alone else view.number))
        _send(self._parts["bar"], static.bar_html(snapshot))
        if self._turns % _LANES_TURNS == 0 or not static.is_live(snapshot):
            _send(self._parts["lanes"], static.lanes_html(snapshot))
        self._turns += 1
        self._show_buttons(static.is_live(snapshot))
        self._show_issues(snapshot)

    def _show_buttons(self, live: bool) -> None:
        if self._cancel is None or self.view.controls is None:
            return
        words = "Resume" if self.view.controls.paused else "Pause"
        if self._pause.description != words:
            self._pause.description = words
        if (self._cancelled or not live) and not self._cancel.disabled:
            self._pause.disabled = self._cancel.disabled = True

    def _show_issues(self, snapshot: Snapshot) -> None:
        words, issues = ", ".join(static.troubles(snapshot)), self.view.issues
        if words or issues:
            _send_fold(self._fold, words, static.issues_html(issues))

    # Pressed on a thread of the kernel's subshell, or on the main thread while no cell runs. So: no signals, no loop,
    # no widgets; the refresh thread shows what came of it.

    def _press_pause(self, _: Any) -> None:
        controls = self.view.controls
        if controls is None or self.view.closed or self._cancelled:
            return
        if controls.paused:
            controls.resume()
        else:
            controls.pause()

    def _press_cancel(self, _: Any) -> None:
        if self.view.controls is not None and not self.view.closed:
            self._cancelled = True
            self.view.controls.cancel()


def _send(part: Any, html: str) -> None:
    """Show it, if it is not shown already."""
    if part.value != html:
        part.value = html
    # Unlike values, all else is sent even if nothing changed.
    if part.layout.display is not None:
        part.layout.display = None


def _fold(lines: Any) -> Any:
    """A fold of lines, hidden while there are none.

    An accordion, as whether it is open is the front end's: an update of the text inside does not close it.
    """
    import ipywidgets as widgets

    return widgets.Accordion([lines], layout=widgets.Layout(display="none"))


def _send_fold(fold: Any, title: str, html: str) -> None:
    _send(fold.children[0], html)
    if fold.titles != (title,):
        fold.titles = (title,)
    if fold.layout.display is not None:
        fold.layout.display = None


def _close(widget: Any) -> None:
    """Let go of a widget and of all in it; twice does nothing."""
    for child in getattr(widget, "children", ()):
        _close(child)
    # Each widget made a layout and perhaps a style, which would outlive it and pile up job after job.
    for name in ("layout", "style"):
        if hasattr(widget, name):
            getattr(widget, name).close()
    widget.close()


def _route_by_front_end(widget: Any) -> None:
    """Let the front end say which subshell a click goes to (ipykernel 7.4).

    7.4 sends what comes for a widget to the subshell from which the widget was last changed. For a panel that is the
    main one, which is blocked by the very cell that the click is to end.
    """
    comm: Any = getattr(widget, "comm", None)
    if hasattr(comm, "_reply_subshell_for"):
        comm._reply_subshell_for = None


# --- which cell has which card ----------------------------------------------------------------------------------------

_CARDS: OrderedDict[str, CellCard] = OrderedDict()
_CARDS_LOCK = threading.Lock()
#: The shell that tells of cells; one that was asked already is not asked again.
_watched: list[Any] = []
#: No cell runs. What is drawn then is drawn once more when the next cell ends: nbclient drops what comes in between.
_between = threading.Event()


def _card_of(cell: str | None) -> CellCard:
    """The card of a cell, which is made by its first call; a new one where no cell is named."""
    with _CARDS_LOCK:
        card = None if cell is None else _CARDS.get(cell)
        if card is None:
            widgets = importlib.util.find_spec("ipywidgets") is not None
            card = CellCard(widgets=widgets, over=cell is None or not _watch(get_ipython()))
            if cell is not None:
                _CARDS[cell] = card
                while len(_CARDS) > _CELLS:
                    _CARDS.popitem(last=False)
        return card


def _watch(shell: Any) -> bool:
    """Hear when a cell ends, and when its output is cleared; False if this shell does not tell."""
    if _watched and _watched[0] is shell:
        return True
    try:
        shell.events.register("pre_run_cell", _cell_began)
        shell.events.register("post_run_cell", _cell_ended)
        shell.display_pub.register_hook(_published)
    except AttributeError:  # neither IPython nor one that is built like it
        return False
    _watched[:] = [shell]
    return True


def _cell_began(info: Any = None) -> None:
    _between.clear()


def _cell_ended(result: Any = None) -> None:
    """Cells run one after the other, so all have ended: what is drawn later may come too late for whoever saves."""
    with _CARDS_LOCK:
        cards = list(_CARDS.values())
    for card in cards:
        card.flush(over=True)
    _between.set()


def _published(message: dict[str, Any]) -> dict[str, Any]:
    """Looks at all that the main thread displays."""
    if message.get("header", {}).get("msg_type") == "clear_output":
        card = _CARDS.get(message.get("parent_header", {}).get("msg_id", ""))
        if card is not None:
            card.forget()
    return message
