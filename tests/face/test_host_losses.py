"""An item that ends the worker it runs on, not only its process: found, named, and nobody beside it is blamed."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import distmap
from distmap.core.limits import LIMITS
from distmap.core.scheduler import Scheduler
from distmap.driver import driver
from distmap.testing.workers import WorkerProcess
from distmap.transport.token import Secret

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills a supervisor by its id")


@pytest.fixture(autouse=True)
def token(token_file: Path) -> None:
    """A token that workers find through the environment."""
    token_file.touch(mode=0o600)
    token_file.write_text(Secret.generate().reveal() + "\n")


@contextlib.contextmanager
def kept_alive(count: int) -> Iterator[list[str]]:
    """So many workers that listen, each started again on its port when it has ended; gives their URLs."""
    over = threading.Event()
    workers = [WorkerProcess("--port", "0", "--slots", "2", "--name", f"gpu{number}") for number in range(count)]
    urls = [worker.url for worker in workers]

    def keep(worker: WorkerProcess, port: str, name: str) -> None:
        while True:
            with worker:
                while worker.process.poll() is None and not over.wait(0.02):
                    pass
            if over.is_set():
                return
            worker = WorkerProcess("--port", port, "--slots", "2", "--name", name)

    keepers = [
        threading.Thread(target=keep, args=(worker, url.rpartition(":")[2], f"gpu{number}"), name=f"keeper {number}")
        for number, (worker, url) in enumerate(zip(workers, urls, strict=True))
    ]
    for keeper in keepers:
        keeper.start()
    try:
        yield urls
    finally:
        over.set()
        for keeper in keepers:
            keeper.join(30)


@pytest.mark.timeout(120)
def test_an_item_that_kills_its_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its chunk is cut at each loss, it runs alone at last, and fails after the last of them; all others complete."""
    few = LIMITS._replace(host_losses=3, host_losses_beside=2)
    monkeypatch.setattr(driver, "Scheduler", lambda limits: Scheduler(few))

    def fn(item):
        if item == 3:
            os.kill(os.getppid(), signal.SIGKILL)
            threading.Event().wait(60)
        return -item

    with kept_alive(2) as urls, distmap.Pool(urls, connect_timeout=60) as pool:
        found = pool.map(fn, range(12), chunksize=6, on_error="return")
        losses = pool.last.stats["losses"]
    error = found[3]
    assert isinstance(error, distmap.PoisonItemError)
    assert str(error).startswith("item 3 (3) was running each time as its worker was lost, ")
    assert "at last alone: gpu" in str(error)
    assert [found[item] for item in range(12) if item != 3] == [-item for item in range(12) if item != 3]
    assert losses == 3
