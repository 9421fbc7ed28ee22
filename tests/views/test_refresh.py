"""Who is drawn when."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import count

from distmap.core.progress import Snapshot
from distmap.views.base import Issue
from distmap.views.refresh import RefreshThread

MOMENT = Snapshot("map", "running", 1000, 0, 0, 0, 0, 0, 0, 0, 0, 0.0, 0.0, None, ())


class Board:
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
    boards = [Board(log, name) for name in "abc"]
    for board in boards:
        refresher.add(board, counting())
    assert len(refresh_threads()) == 1
    assert boards[0].enough.wait(10)
    for board in boards:
        refresher.remove(board)
    for thread in refresh_threads():
        thread.join(10)
    assert not refresh_threads()
    turns = "".join(name for name, _ in log[3:])  # the first ones may come before the others were there
    assert turns.startswith(("abc", "bca", "cab"))
    assert turns == (turns[:3] * len(turns))[: len(turns)]
    # It begins again when there is something to draw again.
    again = Board([], "d")
    refresher.add(again, counting())
    assert again.enough.wait(10)
    refresher.remove(again)
    refresher.remove(again)


def test_what_is_the_same_is_not_drawn() -> None:
    """A view whose job has nothing new gives its turn away, as does one whose job has not begun."""
    refresher, log = RefreshThread(every=0.001), []
    still, moving, early = Board(log, "still"), Board(log, "moving"), Board(log, "early")
    refresher.add(still, lambda: MOMENT)
    refresher.add(early, lambda: None)
    refresher.add(moving, counting())
    assert moving.enough.wait(10)
    for board in (still, moving, early):
        refresher.remove(board)
    assert [name for name, _ in log].count("still") == 1
    assert [name for name, _ in log].count("early") == 0


def test_a_view_that_fails_is_drawn_no_more() -> None:
    """It costs neither the others nor the refresh thread."""
    refresher, log = RefreshThread(every=0.001), []
    bad, good = Board(log, "bad", fails=True), Board(log, "good")
    refresher.add(bad, counting())
    refresher.add(good, counting())
    assert good.enough.wait(10)
    refresher.remove(good)
    assert [name for name, _ in log].count("bad") == 1
