"""Display state of one job: title, issues, attached views.

Owns the issues and the views of a job, from its first view to its card. A job keeps its display for as long as it lives
itself, so that it can be shown again in any cell; the display has no reference to the job, its results or its function.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from distmap.core.progress import JobState, ProgressOption, Snapshot
from distmap.views.base import MAX_ISSUES, Controls, Issue, View
from distmap.views.choose import choose_view
from distmap.views.kernel import current_cell
from distmap.views.refresh import REFRESH_THREAD
from distmap.views.words import as_ended

log = logging.getLogger("distmap")

#: Places at which one job is updated at the same time: the first one, and the last ones.
MAX_LIVE_VIEWS = 4


class JobDisplay:
    """Issues and views of one job; for use from any thread.

    The calling thread shows and closes, the job's serving thread adds issues, the refresh thread reads snapshots.

    Args:
        title: the name of the function, or the user's own words.
        kind: name of the call, such as "map"; empty if the title is the user's.
        controls: what buttons do.
        snapshot_of: returns the newest snapshot, None before the first; must not block.
        function: title and kind of the calls that a cell's card counts it with; default: title and kind.
    """

    def __init__(
        self,
        title: str,
        kind: str,
        controls: Controls,
        snapshot_of: Callable[[], Snapshot | None],
        function: tuple[str, str] | None = None,
    ) -> None:
        self.title = title
        self.function = function
        self.kind = kind
        self.controls = controls
        self.issues: list[Issue] = []
        self.dropped = 0
        #: The user's interrupt ended the job: its state is then "interrupted", not "cancelled".
        self.interrupted = False
        #: The last snapshot, once the job is over.
        self.final: Snapshot | None = None
        self._snapshot_of = snapshot_of
        self._cells: set[str | None] = set()
        self._views: list[View] = []
        #: Orders issues and new views: every view gets every issue once. Not held while a view is closed.
        self._lock = threading.Lock()

    def show(self, progress: ProgressOption, *, apart: bool = False) -> View | None:
        """Show the job in the current cell or terminal until its end; None if `progress` wants no view.

        Args:
            progress: as for `choose_view`.
            apart: on a card of its own, not on that of the cell.
        """
        if progress is False:
            return None
        cell = current_cell()
        view = choose_view(progress, self.title, self.kind, self.controls, self.function, None if apart else cell)
        if view is None:
            return None
        self._cells.add(cell)
        with self._lock:
            for issue in self.issues:
                view.add_issue(issue)
            if self.final is None:
                self._views.append(view)
                if view.drawn:
                    REFRESH_THREAD.add(view, self._snapshot_of)
                if len(self._views) > MAX_LIVE_VIEWS:
                    REFRESH_THREAD.remove(self._views[-MAX_LIVE_VIEWS])  # it is closed with the others, but not updated
                return view
        view.close(self.final, self.dropped)
        return view

    @property
    def is_in_this_cell(self) -> bool:
        """Whether the current cell shows it already."""
        cell = current_cell()
        return cell is not None and cell in self._cells

    def call_callbacks(self) -> None:
        """Call the user's functions with the newest snapshot, in this thread."""
        if (snapshot := self._snapshot_of()) is not None:
            for view in self._views:
                if not view.drawn:
                    view.update(snapshot)

    @property
    def has_callbacks(self) -> bool:
        """Whether the job must call `call_callbacks` now and then."""
        return any(not view.drawn for view in self._views)

    @property
    def is_full(self) -> bool:
        """Whether further issues are only counted."""
        return len(self.issues) >= MAX_ISSUES

    def add_issue(self, issue: Issue) -> None:
        """Keep an issue and show it in all views."""
        with self._lock:
            if self.is_full:
                self.dropped += 1
                return
            self.issues.append(issue)
            views = list(self._views)
        for view in views:
            try:
                view.add_issue(issue)
            except Exception:  # its terminal is gone, which must not cost the user any result
                log.exception("! a view failed at a line")

    def count_dropped(self) -> None:
        """Count an issue that need not be made, as the display is full."""
        with self._lock:
            self.dropped += 1

    def close(self, snapshot: Snapshot, state: JobState) -> None:
        """The job is over: all views show its last moment, and are closed."""
        with self._lock:
            self.final = as_ended(snapshot if snapshot.state == state else snapshot._replace(state=state))
        try:
            self._close_views(self.final)
        except KeyboardInterrupt:
            # After a first interrupt the job closes its display once more, as interrupted; after a second one it does
            # not, and no card may go on showing "Running".
            if self.interrupted:
                self._close_views(self.final)
            raise

    def _close_views(self, last: Snapshot) -> None:
        for view in self._views:
            REFRESH_THREAD.remove(view)
        # A view whose `close` is cut short by an interrupt stays on the list, for the next try.
        while self._views:
            view = self._views[0]
            try:
                view.close(last, self.dropped)
            except Exception:
                log.exception("! a view failed at its end")
            self._views.remove(view)

    @property
    def latest(self) -> Snapshot | None:
        """The newest snapshot, None before the first."""
        return self.final or self._snapshot_of()

    def html(self, snapshot: Snapshot | None) -> str:
        """The card of the job at this moment."""
        from distmap.views import cards

        if snapshot is None:
            return cards.new_card_html(self.title, self.kind)
        return cards.card_html(self.title, snapshot, self.issues, self.dropped, self.kind)
