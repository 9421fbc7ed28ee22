"""Where a process stands, read from what faulthandler wrote; and the state in which the system has it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from support.waiting import until

from distmap.slots.stacks import stack_of, state_of
from distmap.tasks.caller import PACKAGE

CHILD = f"{PACKAGE}slots{os.sep}child.py"
ITEM = f"""\
Current thread 0x00007f00ba61fb80 (most recent call first):
  File "/home/ann/mod.py", line 6 in inner
  File "/home/ann/mod.py", line 8 in g\\xf6
  File "{PACKAGE}tasks{os.sep}run.py", line 80 in loop
  File "{CHILD}", line 60 in main
  File "<string>", line 1 in <module>
"""


def other(name: str) -> str:
    return f"""
Thread 0x00007f00b99c66c0 (most recent call first):
  File "/home/ann/mod.py", line 20 in {name}
  File "/usr/lib/python3.11/threading.py", line 1045 in _bootstrap_inner
  File "/usr/lib/python3.11/threading.py", line 1002 in _bootstrap
"""


def test_the_item_comes_first_with_the_innermost_call_last():
    """Frames of distmap and the way to them are left out; names are as they were written."""
    want = '  File "/home/ann/mod.py", line 8, in gö\n  File "/home/ann/mod.py", line 6, in inner'
    assert stack_of(ITEM) == want
    assert (
        stack_of(other("helper") + ITEM) == f'{want}\nin another thread:\n  File "/home/ann/mod.py", line 20, in helper'
    )


def test_what_is_too_much_or_not_the_users_is_left_out():
    """Threads of distmap are not told; of many threads the number is; of a deep stack the inner end."""
    ours = f'\nThread 0x1 (most recent call first):\n  File "{PACKAGE}tasks{os.sep}capture.py", line 1 in f\n'
    assert stack_of(ours + ITEM) == stack_of(ITEM)
    many = stack_of(ITEM + "".join(other(f"helper{n}") for n in range(9)))
    assert many.count("in another thread:") == 3
    assert many.endswith("\nand in 6 more threads")
    frames = "".join(f'  File "/home/ann/mod.py", line {n} in deeper\n' for n in range(99))
    head, rest = ITEM.split("\n", 1)
    deep = stack_of(f"{head}\n{frames}{rest}").split("\n")
    assert deep[0] == "  ..."
    assert deep[-1] == '  File "/home/ann/mod.py", line 0, in deeper'
    assert len(deep) == 31


@pytest.mark.parametrize("text", ["", "Fatal Python error\n", '  File "x", line 3 in y\n', ITEM[:40]])
def test_no_stack(text):
    """What says nothing of a stack gives nothing."""
    assert stack_of(text) == ""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_the_state_of_a_process():
    """A process that waits is S, one that was stopped is T, one that is gone has no state."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        until(lambda: state_of(process.pid) == "S")
        process.send_signal(signal.SIGSTOP)
        until(lambda: state_of(process.pid) == "T")
    finally:
        process.kill()
        process.communicate()
    assert state_of(process.pid) == ""
