"""Items that use too much memory, as their user sees it."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

import distmap

MB = 1_000_000


def use(megabytes):
    import numpy as np

    return len([np.ones(1_000_000) for _ in range(megabytes // 8)])


def test_the_item_that_passes_the_limit_fails():
    """With an error that names item, worker, figures and what to do; all others complete."""
    with distmap.Pool(2, memory_limit="300MB") as pool:
        found = pool.map(use, [8, 8, 800_000, 8], chunksize=4, on_error="return")
    error = found.pop(2)
    assert found == [1, 1, 1]
    assert isinstance(error, distmap.WorkerMemoryError)
    assert "item 2 (800000) passed the memory limit on worker local: its task process used" in str(error)
    assert "and the limit of its slot is 300 MB. Let the item do less at once, or raise the limit" in str(error)


@pytest.mark.parametrize(
    ("workers", "limit", "kind", "said"),
    [
        (1, "much", ValueError, "such as '2GB' or '80%', not 'much'"),
        (1, True, TypeError, 'memory_limit must be a number of bytes, text such as "2GB" or "80%", or None'),
        (1, 5, ValueError, "needs at least 64 MB"),
        ("wss://127.0.0.1:1", "2GB", ValueError, "give --memory-limit to distmap-worker"),
    ],
)
def test_limits_that_are_none(workers, limit, kind, said):
    """Nothing is started, and the error says what was expected."""
    with pytest.raises(kind, match=said):
        distmap.Pool(workers, memory_limit=limit)


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A memory cgroup of 300 MB, of either version."""
    made = None
    if sys.platform == "linux":
        lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().split()]
        for _, kinds, path in lines:
            version1 = "memory" in kinds.split(",")
            top = Path("/sys/fs/cgroup/memory" if version1 else "/sys/fs/cgroup")
            place = top / path.strip("/") / f"distmap-{uuid.uuid4().hex}"
            try:
                if version1 or (
                    not kinds and "memory" in (place.parent / "cgroup.subtree_control").read_text().split()
                ):
                    place.mkdir()
                    made = place
                    (place / ("memory.limit_in_bytes" if version1 else "memory.max")).write_text(str(300 * MB))
                    break
            except OSError:
                continue  # not for us
    if made is None:
        pytest.skip("no cgroup can be made here: that needs root")
    yield made
    made.rmdir()


def test_memory_that_runs_out(cgroup, tmp_path):
    """The system ends processes; items that fit alone complete, the one that does not is named with the figures."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            import os, sys, time, distmap

            def use(blocks):
                held = []
                for _ in range(blocks):
                    held.append(bytearray(b"x") * 10_000_000)
                    time.sleep(0.002)
                    if len(held) == 22:
                        time.sleep(1.0)  # long enough to be looked at before its end
                time.sleep(0.2)
                return len(held)

            if __name__ == "__main__":
                with open(sys.argv[1] + "/cgroup.procs", "w") as file:
                    file.write(str(os.getpid()))
                with distmap.Pool(2) as pool:
                    found = pool.map(use, [15, 15, 60, 1, 1], chunksize=1, on_error="return")
                    print(*found, sep="\\n")
                    print(type(found[2]).__name__, pool.last.stats["deaths"] >= 3)
        """)
    )
    done = subprocess.run([sys.executable, script, cgroup], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    *found, last = done.stdout.splitlines()
    assert found[:2] + found[3:] == ["15", "15", "1", "1"]
    assert found[2].startswith("item 2 (60) needs more memory than there is on worker local, though it ran alone there")
    assert "(SIGKILL), as memory ran out: it used " in found[2]
    assert "and there are 300 MB" in found[2]
    assert last == "WorkerMemoryError True"
