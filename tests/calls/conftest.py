"""What several tests of the calls share."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import distmap


@pytest.fixture(scope="module")
def pool2():
    """Two slots of this machine, shared by the tests of this file."""
    with distmap.Pool(2) as pool:
        pool.run(os.getpid)  # both its processes are there before the first test
        yield pool


@pytest.fixture
def gate(tmp_path):
    """Holds tasks until `open()`: `wait(x)` is what the task calls, `waiting()` is who is there."""
    key, base = str(tmp_path / "open"), str(tmp_path)

    def wait(x):
        with open(f"{base}/at-{x}", "w"):
            pass
        deadline = time.monotonic() + 15
        while not os.path.exists(key):
            if time.monotonic() > deadline:
                raise TimeoutError("the test never opened the gate")
            time.sleep(0.005)
        return x

    opened = Path(key).touch
    yield SimpleNamespace(wait=wait, open=opened, waiting=lambda: sorted(tmp_path.glob("at-*")))
    opened()
