"""What the items of the conformance suite do, where they run.

Owns these functions and the marks: files in a folder that both sides see, by which an item tells that it has begun, and
is told to go on. Imports as little as an item may: it is imported by name in every worker.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time

MB = 1 << 20


def mark(folder: str, name: str) -> None:
    """Set a mark; the name gets an ending of its own, so that marks are counted and none is overwritten."""
    os.close(tempfile.mkstemp(prefix=f"{name}~", dir=folder)[0])


def marks(folder: str, name: str = "") -> list[str]:
    """The names of the marks that begin so, without their endings."""
    return sorted(found.partition("~")[0] for found in os.listdir(folder) if found.startswith(name) and "~" in found)


def wait_for(folder: str, name: str, seconds: float, count: int = 1) -> bool:
    """Whether so many such marks are there, within so many seconds."""
    end = time.monotonic() + seconds
    while len(marks(folder, name)) < count:
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def square(x: int) -> int:
    return x * x


def late(x: int) -> int:
    """Every eighth item ends after those behind it."""
    time.sleep(0.02 * (x % 8 == 0))
    return x


def nap(x: int) -> int:
    time.sleep(0.02)
    return x


def divide(x: int) -> float:
    return 1 / (x - 5)


def third_time(folder: str, x: int) -> int:
    """Item 4 succeeds at its third attempt; all attempts leave a mark."""
    mark(folder, f"ran {x}")
    if x == 4 and len(marks(folder, "ran 4")) < 3:
        raise OSError("not yet")
    return x


def ran(folder: str, x: int) -> int:
    mark(folder, f"ran {x}")
    return x


def draw(x: int) -> float:
    from distmap.tasks.run import rng

    return float(rng().random()) + x


def map_inside(x: int) -> list[int]:
    from distmap.pool import Pool

    with Pool(1) as pool:
        return pool.map(square, range(x))


class Loaded:
    """A large value that leaves a mark in each process that unpickles it."""

    def __init__(self, folder: str, content: bytes) -> None:
        self.folder, self.content = folder, content

    def __reduce__(self) -> tuple[object, ...]:
        return load, (self.folder, self.content)


def load(folder: str, content: bytes) -> Loaded:
    mark(folder, f"loaded in {os.getpid()}")
    return Loaded(folder, content)


def filled(x: int) -> object:
    import numpy

    return numpy.full(MB // 2, float(x))


def say(x: int) -> int:
    print(f"hello from {x}")
    return x


def say_and_wait(folder: str, seconds: float, x: int) -> bool:
    """The first item prints, and waits to be told that this was seen."""
    if x:
        return True
    print("hello before the end", flush=True)
    return wait_for(folder, "seen", seconds)


def some_then_wait(folder: str, seconds: float, x: int) -> bool:
    """Four items end at once; the others wait to be told."""
    mark(folder, "begun")
    return x < 4 or wait_for(folder, "go", seconds)


def all_at_once(folder: str, count: int, seconds: float, x: int) -> tuple[bool, int]:
    """Whether so many items run at one moment, and the process that runs this one."""
    mark(folder, "here")
    return wait_for(folder, "here", seconds, count), os.getpid()


def sleep(seconds: float, x: int) -> int:
    """Item 3 takes long."""
    time.sleep(seconds if x == 3 else 0)
    return x


def crash(how: str, x: int) -> int:
    """Item 3 ends its process, or tries to."""
    if x == 3:
        if how == "exit":
            sys.exit(3)
        elif how == "os._exit":
            os._exit(3)
        elif how == "segfault":
            import ctypes

            ctypes.string_at(0)
        else:
            os.kill(os.getpid(), signal.SIGKILL)
    return x


def pid(x: int) -> int:
    time.sleep(0.02)
    return os.getpid()
