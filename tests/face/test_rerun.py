"""`error.rerun_locally()`: from every call, and in a notebook with `%debug`."""

from __future__ import annotations

import os
import queue
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.kernels import DEADLINE, Kernel

import distmap

#: The shared pool and the kernel live longer than a test.
pytestmark = pytest.mark.own_leaks


def invert(x: Any) -> float:
    here = os.getpid()
    if here:
        return 1 / x
    return 0.0


def rows(batch: list[int]) -> list[float]:
    return [1 / x for x in batch]


CALLS: dict[str, Callable[[distmap.Pool], object]] = {
    "map": lambda pool: pool.map(invert, [4, 0, 2]),
    "starmap": lambda pool: pool.starmap(invert, [(4,), (0,)]),
    "imap": lambda pool: list(pool.imap(invert, [4, 0, 2])),
    "imap_unordered": lambda pool: list(pool.imap_unordered(invert, [4, 0, 2])),
    "map_reduce": lambda pool: pool.map_reduce(invert, [4, 0], lambda a, b: a + b),
    "map_reduce with combine": lambda pool: pool.map_reduce(
        invert, [4, 0], lambda a, b: a + b, combine=lambda a, b: a + b
    ),
    "map_batches": lambda pool: pool.map_batches(rows, [4, 2, 0, 1], 2),
    "submit": lambda pool: pool.submit(invert, 0).result(10),
    "apply": lambda pool: pool.apply(invert, (0,)),
    "map_async": lambda pool: pool.map_async(invert, [4, 0]).result(10),
    "executor": lambda pool: list(pool.executor().map(invert, [4, 0])),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_each_call(call: Callable[[distmap.Pool], object], pool2: distmap.Pool) -> None:
    """The error of any call runs its item in this process; the traceback ends in the function, with its variables."""
    with pytest.raises(ZeroDivisionError) as caught:
        call(pool2)
    with pytest.raises(ZeroDivisionError) as again:
        caught.value.rerun_locally()  # type: ignore[attr-defined]
    frame = again.traceback[-1].frame
    assert frame.code.raw.co_filename == __file__
    if frame.code.name == "invert":
        assert frame.f_locals == {"x": 0, "here": os.getpid()}


def test_an_item_that_would_end_this_process(pool2: distmap.Pool, tmp_path: Path) -> None:
    """What ended task processes is not run here unless it is forced."""
    mark = str(tmp_path / "mark")

    def end(x: int) -> bool:
        if not os.path.exists(mark):
            os._exit(3)
        return True

    with pytest.raises(distmap.PoisonItemError) as caught:
        pool2.map(end, [1])
    with pytest.raises(ValueError, match="force=True"):
        caught.value.rerun_locally()  # type: ignore[attr-defined]
    open(mark, "w").close()
    assert caught.value.rerun_locally(force=True) is True  # type: ignore[attr-defined]


# --- in a notebook ----------------------------------------------------------------------------------------------------

SET_UP = """
    import distmap
    pool = distmap.Pool(1)
    FACTOR = 3

    def slope(x):
        secret = x * FACTOR
        return 1 / (secret - 6)
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """A notebook with a pool."""
    kernel = Kernel(tmp_path_factory.mktemp("kernel"))
    try:
        yield kernel.run(SET_UP)
    finally:
        kernel.close()


def _type(kernel: Kernel, code: str, *lines: str) -> str:
    """Run a cell that asks for input, give it these lines; what it printed."""
    left = list(lines)
    kernel.start(code)
    end = time.monotonic() + DEADLINE
    while kernel.running:
        assert time.monotonic() < end, (kernel.printed, kernel.error)
        try:
            kernel.client.get_stdin_msg(timeout=0.05)
            kernel.client.input(left.pop(0))
        except queue.Empty:
            pass
        try:
            kernel._hear(kernel.client.get_iopub_msg(timeout=0.05))
        except queue.Empty:
            pass
    return re.sub(r"\x1b\[[0-9;]*m", "", kernel.printed)


@pytest.mark.timeout(90)
def test_debug_in_a_notebook(kernel: Kernel) -> None:
    """`%debug` after `rerun_locally()` stops in the frame of the function, with its source, variables and globals."""
    kernel.run("try:\n    pool.map(slope, [1, 2, 5])\nexcept ZeroDivisionError as e:\n    error = e")
    assert kernel.error is None
    kernel.run("error.rerun_locally()")
    assert kernel.raised == "ZeroDivisionError"
    assert "secret = x * FACTOR" in kernel.traceback
    assert "distmap/" not in kernel.traceback
    printed = _type(kernel, "%debug", "p (secret, FACTOR)", "q")
    assert "return 1 / (secret - 6)" in printed
    assert "(6, 3)" in printed


@pytest.mark.timeout(90)
def test_debug_as_an_argument(kernel: Kernel) -> None:
    """`rerun_locally(debug=True)` opens the debugger there by itself; the error follows."""
    kernel.run("pool.map(slope, [2, 7], on_error='return')")
    printed = _type(kernel, "pool.last.failures[0].rerun_locally(debug=True)", "p secret + 1000", "q")
    assert "1006" in printed
    assert kernel.raised == "ZeroDivisionError"
