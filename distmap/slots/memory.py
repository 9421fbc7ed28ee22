"""How much memory task processes use: their limit, their growth, and whether one was ended because memory ran out.

Owns these three judgements, and the files of the system that they come from. Knows no slots and ends nothing:
`watching.py` does. On the loop's thread; nothing here waits.

What counts is what a process has for itself (Linux: anonymous memory and what of it was swapped out). Broadcasts, items
and results in shared memory do not count, nor libraries, nor processes that a task starts.

The limit is held by looking, more often the closer a process is to it, and not by RLIMIT_DATA or RLIMIT_AS in the task
process: these bound what is reserved, not what is used. NumPy's empty arrays, the stacks of OpenBLAS's threads, CUDA
and the heaps of malloc reserve many times what they use, and an item would fail for want of memory that nobody needs.

That the system's out-of-memory killer ended a process is known by its counter: of our cgroup, else of the host. Without
any, SIGKILL that we did not send counts as that if the host had little left, or the process grew so fast that it would
have had none at the next look.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable

from distmap.core.limits import LIMITS
from distmap.tasks._typing import NamedTuple

#: Bytes a second by which a process may grow between two looks: as fast as a core writes new pages.
_FASTEST = 4e9
#: Seconds between two looks at a process with a memory limit.
_SHORTEST, _LONGEST = 0.020, 0.5
#: Bytes by which a process grew since the last look, above which it is looked at again soon; seconds until then.
_STEEP, _SOON = 50_000_000, 0.1
#: Seconds for which a count of the out-of-memory killer explains the end of a process: a large one takes a while.
_EXPLAINS = 10.0
#: Share of the host's memory below which it counts as little, where nothing counts the kills.
_LITTLE = 0.05
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
_CGROUPS = "/sys/fs/cgroup"

_SIZE = r"\s*(\d+(?:\.\d+)?)\s*([KMGT]i?B|B|%|)\s*"
_UNITS = {"": 1.0, "b": 1.0, "%": 0.01}
for _power, _letter in enumerate("kmgt", 1):
    _UNITS[f"{_letter}b"], _UNITS[f"{_letter}ib"] = 1000.0**_power, 1024.0**_power


# --- sizes ------------------------------------------------------------------------------------------------------------


def limit_of(value: int | str | None, slots: int) -> int | None:
    """A memory limit in bytes for each slot.

    Args:
        value: bytes; text such as "2GB" (10^9 bytes) or "2GiB" (2^30); "80%" of the memory of this host (or of our
            cgroup, if that has less), in equal parts for the slots; None: no limit.
        slots: how many there are.

    Raises:
        TypeError, ValueError: it is none of these, or too small for a task process to run at all.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError(f"a memory limit is a number of bytes or text such as '2GB' or '80%', not {value!r}")
    found = re.fullmatch(_SIZE, str(value), re.IGNORECASE)
    if found is None:
        raise ValueError(f"a memory limit is a number of bytes or text such as '2GB' or '80%', not {value!r}")
    size = float(found[1]) * _UNITS[found[2].lower()]
    if found[2] == "%":
        if not 0 < size <= 1:
            raise ValueError(f"a memory limit is at most 100% of the memory of this host, not {value!r}")
        size = size * total_memory() / slots
    if size < LIMITS.memory_limit_least:
        raise ValueError(
            f"the memory limit {value!r} is {shown(size)} for each slot, and a task process needs at least "
            f"{shown(LIMITS.memory_limit_least)}"
        )
    return int(size)


def shown(size: float) -> str:
    """Bytes in words: "2.0 GB"."""
    for unit in ("B", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


# --- what the system says ---------------------------------------------------------------------------------------------


def used_by(pid: int) -> int | None:
    """Bytes that a process has for itself; None if it is gone, or nobody knows."""
    if sys.platform != "linux":
        return _used_elsewhere(pid)
    try:
        with open(f"/proc/{pid}/statm", "rb", buffering=0) as file:
            words = file.read(128).split()
    except OSError:
        return None
    # Resident, without what is of files or shared: a tenth of the cost of `status`. Nothing of one that has ended.
    return (int(words[1]) - int(words[2])) * _PAGE or None


def _used_elsewhere(pid: int) -> int | None:
    import psutil

    try:
        return int(psutil.Process(pid).memory_full_info().uss)
    except psutil.Error:
        return None


def total_memory() -> int:
    """Bytes of memory of this host, or of our cgroup if that may have less."""
    if sys.platform != "linux":
        import psutil

        return int(psutil.virtual_memory().total)
    total = _meminfo().get("MemTotal", 0)
    for place in _cgroups():
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read(f"{place}/{name}")
            if text.isdigit() and int(text):
                total = min(total, int(text))
    return total


def _meminfo() -> dict[str, int]:
    """Bytes by name."""
    return {name: 1024 * int(rest.split()[0]) for name, _, rest in _lines(_read("/proc/meminfo"), ":") if rest.strip()}


def _lines(text: str, between: str) -> list[tuple[str, str, str]]:
    return [line.partition(between) for line in text.splitlines()]


def _read(path: str) -> str:
    """What is in a small file; empty if there is none, or it is not for us."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(16384).strip()
    except OSError:
        return ""


def _cgroups() -> list[str]:
    """Folders that tell of the memory of our cgroup: of version 2 and of version 1, whatever there is."""
    found = []
    for _, _, rest in _lines(_read("/proc/self/cgroup"), ":"):
        kinds, _, path = rest.partition(":")
        if kinds and "memory" not in kinds.split(","):
            continue
        for top in (f"{_CGROUPS}/memory",) if kinds else (_CGROUPS, f"{_CGROUPS}/unified"):
            # In a container the folder of our cgroup may be the top of what is mounted.
            found += [place for place in (f"{top}{path.rstrip('/')}", top) if os.path.isdir(place)][:1]
    return found


def oom_counter() -> Callable[[], int] | None:
    """Reads how many processes the out-of-memory killer ended: of our cgroup, else on this host; None: nobody knows."""
    if sys.platform != "linux":
        return None
    places = [f"{place}/{name}" for place in _cgroups() for name in ("memory.events", "memory.oom_control")]
    for path in (*places, "/proc/vmstat"):
        if _count_in(path) is not None:
            return lambda: _count_in(path) or 0
    return None


def _count_in(path: str) -> int | None:
    for name, _, value in _lines(_read(path), " "):
        if name == "oom_kill":
            return int(value)
    return None


# --- judging ----------------------------------------------------------------------------------------------------------


class Usage:
    """What is known of the memory of one task process. Bytes; -1: not looked at yet."""

    __slots__ = ("base", "first", "item", "most", "now", "since", "swollen")

    def __init__(self) -> None:
        self.since = time.monotonic()
        #: At the last look; the most of all looks; after its first task; when the item that runs was first seen.
        self.now = self.most = self.first = self.base = -1
        self.item = (-1, -1)
        #: It may have grown too much; whether it has shows when its task is over.
        self.swollen = False


class Excess(NamedTuple):
    """A process passed the limit of its slot. `alone`: by what this item did, and not by what others left."""

    alone: bool
    text: str


class MemoryWatch:
    """Looks at the memory of the task processes of one host."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        #: Seconds until the next look at the latest; less as processes come near the limit.
        self.pause = self._calm = _LONGEST if limit is None else self._time_for(limit)
        self._looked = 0.0
        self._counter = oom_counter()
        self._counted = self._counter() if self._counter is not None else 0
        # Kills that were counted and explain no end yet, and until when they may.
        self._kills, self._until = 0, 0.0
        # Without a counter: bytes that the host had left at the last look, bytes that count as little, whether it is.
        self._left, self._little, self._short = 0, 0.0, False

    def begin(self, now: float) -> bool:
        """Whether it is time to look at all that run. `pause` says when it is again."""
        if now < self._looked + 0.9 * self.pause:
            return False
        self._looked, self.pause = now, self._calm
        if self._counter is not None:
            self._count(now)
        elif sys.platform == "linux":
            info = _meminfo()
            self._left, self._little = info.get("MemAvailable", 0), _LITTLE * info.get("MemTotal", 0)
            self._short = self._left < self._little
        return True

    def look(self, pid: int, usage: Usage, running: tuple[int, int]) -> Excess | None:
        """Look at a process that runs an item; tells if it passed its limit."""
        if self._limit is None and sys.platform != "linux":
            return None
        used = used_by(pid)
        if used is None:
            return None
        before, usage.now = max(0, usage.now), used
        if running != usage.item:
            usage.item, usage.base = running, min(before, used)
        usage.most = max(usage.most, used)
        if used - before > _STEEP:
            self.pause = min(self.pause, _SOON)  # for the peak, should it be ended for it
        if self._counter is None and used - before > self._left - self._little:
            self._short = True
        first = max(0, usage.first)
        if self._limit is None:
            old = time.monotonic() - usage.since > LIMITS.growth_seconds
            usage.swollen = old and used - first > max(LIMITS.growth_bytes, first)
            return None
        usage.swollen = used > 0.75 * self._limit and used - first > 0.25 * self._limit
        self.pause = min(self.pause, self._time_for(self._limit - used))
        if used <= self._limit:
            return None
        text = f"used {shown(usage.most)} of memory, and the limit of its slot is {shown(self._limit)}"
        return Excess(usage.base <= 0.5 * self._limit, text)

    def growth(self, pid: int, usage: Usage) -> str | None:
        """By how much a process has grown too large, in words, now that a task of it is over; None: it has not."""
        if usage.first >= 0 and not usage.swollen:
            return None
        if (self._limit is None and sys.platform != "linux") or (used := used_by(pid)) is None:
            return None
        if usage.first < 0:
            usage.first = used  # what its first task loads is no growth
            return None
        usage.swollen = False
        if self._limit is not None:
            if used > 0.75 * self._limit:
                return f"kept over three quarters of the memory that its slot may use ({shown(self._limit)})"
        elif used - usage.first > max(LIMITS.growth_bytes, usage.first):
            return f"kept over {shown(max(LIMITS.growth_bytes, usage.first))} more memory than after its first task"
        return None

    def killed(self, usage: Usage) -> str | None:
        """Why a process that somebody ended by SIGKILL was ended, if it was because memory ran out; in words."""
        if self._counter is not None:
            self._count(time.monotonic())
            if not self._kills:
                return None
            self._kills -= 1
        elif not self._short or usage.most < self._little:
            return None
        used = f"it used {shown(usage.most)} when last looked at" if usage.most > 0 else "it was not looked at before"
        return f"was ended by the system (SIGKILL), as memory ran out: {used}, and there are {shown(total_memory())}"

    @staticmethod
    def _time_for(room: int) -> float:
        """Seconds in which a process cannot use so many bytes."""
        return min(_LONGEST, max(_SHORTEST, room / _FASTEST))

    def _count(self, now: float) -> None:
        assert self._counter is not None
        if now > self._until:
            self._kills = 0
        if (count := self._counter()) > self._counted:
            self._kills += count - self._counted
            self._until = now + _EXPLAINS
        self._counted = count
