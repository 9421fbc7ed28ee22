"""The end of a task process."""

from __future__ import annotations

import os
import subprocess
import sys

CODE = """
import atexit, os, sys, threading, time
from distmap.tasks.leaving import leave
atexit.register(print, "exit function")
atexit.register(lambda: 1 // 0)
threading.Thread(target=lambda: (time.sleep(0.05), print("thread"))).start()
leave(os.getppid(), 15.0)
print("never")
"""


def test_threads_then_exit_functions_then_the_end():
    """Threads end first; an exit function that raises is reported and stops nothing; what was printed is flushed."""
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, env=dict(os.environ), timeout=15
    )
    assert done.returncode == 0
    assert done.stdout.split("\n") == ["thread", "exit function", ""]
    assert "ZeroDivisionError" in done.stderr
