"""`distmap-worker --check URL`: a report on standard output, and an exit code."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.services import free_port

from distmap import Pool
from distmap.testing.workers import WorkerProcess
from distmap.transport.hop_report import HOPS


@pytest.fixture
def worker() -> Iterator[WorkerProcess]:
    with WorkerProcess("--port", "0", "--slots", "1", "--name", "gpu1") as process:
        yield process


def check(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "distmap.worker.cli", "--check", *args],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.timeout(60)
def test_a_worker_that_serves_a_pool(worker: WorkerProcess) -> None:
    """It is reached and proved, goes on with its pool, and has one line for the check in its log."""
    with Pool(worker.url) as pool:
        before = pool.workers
        found = check(worker.url)
        assert found.returncode == 0, found
        assert found.stderr == ""
        url, *lines, summary = found.stdout.splitlines()
        assert url == worker.url
        assert [line[5:19].strip() for line in lines] == list(HOPS)
        assert {line[2:5].strip() for line in lines} == {"ok", "-"}
        assert "The worker gpu1 answers; it serves" in summary
        assert [one.name for one in pool.workers] == [one.name for one in before] == ["gpu1"]
        assert pool.map(abs, [-1], progress=False) == [1]
    assert len([line for line in worker.stderr if "checked by" in line]) == 1
    assert not any("refused" in line for line in worker.stderr)


@pytest.mark.timeout(60)
def test_a_worker_whose_pool_is_out_of_reach(worker: WorkerProcess) -> None:
    """It keeps its tasks and results for that pool; a check does not end that, as another pool would."""
    code = f"from distmap import Pool; pool = Pool({worker.url!r}); print(len(pool.workers), flush=True); input()"
    kernel = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with kernel:
        assert kernel.stdin is not None
        assert kernel.stdout is not None
        assert kernel.stdout.readline() == b"1\n"
        kernel.kill()
    worker.line("stderr", "out of reach")
    for _ in range(2):
        found = check(worker.url)
        assert found.returncode == 0, found
        assert "which is out of reach: another pool may have it." in found.stdout
    assert not any("came meanwhile" in line for line in worker.stderr)


def test_a_pool_that_listens() -> None:
    """A worker's machine checks the way to the pool; no worker joins for that."""
    with Pool(listen="wss://127.0.0.1:0") as pool:
        assert pool.url is not None
        found = check(pool.url)
        assert found.returncode == 0, found
        assert "a pool of distmap is there" in found.stdout
        assert pool.workers == []


def test_a_way_that_fails() -> None:
    """The exit code is 1, and the report says at which hop and what to do."""
    port = free_port()
    found = check(f"wss://127.0.0.1:{port}")
    assert found.returncode == 1
    assert f"x  TCP           nothing listens on port {port}" in found.stdout
    assert found.stdout.endswith("Failed: TCP. What comes after it was not tried.\n")


def test_what_cannot_be_checked(tmp_path: Path) -> None:
    """Without a URL, with one that is none, or with headers that cannot be read, it says so, with exit code 2."""
    assert "--check needs the URL" in check().stderr
    for args, words in [
        (["gpu1"], "is no wss:// URL"),
        (["wss://gpu1", "--header-file", str(tmp_path / "none")], "cannot be read"),
    ]:
        found = check(*args)
        assert found.returncode == 2
        assert words in found.stderr
        assert found.stdout == ""
