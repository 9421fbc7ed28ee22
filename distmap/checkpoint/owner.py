"""Who may write to a checkpoint: one process at a time.

Owns the row `owner` and the rule when it is stale. Must not know what is written. The caller begins and ends the
transactions.

A process is known by host, boot, number and start time, so that a number that was given again, or a clock that was
set, fools nobody. On the same host the owner is there as long as its process is, however long it was suspended. Of
another host, and where the system does not tell when a process began (macOS), only the heartbeat tells. Every
transaction beats first: who was taken for gone, and was not, finds that its token is no longer there, and writes
nothing more.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from functools import cache
from typing import TYPE_CHECKING, Any

from distmap.core.limits import LIMITS
from distmap.errors import CheckpointInUse
from distmap.tasks._typing import NamedTuple

if TYPE_CHECKING:
    import sqlite3


class Process(NamedTuple):
    """What tells a process from all others."""

    pid: int
    host: str
    #: Changes when the host is started anew; empty where the system does not tell.
    boot: str
    #: When the process began, in a form of the system's; empty where it does not tell.
    started: str


class Owner:
    """The right of this process to write to one checkpoint.

    Args:
        path: as the user gave it, for messages.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._token = secrets.token_hex(8)
        self._next = 0.0

    def take(self, db: sqlite3.Connection) -> None:
        """Become the owner, inside a transaction.

        Raises:
            CheckpointInUse: another process is; names it.
        """
        row = db.execute("SELECT pid, host, boot, started, since, heartbeat FROM owner").fetchone()
        if row is not None and is_alive(Process(*row[:4]), row[5]):
            raise CheckpointInUse(in_use(self._path, row))
        now, me = time.time(), this_process()
        db.execute("INSERT OR REPLACE INTO owner VALUES (1, ?, ?, ?, ?, ?, ?, ?)", (self._token, *me, now, now))
        self._next = time.monotonic() + LIMITS.checkpoint_heartbeat

    def beat(self, db: sqlite3.Connection) -> None:
        """Say that we are here, inside a transaction that is to be written.

        Raises:
            CheckpointInUse: another process has taken our place; nothing may be written.
        """
        row = db.execute("SELECT pid, host, boot, started, since, heartbeat, token FROM owner").fetchone()
        if row is None or row[6] != self._token:
            raise CheckpointInUse(
                f"checkpoint {self._path} was taken over while this process stood still: "
                + ("its owner is not noted any more" if row is None else in_use(self._path, row))
            )
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LIMITS.checkpoint_heartbeat
            db.execute("UPDATE owner SET heartbeat = ?", (time.time(),))

    @property
    def due(self) -> bool:
        """It is time for a heartbeat."""
        return time.monotonic() >= self._next

    def release(self, db: sqlite3.Connection) -> None:
        """Be the owner no more, if it still is."""
        db.execute("DELETE FROM owner WHERE token = ?", (self._token,))


def in_use(path: str, row: tuple[Any, ...]) -> str:
    """The sentence that names the owner."""
    pid, host, _, _, since, heartbeat = row[:6]
    clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(since))
    ago = max(0, round(time.time() - heartbeat))
    return (
        f"checkpoint {path} is in use by process {pid} on {host}, since {clock} (last heard of {ago} s ago). Wait for "
        "its call to end, or end that process, or give checkpoint= another path"
    )


def is_alive(owner: Process, heartbeat: float) -> bool:
    """Whether this owner may still write."""
    me, beats = this_process(), abs(time.time() - heartbeat) < LIMITS.checkpoint_owner_lost
    if owner == me:
        return False  # a store of this process that was not closed; it has one for each file
    # On Windows the signal 0 would end the process.
    if (owner.host, owner.boot) != (me.host, me.boot) or os.name == "nt":
        before = owner.host == me.host and owner.boot != me.boot and owner.boot and me.boot
        return not before and beats
    hidden = False
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is there, but is somebody else's: the system may not tell when it began
        hidden = True
    began = started(owner.pid)
    if owner.started and (began or not hidden):
        return began == owner.started
    return beats  # the number may have been given again, perhaps after a restart of the machine


@cache
def _here(pid: int) -> Process:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
    except OSError:
        boot = ""
    return Process(pid, socket.gethostname(), boot, started(pid))


def this_process() -> Process:
    return _here(os.getpid())


def started(pid: int) -> str:
    """When a process began, as Linux tells it; empty elsewhere, and if it has ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            # The name, in parentheses, may have spaces and parentheses itself.
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if len(fields) < 20 or fields[0] in "ZX" else fields[19]
