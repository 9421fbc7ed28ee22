"""What may be done to a job from any thread."""

from __future__ import annotations

import pytest

from distmap import JobCancelled


def test_a_job_is_paused_resumed_and_cancelled(pool2, gate):
    """Controls reach a job that runs, and do nothing once it is over."""
    wait = gate.wait
    job = pool2.map_async(wait, range(50), chunksize=1)
    job.pause()
    assert job.state == "paused"
    job.resume()
    assert job.state == "running"
    job.cancel()
    gate.open()
    assert job.wait(20)
    with pytest.raises(JobCancelled, match="was cancelled"):
        job.result()
    assert not job.cancel()
