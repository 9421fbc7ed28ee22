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
    """Calls a function of the user with every snapshot, until it raises. Called by the job's own thread."""

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


def resolve_progress(call: ProgressOption, pool: ProgressOption) -> bool | Callable[[Snapshot], object]:
    """The first that is not None: the call's `progress=`, its pool's, DISTMAP_PROGRESS (0 or 1), True in a notebook."""
    for value in (call, pool, {"0": False, "1": True}.get(os.environ.get("DISTMAP_PROGRESS", ""))):
        if value is not None:
            return value
    return in_kernel()


def choose_view(
    progress: ProgressOption,
    title: str,
    kind: str = "",
    controls: Controls | None = None,
    function: tuple[str, str] | None = None,
    cell: str | None = None,
) -> View | None:
    """The view that `progress=` asks for: the best one that works here; None if there is none.

    Args:
        progress: see `resolve_progress`; None: True in a notebook, else False.
        title: title of the job: the name of its function, or the user's own words.
        kind: name of the call, such as "map"; empty if the title is the user's.
        controls: what the buttons of a panel do; None: it has no buttons.
        function: title and kind of the calls that it is counted with, if the title is the user's.
        cell: id of the cell's run on whose card it is shown; None: on a card of its own.
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
        # A service, or a program started by pythonw, has no standard error, or a closed one.
        gone = sys.stderr is None or getattr(sys.stderr, "closed", False)
        return None if gone else TerminalView(title)
    if callable(progress):
        return CallbackView(progress, title)
    raise TypeError(
        f"progress= takes True, False, None or a callable that is given snapshots, not {type(progress).__name__}"
    )
