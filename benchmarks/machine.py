"""What figures are taken on, and what they cost it: versions, memory, processor time, processors to run on.

Owns the looks at the system. Must not know what is measured.
"""

from __future__ import annotations

import contextlib
import importlib.metadata as metadata
import os
import platform
import re
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PACKAGES = ("distmap", "websockets", "cloudpickle", "joblib", "ray", "distributed", "mpire", "numpy", "pandas")


def machine() -> dict[str, object]:
    """What the figures were taken on."""
    import psutil

    versions: dict[str, str] = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "packages": versions,
    }


def processor() -> str:
    """The model of the processor, where the system tells it."""
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
        if found and found[1].strip() not in ("unknown", ""):
            return re.sub(r"\((R|TM)\)|CPU|@.*", "", found[1]).strip()
    return platform.processor() or platform.machine()


# --- memory -----------------------------------------------------------------------------------------------------------


def resident() -> int:
    """Resident memory of this process in bytes."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import psutil

        return int(psutil.Process().memory_info().rss)


def private_bytes() -> int:
    """Memory that this process shares with nobody, in bytes; 0 where the system does not tell."""
    with contextlib.suppress(OSError):
        text = Path("/proc/self/smaps_rollup").read_text()
        return sum(int(kb) * 1024 for kb in re.findall(r"^Private_\w+:\s+(\d+) kB", text, re.MULTILINE))
    return 0


class PeakMemory:
    """Samples this process's resident memory while it is entered; `growth` is the peak above the start."""

    def __enter__(self) -> PeakMemory:
        self._start = self._peak = resident()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._over.wait(0.01):
            self._peak = max(self._peak, resident())

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def growth(self) -> int:
        return self._peak - self._start


# --- processor time ---------------------------------------------------------------------------------------------------


def tree_cpu() -> float:
    """Seconds of processor time of this process and of all below it, those that have ended included.

    The system counts in hundredths of a second and a process: measure what takes a tenth of a second and more.
    """
    import psutil

    total = 0.0
    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


class Costs:
    """Rounds that count processor time beside seconds: of this process, and of the whole tree."""

    def __init__(self) -> None:
        self.client: dict[str, list[float]] = {}
        self.tree: dict[str, list[float]] = {}

    def of(self, who: str, run: Callable[[], float]) -> Callable[[], float]:
        """The same round, noted under `who`."""

        def counted() -> float:
            tree, client = tree_cpu(), time.process_time()
            seconds = run()
            self.client.setdefault(who, []).append(time.process_time() - client)
            self.tree.setdefault(who, []).append(tree_cpu() - tree)
            return seconds

        return counted

    def medians(self, who: str) -> tuple[float, float]:
        """Processor seconds of the client, and of the tree."""
        return statistics.median(self.client[who]), statistics.median(self.tree[who])


class Foreign:
    """How many cores programs other than this one and those below it use from now on."""

    def __init__(self) -> None:
        self._then = self._look()

    def _look(self) -> tuple[float, float, float]:
        import psutil

        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        # What guests use is counted in `user` too.
        busy = sum(times) - idle - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        return time.perf_counter(), busy, tree_cpu()

    def cores(self) -> float:
        """Cores, since this was made."""
        seconds, busy, own = (now - then for now, then in zip(self._look(), self._then, strict=True))
        return max(0.0, busy - own) / seconds


@contextlib.contextmanager
def one_processor() -> Iterator[bool]:
    """All threads of this process and of those below it run on one processor; False where the system cannot."""
    if not hasattr(os, "sched_setaffinity"):
        yield False
        return
    import psutil

    allowed = os.sched_getaffinity(0)
    me = psutil.Process()

    def pin(processors: set[int]) -> None:
        for process in (me, *me.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                for thread in process.threads():
                    with contextlib.suppress(OSError):  # it has ended
                        os.sched_setaffinity(thread.id, processors)

    pin({min(allowed)})
    try:
        yield True
    finally:
        pin(allowed)
