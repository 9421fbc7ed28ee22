"""Tests of distmap/testing/workers.py."""

from __future__ import annotations

import pytest

from distmap.testing.workers import WorkerProcess


def test_says_what_the_process_said() -> None:
    """What the process prints can be waited for, and its exit code is given."""
    with WorkerProcess("--version") as worker:
        assert "Python" in worker.line("stdout", "distmap")
        assert worker.wait() == 0


def test_a_line_that_never_comes_is_an_error_with_what_came() -> None:
    """Waiting for a line that is never said ends with what was said instead."""
    with WorkerProcess("--version") as worker, pytest.raises(TimeoutError, match="distmap"):
        worker.line("stdout", "no such line")


def test_leaves_no_process() -> None:
    """A worker that was not told to end is ended with the block."""
    with WorkerProcess("--definitely-no-option") as worker:
        pass
    assert worker.process.poll() is not None
