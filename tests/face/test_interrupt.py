"""KeyboardInterrupt while a call blocks: the work stops, the prompt is back, results are kept, the pool goes on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from distmap.core.limits import LIMITS

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")

#: Runs `call` and sends itself SIGINT once both slots are at an item that takes a minute.
INTERRUPTED = """
import json, os, pathlib, signal, sys, threading, time
from distmap.core import limits
limits.LIMITS = limits.LIMITS._replace(interrupt_grace=%(grace)s)
import distmap
signal.signal(signal.SIGINT, signal.default_int_handler)
folder = os.getcwd()

def slow(x):
    import time
    if x < 4:
        return x
    began = time.monotonic()
    stopped = pathlib.Path(folder, f"stopped-{x}")
    try:
        with open(f"{folder}/began-{x}", "w"):  # in here: the interrupt comes as soon as it is there
            pass
        while time.monotonic() - began < 60:
            %(body)s
    finally:
        stopped.touch()

sent = []
def interrupt():
    while len(list(pathlib.Path(folder).glob("began-*"))) < 2:
        time.sleep(0.005)
    sent.append(time.monotonic())
    os.kill(os.getpid(), signal.SIGINT)

pool = distmap.Pool(2)
pool.map(abs, range(4), chunksize=1)
threading.Thread(target=interrupt, daemon=True).start()
told = {}
try:
    %(call)s
except KeyboardInterrupt:
    told["prompt"] = time.monotonic() - sent[0]
told["partial"] = pool.last.partial if pool.last is not None else []
began = time.monotonic()
told["after"] = pool.map(abs, range(-50, 0))
told["took"] = time.monotonic() - began
told["state"] = pool.last.progress.state
told["began"] = sorted(path.name[6:] for path in pathlib.Path(folder).glob("began-*"))
deadline = time.monotonic() + 10
while True:  # the prompt of a stream is back before its items have stopped
    told["stopped"] = sorted(path.name[8:] for path in pathlib.Path(folder).glob("stopped-*"))
    if len(told["stopped"]) >= len(told["began"]) or time.monotonic() > deadline:
        break
    time.sleep(0.005)
pool.terminate()
print(json.dumps(told))
"""
NAPS = "time.sleep(0.05)"
BUSY = "sum(range(1000))"
#: Seconds that an item has to stop by itself: on a busy machine it may not come to run in the usual half of a second.
LONG_GRACE = 15.0


@pytest.mark.parametrize(
    ("call", "body"),
    [
        ("pool.map(slow, range(20), chunksize=1)", NAPS),
        ("pool.map(slow, range(20), chunksize=1)", "time.sleep(60)"),
        ("pool.map(slow, range(20), chunksize=1)", BUSY),
        ("list(pool.imap(slow, range(20), chunksize=1))", NAPS),
        ("pool.map_reduce(slow, range(20), lambda a, b: b, chunksize=1)", NAPS),
    ],
    ids=["map", "one long sleep", "busy", "imap", "map_reduce"],
)
def test_interrupt_gives_the_prompt_back(script, call, body):
    """One Ctrl-C stops the items that run, nothing more begins, and the pool works at once."""
    told = json.loads(script(INTERRUPTED % {"call": call, "body": body, "grace": LONG_GRACE}))
    # About a second is aimed at; a busy machine is given more.
    assert told["prompt"] < 6
    assert told["took"] < 6
    assert told["after"] == list(range(50, 0, -1))
    assert told["state"] == "done"
    assert len(told["began"]) == 2
    assert told["stopped"] == told["began"]
    if "pool.map(" in call:
        assert told["partial"] == [[x, x] for x in range(4)]


def test_an_item_that_swallows_the_interrupt_is_killed(script):
    """An item that catches KeyboardInterrupt is killed after the grace."""
    body = """
            try:
                time.sleep(1)
            except KeyboardInterrupt:
                pass"""
    call = "pool.map(slow, range(20), chunksize=1)"
    told = json.loads(script(INTERRUPTED % {"call": call, "body": body, "grace": LIMITS.interrupt_grace}))
    assert told["prompt"] < 6
    assert told["took"] < 8
    assert told["after"] == list(range(50, 0, -1))


def test_interrupt_of_a_blocked_input(script):
    """Ctrl-C also ends a call whose own generator blocks."""
    told = json.loads(
        script(
            """
            import json, os, signal, threading, time
            import distmap
            signal.signal(signal.SIGINT, signal.default_int_handler)
            blocked = threading.Event()
            def source():
                yield 1
                blocked.set()
                # Short naps: a signal that comes just before a long sleep begins would not cut it short.
                while True:
                    time.sleep(0.05)
            def interrupt():
                blocked.wait()
                told["sent"] = time.monotonic()
                os.kill(os.getpid(), signal.SIGINT)
            told = {}
            with distmap.Pool(2) as pool:
                threading.Thread(target=interrupt, daemon=True).start()
                try:
                    pool.map(abs, source())
                except KeyboardInterrupt:
                    told["prompt"] = time.monotonic() - told["sent"]
                told["after"] = pool.map(abs, [-1])
            print(json.dumps(told))
            """
        )
    )
    assert told["prompt"] < 6
    assert told["after"] == [1]


#: As INTERRUPTED, in a terminal, with a bar.
IN_A_TERMINAL = """
import os, signal, sys, time
import distmap
signal.signal(signal.SIGINT, signal.default_int_handler)

def slow(x):
    import time
    if x == 2:
        raise ValueError("two")
    time.sleep(60 * (x > 4))
    return x

with distmap.Pool(2) as pool:
    pool.map(slow, range(50), chunksize=1, progress=True, on_error="skip")
"""


def test_the_bar_of_an_interrupted_call_leaves_one_line():
    """In a terminal the bar is closed before the traceback begins: one line, which says interrupted, and no remains."""
    ours, theirs = os.openpty()
    environ = dict(
        os.environ,
        NO_COLOR="1",
        PYTHONPATH=os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
    )
    process = subprocess.Popen(
        [sys.executable, "-c", IN_A_TERMINAL], stdin=theirs, stdout=theirs, stderr=theirs, env=environ
    )
    os.close(theirs)
    said, interrupted = b"", False
    try:
        with contextlib.suppress(OSError):  # how Linux says that the other end is closed
            while piece := os.read(ours, 65536):
                said += piece
                # Four of the first five are finished and one failed: what runs now takes a minute.
                if not interrupted and b" 5/50 " in said:
                    interrupted = True
                    process.send_signal(signal.SIGINT)
        process.wait(10)
    finally:
        process.kill()
        process.wait(10)
        os.close(ours)
    lines = [line.rpartition("\r")[2] for line in said.decode().replace("\r\n", "\n").split("\n")]
    assert lines[0].strip() == "item 2 failed on local, attempt 1: ValueError: two"
    assert lines[1].startswith("slow:  10%|")
    assert "interrupted" in lines[1]
    assert lines[2] == "Traceback (most recent call last):"
    assert lines[-2] == "KeyboardInterrupt"
    assert "5/50" not in "".join(lines[2:])
