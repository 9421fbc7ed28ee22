"""Which view a job gets: none, a callable, the notebook's, or the terminal's.

Owns the meaning of `progress=`. Imports a view only when it is wanted, so that `import distmap` stays light. Call
`choose_view` in the thread of the cell: a notebook view remembers from there to which cell its output belongs.
"""

from __future__ import annotations

import contextvars
import logging
import os
import sys
from collections.abc import Callable

from distmap.core.progress import ProgressOption, Snapshot
from distmap.views.base import Controls, Issue, View
from distmap.views.callbacks import call_showing_errors
from distmap.views.kernel import in_kernel

log = logging.getLogger("distmap")


class CallbackView:
    """Gives every snapshot to a function of the user's, as often as the job reports, until it raises."""

    drawn = False

    def __init__(self, call: Callable[[Snapshot], object], title: str = "a job") -> None:
        self._call = call
        self._title = title
        self._context = contextvars.copy_context()
        self._closed = False

    def update(self, snapshot: Snapshot) -> None:
        if not self._closed and not call_showing_errors(
            self._call, snapshot, what=f"progress= of {self._title}, which is called no more", context=self._context
        ):
            self._closed = True

    def add_issue(self, issue: Issue) -> None:
        """Nothing: the snapshot counts failures, and the job's exceptions name them."""

    def close(self, snapshot: Snapshot, dropped: int = 0) -> None:
        self.update(snapshot)
        self._closed = True


def resolve_progress(progress: ProgressOption, pools: ProgressOption) -> bool | Callable[[Snapshot], object]:
    """What a call shows: what it says itself, else what its pool says, else DISTMAP_PROGRESS (0: nothing, 1: a bar).

    Where nobody says anything: True in a notebook, else False.
    """
    for said in (progress, pools, {"0": False, "1": True}.get(os.environ.get("DISTMAP_PROGRESS", ""))):
        if said is not None:
            return said
    return in_kernel()


def choose_view(
    progress: ProgressOption,
    title: str,
    kind: str = "",
    controls: Controls | None = None,
    function: tuple[str, str] | None = None,
    cell: str | None = None,
) -> View | None:
    """Give the view that `progress=` asks for: the best that works here, None if nothing does.

    Args:
        progress: As `resolve_progress` gives it; None: True in a notebook, else False.
        title: What the job is called above its bar: the name of its function, or the user's own words.
        kind: Name of the call, such as "map"; empty if the title says it all.
        controls: What the buttons of a panel do; without one there are none.
        function: Name and kind of the calls that it is counted with, where the title is the user's.
        cell: Name of the cell whose calls it is shown with; None: it is shown by itself.
    """
    notebook = in_kernel()
    if progress is False or (progress is None and not notebook):
        return None
    if progress is None or progress is True:
        if notebook:
            try:
                from distmap.views.notebook import notebook_view

                return notebook_view(title, kind, controls, function, cell)
            except Exception:  # a kernel with a broken front end still computes
                log.exception("! no view in this notebook")
        try:
            from distmap.views.terminal import TerminalView
        except ImportError:  # no tqdm
            return None
        # A program without a terminal, such as a service or one of pythonw, has none, or a closed one.
        gone = sys.stderr is None or getattr(sys.stderr, "closed", False)
        return None if gone else TerminalView(title)
    if callable(progress):
        return CallbackView(progress, title)
    raise TypeError(
        f"progress= takes True, False, None or a callable that is given snapshots, not {type(progress).__name__}"
    )
