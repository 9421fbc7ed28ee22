"""The error of a job that no worker could take for too long.

Owns its words. Must not know engines or the scheduler; who was there is given.
"""

from __future__ import annotations

from collections.abc import Sequence

from distmap.driver.jobs import JobEntry
from distmap.engine.base import WorkerInfo


def unserved(
    error: BaseException,
    job: JobEntry,
    *,
    there: Sequence[WorkerInfo],
    failed: Sequence[str],
    timeout: float,
    last_lost: str,
    none_can_come: str,
) -> BaseException:
    """The error that says why the job got no worker.

    Args:
        error: what is said if nothing more is known.
        job: the job.
        there: workers that are there, and cannot take it.
        failed: set-ups that failed, each with its worker.
        timeout: seconds that were waited.
        last_lost: a sentence about the worker that was lost last; empty if none was.
        none_can_come: why no worker with its tags can come any more; else empty.
    """
    tags = job.spec.tags
    refused = sorted(job.refusals[number].worker for number in job.refusals if job.refused_by(number))
    if failed:
        return type(error)(
            f"no worker for {timeout:g} s: what set them up failed ({', '.join(failed)}), and without it "
            "they run nothing while its handle is kept; its `failures` say why"
        )
    if there and tags and not any(tags <= info.tags for info in there):
        if none_can_come:
            return type(error)(f"no worker has the tags {sorted(tags)}, and none can come: {none_can_come}")
        said = ", ".join(f"{info.name} ({', '.join(sorted(info.tags)) or 'no tags'})" for info in there)
        return type(error)(f"no worker has the tags {sorted(tags)} for {timeout:g} s; there are: {said}")
    if there and refused:
        error = type(error)(
            f"no worker for {timeout:g} s that can run {job.spec.name}: it cannot be run on {', '.join(refused)} (a "
            "warning says why), and others are gone"
        )
    if none_can_come and job.suspects:
        error.add_note(f"It had {_spans(job.suspects)} when it broke: one of them ended its process.")
    elif last_lost:
        error.add_note(f"{last_lost}.")
    return error


def _spans(spans: Sequence[range]) -> str:
    """Items in words: "items 3, 10 to 20 and 31"."""
    parts = [f"{s[0]} to {s[-1]}" if len(s) > 1 else f"{s[0]}" for s in sorted(spans, key=lambda span: span.start)]
    *before, last = parts
    words = f"{', '.join(before)} and {last}" if before else last
    return f"item{'s' * (sum(map(len, spans)) > 1)} {words}"
