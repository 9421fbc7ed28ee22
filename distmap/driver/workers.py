"""What the driver holds of each worker.

Owns these records. On the loop's thread; other threads get copies.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from distmap.engine.base import Engine, WorkerInfo
from distmap.tasks.code import Code


@dataclass(slots=True)
class WorkerEntry:
    """A worker as the pool sees it; `state` is a word for people."""

    id: int
    info: WorkerInfo
    engine: Engine
    state: str = "ready"
    rtt: float = 0.0
    cpu: float = 0.0
    memory: float = 0.0
    #: Why it was lost.
    why: str = ""
    #: Something runs or waits there; filled in for whoever asks.
    busy: bool = False
    #: Slots that rest after too many deaths, and seconds until the first of them goes on.
    resting: int = 0
    rest: float = 0.0
    blobs: set[bytes] = field(default_factory=set)
    #: Set-ups that failed there, and without which it takes nothing: their names, by job.
    unfit: dict[int, str] = field(default_factory=dict)


def needs_of(code: Code, member: WorkerEntry) -> list[bytes]:
    """What each task of the code needs on the worker, in the order in which it is used there."""
    needs = [blob.digest for blob in code.surroundings.of(member.engine.place)]
    for setup in code.setups:
        if setup.tags <= member.info.tags:
            needs += [*[blob.digest for blob in setup.code.blobs], setup.code.digest]
    return needs + [blob.digest for blob in code.blobs]
