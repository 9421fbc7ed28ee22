"""The port between what keeps workers in number (`scaler.py`) and what starts them: a batch system, a shell.

Owns the protocol. A launcher decides nothing: it starts what it is told, says what there is of it, and ends it. What it
starts are real workers, which dial in: nothing but their start and their end is its business. On the loop's thread.

    Scaler  --start(n)-->  Launcher  --sbatch, sh-->  job, process  ...  distmap-worker
       ^                                                                       |
       +------------- Pool <--------------- dials in, says which start it is of (DISTMAP_LAUNCH)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

from distmap.tasks._typing import NamedTuple


class Started(NamedTuple):
    """What one start has become, for as long as there is something of it: a job, a process."""

    state: Literal["queued", "running"]
    #: Workers that it is to be.
    workers: int = 1
    #: Why it waits, in the words of its system.
    reason: str = ""


class Ended(NamedTuple):
    """How one start has ended."""

    #: It is over without a failure; a command that hands its work to a queue, or its worker to another machine, ends so
    #: as well, long before its workers.
    well: bool
    #: What it said last, for people.
    words: str


class Launcher(Protocol):
    """Starts workers somewhere, and ends them."""

    #: For people: "Slurm", or the command.
    name: str
    #: Slots of each of its workers, as far as that is known before they come.
    slots: int
    #: Called when something has ended and need not be looked for.
    changed: Callable[[], None]

    async def start(self, n: int, url: str) -> Sequence[str]:
        """Start `n` workers that dial the URL; gives the ids of their starts, which are never used again.

        Raises:
            LaunchError: The system refuses; one sentence with its last words.
        """

    async def look(self) -> Mapping[str, Started]:
        """What there is now, by id. If its system does not answer: what there was."""

    def hurry(self) -> None:
        """Something has changed: the next look is to be a new one."""

    async def ended(self, id: str, *, expected: bool) -> Ended | None:
        """How it ended, once; then it is forgotten. None: its workers have ended with it, and nothing went wrong.

        Args:
            expected: A worker of it has come, or it was told to end: a failure is none.
        """

    async def end(self, ids: Sequence[str]) -> None:
        """End these, by force if it is the second time."""

    async def close(self) -> None:
        """End all, and leave nothing."""
