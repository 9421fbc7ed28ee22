"""Job: the handle of one map, in blocking code and in a notebook's event loop."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import threading
import time

import numpy as np
import pytest
from support.waiting import until

import distmap

#: The shared pool lives longer than a test.
pytestmark = pytest.mark.own_leaks


def test_result_and_get(pool2):
    """`result()` and `get()` give the list, again and again."""
    job = pool2.map_async(abs, [-1, -2, -3])
    assert job.result(10) == [1, 2, 3]
    assert job.get() == [1, 2, 3]
    assert job.ready()
    assert job.successful()
    assert job.state == "done"


def test_result_with_a_timeout(pool2, gate):
    """`result(timeout)` raises multiprocessing.TimeoutError and the job goes on."""
    job = pool2.map_async(gate.wait, [1, 2])
    for call in (job.result, job.get):
        with pytest.raises(multiprocessing.TimeoutError):
            call(0.02)
    with pytest.raises(ValueError, match="not ready"):
        job.successful()
    assert not job.ready()
    assert job.state == "running"
    gate.open()
    assert job.result(10) == [1, 2]


def test_iterating_gives_results_as_they_come(pool2, gate):
    """`for` over a job gives results in input order while it runs; a second loop gives them again."""
    wait = gate.wait
    job = pool2.map_async(lambda x: wait(x) if x == 3 else x, range(6), chunksize=1)
    results = iter(job)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    assert not job.ready()
    gate.open()
    assert list(results) == [3, 4, 5]
    assert list(job) == list(range(6))


def test_cancel(pool2, gate):
    """`cancel` stops what runs, keeps what was finished, and leaves the pool usable."""
    wait = gate.wait
    job = pool2.map_async(lambda x: x if x < 4 else wait(x), range(20), chunksize=1)
    until(lambda: len(gate.waiting()) == 2)
    assert job.cancel()
    with pytest.raises(distmap.JobCancelled) as caught:
        job.result(10)
    assert isinstance(caught.value, concurrent.futures.CancelledError)
    assert job.state == "cancelled"
    assert not job.successful()
    assert dict(job.partial) == {x: x for x in range(4)}
    assert pool2.map(abs, range(10)) == list(range(10))
    assert len(gate.waiting()) == 2


def test_cancel_of_a_finished_job(pool2):
    """`cancel` of a job that is over is False and changes nothing."""
    job = pool2.map_async(abs, [-1])
    assert job.result(10) == [1]
    assert job.cancel() is False
    assert job.result() == [1]


def test_cancel_of_an_iterator(pool2):
    """An imap over an endless input can be cancelled."""
    import itertools

    results = pool2.imap(abs, itertools.count())
    assert next(results) == 0
    results.cancel()
    with pytest.raises(distmap.JobCancelled):
        for _ in results:
            pass
    assert pool2.map(abs, [-1]) == [1]


def test_pause_and_resume(pool2, gate):
    """While paused no further item begins; what runs goes on; `resume` finishes the job."""
    job = pool2.map_async(gate.wait, range(8), chunksize=1)
    until(lambda: len(gate.waiting()) == 2)
    job.pause()
    assert job.state == "paused"
    assert pool2.last is job
    gate.open()
    until(lambda: len(job.partial) >= 2)
    # Another job has the slots to itself, so the paused one would have begun more by now.
    assert pool2.map(abs, range(50), chunksize=1) == list(range(50))
    assert len(gate.waiting()) <= 4
    assert not job.ready()
    job.resume()
    assert job.result(10) == list(range(8))
    assert job.state == "done"


def test_partial_while_it_runs(pool2, gate):
    """`partial` lists (index, value) pairs in index order at any time."""
    wait = gate.wait
    job = pool2.map_async(lambda x: wait(x) if x == 2 else 10 * x, range(6), chunksize=1)
    until(lambda: len(job.partial) == 5)
    assert job.partial == [(0, 0), (1, 10), (3, 30), (4, 40), (5, 50)]
    gate.open()
    job.wait(10)
    assert job.partial == [(x, 2 if x == 2 else 10 * x) for x in range(6)]


def test_failures(pool2):
    """`failures` lists (index, exception) pairs; `partial` has the others."""
    job = pool2.map_async(lambda x: 6 // (x - 2), range(5), on_error="return")
    result = job.result(10)
    ((index, error),) = job.failures
    assert index == 2
    assert isinstance(error, ZeroDivisionError)
    assert result[2] is error
    assert [index for index, _ in job.partial] == [0, 1, 3, 4]


def test_stats_and_progress(pool2):
    """`stats` counts, `progress` is the latest snapshot."""
    job = pool2.map_async(lambda x: 1 // x, range(100), on_error="skip", desc="inverse")
    job.wait(10)
    stats = dict(job.stats)
    assert (stats["done"], stats["failed"], stats["deaths"], stats["losses"], stats["duplicates"]) == (100, 1, 0, 0, 0)
    assert stats["chunks"] >= 2
    snapshot = job.progress
    assert isinstance(snapshot, distmap.Snapshot)
    assert (snapshot.done, snapshot.total, snapshot.state) == (100, 100, "done")
    assert [lane.name for lane in snapshot.lanes] == ["local"]


def test_repr_reads_well(pool2, gate):
    """The repr tells name, state and how far it is."""
    job = pool2.map_async(gate.wait, range(3), desc="held back")
    assert repr(job).startswith("<Job held back: running")
    gate.open()
    job.result(10)
    assert repr(job) == "<Job held back: done, 3 of 3 items>"


def test_waiting_in_several_threads(pool2, gate):
    """Several threads may wait for one job."""
    job = pool2.map_async(gate.wait, [1, 2])
    got = []
    threads = [threading.Thread(target=lambda: got.append(job.result(10))) for _ in range(4)]
    for thread in threads:
        thread.start()
    gate.open()
    for thread in threads:
        thread.join(10)
    assert got == [[1, 2]] * 4


def test_a_job_that_is_over_keeps_figures_and_failures_only(pool2):
    """`pool.last` holds nothing of what the function captured, of its input, or the callbacks."""
    import gc
    import weakref

    class Big:
        """Unlike a list it can be referred to weakly."""

        def __iter__(self):
            return iter(range(5))

    def call(how):
        captured, data, callback, progress = np.zeros(10_000), Big(), lambda result: None, lambda snapshot: None
        held = [weakref.ref(one) for one in (captured, data, callback, progress)]

        def fn(x):
            if how == "fails" and x == 3:
                raise ValueError
            return x + captured[x]

        held.append(weakref.ref(fn))
        if how == "here":
            pool2.map(fn, data, progress=progress)
        elif how == "aside":
            pool2.map_async(fn, data, callback=callback, progress=progress).result(10)
        elif how == "fold":
            pool2.map_reduce(fn, data, lambda a, b: a + b + captured[0], progress=progress)
        elif how == "stream":
            streams.append(pool2.imap(fn, data, progress=progress))
            list(streams[0])
        else:
            with pytest.raises(ValueError) as caught:
                pool2.map(fn, data)
            caught.value.__traceback__ = None  # as every exception, it keeps the frames that it passed
        return held

    streams = []
    for how in ("here", "aside", "fails", "fold", "stream"):
        held = call(how)
        gc.collect()
        until(lambda: [one() for one in held if one() is not None] == [])
        assert streams or pool2.last.failures or how != "fails"
        assert pool2.last.progress.done


def test_a_job_shows_its_card_anywhere(pool2):
    """Outside a notebook IPython is told to take the text; the card is there for whoever asks."""
    pool2.map(abs, range(3), progress=False)
    with pytest.raises(NotImplementedError):
        pool2.last._ipython_display_()
    bundle = pool2.last._repr_mimebundle_()
    assert bundle["text/plain"] == "<Job abs: done, 3 of 3 items>"
    assert "<b>map</b> <code>abs</code>" in bundle["text/html"]


def test_a_job_can_be_cancelled_before_the_loop_has_heard_of_it(pool2):
    """cancel right after map_async is never lost."""
    for _ in range(20):
        job = pool2.map_async(time.sleep, [0.05] * 50)
        job.cancel()
        with pytest.raises(distmap.JobCancelled):
            job.result(10)


def test_iterating_raises_at_the_item(pool2):
    """for x in job gives the results before the failed item, then its exception."""
    job = pool2.map_async(lambda x: 1 // x, [1, 0], chunksize=1)
    with pytest.raises(ZeroDivisionError):
        list(job)
