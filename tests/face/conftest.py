"""Fixtures of the acceptance tests: shared pools, scripts run as `__main__`, gates that hold tasks, real workers.

These tests know the public face only.
"""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from support.waiting import until

import distmap

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def pool2() -> Iterator[distmap.Pool]:
    """Two slots of this machine, shared by the tests of a file; nothing of it is left at the end."""
    me = psutil.Process()
    before, threads = {child.pid for child in me.children(recursive=True)}, set(threading.enumerate())
    with distmap.Pool(2) as pool:
        pool.run(os.getpid)  # both its processes are there before the first test
        yield pool
    until(lambda: {child.pid for child in me.children(recursive=True)} <= before, 5)
    until(lambda: not [one for one in set(threading.enumerate()) - threads if one.name.startswith("distmap")], 5)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[SimpleNamespace]:
    """Holds tasks: `gate.wait(x)` gives x back once `gate.open()` was called; `gate.waiting()` lists who waits.

    `wait` is a closure over plain strings, so it travels to a task by value.
    """
    folder = tmp_path / "gate"
    folder.mkdir()
    key, base = str(folder / "open"), str(folder)

    def wait(x: object) -> object:
        import os
        import time

        with open(f"{base}/at-{x}", "w"):
            pass
        deadline = time.monotonic() + 15
        while not os.path.exists(key):
            if time.monotonic() > deadline:
                raise TimeoutError("the test never opened the gate")
            time.sleep(0.005)
        return x

    def opened() -> None:
        Path(key).touch()

    yield SimpleNamespace(wait=wait, open=opened, waiting=lambda: sorted(path.name[3:] for path in folder.glob("at-*")))
    # A test that failed must not leave tasks behind for the next one on a shared pool.
    opened()


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., str]:
    """Run source as `__main__` of a fresh interpreter in `tmp_path`, without a file, as a notebook; gives stdout."""

    def run(source: str, *args: str, timeout: float = 18.0, env: dict[str, str] | None = None) -> str:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        command = [sys.executable, "-W", "error", "-c", textwrap.dedent(source), *args]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=dict(os.environ, PYTHONPATH=path, **(env or {})),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
        return done.stdout

    return run


class Worker:
    """A real `distmap-worker` process; its log is read as it comes."""

    def __init__(self, *args: str) -> None:
        command = [sys.executable, "-c", "import sys; from distmap.worker.cli import main; sys.exit(main())", *args]
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            env=dict(os.environ, PYTHONPATH=path),
        )
        self.log: list[str] = []
        self._lines: queue.Queue[str] = queue.Queue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.log.append(line)
            self._lines.put(line)
        self._lines.put("")

    def expect(self, pattern: str, seconds: float = 15.0) -> re.Match[str]:
        """Read on until a line matches."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                pytest.fail(f"no line like {pattern!r} within {seconds} s: {''.join(self.log)}")
            if found := re.search(pattern, line):
                return found
            if not line:
                pytest.fail(f"the worker ended without a line like {pattern!r}: {''.join(self.log)}")

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)
        self._thread.join(10)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def worker() -> Iterator[Callable[..., Worker]]:
    """Starts `distmap-worker` processes with this test's token; none survives the test."""
    started: list[Worker] = []

    def start(*args: str) -> Worker:
        started.append(Worker(*args))
        return started[-1]

    yield start
    for one in started:
        one.end()
