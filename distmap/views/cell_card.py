"""The card of a cell: one for all calls that the cell makes, widgets while they run, plain HTML afterwards.

Owns what the card shows and when, and its place in the notebook. The only importer of IPython. How things look is in
`cards.py` and `summary.py`; the widgets are in `widgets.py`; when views are updated is up to `refresh.py`. A cell with
one call shows that call; from the second one on there is a row for each function, and below it what runs. A call that
is over soon draws nothing before it is over; what many calls change is drawn now and then, and when the cell ends.

At the end the display is replaced by `text/html` and `text/plain` through its display id: a saved notebook holds no
widget state, so a widget left in it would read "model not found".

Threads: the thread of the call, the refresh thread and the kernel's main thread (at the end of a cell) all take
`CellCard.lock`, which is re-entrant: closing a call draws its card.
"""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from IPython.display import display

from distmap.core.progress import Snapshot
from distmap.views import cards, summary
from distmap.views.base import QUICK, Controls, Issue
from distmap.views.html import framed_html
from distmap.views.refresh import REFRESH_THREAD
from distmap.views.stats import FinishedCall, FunctionStats
from distmap.views.words import as_ended, job_line

if TYPE_CHECKING:
    from distmap.views.widgets import CardWidgets

log = logging.getLogger("distmap")

#: Without widgets each drawing is the whole card: only every fifth update is drawn.
_CARD_TURNS = 5
#: Seconds between two drawings of what finished calls change.
_SUMMARY_EVERY = 0.5
#: Calls that have a panel at the same time; further ones wait for one.
_MAX_PANELS = 4
#: Functions of one cell that are counted by themselves; further ones are counted together.
_MAX_FUNCTIONS = 64


class CallView:
    """One call, as its card shows it.

    Args:
        function: title and kind of the calls that it is counted with.
    """

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
        self.closed = False
        self.stats, self.number = card.begin(self, function)

    @property
    def is_seen(self) -> bool:
        """It has lasted long enough to be drawn."""
        return self.snapshot is not None and self.snapshot.elapsed >= QUICK

    def update(self, snapshot: Snapshot) -> None:
        with self.card.lock:
            if not self.closed:
                self.snapshot = snapshot
                self.card.call_changed(self)

    def add_issue(self, issue: Issue) -> None:
        self.issues.append(issue)

    def close(self, snapshot: Snapshot, dropped: int = 0) -> None:
        with self.card.lock:
            if not self.closed:
                self.snapshot = as_ended(snapshot)
                self.card.end(self, FinishedCall(self.number, self.snapshot, tuple(self.issues), dropped))
                # Only now: a second interrupt may have cut it short, and then it is done again.
                self.closed = True
                self.controls = None  # the card stays, and must not keep the pool


class CellCard:
    """One display of a cell, for all its calls. Made in the thread of the cell, to which it belongs from then on.

    Args:
        widgets: whether ipywidgets is installed.
        over: no cell runs that will tell when it ends: each drawing may be the last one.
        between_cells: set while no cell runs.
    """

    def __init__(self, *, widgets: bool, over: bool, between_cells: threading.Event) -> None:
        self.lock = threading.RLock()
        self.widgets: CardWidgets | None = None
        self._has_widgets = widgets
        self._over = over
        self._between_cells = between_cells
        self._context = contextvars.copy_context()
        self._handle: Any = None
        self._functions: dict[tuple[str, str], FunctionStats] = {}
        #: Calls that run.
        self._live: list[CallView] = []
        #: The call, as long as the cell has made only one; and what it was at its end.
        self._single: CallView | None = None
        self._last: FinishedCall | None = None
        self._turns = 0
        self._drawn = -float("inf")
        #: Something is not drawn yet; the refresh thread will draw it if `_waits`.
        self._stale = False
        self._waits = False
        #: It was drawn while no cell ran: nbclient drops such output, so it is drawn again when the next cell ends.
        self._late = False

    # --- called by the views of the calls, which hold the lock but for `begin` ----------------------------------------

    def begin(self, view: CallView, function: tuple[str, str]) -> tuple[FunctionStats, int]:
        """A call begins; returns the stats of its function, and its number there."""
        with self.lock:
            if len(self._functions) >= _MAX_FUNCTIONS and function not in self._functions:
                function = ("other functions", "")
            self._single = None if self._functions else view
            stats = self._functions.get(function)
            if stats is None:
                stats = self._functions[function] = FunctionStats(view.title, view.kind, function)
            self._live.append(view)
            self._stale = True
            return stats, stats.begin_call(view.title)

    def call_changed(self, view: CallView) -> None:
        """A call has a new snapshot."""
        if view.is_seen:
            self._draw(view)

    def end(self, view: CallView, call: FinishedCall) -> None:
        """A call is over."""
        if view in self._live:  # not when it was cut short and is done again
            view.stats.end_call(call)
            self._last = call
            self._live.remove(view)
        self._stale = True
        quick = self._single is None and call.snapshot.elapsed < QUICK
        if not quick or time.monotonic() - self._drawn >= _SUMMARY_EVERY:
            self._draw()
        elif not self._waits:
            self._waits = True
            REFRESH_THREAD.add(self, call.snapshot._replace)  # ever a new one: it comes again until it is drawn

    # --- called by the refresh thread, where a call ended too soon after another drawing ------------------------------

    def update(self, snapshot: Snapshot) -> None:
        with self.lock:
            if not self._stale or time.monotonic() - self._drawn >= _SUMMARY_EVERY:
                self.flush()

    # --- called by the kernel's main thread ---------------------------------------------------------------------------

    def flush(self, *, over: bool = False) -> None:
        """Draw what is not drawn yet. `over`: its cell has ended."""
        with self.lock:
            self._over = self._over or over
            if self._waits:
                self._waits = False
                REFRESH_THREAD.remove(self)
            if self._stale or self._late or (over and self.widgets is not None):
                self._draw()

    def forget(self) -> None:
        """The output of its cell was cleared: the next drawing makes a new display."""
        with self.lock:
            self._close_widgets()
            self._handle = None

    # --- drawing ------------------------------------------------------------------------------------------------------

    def _draw(self, changed: CallView | None = None) -> None:
        """Show this moment; `changed`: only this call has a new snapshot."""
        seen = [view for view in self._live if view.is_seen][:_MAX_PANELS]
        # Between two long calls of a loop the widgets stay: an output whose height jumps is hard to read.
        between_calls = self.widgets is not None and self._single is None and not self._over
        if self._has_widgets and (seen or between_calls):
            try:
                self._draw_widgets(seen, changed)
            except LookupError:  # ipykernel 7.0 knows no thread without the context of a cell
                self._context.copy().run(self._draw_widgets, seen, changed)
            except Exception:
                log.exception("! no widgets in this kernel; plain HTML instead")
                self._has_widgets = False
                self._draw_static(seen)
        elif changed is None or self._turns % _CARD_TURNS == 0:
            self._draw_static(seen)
        else:
            self._turns += 1
            return  # it stays stale
        self._turns += changed is not None
        self._drawn, self._stale, self._late = time.monotonic(), False, self._between_cells.is_set()

    def _draw_widgets(self, seen: list[CallView], changed: CallView | None) -> None:
        from distmap.views.widgets import CardWidgets

        is_new = self.widgets is None
        if self.widgets is None:
            self.widgets = CardWidgets()
        self.widgets.show(seen, changed, list(self._functions.values()) if self._single is None else ())
        if is_new:
            # The HTML travels along for front ends that know no widgets.
            self._place({**self.widgets.box._repr_mimebundle_(), **self._static(seen)})

    def _close_widgets(self) -> None:
        if self.widgets is not None:
            self.widgets.close()
            self.widgets = None

    def _draw_static(self, seen: list[CallView]) -> None:
        # First the replacement, then the widgets: the other way round the cell would blink empty.
        self._place(self._static(seen))
        self._close_widgets()

    def _static(self, seen: list[CallView]) -> dict[str, Any]:
        """The card as text and as HTML that need nothing alive."""
        if (one := self._single) is None:
            functions = list(self._functions.values())
            plain = summary.summary_plain(functions)
            html = framed_html(summary.summary_html(functions) + "".join(map(_panel_html, seen)))
        elif one.snapshot is None:
            plain, html = f"{one.title}: running", cards.new_card_html(one.title, one.kind)
        else:
            dropped = 0 if self._last is None else self._last.dropped
            plain = job_line(one.title, one.snapshot)
            html = cards.card_html(one.title, one.snapshot, one.issues, dropped, one.kind)
        return {"text/plain": plain, "text/html": html}

    def _place(self, bundle: dict[str, Any]) -> None:
        """Show it in the cell, in place of what it showed before."""
        if self._handle is None:
            # In the context of the cell: that is where the display goes to, whatever thread makes it.
            self._handle = self._context.copy().run(display, bundle, raw=True, display_id=True)
            return
        try:
            # Not in the context of the cell: an update finds its place by display id, and nbclient drops what is
            # addressed to a cell that has ended.
            self._handle.update(bundle, raw=True)
        except LookupError:
            self._context.copy().run(self._handle.update, bundle, raw=True)


def _panel_html(view: CallView) -> str:
    """A call that runs, below the rows."""
    if view.snapshot is None:
        return ""
    html = cards.job_html(view.title, view.snapshot, view.issues, 0, view.kind, view.number)
    return f'<div class="dm-panel">{html}</div>'
