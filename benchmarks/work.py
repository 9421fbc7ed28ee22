"""The functions that benchmarks run. A module of its own: every peer imports it, as a user's module would be.

They take one argument, so that each library can be given the same items. Imports numpy and pandas where used.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def square(x: int) -> int:
    return x * x


def fresh_square(serial: int) -> Any:
    """A function that nobody has seen before; it does what `square` does."""
    space: dict[str, Any] = {"__name__": "__main__"}  # as in a notebook: it travels by value
    exec(f"def square(x):\n    return x * x + {serial} - {serial}", space)
    return space["square"]


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def spin(seconds: float) -> float:
    """Use the processor for so long."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass
    return seconds


def record(item: dict[str, Any]) -> dict[str, Any]:
    """1 ms of processor time on a dict of 1 KB; a dict of 10 KB."""
    spin(0.001)
    return {"name": item["name"], "tags": item["tags"], "values": item["values"] * 11}


def records(count: int) -> list[dict[str, Any]]:
    """Dicts of 1 KB."""
    return [
        {"name": f"record {i}", "tags": ["a", "b", str(i)], "values": [i + k / 7 for k in range(100)]}
        for i in range(count)
    ]


def tokens(text: str) -> list[str]:
    return text.lower().replace(",", " ").split()


def lines(count: int) -> list[str]:
    """Short strings."""
    return [f"The quick brown fox {i}, jumps over the lazy dog {i % 97}" for i in range(count)]


def table(rows: int) -> Any:
    """A frame of four columns."""
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(3)
    columns = {"key": rng.integers(0, 1000, rows), "a": rng.random(rows), "b": rng.random(rows), "c": rng.random(rows)}
    return pd.DataFrame(columns)


def grouped(frame: Any) -> Any:
    """The means of the groups of a frame."""
    return frame.groupby("key", as_index=False).mean()


def scaled(frame: Any) -> Any:
    """A frame with as many rows."""
    return frame.assign(total=frame["a"] * frame["b"] + frame["c"])


def probe(array: Any) -> float:
    """Look at every page of an array."""
    return float(array[::512].sum())


def make(task: list[int]) -> Any:
    """A fresh array of `task[1]` doubles that all say `task[0]`."""
    import numpy as np

    return np.full(task[1], float(task[0]))


def window(data: Any, index: int) -> float:
    """A little work on one part of an array."""
    width = len(data) // 1000
    return float(data[index % 1000 * width : (index % 1000 + 1) * width].sum())


def several(task: tuple[Callable[[Any], Any], list[Any]]) -> list[Any]:
    """A function on each item of a part: what who knows an engine puts into one call of it."""
    fn, part = task
    return [fn(item) for item in part]


def several_over(fn: Callable[[Any, Any], Any], value: Any, part: list[Any]) -> list[Any]:
    return [fn(value, item) for item in part]
