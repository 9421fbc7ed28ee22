"""What is changed is set back, and what was there before stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from distmap.tasks.hygiene import Hygiene

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends signals")


@pytest.fixture
def hygiene() -> Iterator[Hygiene]:
    """Of this process; descriptor 0 alone is copied, as pytest needs the others."""
    copy = os.dup(0)
    yield Hygiene([copy])
    os.close(copy)


def test_a_look_that_finds_nothing_changes_nothing(hygiene):
    """What stood there when it began is kept: objects, handlers, variables."""
    hygiene.begin()
    before = dict(os.environ), os.getcwd(), sys.stdout, signal.getsignal(signal.SIGINT)
    hygiene.restore()
    assert (dict(os.environ), os.getcwd(), sys.stdout, signal.getsignal(signal.SIGINT)) == before


def test_what_a_set_up_changes_lasts(hygiene, tmp_path):
    """After `set_up` a change is what is restored to."""
    folder, mask = os.getcwd(), os.umask(0o22)
    try:
        os.umask(0o27)
        os.chdir(tmp_path)
        hygiene.set_up()
        os.chdir("/")
        os.umask(0)
        hygiene.restore()
        assert os.getcwd() == str(tmp_path)
        assert os.umask(0o27) == 0o27
    finally:
        os.chdir(folder)
        os.umask(mask)


def test_timers_go_with_their_handler():
    """An alarm that is set when its handler is taken back does not come: its default would end the process."""
    code = """
import signal
from distmap.tasks.hygiene import Hygiene
hygiene = Hygiene([])
signal.signal(signal.SIGALRM, print)
signal.setitimer(signal.ITIMER_REAL, 60)
hygiene.restore()
assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL
assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=15).returncode == 0


def test_a_folder_that_is_gone(hygiene, tmp_path):
    """Where the folder of the call was deleted, or that of now, nothing is raised."""
    folder, gone = os.getcwd(), tmp_path / "gone"
    gone.mkdir()
    try:
        os.chdir(gone)
        hygiene.begin()
        os.chdir(folder)
        gone.rmdir()
        hygiene.restore()
        assert os.getcwd() == folder
    finally:
        os.chdir(folder)
