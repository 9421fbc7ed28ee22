"""How task processes are started: with what environment, and cleanly or not at all."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from distmap.slots.spawn import environment, start
from distmap.transport.segments import Spare

Bench = Callable[..., Any]


def run(coroutine: Any) -> Any:
    return asyncio.run(coroutine)


def test_the_environment_of_tasks(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries are held to their share of the cores unless the user said otherwise, and the token is not there."""
    monkeypatch.setenv("DISTMAP_TOKEN", "secret")
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    async def main() -> None:
        async with bench(1, env={**os.environ, "EXTRA": "yes"}) as b:
            names = ["DISTMAP_TOKEN", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "EXTRA"]
            found = await b.values(b.send(os.getenv, names))
            assert found == [None, "7", str(len(os.sched_getaffinity(0))), "yes"]

    run(main())


def test_the_cores_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of n slots may use its share of the cores, and at least one."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [environment(n)["OMP_NUM_THREADS"] for n in (1, 2, 3, 8, 20)] == ["8", "4", "2", "1", "1"]


def test_no_task_process_takes_the_place_of_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """What connects a process that mpiexec started is not passed on; what only informs is."""
    for name in ("PMIX_RANK", "PMIX_NAMESPACE", "PMI_RANK", "PMI_FD", "OMPI_COMM_WORLD_RANK"):
        monkeypatch.setenv(name, "1")
    found = environment(1)
    assert [name for name in found if name.startswith("PMI")] == []
    assert found["OMPI_COMM_WORLD_RANK"] == "1"


def test_a_process_is_connected_and_alone(capfd: pytest.CaptureFixture[str]) -> None:
    """It has its socket, its cells, no standard input to read from, and a group of its own."""
    started = start(dict(os.environ), sys.path, Spare(1 << 20, 1 << 20))
    try:
        assert started.popen.poll() is None
        assert len(started.blocks) > 2
        if os.name == "posix":
            assert os.getpgid(started.popen.pid) == started.popen.pid
    finally:
        started.sock.close()  # the end of its socket ends it
        assert started.popen.wait(10) == 0
        for fd in (started.cells, started.pidfd):
            if fd >= 0:
                os.close(fd)


def test_a_process_that_cannot_be_started_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No descriptor stays open when the system gives no process."""

    def popen(*args: Any, **kwargs: Any) -> Any:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", popen)
    with pytest.raises(OSError, match="temporarily"):
        start(dict(os.environ), sys.path, Spare(1 << 20, 1 << 20))
