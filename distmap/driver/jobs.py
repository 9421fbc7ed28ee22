"""What the driver holds of each job: its code, its chunks, and where its messages go.

Owns these records. Knows no scheduler and no engine. On the loop's thread; the thread that makes the call fills in
the fields of a `JobEntry` before it passes it to `Driver.open`, and not afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from distmap.core.events import JobSpec
from distmap.core.progress import Snapshot
from distmap.driver.messages import JobMessage
from distmap.driver.workers import WorkerEntry
from distmap.engine.base import Parts
from distmap.tasks.code import Code
from distmap.tasks.payload import Payload

if TYPE_CHECKING:
    from distmap.driver.output import OutputRouter

#: Incidents that are sent to a job; further ones are only counted.
MAX_INCIDENTS = 100


@dataclass(slots=True)
class ChunkEntry:
    """What the driver holds of a chunk that is not delivered yet."""

    #: Index of its first item.
    start: int
    #: Items not delivered yet; a chunk is forgotten with its last one.
    left: int
    #: None once no attempt can need it any more.
    payload: Payload | None
    needs: tuple[bytes, ...]
    #: By offset: how often an item raised; the workers where it ended its process, and how. Mostly absent.
    tries: dict[int, int] = field(default_factory=dict)
    deaths: dict[int, list[tuple[str, str]]] = field(default_factory=dict)


#: In the place of the code of a job that is over.
_NO_CODE = Code(b"", Payload(b""), ())


@dataclass(slots=True)
class JobEntry:
    """What the driver holds of a job.

    Args:
        sink: takes the messages of the job, on the loop's thread; it must not block.
    """

    spec: JobSpec
    code: Code
    sink: Callable[[JobMessage], None]
    timeout: float = 0.0
    total: int | None = None
    #: Where what tasks print goes; None: they are told to throw it away.
    router: OutputRouter | None = None
    reminder: asyncio.TimerHandle | None = None
    #: True while somebody looks at `latest`.
    watched: bool = False
    latest: Snapshot | None = None
    id: int = 0
    error: BaseException | None = None
    no_worker_timer: asyncio.TimerHandle | None = None
    refusal: tuple[Parts, str] | None = None
    next_start: int = 0
    chunks: dict[int, ChunkEntry] = field(default_factory=dict)
    incidents: int = 0
    #: Indices of the items that a worker held when it was lost for good; one of them may have done it.
    suspects: list[range] = field(default_factory=list)
    #: Worker -> what every chunk needs there.
    needs: dict[int, tuple[bytes, ...]] = field(default_factory=dict)
    #: Of a set-up: the worker that each item is for.
    places: list[WorkerEntry] = field(default_factory=list)
    #: Lines for whoever made the call, each with the workers that say so.
    notices: dict[str, list[str]] = field(default_factory=dict)

    def notice(self, line: str, worker: str) -> None:
        """Keep a line; at most MAX_INCIDENTS, as a worker may send any number."""
        if worker not in self.notices.get(line, ()) and len(self.notices) < MAX_INCIDENTS:
            self.notices.setdefault(line, []).append(worker)

    def let_go(self) -> None:
        """The job is over: whoever keeps its handle keeps results and figures, not what its function captured."""
        self.code = _NO_CODE
        self.chunks.clear()
        self.needs.clear()
