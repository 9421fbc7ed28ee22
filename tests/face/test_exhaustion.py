"""Disks, memory files, descriptors and threads that run out: an error for the item, nothing lost, the pool goes on."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import psutil
import pytest

import distmap
from distmap.testing.workers import WorkerProcess
from distmap.transport.token import Secret

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the limits are those of Linux")


def played(folder: Path, script: str) -> Any:
    """What a script prints at its end, as JSON; in a process of its own, as limits cannot be raised again."""
    path = folder / "script.py"
    path.write_text(textwrap.dedent(script))
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def write_to_a_full_disk(item):
    if item == 3:
        with open("/dev/full", "w") as file:
            file.write("x")
    return item


def open_everything(item):
    import os
    import resource

    if item != 3:
        return item
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    opened = []
    try:
        while True:
            opened.append(os.open("/dev/null", os.O_RDONLY))
    finally:
        for fd in opened:
            os.close(fd)


def start_threads(item):
    import resource
    import threading

    if item != 3:
        return item
    over, started = threading.Event(), []
    usual = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + 200_000_000, usual[1]))
    try:
        while True:
            started.append(threading.Thread(target=over.wait))
            started[-1].start()
    finally:
        over.set()
        resource.setrlimit(resource.RLIMIT_AS, usual)


@pytest.mark.parametrize(
    ("fn", "kind", "said"),
    [
        (write_to_a_full_disk, OSError, "No space left on device"),
        (open_everything, OSError, "Too many open files"),
        (start_threads, RuntimeError, "can't start new thread"),
    ],
)
def test_what_runs_out_in_an_item_is_its_own_error(fn, kind, said):
    """With its own type and text; all others complete, in the same processes or fresh ones."""
    with distmap.Pool(1) as pool:
        found = pool.map(fn, range(8), on_error="return")
        error = found.pop(3)
        assert isinstance(error, kind)
        assert getattr(error, "errno", 0) in (0, errno.ENOSPC, errno.EMFILE)
        assert said in str(error)
        assert found == [0, 1, 2, 4, 5, 6, 7]
        assert pool.map(abs, [-1, -2]) == [1, 2]


def test_large_parts_travel_where_no_shared_memory_is_to_be_had(tmp_path):
    """Items, captured arrays and results go through the socket then, and arrive whole."""
    found = played(
        tmp_path,
        """
        import json, resource
        import numpy as np
        import distmap

        if __name__ == "__main__":
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))  # of files in memory too, here and in the slots
            captured = np.arange(500_000)
            with distmap.Pool(2) as pool:
                arrays = [np.full(400_000, n) for n in range(6)]
                found = pool.map(lambda a: (a + captured[: len(a)], len(captured)), arrays, chunksize=1)
                right = all((one == captured[:400_000] + n).all() and m == 500_000 for n, (one, m) in enumerate(found))
                print(json.dumps([len(found), bool(right), pool.last.stats["deaths"]]))
        """,
    )
    assert found == [6, True, 0]


def test_a_process_without_descriptors_sends_its_results(tmp_path):
    """An item may have used up all of them: what needs one goes another way, and the next items are as usual."""
    found = played(
        tmp_path,
        """
        import json, distmap

        def hoard(n):
            import builtins, os, resource
            if n == 1:
                resource.setrlimit(resource.RLIMIT_NOFILE, (100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
                builtins.kept = []
                try:
                    while True:
                        builtins.kept.append(os.open("/dev/null", os.O_RDONLY))
                except OSError:
                    pass
            if n == 5:
                for fd in builtins.kept:
                    os.close(fd)
            return bytes([n]) * 2_000_000

        if __name__ == "__main__":
            with distmap.Pool(1) as pool:
                found = pool.map(hoard, range(8), chunksize=2)
                again = pool.map(abs, range(-3, 0))
                right = found == [bytes([n]) * 2_000_000 for n in range(8)]
                print(json.dumps([right, again, pool.last.stats["deaths"]]))
        """,
    )
    assert found == [True, [3, 2, 1], 0]


def test_a_worker_without_descriptors_says_so_and_recovers(token_file):
    """It cannot replace a process meanwhile; once there are some again it does, and nothing was lost."""
    token_file.touch(mode=0o600)
    token_file.write_text(Secret.generate().reveal() + "\n")
    with WorkerProcess("--port", "0", "--slots", "2", "--name", "w") as worker, distmap.Pool(worker.url) as pool:
        (pid, *_) = pool.map(lambda _: os.getpid(), range(1))
        supervisor = psutil.Process(worker.pid)
        usual = supervisor.rlimit(psutil.RLIMIT_NOFILE)
        supervisor.rlimit(psutil.RLIMIT_NOFILE, (supervisor.num_fds() + 1, usual[1]))
        os.kill(pid, signal.SIGKILL)
        said = worker.line("stderr", "no task process can be started")
        assert "Too many open files" in said
        assert pool.map(abs, range(-20, 0), chunksize=1) == list(range(20, 0, -1)), "the other slot goes on"
        supervisor.rlimit(psutil.RLIMIT_NOFILE, usual)
        pids = pool.run(os.getpid)["w"]
        assert len(set(pids) - {pid}) == 2
