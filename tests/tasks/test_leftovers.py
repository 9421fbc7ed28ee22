"""What a process holds is counted."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from distmap.tasks.leftovers import UNKNOWN, held


def test_threads_files_and_processes_are_counted(tmp_path):
    """A thread, a file and a process of `multiprocessing` more are one more each."""
    import multiprocessing

    go = threading.Event()
    before = held()
    thread = threading.Thread(target=go.wait, args=(15,))
    process = multiprocessing.get_context("spawn").Process(target=print)
    thread.start()
    with open(tmp_path / "file", "w"):
        during = held()
    process.start()
    with_process = held()
    go.set()
    thread.join(15)
    process.join(15)
    process.close()
    assert during[0] == before[0] + 1
    assert during[1] == before[1] + 1 or not os.path.exists("/dev/fd")
    assert with_process[2] == before[2] + 1
    assert UNKNOWN < 0


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_children_are_found_and_ended():
    """In a process with a group of its own: a child, and the child of one that has ended; not those that are kept."""
    code = """
import subprocess
from distmap.tasks.leftovers import end, has_children, strays
assert not has_children() and strays(set()) == []
kept = subprocess.Popen(["sleep", "60"])
keep = set(strays(set()))
assert len(keep) == 1
subprocess.run("sleep 60 & sleep 60 &", shell=True)
own = subprocess.Popen(["sleep", "60"])
found = strays(keep)
assert len(found) == 3 and own.pid in [pid for pid, _ in found], found
end(found)
assert strays(keep) == []
assert own.wait(5) in (-9, 0) and kept.poll() is None
kept.kill()
kept.wait()
assert strays(set()) == []
"""
    done = subprocess.run([sys.executable, "-c", code], start_new_session=True, timeout=15)
    assert done.returncode == 0
