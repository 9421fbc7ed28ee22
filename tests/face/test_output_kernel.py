"""In a real kernel: what functions print arrives as output of the cell that made the call, whatever runs meanwhile."""

from __future__ import annotations

import os
import queue
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

# Waits of its own, for a machine that is busy with a kernel and its task processes.
pytestmark = pytest.mark.timeout(120)

ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 60.0


class Kernel:
    """A kernel without a front end; `run` sends a cell, `idle` waits for it, `texts` are what it was told by cell."""

    def __init__(self, folder: Path) -> None:
        from jupyter_client.manager import KernelManager

        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        env = dict(os.environ, PYTHONPATH=path, IPYTHONDIR=str(folder / "ipython"))
        self.manager = KernelManager(kernel_name="python3", connection_file=str(folder / "kernel.json"))
        self.manager.kernel_spec.argv[0] = sys.executable
        self.manager.start_kernel(env=env, cwd=str(folder))
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=DEADLINE)
        self.texts: dict[tuple[str, str], str] = {}
        self.done: set[str] = set()
        self.errors: list[str] = []

    def run(self, code: str) -> str:
        return self.client.execute(code, store_history=False)

    def pump(self, happened: Callable[[], object]) -> None:
        """Take messages until something has happened."""
        deadline = time.monotonic() + DEADLINE
        while not happened():
            assert time.monotonic() < deadline, (self.texts, self.errors)
            try:
                message = self.client.get_iopub_msg(timeout=0.2)
            except queue.Empty:
                continue
            cell, content = message["parent_header"].get("msg_id", ""), message["content"]
            if message["msg_type"] == "stream":
                key = (cell, content["name"])
                self.texts[key] = self.texts.get(key, "") + content["text"]
            elif message["msg_type"] == "error":
                self.errors.append("\n".join(content["traceback"]))
            elif message["msg_type"] == "status" and content["execution_state"] == "idle":
                self.done.add(cell)

    def idle(self, *cells: str) -> None:
        self.pump(lambda: set(cells) <= self.done)
        assert not self.errors, "\n".join(self.errors)

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()
        self.manager.context.destroy()


@pytest.fixture(scope="module")
def kernel(needs: Callable[[bool, str], None], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """A kernel with a pool and a function that waits for a file, then prints."""
    needs(find_spec("ipykernel") is not None, "ipykernel")
    kernel = Kernel(tmp_path_factory.mktemp("kernel"))
    try:
        kernel.idle(kernel.run(SET_UP))
        yield kernel
        kernel.idle(kernel.run("pool.terminate()"))
    finally:
        kernel.close()


SET_UP = """
import os, sys, time, distmap
pool = distmap.Pool(2)
pool.run(os.getpid)  # so that both its processes are there before the first test

def talk(x):
    gate = x.split()[0]
    end = time.monotonic() + 30
    while not os.path.exists(gate) and time.monotonic() < end:
        time.sleep(0.005)
    print("out of", x)
    print("err of", x, file=sys.stderr)
    return x
"""


def test_each_cell_gets_what_its_own_call_prints(kernel: Kernel) -> None:
    """Two background maps print while a third cell blocks and prints itself: nothing lands in another cell."""
    one = kernel.run("job1 = pool.map_async(talk, ['maps one'])")
    two = kernel.run("job2 = pool.map_async(talk, ['maps two'])")
    kernel.idle(one, two)
    three = kernel.run("print('three begins'); open('maps', 'w').close(); job1.wait(30), job2.wait(30); print('three')")
    kernel.idle(three)
    kernel.pump(lambda: {(one, "stderr"), (two, "stderr")} <= set(kernel.texts))
    assert kernel.texts[one, "stdout"] == "[local] out of maps one\n"
    assert kernel.texts[one, "stderr"] == "[local] err of maps one\n"
    assert kernel.texts[two, "stdout"] == "[local] out of maps two\n"
    assert kernel.texts[two, "stderr"] == "[local] err of maps two\n"
    assert kernel.texts[three, "stdout"] == "three begins\nthree\n"
    assert (three, "stderr") not in kernel.texts


def test_a_call_that_blocks_prints_into_its_cell(kernel: Kernel) -> None:
    """`map` with its panel, `imap` and `apply`: all is there before the cell ends, before what the cell prints next."""
    for call, text in (
        ("pool.map(talk, ['. m'], progress=False)", ". m"),
        ("pool.map(talk, ['. p'], progress=True)", ". p"),
        ("list(pool.imap(talk, ['. i']))", ". i"),
        ("pool.apply(talk, ('. a',))", ". a"),
    ):
        cell = kernel.run(f"{call}; print('after')")
        kernel.idle(cell)
        assert kernel.texts[cell, "stdout"] == f"[local] out of {text}\nafter\n"
        assert kernel.texts[cell, "stderr"] == f"[local] err of {text}\n"


def test_each_submitted_item_prints_into_its_own_cell(kernel: Kernel) -> None:
    """Futures of one function from two cells, and a stream of a third, resolved while a fourth runs."""
    one = kernel.run("future1 = pool.submit(talk, 'submits one')")
    two = kernel.run("future2 = pool.submit(talk, 'submits two')")
    three = kernel.run("stream = pool.imap(talk, ['submits three'])")
    kernel.idle(one, two, three)
    four = kernel.run("open('submits', 'w').close(); future1.result(), future2.result(), list(stream); print('four')")
    kernel.idle(four)
    kernel.pump(lambda: {(cell, "stderr") for cell in (one, two, three)} <= set(kernel.texts))
    for cell, name in ((one, "one"), (two, "two"), (three, "three")):
        assert kernel.texts[cell, "stdout"] == f"[local] out of submits {name}\n"
        assert kernel.texts[cell, "stderr"] == f"[local] err of submits {name}\n"
    assert kernel.texts[four, "stdout"] == "four\n"
    assert (four, "stderr") not in kernel.texts


def test_an_awaited_map_prints_into_its_cell(kernel: Kernel) -> None:
    """With top-level `await`, as in a notebook."""
    cell = kernel.run("await pool.map_async(talk, ['. w'], progress=False); print('after')")
    kernel.idle(cell)
    assert kernel.texts[cell, "stdout"] == "[local] out of . w\nafter\n"


def test_what_was_turned_off_stays_off(kernel: Kernel) -> None:
    """Nothing comes by the kernel's own descriptors either, which ipykernel shows, too."""
    cell = kernel.run("pool.map(talk, ['. x'], output=False, progress=False); print('after')")
    kernel.idle(cell)
    assert kernel.texts[cell, "stdout"] == "after\n"
    assert (cell, "stderr") not in kernel.texts
    assert not [text for text in kernel.texts.values() if ". x" in text]
