"""What a local pool leaves behind: no process, descriptor, port or file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import psutil
import pytest

import distmap


@pytest.fixture
def pool2():
    """A pool for one test: these tests look at processes."""
    with distmap.Pool(2) as pool:
        yield pool


def alive(pids):
    return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


def slots_of(pool):
    return set(pool.map(lambda x: __import__("time").sleep(0.01) or __import__("os").getpid(), range(12), chunksize=1))


@pytest.mark.parametrize("end", ["terminate", "close and join", "with"])
def test_a_pool_leaves_no_process(until, end):
    """After terminate, close and join, or the end of `with`, no task process and no zombie is left."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    pool = distmap.Pool(2)
    pids = slots_of(pool)
    if end == "terminate":
        pool.terminate()
        pool.join()
    elif end == "with":
        with pool:
            pool.map(abs, [1])
    else:
        pool.close()
        pool.join()
    until(lambda: not alive(pids), 5)
    until(lambda: {child.pid for child in psutil.Process().children(recursive=True)} <= before, 5)


def test_pools_leave_no_descriptor_thread_or_file(until):
    """Opening and ending pools again and again grows nothing."""

    def once():
        with distmap.Pool(2) as pool:
            data = b"x" * 3_000_000
            pool.map(lambda x: data[:2_000_000] + x, [bytes(2_000_000)] * 4)
            pool.map(abs, range(100))

    threads = set(threading.enumerate())
    once()
    files = set(os.listdir(tempfile.gettempdir()))
    shared = set(os.listdir("/dev/shm")) if Path("/dev/shm").is_dir() else set()
    count = psutil.Process().num_fds()
    for _ in range(3):
        once()
    until(lambda: psutil.Process().num_fds() <= count, 5)
    until(lambda: not [one for one in set(threading.enumerate()) - threads if "distmap" in one.name.lower()], 5)
    assert {name for name in set(os.listdir(tempfile.gettempdir())) - files if "distmap" in name} == set()
    if shared:
        assert {name for name in set(os.listdir("/dev/shm")) - shared if "distmap" in name} == set()


def test_a_local_pool_opens_no_port(pool2):
    """A pool of this machine listens on nothing."""
    # Other children of this process may listen: the notebook server of other tests does.
    for process in [psutil.Process(), *map(psutil.Process, slots_of(pool2))]:
        connections = process.net_connections if psutil.version_info >= (6,) else process.connections
        assert [one for one in connections("inet") if one.status == psutil.CONN_LISTEN] == []


@pytest.mark.skipif(sys.platform == "win32", reason="kills by signal")
@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "exit"])
def test_slots_end_with_their_parent(until, how):
    """When the kernel is killed or simply ends, its task processes end too, also in the middle of an item."""
    source = """
import os, sys, distmap
pool = distmap.Pool(2)
print(*set(pool.map(lambda x: __import__("time").sleep(0.05) or __import__("os").getpid(), range(8), chunksize=1)))
job = pool.map_async(lambda x: __import__("time").sleep(60), range(2), chunksize=1)
sys.stdout.flush()
sys.stdin.readline()
"""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]))
    with subprocess.Popen(
        [sys.executable, "-c", source],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ, PYTHONPATH=path),
    ) as process:
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 2
        if how == "exit":
            process.stdin.write("\n")
            process.stdin.flush()
        else:
            process.send_signal(getattr(signal, how))
        process.wait(10)
        until(lambda: not alive(pids), 5)


def test_a_slot_killed_from_outside_is_replaced(pool2, until):
    """A task process that someone kills between jobs is replaced; the next map works."""
    for pid in slots_of(pool2):
        os.kill(pid, signal.SIGKILL)
    assert pool2.map(abs, range(100), chunksize=1) == list(range(100))


def test_memory_of_results_is_given_back(pool2):
    """Mapping the same large results many times does not grow this process."""
    np = pytest.importorskip("numpy")

    def once():
        assert sum(int(array[0]) for array in pool2.imap(lambda x: np.full(500_000, x), range(20))) == sum(range(20))

    once()
    before = psutil.Process().memory_info().rss
    for _ in range(5):
        once()
    assert psutil.Process().memory_info().rss - before < 80 << 20
