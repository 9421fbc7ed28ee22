"""What a process holds is counted."""

from __future__ import annotations

import os
import threading

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
