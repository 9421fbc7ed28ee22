"""The cells: what parent and child share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from distmap.slots import control as cells
from distmap.tasks import runner as execution


@pytest.fixture
def fd() -> Iterator[int]:
    """A fresh file of cells."""
    made = cells.anonymous_cells()
    yield made
    os.close(made)


def test_the_numbers_are_those_of_the_runner() -> None:
    """What the runner reads is what the parent writes."""
    names = [name for name in vars(cells) if name.startswith("CELL_")]
    assert len(names) == 6
    assert all(getattr(cells, name) == getattr(execution, name) for name in names)


def test_two_mappings_see_the_same_cells_and_lanes_are_apart(fd: int) -> None:
    """What one side writes the other reads, in this lane and no other."""
    ours, theirs = cells.lanes(fd), cells.lanes(fd)
    assert len(ours) == cells.LANES
    for lane in ours:
        cells.clear(lane)
    ours[3][cells.CELL_STOP] = 1 << 40
    assert theirs[3][cells.CELL_STOP] == 1 << 40
    assert all(theirs[n][cells.CELL_STOP] == 0 for n in range(cells.LANES) if n != 3)
    assert theirs[0][cells.CELL_ATTEMPT] == theirs[0][cells.CELL_STOP_ATTEMPT] == theirs[0][cells.CELL_INTERRUPT] == -1


def test_the_crash_log_lies_behind_the_cells(fd: int) -> None:
    """What is written at a crash neither touches the cells nor is lost."""
    assert cells.crash_log(fd) == ""
    cells.seek_log(fd)
    os.write(fd, b"Fatal Python error\n")
    assert cells.crash_log(fd) == "Fatal Python error"
    os.write(fd, b"x" * 100_000)
    assert len(cells.crash_log(fd)) < 5000


def test_an_attempt_that_is_over_is_neither_running_nor_new() -> None:
    """The mark of a finished attempt is that attempt's alone."""
    marks = [cells.through_with(attempt) for attempt in range(5)]
    assert len(set(marks)) == 5
    assert all(mark < cells.NOBODY for mark in marks)
