"""An item finds its process as the call should see it, whatever items before it did."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings

import psutil
import pytest

import distmap

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def look(_=None):
    import os
    import signal
    import sys

    mask = os.umask(0)
    os.umask(mask)
    return (
        os.getpid(), os.getcwd(), dict(os.environ), mask, [str(signal.getsignal(n)) for n in range(1, 32)],
        [type(s).__name__ for s in (sys.stdin, sys.stdout, sys.stderr)], [os.fstat(fd)[1:3] for fd in (0, 1, 2)],
    )  # fmt: skip


def spoil(what):
    import os
    import signal
    import sys

    match what:
        case "cwd":
            os.chdir("/")
        case "environment":
            os.environ["DISTMAP_TEST_SPOILT"] = "1"
            del os.environ["PATH"]
        case "umask":
            os.umask(0o77)
        case "signals":
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            signal.signal(signal.SIGALRM, lambda *_: None)
            signal.setitimer(signal.ITIMER_REAL, 0.01)
        case "streams":
            sys.stdout = sys.stdin = None
        case "closed":
            os.closerange(0, 3)
        case "redirected":
            null = os.open("/dev/zero", os.O_RDWR)
            for fd in (0, 1, 2):
                os.dup2(null, fd)
            os.close(null)
    time.sleep(0.006)
    return look() if what == "nothing" else None


@pytest.fixture(scope="module")
def pool():
    """One slot for all tests: what one left behind another one would find."""
    with distmap.Pool(1) as made:
        yield made


@pytest.mark.parametrize("what", ["cwd", "environment", "umask", "signals", "streams", "closed", "redirected"])
def test_what_an_item_changes_is_set_back(pool, what):
    """The next item, the next chunk and the next call find what the first one found."""
    (before,) = pool.map(look, [0])
    _, inside = pool.map(spoil, [what, "nothing"], chunksize=2)
    assert inside == before
    assert pool.map(look, [0]) == [before]


def test_what_a_set_up_changes_lasts(tmp_path):
    """Folder and variables that `initializer=` sets are there for all items, also after an item has changed them."""

    def set_up(folder):
        import os

        os.chdir(folder)
        os.environ["DISTMAP_TEST_SET_UP"] = "1"

    with distmap.Pool(1, initializer=set_up, initargs=(str(tmp_path),)) as pool:
        pool.map(spoil, ["cwd", "environment"])
        ((_, cwd, env, *_),) = pool.map(look, [0])
    assert cwd == str(tmp_path)
    assert env["DISTMAP_TEST_SET_UP"] == "1"
    assert "DISTMAP_TEST_SPOILT" not in env


def start(command):
    return subprocess.Popen(command).pid if command else 0


def test_processes_that_items_leave_are_told_of_and_ended(pool, until):
    """The call warns once; its child, and the child of a shell that has ended, are gone after it."""
    shell = ["sh", "-c", "sleep 61 & echo"]
    with pytest.warns(UserWarning, match="on local, item 0 left .* behind: what is left at the end of a call is ended"):
        pid, _ = pool.map(start, [["sleep", "61"], shell], chunksize=1)
    until(lambda: not psutil.pid_exists(pid))
    until(lambda: not [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "61"]])


def test_processes_that_items_leave_are_ended_between_quick_calls(pool, until):
    """Also where calls follow each other so soon that functions stay loaded; and each call says so."""
    left = []

    def calls():
        assert pool.map(abs, [-1]) == [1]
        left.extend(pool.map(start, [["sleep", "61"]]))

    for _ in range(2):
        with pytest.warns(UserWarning, match="left .* behind"):
            calls()
    until(lambda: not any(map(psutil.pid_exists, left)))


def test_processes_of_a_set_up_stay(until):
    """What `initializer=` starts lives as long as the slot."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with distmap.Pool(1, initializer=lambda: start(["sleep", "62"])) as pool:
            assert len(pool.map(start, [None, ["true"]])) == 2
            (group,) = pool.map(lambda _: os.getpgrp(), [0])
            assert "sleep" in [p.name() for p in psutil.process_iter() if os.getpgid(p.pid) == group]
    until(lambda: not [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "62"]])


def test_processes_that_multiprocessing_keeps_stay():
    """An executor that a module keeps for the next call is not broken between two calls, nor warned of."""

    def use(x):
        import sys
        from concurrent.futures import ProcessPoolExecutor

        if not hasattr(sys, "kept"):
            sys.kept = ProcessPoolExecutor(1)
        return sys.kept.submit(abs, x).result(15)

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with distmap.Pool(1) as pool:
            assert pool.map(use, [-1, -2]) == [1, 2]
            assert pool.map(use, [-3]) == [3]
