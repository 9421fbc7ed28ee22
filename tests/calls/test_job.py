"""Job: the handle of one map, in blocking code and in a notebook's event loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import multiprocessing
import queue
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support.waiting import until

import distmap
from distmap.calls.job import Mailbox

#: The shared pool lives longer than a test.
pytestmark = pytest.mark.own_leaks


@pytest.fixture(scope="module")
def pool2():
    """Two slots of this machine, shared by the tests of this file."""
    with distmap.Pool(2) as pool:
        yield pool


@pytest.fixture
def gate(tmp_path):
    """Holds tasks until `open()`: `wait(x)` is what the task calls, `waiting()` is who is there."""
    key, base = str(tmp_path / "open"), str(tmp_path)

    def wait(x):
        import os
        import time

        with open(f"{base}/at-{x}", "w"):
            pass
        deadline = time.monotonic() + 15
        while not os.path.exists(key):
            if time.monotonic() > deadline:
                raise TimeoutError("the test never opened the gate")
            time.sleep(0.005)
        return x

    opened = Path(key).touch
    yield SimpleNamespace(wait=wait, open=opened, waiting=lambda: sorted(tmp_path.glob("at-*")))
    opened()


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


def test_a_job_can_be_awaited(pool2):
    """`await job` gives the result on the loop that runs already, and does not block it."""

    async def main():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.01)

        ticking = asyncio.create_task(tick())
        got = await pool2.map_async(lambda x: __import__("time").sleep(0.1) or x, range(4), chunksize=1)
        ticking.cancel()
        return (
            got,
            ticks,
            await pool2.apply_async(abs, (-3,)),
            await asyncio.gather(*(pool2.map_async(abs, [k]) for k in range(5))),
        )

    got, ticks, applied, gathered = asyncio.run(main())
    assert got == [0, 1, 2, 3]
    assert ticks > 3
    assert applied == 3
    assert gathered == [[k] for k in range(5)]


def test_awaiting_a_failed_job_raises(pool2):
    """`await` raises what `result()` raises."""

    async def main():
        await pool2.map_async(int, ["1", "x"])

    with pytest.raises(ValueError, match="invalid literal"):
        asyncio.run(main())


def test_async_for(pool2):
    """`async for` goes through a job and through an imap."""

    async def main():
        job = [x async for x in pool2.map_async(abs, range(30))]
        stream = [x async for x in pool2.imap(abs, range(30))]
        unordered = [x async for x in pool2.imap_unordered(abs, range(30))]
        return job, stream, sorted(unordered)

    assert asyncio.run(main()) == (list(range(30)),) * 3


def test_cancelling_the_await_cancels_the_job(pool2, gate):
    """A timed-out or cancelled await stops the job, and the pool is free."""

    async def main():
        job = pool2.map_async(gate.wait, range(4), chunksize=1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_await(job), 0.3)
        return job

    async def _await(job):
        return await job

    job = asyncio.run(main())
    job.wait(10)
    assert job.state == "cancelled"
    assert pool2.map(abs, [-1]) == [1]


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


def test_a_job_is_named_after_its_function(pool2):
    """Without `desc=` the name is the function's."""
    job = pool2.map_async(abs, [1])
    assert "abs" in job.name
    job.result(10)


def test_the_input_of_an_async_map_is_read_aside(pool2):
    """`map_async` returns at once, also when its input takes its time."""
    let_go = threading.Event()

    def slow_source():
        yield 1
        assert let_go.wait(10)
        yield 2

    job = pool2.map_async(abs, slow_source())
    assert not job.ready()
    let_go.set()
    assert job.result(10) == [1, 2]


def test_a_list_changed_after_the_call(pool2, gate):
    """A list that is changed after `map_async` does not change the job."""
    data = list(range(1000))
    job = pool2.map_async(abs, data)
    data[:] = [0] * 1000
    assert job.result(10) == list(range(1000))


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


def test_dropping_a_job_harms_nobody(pool2):
    """A job and an iterator that nobody holds end by themselves."""
    import gc

    pool2.map_async(abs, range(100))
    iterator = pool2.imap(abs, range(10**9))
    next(iterator)
    del iterator
    pool2.last = None
    gc.collect()
    until(lambda: pool2.jobs == [])
    assert pool2.map(abs, [-1]) == [1]


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


def test_a_mailbox_keeps_a_message_until_it_was_handled():
    """Whoever is interrupted while handling a message finds it again."""
    box = Mailbox()
    with pytest.raises(queue.Empty):
        box.first(0.01)
    box.put("one")
    box.put("two")
    assert [box.first(), box.first()] == ["one", "one"]
    box.drop()
    assert box.first(5) == "two"
    box.drop()
    with pytest.raises(queue.Empty):
        box.first(0.01)


def test_failures_are_lines_above_the_bar(pool2, capsys):
    """In a terminal a failed item stays readable above the bar."""
    assert pool2.map(lambda x: 1 // x, [1, 0, 1], on_error="skip", progress=True) == [1, 1]
    assert "item 1 failed on local, attempt 1: ZeroDivisionError: integer division" in capsys.readouterr().err


def notes_of(job):
    return [issue[:4] for issue in job._display.issues]


def test_incidents_and_failures_are_noted(pool2, tmp_path):
    """Also of a job that nobody looks at: who displays it later finds item, worker, attempt and reason."""
    flag = tmp_path / "once"

    def moody(x):
        if x == 1:
            raise ValueError("always")
        if x == 2 and not flag.exists():
            flag.touch()
            raise KeyError("once")
        return x

    for call in (pool2.map, lambda *args, **options: list(pool2.imap(*args, **options))):
        flag.unlink(missing_ok=True)
        made = []
        made.append(call(moody, range(4), chunksize=1, retries=1, on_error="skip"))
        job = pool2.last
        if job is None:  # a stream that was dropped
            continue
        until(lambda: len(job._display.issues) == 3)
        assert set(notes_of(job)) == {
            ("retried", 1, "local", 1),
            ("retried", 2, "local", 1),
            ("failed", 1, "local", 2),
        }
        html = job._repr_mimebundle_()["text/html"]
        assert "ValueError: always" in html
        assert "KeyError: &#x27;once&#x27;" in html


def test_a_process_that_died_is_noted(pool2):
    """Each death of an item, and the end of it."""

    def deadly(x):
        if x == 3:
            import os

            os._exit(7)
        return x

    assert len(pool2.map(deadly, range(6), chunksize=1, on_error="skip")) == 5
    died = [issue for issue in pool2.last._display.issues if issue.kind == "died"]
    assert [(issue.item, issue.worker, issue.attempt) for issue in died] == [(3, "local", n) for n in (1, 2, 3)]
    assert "exited with code 7" in died[0].text
    [failed] = [issue for issue in pool2.last._display.issues if issue.kind == "failed"]
    assert (failed.item, failed.attempt) == (3, 3)


def test_jobs_in_the_order_of_their_beginning(pool2, gate):
    """`pool.jobs` lists what runs; each has its number and the name of its call."""
    jobs = [pool2.map_async(gate.wait, [n]) for n in range(3)]
    stream = pool2.imap_unordered(abs, iter([1]), desc="mine")
    assert pool2.jobs[:3] == jobs
    assert [job.id for job in jobs] == sorted(job.id for job in jobs)
    assert (jobs[0].call, stream.call, stream.name) == ("map", "imap_unordered", "mine")
    gate.open()
    for job in jobs:
        job.result(10)
    assert list(stream) == [1]
    assert pool2.jobs == []


def test_steering_from_a_view(pool2, gate):
    """What a panel's buttons do is what the job's own methods do; when it is over they do nothing."""
    job = pool2.map_async(gate.wait, range(4), chunksize=1)
    until(gate.waiting)
    controls = job._display.controls
    controls.pause()
    assert job.state == "paused"
    until(lambda: job.progress.state == "paused")
    job.resume()
    assert not controls.paused
    controls.cancel()
    with pytest.raises(distmap.JobCancelled, match="was cancelled"):
        job.result(10)
    for late in (controls.cancel, controls.pause, controls.resume):
        late()
    assert job.state == job.progress.state == "cancelled"
    assert pool2.map(abs, [-1]) == [1]


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


def test_callbacks_have_run_when_the_result_is_there(pool2):
    """As in multiprocessing, also for a callback that takes its time; one that raises changes nothing."""
    told = []

    def slow(value):
        threading.Event().wait(0.1)
        told.append(value)

    pool2.map_async(abs, [-1], callback=slow).wait()
    assert told == [[1]]
    pool2.apply_async(abs, (-2,), callback=slow).wait()
    assert told == [[1], 2]
    job = pool2.map_async(abs, [-1], callback=lambda value: 1 // 0)
    assert job.result(10) == [1]
    assert job.successful()


def test_iterating_raises_at_the_item(pool2):
    """for x in job gives the results before the failed item, then its exception."""
    job = pool2.map_async(lambda x: 1 // x, [1, 0], chunksize=1)
    with pytest.raises(ZeroDivisionError):
        list(job)


def test_a_result_that_does_not_unpickle_is_an_error(pool2):
    """It is not a result, nor left out of a fold."""

    class Bad:
        def __init__(self, x):
            self.x = x

        def __reduce__(self):
            return int, ("no number",)

    with pytest.raises(distmap.PayloadError):
        pool2.map(lambda x: Bad(x) if x == 2 else x, range(4))


def test_what_was_printed_is_shown_when_a_call_is_interrupted(pool2, gate, capsys):
    """An interrupt in the caller's own code loses nothing that items had printed by then."""
    wait = gate.wait

    def talk(x):
        print("item", x)
        return wait(x)

    def items():
        yield "first"
        until(lambda: gate.waiting())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pool2.map(talk, items())
    assert capsys.readouterr().out == "[local] item first\n"


def test_what_was_printed_is_there_before_the_callback(pool2, capsys):
    """Callbacks, as results, come after the output of their items."""
    seen = []
    job = pool2.map_async(lambda x: print("item", x), [1], callback=lambda _: seen.append(capsys.readouterr().out))
    job.wait(10)
    assert seen == ["[local] item 1\n"]
