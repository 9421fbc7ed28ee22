"""The cells: what parent and child share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from distmap.slots import control
from distmap.tasks import cells


@pytest.fixture
def fd() -> Iterator[int]:
    """A fresh file of cells."""
    made = control.anonymous_cells()
    yield made
    os.close(made)


def test_two_mappings_see_the_same_cells_and_lanes_are_apart(fd: int) -> None:
    """What one side writes the other reads, in this block and no other."""
    ours, theirs = control.blocks(fd), control.blocks(fd)
    assert len(ours) == control.BLOCKS + 1
    for block in ours:
        control.clear(block)
    ours[3][cells.CELL_STOP] = 1 << 40
    assert theirs[3][cells.CELL_STOP] == 1 << 40
    assert all(theirs[n][cells.CELL_STOP] == 0 for n in range(control.BLOCKS + 1) if n != 3)
    assert theirs[0][cells.CELL_ATTEMPT] == theirs[0][cells.CELL_STOP_ATTEMPT] == theirs[0][cells.CELL_INTERRUPT] == -1


def test_the_crash_log_lies_behind_the_cells(fd: int) -> None:
    """What is written at a crash neither touches the cells nor is lost."""
    assert control.crash_log(fd) == ""
    control.seek_log(fd)
    os.write(fd, b"Fatal Python error\n")
    assert control.crash_log(fd) == "Fatal Python error"
    os.write(fd, b"x" * 100_000)
    assert len(control.crash_log(fd)) < 5000


def test_an_attempt_that_is_over_is_neither_running_nor_new() -> None:
    """The mark of a finished attempt is that attempt's alone."""
    marks = [control.finished_marker(attempt) for attempt in range(5)]
    assert len(set(marks)) == 5
    assert all(mark < control.NOBODY for mark in marks)
