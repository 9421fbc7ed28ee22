"""A kernel that ends in the middle of a map: nothing that it started runs on, here or on a worker.

    goodbye    the kernel ends in order: 5 s later nothing runs
    killed     SIGKILL; its connection is reset: nothing here after 5 s, nothing on the worker after 125 s
    silent     the same, and the worker hears nothing of it: the network between two namespaces is gone, too

The items are 2 on a worker and 1 on a slot of this machine; each has started a process of its own. (Of a kernel that is
killed the processes that *items* started on this machine live on: nobody is left who knows them.) From the folder
`tests/`:

    python -m chaos.orphans goodbye killed silent                     # four minutes
    python -m chaos.orphans goodbye killed silent --orphan-after 2    # the same with a shorter limit
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from chaos.packets import FarWorker, in_namespace
from chaos.shortened import shorten, worker_command

SCENES = ("goodbye", "killed", "silent")
#: Seconds that what has to end at once may take.
AT_ONCE = 5.0

#: Prints the number of local task processes, then waits for a line, and ends in order.
KERNEL = """
import os, subprocess, sys
from chaos.common import ran
from distmap import Pool

def work(item, path=sys.argv[2]):
    child = subprocess.Popen(["sleep", "150"])
    ran(path, f"{os.getpid()}:{child.pid}:{os.getppid()}")
    child.wait()

pool = Pool([sys.argv[1], 1], progress=False)
pool.wait_for_workers(2, 30)
job = pool.map_async(work, range(3), chunksize=1)
sys.stdin.readline()
"""


@contextlib.contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[str]]:
    """A process with pipes, which is killed at the end."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def started(path: Path, kernel: int, seconds: float = 30.0) -> tuple[set[int], set[int], set[int]]:
    """The processes of all three items: those here, those of the worker with what they have started, the rest."""
    from chaos.common import runs

    end = time.monotonic() + seconds
    while len(lines := list(runs(str(path)))) < 3:
        if time.monotonic() > end:
            raise TimeoutError(f"the items do not run: {lines}")
        time.sleep(0.05)
    here, there, rest = set(), set(), set()
    for task, child, parent in (map(int, line.split(":")) for line in lines):
        if parent == kernel:
            here.add(task)
            rest.add(child)
        else:
            there.update((task, child))
    return here, there, rest


def alive(pids: set[int]) -> set[int]:
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError, IndexError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X"):
                found.add(pid)
    return found


def ends_within(pids: set[int], seconds: float) -> float:
    """How long it took until none of them lived; infinite if it took longer."""
    began = time.monotonic()
    while alive(pids):
        if time.monotonic() - began > seconds:
            return float("inf")
        time.sleep(0.05)
    return time.monotonic() - began


class NearWorker:
    """A worker of this machine, behind nothing; a context manager."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            worker_command("--port", "0", "--slots", "2"), stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().rpartition(" ")[2].strip()

    def __enter__(self) -> NearWorker:
        return self

    def __exit__(self, *of: object) -> None:
        self.process.terminate()
        self.process.terminate()  # twice: at once
        self.process.communicate()


def run(scene: str, orphan_after: float) -> list[str]:
    from chaos.common import Place, watchdog

    watchdog(orphan_after + 120)
    with Place() as place:
        path = place.folder / "ran"
        with FarWorker("--slots", "2") if scene == "silent" else NearWorker() as worker:
            with running(sys.executable, "-c", KERNEL, worker.url, str(path)) as kernel:
                here, there, rest = started(path, kernel.pid)
                if isinstance(worker, FarWorker):
                    worker.link.down = True
                if scene == "goodbye":
                    assert kernel.stdin is not None
                    kernel.stdin.write("\n")
                    kernel.stdin.flush()
                else:
                    os.kill(kernel.pid, signal.SIGKILL)
                local = ends_within(here, AT_ONCE)
                remote = ends_within(there, AT_ONCE if scene == "goodbye" else orphan_after + AT_ONCE)
                print(f"{scene}: ended after {local:.1f} s here, {remote:.1f} s more on the worker")
            problems = [f"{alive(pids)} live on {where}" for pids, where in ((here, "here"), (there, "on the worker"))
                        if alive(pids)]  # fmt: skip
            for pid in alive(rest):
                os.kill(pid, signal.SIGKILL)
            if worker.process.poll() is not None:
                problems.append("the worker itself ended")
        return [*problems, *(f"left behind: {left}" for left in place.left())]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", nargs="+", choices=SCENES)
    parser.add_argument("--orphan-after", type=float, default=120.0, help="seconds without a pool (%(default)s)")
    given = parser.parse_args()
    if "silent" in given.scenes:
        in_namespace("chaos.orphans", sys.argv[1:])
    share = min(1.0, given.orphan_after / 120)
    shorten(orphan_after=given.orphan_after, reconnect_grace=30 * share, suspect_after=10 * share, beat_every=5 * share)
    wrong = 0
    for scene in given.scenes:
        problems = run(scene, given.orphan_after)
        print(f"{scene}: {'; '.join(problems) or 'ok'}", flush=True)
        wrong += bool(problems)
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
