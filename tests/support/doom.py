"""Ways for an item to end its process, and items that take them where they are pickled, unpickled or run.

Imported by task processes, so it stays light; knows nothing of distmap.
"""

from __future__ import annotations

import os
import signal
import sys


def raise_error():
    raise ValueError("doomed")


def exit():
    sys.exit(3)


def keyboard_interrupt():
    raise KeyboardInterrupt


def generator_exit():
    raise GeneratorExit


def exit_0():
    os._exit(0)


def exit_3():
    os._exit(3)


def segfault():
    import ctypes

    ctypes.string_at(0)


def abort():
    os.abort()


def overflow():
    """Run out of the C stack. Pythons that watch it raise RecursionError instead."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(10_000_000)
    try:

        def deeper(_):
            return sorted([0], key=deeper)

        deeper(0)
    finally:
        sys.setrecursionlimit(before)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def close_all():
    os.closerange(0, 65_536)


def fork():
    """Fork, and let the child go on as if it were the parent."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)


#: Those that are exceptions; the name of each.
RAISING = {
    raise_error: "ValueError",
    exit: "SystemExit",
    keyboard_interrupt: "KeyboardInterrupt",
    generator_exit: "GeneratorExit",
}
#: Those that end the process, and what is said of it.
ENDING = {
    exit_0: "exited with code 0",
    exit_3: "exited with code 3",
    segfault: "SIGSEGV",
    abort: "SIGABRT",
    overflow: "SIGSEGV",
    kill: "SIGKILL",
    close_all: "closed the descriptors",
}
#: Those that harm nobody.
HARMLESS = {fork: "nothing"}


def meet(way):
    way()
    return "survived"


class DoomedToPickle:
    """Takes the way when it is pickled."""

    def __init__(self, way):
        self.way = way

    def __reduce__(self):
        return str, (meet(self.way),)


class DoomedToUnpickle:
    """Takes the way when it is unpickled."""

    def __init__(self, way):
        self.way = way

    def __reduce__(self):
        return meet, (self.way,)


def run(item):
    """What the calls map: an item is a number, a text (what became of an item that met its doom), or (place, way)."""
    if not isinstance(item, tuple):
        return item
    place, way = item
    if place == "running":
        return meet(way)
    return (DoomedToPickle if place == "pickling the result" else DoomedToUnpickle)(way)


class DoomedWhenCollected:
    """Takes the way when nothing refers to it any more."""

    def __init__(self, way):
        self.way = way

    def __del__(self):
        self.way()


def drop(way):
    """Make and lose such an object; `None`: no object."""
    if way is not None:
        DoomedWhenCollected(way)


def at_exit(way):
    """Have the process take the way at its end."""
    import atexit

    atexit.register(way)
    return os.getpid()


def hang():
    import time

    time.sleep(60)


def call(way):
    return way()
