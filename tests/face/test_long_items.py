"""Items that run for long are shown, and above all those that do nothing."""

from __future__ import annotations

import os
import signal
import sys

import psutil
import pytest

import distmap
from distmap.driver import workers
from distmap.slots import watching

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def test_an_item_whose_process_is_stopped_is_shown(gate, until, monkeypatch):
    """`pool.workers`, their repr and the progress say which item it is, where, for how long, and in which state."""
    for module in (watching, workers):
        monkeypatch.setattr(module, "LIMITS", module.LIMITS._replace(state_after=0.2))
    before = {child.pid for child in psutil.Process().children()}
    with distmap.Pool(1) as pool:
        (process,) = {child.pid for child in psutil.Process().children()} - before
        job = pool.map_async(gate.wait, range(3), chunksize=3)
        until(gate.waiting)
        until(lambda: [item.state for item in pool.workers[0].long_items] == ["S"])
        assert "item 0 on local running for 0:00, " in repr(pool.workers)
        os.kill(process, signal.SIGSTOP)
        try:
            until(lambda: [item.state for item in job.progress.long_items] == ["T"])
            (item,) = job.progress.long_items
            assert (item.item, item.worker, item.slot) == (0, "local", 0)
            assert item.seconds > 0.2
            assert "(state T: its process was stopped)" in repr(pool.workers)
            assert pool.workers[0].long_items[0].item == 0
        finally:
            os.kill(process, signal.SIGCONT)
        gate.open()
        assert job.result(15) == [0, 1, 2]
        assert pool.workers[0].long_items == ()
