"""What is told of a job, and to whom."""

from __future__ import annotations

from typing import Any

import pytest

from distmap.core.progress import Snapshot
from distmap.views import static, story
from distmap.views.static import Note
from distmap.views.story import PLACES, Story

MOMENT = Snapshot("map", "running", 100, 40, 0, 2, 0, 0, 0, 0, 0, 1.0, 40.0, 1.5, ())


class Wheel:
    paused = False

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def cancel(self) -> None: ...


class Board:
    """A view that writes down what it is told."""

    def __init__(self, drawn: bool = True, fails: list[BaseException] | None = None) -> None:
        self.drawn = drawn
        self.fails = fails or []
        self.seen: list[Any] = []

    def update(self, snapshot: Snapshot) -> None:
        self.seen.append(snapshot.done)

    def note(self, note: Note) -> None:
        self.seen.append(note.text)

    def close(self, snapshot: Snapshot, dropped: int = 0) -> None:
        if self.fails:
            raise self.fails.pop()
        self.seen.append((snapshot.state, dropped))


class Turns:
    """In the place of the painter."""

    def __init__(self) -> None:
        self.drawn: list[Any] = []

    def add(self, view: Any, look: Any) -> None:
        self.drawn.append(view)

    def remove(self, view: Any) -> None:
        if view in self.drawn:
            self.drawn.remove(view)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A story whose views are the boards that its test puts on a list."""

    class Told(Story):
        boards: list[Board]
        turns: Turns

    made = Told("score", "map", Wheel(), lambda: MOMENT)
    made.boards, made.turns = [], Turns()
    monkeypatch.setattr(story, "PAINTER", made.turns)
    monkeypatch.setattr(story, "choose", lambda *_, **__: made.boards.pop(0) if made.boards else None)
    return made


def fault(text: str) -> Note:
    return Note("failed", 1, "w", 1, text)


def test_every_view_hears_every_note(told: Any) -> None:
    """One that comes late hears what was noted before; at the end all are closed with the state of the end."""
    first, late = Board(), Board()
    told.boards += [first, late]
    assert told.show(True) is first
    told.note(fault("one"))
    assert told.show(True) is late
    told.note(fault("two"))
    assert told.turns.drawn == [first, late]
    told.end(MOMENT, "interrupted")
    assert first.seen == late.seen == ["one", "two", ("interrupted", 0)]
    assert told.turns.drawn == []
    assert told.now.state == "interrupted"
    assert "Interrupted" in told.html(told.now)
    assert told.show(False) is None


def test_after_the_end_there_is_only_the_card(told: Any) -> None:
    """A view of a job that is over is closed at once, with its notes."""
    told.note(fault("one"))
    told.end(MOMENT, "done")
    board = Board()
    told.boards.append(board)
    told.show(True)
    assert board.seen == ["one", ("done", 0)]
    assert told.turns.drawn == []


def test_notes_beyond_the_first_are_counted(told: Any) -> None:
    """A job with a million failures keeps a few lines and a number."""
    board = Board()
    told.boards.append(board)
    told.show(True)
    for n in range(static.NOTES + 3):
        told.note(fault(str(n)))
    assert told.full
    told.drop()
    told.end(MOMENT, "failed")
    assert len(board.seen) == static.NOTES + 1
    assert board.seen[-1] == ("failed", 4)
    assert "and 4 more" in told.html(told.now)


def test_a_callable_is_called_by_the_job_only(told: Any) -> None:
    """A view that runs the user's code is not the painter's; what it raises is shown by itself."""
    board = Board(drawn=False)
    told.boards.append(board)
    assert not told.has_reader
    told.show(True)
    assert told.has_reader
    assert told.turns.drawn == []
    told.report()
    assert board.seen == [40]
    told.end(MOMENT, "done")
    told.end(MOMENT, "failed")  # it is not asked again
    assert board.seen == [40, ("done", 0)]


def test_a_view_that_fails_at_its_end_costs_nobody(told: Any) -> None:
    """Neither the job nor the other views; one that was cut short by an interrupt is closed at the next try."""
    broken, cut, good = Board(fails=[OSError()]), Board(fails=[KeyboardInterrupt()]), Board()
    told.boards += [broken, cut, good]
    for _ in range(3):
        told.show(True)
    with pytest.raises(KeyboardInterrupt):
        told.end(MOMENT, "done")
    told.end(MOMENT, "interrupted")
    assert (broken.seen, cut.seen, good.seen) == ([], [("interrupted", 0)], [("interrupted", 0)])


def test_a_second_interrupt_leaves_no_card_that_runs(told: Any) -> None:
    """Of a job that was interrupted all views are closed before another interrupt goes its way."""
    cut, good = Board(fails=[KeyboardInterrupt()]), Board()
    told.boards += [cut, good]
    told.show(True)
    told.show(True)
    told.interrupted = True
    with pytest.raises(KeyboardInterrupt):
        told.end(MOMENT, "interrupted")
    assert cut.seen == good.seen == [("interrupted", 0)]


def test_a_job_moves_at_a_few_places_only(told: Any) -> None:
    """Who shows a job over and over gets it where it was first and where it was shown last; all end as the card."""
    boards = [Board() for _ in range(PLACES + 3)]
    told.boards += boards
    for _ in boards:
        told.show(True)
    assert told.turns.drawn == [boards[0], *boards[-PLACES + 1 :]]
    told.end(MOMENT, "done")
    assert all(board.seen == [("done", 0)] for board in boards)


def test_a_job_that_has_not_begun_has_a_card(told: Any) -> None:
    """Before the first snapshot it says that it runs."""
    assert "Running" in told.html(None)
