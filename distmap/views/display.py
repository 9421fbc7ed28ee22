"""Display state of one job: title, issues, attached views.

Owns the issues and the views of a job, from its first view to its card. A job keeps its display for as long as it lives
itself, so that it can be shown again in any cell; the display has no reference to the job, its results or its function.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from distmap.core.progress import JobState, ProgressOption, Snapshot
from distmap.views import cards
from distmap.views.base import MAX_ISSUES, Controls, Issue, View
from distmap.views.choose import choose_view
from distmap.views.kernel import current_cell
from distmap.views.refresh import REFRESH_THREAD
from distmap.views.words import as_ended

log = logging.getLogger("distmap")

#: One job is shown at so many places at once; the oldest of those beyond stands still.
MAX_LIVE_VIEWS = 4


class JobDisplay:
    """Notes and views of one job; for use from any thread.

    Args:
        title: The name of the function, or what the user called the job.
        kind: Name of the call, such as "map"; empty if the title is the user's.
        controls: What buttons do.
        snapshot_of: Gives the newest snapshot, None before the first; must not block.
        function: Name and kind of the calls that a cell's card counts it with; default: title and kind.
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
        #: The job was ended by the user's interrupt, which its card says instead of "cancelled".
        self.interrupted = False
        self.final: Snapshot | None = None
        self._snapshot_of = snapshot_of
        self._cells: set[str | None] = set()
        self._views: list[View] = []
        self._lock = threading.Lock()

    def show(self, progress: ProgressOption, *, apart: bool = False) -> View | None:
        """Show it, here and now and until its end, as `progress` says; None if there is nothing to see.

        Args:
            progress: As for `choose_view`.
            apart: By itself, not with the calls of the cell that runs.
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
        """Whether the cell that runs shows it already."""
        cell = current_cell()
        return cell is not None and cell in self._cells

    def call_callbacks(self) -> None:
        """Give a user's callable the newest snapshot, in this thread."""
        if (snapshot := self._snapshot_of()) is not None:
            for view in self._views:
                if not view.drawn:
                    view.update(snapshot)

    @property
    def has_callbacks(self) -> bool:
        """Whether somebody must call `call_callbacks` now and then."""
        return any(not view.drawn for view in self._views)

    @property
    def is_full(self) -> bool:
        """No further issue is kept; they are counted."""
        return len(self.issues) >= MAX_ISSUES

    def add_issue(self, issue: Issue) -> None:
        """Keep a line and show it wherever the job is shown."""
        with self._lock:
            if self.is_full:
                self.dropped += 1
                return
            self.issues.append(issue)
            views = list(self._views)
        for view in views:
            try:
                view.add_issue(issue)
            except Exception:  # its terminal is gone, which must cost nobody his results
                log.exception("! a view failed at a line")

    def count_dropped(self) -> None:
        """Count a line without making it."""
        with self._lock:
            self.dropped += 1

    def close(self, snapshot: Snapshot, state: JobState) -> None:
        """The job is over: the last moment stays wherever it was shown."""
        with self._lock:
            self.final = as_ended(snapshot._replace(state=state))
        try:
            self._close_views(self.final)
        except KeyboardInterrupt:
            # The first one makes the job end once more, as interrupted. After a second one nobody comes again, and a
            # card that goes on saying "Running" would be a lie.
            if self.interrupted:
                self._close_views(self.final)
            raise

    def _close_views(self, last: Snapshot) -> None:
        for view in self._views:
            REFRESH_THREAD.remove(view)
        # One that is cut short by an interrupt stays on the list, for the next try.
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
        """The card, at this moment."""
        if snapshot is None:
            return cards.new_card_html(self.title, self.kind)
        return cards.card_html(self.title, snapshot, self.issues, self.dropped, self.kind)
