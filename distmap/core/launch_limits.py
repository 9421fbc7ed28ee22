"""Numbers that bound launchers and what they started; `limits.py` has those of a pool.

Owns limits and time constants only. Seconds throughout.
"""

from __future__ import annotations

from distmap.tasks._typing import NamedTuple


class LaunchLimits(NamedTuple):
    #: Seconds between two looks at what waits, and at the processes of a command.
    tick: float = 1.0
    #: Longest pause between two looks at the jobs of a batch system: soon after something was started or has ended, and
    #: then twice as long each time.
    look_most: float = 15.0
    #: Seconds in which a batch system answers one command.
    ask: float = 60.0
    #: Seconds of work for each slot that are worth a further worker: to start one takes a part of that.
    work: float = 60.0
    #: Seconds for which fewer workers must have been enough before some are ended.
    shrink_after: float = 60.0
    #: Starts in a row of which no worker came, after which no more is tried if no other worker is left.
    tries: int = 3
    #: Longest pause before the next start after one of which no worker came.
    pause_most: float = 60.0
    #: Seconds from the wish that a worker leaves until it is ended: longer than its `--drain`.
    drain: float = 60.0
    #: Seconds that the processes of a command have to end with their pool, before they are killed.
    end: float = 5.0
    #: Workers that one pool may ask of a launcher.
    workers: int = 10_000
    #: Characters of what a command said last that are shown.
    words: int = 400


LAUNCH = LaunchLimits()
