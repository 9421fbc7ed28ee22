"""Who is drawn when."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import count

from distmap.core.progress import Snapshot
from distmap.views.base import Issue
from distmap.views.refresh import RefreshThread

MOMENT = Snapshot("map", "running", 1000, 0, 0, 0, 0, 0, 0, 0, 0, 0.0, 0.0, None, ())


class RecordingView:
    """A view that writes down what it is shown."""

    drawn = True

    def __init__(self, log: list[tuple[str, int]], name: str, fails: bool = False) -> None:
        self.log, self.name, self.fails = log, name, fails
        self.enough = threading.Event()

    def update(self, snapshot: Snapshot) -> None:
        self.log.append((self.name, snapshot.done))
        if len(self.log) >= 30:
            self.enough.set()
        if self.fails:
            raise OSError("no front end")

    def add_issue(self, issue: Issue) -> None: ...

    def close(self, snapshot: Snapshot, dropped: int = 0) -> None: ...


def counting() -> Callable[[], Snapshot]:
    numbers = count()
    return lambda: MOMENT._replace(done=next(numbers))


def refresh_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "distmap-refresh"]


def test_one_view_at_a_time_in_turn() -> None:
    """Three views are drawn one after the other, by one thread, which ends with the last of them."""
    refresher, log = RefreshThread(every=0.001), []
    views = [RecordingView(log, name) for name in "abc"]
    for view in views:
        refresher.add(view, counting())
    assert len(refresh_threads()) == 1
    assert views[0].enough.wait(10)
    for view in views:
        refresher.remove(view)
    for thread in refresh_threads():
        thread.join(10)
    assert not refresh_threads()
    refreshed = "".join(name for name, _ in log[3:])  # the first ones may come before the others were there
    assert refreshed.startswith(("abc", "bca", "cab"))
    assert refreshed == (refreshed[:3] * len(refreshed))[: len(refreshed)]
    # It begins again when there is something to draw again.
    again = RecordingView([], "d")
    refresher.add(again, counting())
    assert again.enough.wait(10)
    refresher.remove(again)
    refresher.remove(again)


def test_what_is_the_same_is_not_drawn() -> None:
    """A view whose job has nothing new gives its turn away, as does one whose job has not begun."""
    refresher, log = RefreshThread(every=0.001), []
    still, moving, early = RecordingView(log, "still"), RecordingView(log, "moving"), RecordingView(log, "early")
    refresher.add(still, lambda: MOMENT)
    refresher.add(early, lambda: None)
    refresher.add(moving, counting())
    assert moving.enough.wait(10)
    for view in (still, moving, early):
        refresher.remove(view)
    assert [name for name, _ in log].count("still") == 1
    assert [name for name, _ in log].count("early") == 0


def test_a_view_that_fails_is_drawn_no_more() -> None:
    """It costs neither the others nor the refresh thread."""
    refresher, log = RefreshThread(every=0.001), []
    bad, good = RecordingView(log, "bad", fails=True), RecordingView(log, "good")
    refresher.add(bad, counting())
    refresher.add(good, counting())
    assert good.enough.wait(10)
    refresher.remove(good)
    assert [name for name, _ in log].count("bad") == 1
