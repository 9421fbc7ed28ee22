"""The widgets of a card, while calls of its cell run: the summary of all calls, and a panel for each running call.

Owns the widgets and the buttons. The only importer of ipywidgets, and itself imported only where there are some. How
things look is in `cards.py` and `summary.py`. Unchanged values are not sent again.

Threads: all but the `_press_...` methods is called with the card's lock held, by whatever thread draws the card.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import ipywidgets as widgets

from distmap.core.progress import Snapshot
from distmap.views import cards
from distmap.views.base import Controls, Issue
from distmap.views.kernel import has_subshells
from distmap.views.lanes import lanes_html
from distmap.views.stats import FunctionStats
from distmap.views.style import STYLE
from distmap.views.summary import call_details, numbers_html
from distmap.views.words import is_live, problems

#: The lanes are ten times the size of the bar: they are sent at every third update of their panel. Counted in updates,
#: which the refresh thread distributes, so that many panels together cost no more than one.
_LANES_TURNS = 3


class ShownCall(Protocol):
    """What a panel shows."""

    title: str
    kind: str
    #: Its number among the calls of its function in the cell.
    number: int
    snapshot: Snapshot | None
    issues: list[Issue]
    controls: Controls | None
    closed: bool


class CardWidgets:
    """The widgets of one card."""

    def __init__(self) -> None:
        # The style sheet is a part of its own that never changes.
        self._style = widgets.HTML(STYLE, layout=widgets.Layout(display="none"))
        self._numbers = widgets.HTML(layout=widgets.Layout(display="none"))
        self._details = _accordion(widgets.HTML())
        self._summary = (self._style, self._numbers, self._details)
        self.box = widgets.VBox(self._summary)
        self.box.add_class("dm-card")
        #: The panels in the box, in their order.
        self.panels: dict[ShownCall, Panel] = {}

    def show(self, calls: Sequence[ShownCall], changed: ShownCall | None, functions: Sequence[FunctionStats]) -> None:
        """Show these calls and, below them, what all calls together come to.

        Args:
            calls: calls that run.
            changed: only this call has a new snapshot; None: anything may be new.
            functions: the calls of the cell; empty if there is only one call.
        """
        for call in calls:
            if call not in self.panels:
                self.panels[call] = Panel(call)
                changed = None
        # The call that ended last stays until there is another one to be shown.
        shown = list(calls) or list(self.panels)[-1:]
        for call in shown:
            if changed is None or call is changed:
                self.panels[call].show(alone=not functions)
        if functions:
            self._show_summary(functions)
        gone = [panel for call, panel in self.panels.items() if call not in shown]
        self.panels = {call: self.panels[call] for call in shown}
        children = (*self._summary, *(panel.box for panel in self.panels.values()))
        if self.box.children != children:
            self.box.children = children
        for panel in gone:
            _close(panel.box)

    def _show_summary(self, functions: Sequence[FunctionStats]) -> None:
        _send(self._numbers, numbers_html(functions))
        if (details := call_details(functions)) is not None:
            _send_details(self._details, " · ".join(filter(None, (details.wrong, details.slowest))), details.lines)

    def close(self) -> None:
        """Close all widgets."""
        for panel in self.panels.values():
            _close(panel.box)
        _close(self.box)


class Panel:
    """The widgets of one call: head with buttons, bar, lanes, and the issues to unfold."""

    def __init__(self, call: ShownCall) -> None:
        self.call = call
        self._turns = 0
        self._cancelled = False
        self._pause: Any = None
        self._cancel: Any = None
        self._parts = {name: widgets.HTML() for name in ("head", "bar", "lanes", "issues")}
        self._details = _accordion(self._parts["issues"])
        controls: list[Any] = []
        if call.controls is not None and has_subshells():
            self._pause = _button("Pause", "Start no further items", self._press_pause)
            self._cancel = _button("Cancel", "Stop; what is finished is kept", self._press_cancel)
            self._cancel.add_class("dm-cancel")
            controls = [self._pause, self._cancel]
        elif call.controls is not None:
            controls = [widgets.HTML(cards.hint_html())]
        top = widgets.HBox([self._parts["head"], *controls])
        top.add_class("dm-top")
        self.box = widgets.VBox([top, self._parts["bar"], self._parts["lanes"], self._details])
        self.box.add_class("dm-panel")

    def show(self, *, alone: bool) -> None:
        """Show the newest snapshot of the call. `alone`: it is the only one of its card."""
        call, snapshot = self.call, self.call.snapshot
        if snapshot is None:
            return
        if alone != ("dm-single" in self.box._dom_classes):
            (self.box.add_class if alone else self.box.remove_class)("dm-single")
        _send(self._parts["head"], cards.head_html(call.title, snapshot.state, call.kind, 0 if alone else call.number))
        _send(self._parts["bar"], cards.bar_html(snapshot))
        if self._turns % _LANES_TURNS == 0 or not is_live(snapshot):
            _send(self._parts["lanes"], lanes_html(snapshot))
        self._turns += 1
        self._show_buttons(is_live(snapshot))
        self._show_issues(snapshot)

    def _show_buttons(self, live: bool) -> None:
        if self._cancel is None or self.call.controls is None:
            return
        words = "Resume" if self.call.controls.paused else "Pause"
        if self._pause.description != words:
            self._pause.description = words
        if (self._cancelled or not live) and not self._cancel.disabled:
            self._pause.disabled = self._cancel.disabled = True

    def _show_issues(self, snapshot: Snapshot) -> None:
        words, issues = ", ".join(problems(snapshot)), self.call.issues
        if words or issues:
            _send_details(self._details, words, cards.issues_html(issues))

    # Pressed on a thread of the kernel's subshell, or on the main thread while no cell runs. So: no signals, no loop,
    # no widgets, no lock; the next drawing shows the effect.

    def _press_pause(self, _: Any) -> None:
        controls = self.call.controls
        if controls is None or self.call.closed or self._cancelled:
            return
        if controls.paused:
            controls.resume()
        else:
            controls.pause()

    def _press_cancel(self, _: Any) -> None:
        if self.call.controls is not None and not self.call.closed:
            self._cancelled = True
            self.call.controls.cancel()


def _send(part: Any, html: str) -> None:
    """Show it, if it is not shown already."""
    if part.value != html:
        part.value = html
    # Unlike values, layouts are sent even if nothing changed.
    if part.layout.display is not None:
        part.layout.display = None


def _accordion(lines: Any) -> Any:
    """Lines that unfold, hidden while there are none.

    An accordion, as the front end keeps whether it is open: an update of the text inside does not close it.
    """
    return widgets.Accordion([lines], layout=widgets.Layout(display="none"))


def _send_details(accordion: Any, title: str, html: str) -> None:
    _send(accordion.children[0], html)
    if accordion.titles != (title,):
        accordion.titles = (title,)
    if accordion.layout.display is not None:
        accordion.layout.display = None


def _button(words: str, tooltip: str, press: Any) -> Any:
    button = widgets.Button(description=words, tooltip=tooltip)
    button.add_class("dm-button")
    button.on_click(press)
    # ipykernel 7.4 sends what comes for a widget to the subshell from which the widget was last changed. For a panel
    # that is the main one, which is blocked by the very cell that the click shall end. None: the front end decides.
    comm: Any = getattr(button, "comm", None)
    if hasattr(comm, "_reply_subshell_for"):
        comm._reply_subshell_for = None
    return button


def _close(widget: Any) -> None:
    """Close a widget and all in it; twice does nothing."""
    for child in getattr(widget, "children", ()):
        _close(child)
    # Each widget made a layout and perhaps a style, which would otherwise stay in the kernel.
    for name in ("layout", "style"):
        if hasattr(widget, name):
            getattr(widget, name).close()
    widget.close()
