"""The error of a job that no worker could take."""

from __future__ import annotations

from typing import Any

from distmap.core.events import JobSpec
from distmap.driver.jobs import JobEntry
from distmap.driver.messages import Refusal
from distmap.driver.unserved import unserved
from distmap.engine.base import WorkerInfo
from distmap.errors import NoWorkers
from distmap.tasks.code import dump_code

NOBODY: dict[str, Any] = {"there": [], "failed": [], "timeout": 5.0, "last_lost": "", "none_can_come": ""}
GPU1 = WorkerInfo("gpu1", "host", 1, "3.11.0", frozenset({"gpu"}))


def _job(**spec: Any) -> JobEntry:
    return JobEntry(JobSpec(name="f", **spec), dump_code(abs))


def _said(job: JobEntry, **known: Any) -> str:
    error = unserved(NoWorkers("nobody came"), job, **NOBODY | known)
    assert type(error) is NoWorkers
    return "\n".join([str(error), *getattr(error, "__notes__", ())])


def test_nobody_is_there() -> None:
    """What is known by itself is said; a worker that was lost is named, or the items that broke an executor."""
    assert _said(_job()) == "nobody came"
    assert _said(_job(), last_lost="w was lost before (gone)") == "nobody came\nw was lost before (gone)."
    job = _job()
    job.suspects += [range(3, 4), range(10, 21)]
    assert "items 3 and 10 to 20 when it broke" in _said(job, none_can_come="it broke")


def test_workers_that_are_there() -> None:
    """They lack tags, their set-up failed, or they cannot run the code."""
    assert "no worker has the tags ['x'] for 5 s; there are: gpu1 (gpu)" in _said(
        _job(tags=frozenset("x")), there=[GPU1]
    )
    assert "set them up failed (load on gpu1)" in _said(_job(), there=[GPU1], failed=["load on gpu1"])
    job = _job(tags=frozenset({"gpu"}))
    job.refuse(1, Refusal("gpu1", [b""], unfit=False))
    assert "it cannot be run on gpu1" in _said(job, there=[GPU1])
