"""Serving a job: what is read, shown and called while it runs, and in which order."""

from __future__ import annotations

import threading

import pytest
from support.waiting import until

import distmap

#: The shared pool lives longer than a test.
pytestmark = pytest.mark.own_leaks


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


def test_failures_are_lines_above_the_bar(pool2, capsys):
    """In a terminal a failed item stays readable above the bar."""
    assert pool2.map(lambda x: 1 // x, [1, 0, 1], on_error="skip", progress=True) == [1, 1]
    assert "item 1 failed on local, attempt 1: ZeroDivisionError: integer division" in capsys.readouterr().err


def notes_of(job):
    return [issue[:4] for issue in job._serving.display.issues]


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
        until(lambda: len(job._serving.display.issues) == 3)
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
    died = [issue for issue in pool2.last._serving.display.issues if issue.kind == "died"]
    assert [(issue.item, issue.worker, issue.attempt) for issue in died] == [(3, "local", n) for n in (1, 2, 3)]
    assert "exited with code 7" in died[0].text
    [failed] = [issue for issue in pool2.last._serving.display.issues if issue.kind == "failed"]
    assert (failed.item, failed.attempt) == (3, 3)


def test_steering_from_a_view(pool2, gate):
    """What a panel's buttons do is what the job's own methods do; when it is over they do nothing."""
    job = pool2.map_async(gate.wait, range(4), chunksize=1)
    until(gate.waiting)
    controls = job._serving.display.controls
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
