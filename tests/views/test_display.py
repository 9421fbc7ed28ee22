"""What the views of a job show, and who updates them."""

from __future__ import annotations

from typing import Any

import pytest

from distmap.core.progress import Snapshot
from distmap.views import display as module
from distmap.views.base import MAX_ISSUES, Issue
from distmap.views.display import MAX_LIVE_VIEWS, JobDisplay

MOMENT = Snapshot("map", "running", 100, 40, 0, 2, 0, 0, 0, 0, 0, 1.0, 40.0, 1.5, ())


class RecordingControls:
    paused = False

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def cancel(self) -> None: ...


class RecordingView:
    """A view that writes down what it is told."""

    def __init__(self, drawn: bool = True, fails: list[BaseException] | None = None) -> None:
        self.drawn = drawn
        self.fails = fails or []
        self.seen: list[Any] = []

    def update(self, snapshot: Snapshot) -> None:
        self.seen.append(snapshot.done)

    def add_issue(self, issue: Issue) -> None:
        self.seen.append(issue.text)

    def close(self, snapshot: Snapshot, dropped: int = 0) -> None:
        if self.fails:
            raise self.fails.pop()
        self.seen.append((snapshot.state, dropped))


class FakeRefreshThread:
    """In the place of the refresh thread."""

    def __init__(self) -> None:
        self.drawn: list[Any] = []

    def add(self, view: Any, look: Any) -> None:
        self.drawn.append(view)

    def remove(self, view: Any) -> None:
        if view in self.drawn:
            self.drawn.remove(view)


@pytest.fixture
def display(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A display whose views are those that the test puts on a list."""

    class FakedDisplay(JobDisplay):
        views: list[RecordingView]
        refreshed: FakeRefreshThread

    made = FakedDisplay("score", "map", RecordingControls(), lambda: MOMENT)
    made.views, made.refreshed = [], FakeRefreshThread()
    monkeypatch.setattr(module, "REFRESH_THREAD", made.refreshed)
    monkeypatch.setattr(module, "choose_view", lambda *_, **__: made.views.pop(0) if made.views else None)
    return made


def fault(text: str) -> Issue:
    return Issue("failed", 1, "w", 1, text)


def test_every_view_hears_every_note(display: Any) -> None:
    """One that comes late hears what was noted before; at the end all are closed with the state of the end."""
    first, late = RecordingView(), RecordingView()
    display.views += [first, late]
    assert display.show(True) is first
    display.add_issue(fault("one"))
    assert display.show(True) is late
    display.add_issue(fault("two"))
    assert display.refreshed.drawn == [first, late]
    display.close(MOMENT, "interrupted")
    assert first.seen == late.seen == ["one", "two", ("interrupted", 0)]
    assert display.refreshed.drawn == []
    assert display.latest.state == "interrupted"
    assert "Interrupted" in display.html(display.latest)
    assert display.show(False) is None


def test_after_the_end_there_is_only_the_card(display: Any) -> None:
    """A view of a job that is over is closed at once, with its issues."""
    display.add_issue(fault("one"))
    display.close(MOMENT, "done")
    view = RecordingView()
    display.views.append(view)
    display.show(True)
    assert view.seen == ["one", ("done", 0)]
    assert display.refreshed.drawn == []


def test_notes_beyond_the_first_are_counted(display: Any) -> None:
    """A job with a million failures keeps a few lines and a number."""
    view = RecordingView()
    display.views.append(view)
    display.show(True)
    for n in range(MAX_ISSUES + 3):
        display.add_issue(fault(str(n)))
    assert display.is_full
    display.count_dropped()
    display.close(MOMENT, "failed")
    assert len(view.seen) == MAX_ISSUES + 1
    assert view.seen[-1] == ("failed", 4)
    assert "and 4 more" in display.html(display.latest)


def test_a_callable_is_called_by_the_job_only(display: Any) -> None:
    """A view that runs the user's code is not the refresh thread's; what it raises is shown by itself."""
    view = RecordingView(drawn=False)
    display.views.append(view)
    assert not display.has_callbacks
    display.show(True)
    assert display.has_callbacks
    assert display.refreshed.drawn == []
    display.call_callbacks()
    assert view.seen == [40]
    display.close(MOMENT, "done")
    display.close(MOMENT, "failed")  # it is not asked again
    assert view.seen == [40, ("done", 0)]


def test_a_view_that_fails_at_its_end_costs_nobody(display: Any) -> None:
    """Neither the job nor the other views; one that was cut short by an interrupt is closed at the next try."""
    broken, cut, good = RecordingView(fails=[OSError()]), RecordingView(fails=[KeyboardInterrupt()]), RecordingView()
    display.views += [broken, cut, good]
    for _ in range(3):
        display.show(True)
    with pytest.raises(KeyboardInterrupt):
        display.close(MOMENT, "done")
    display.close(MOMENT, "interrupted")
    assert (broken.seen, cut.seen, good.seen) == ([], [("interrupted", 0)], [("interrupted", 0)])


def test_a_second_interrupt_leaves_no_card_that_runs(display: Any) -> None:
    """Of a job that was interrupted all views are closed before another interrupt goes its way."""
    cut, good = RecordingView(fails=[KeyboardInterrupt()]), RecordingView()
    display.views += [cut, good]
    display.show(True)
    display.show(True)
    display.interrupted = True
    with pytest.raises(KeyboardInterrupt):
        display.close(MOMENT, "interrupted")
    assert cut.seen == good.seen == [("interrupted", 0)]


def test_a_job_moves_at_a_few_places_only(display: Any) -> None:
    """Who shows a job over and over gets it where it was first and where it was shown last; all end as the card."""
    views = [RecordingView() for _ in range(MAX_LIVE_VIEWS + 3)]
    display.views += views
    for _ in views:
        display.show(True)
    assert display.refreshed.drawn == [views[0], *views[-MAX_LIVE_VIEWS + 1 :]]
    display.close(MOMENT, "done")
    assert all(view.seen == [("done", 0)] for view in views)


def test_a_job_that_has_not_begun_has_a_card(display: Any) -> None:
    """Before the first snapshot it says that it runs."""
    assert "Running" in display.html(None)
