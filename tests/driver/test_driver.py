"""The driver carries out what the scheduler decides, and nobody waits for ever."""

from __future__ import annotations

import queue

import pytest

from distmap.calls.results import failure_of, results_of
from distmap.core.events import JobSpec, SlotReady, WorkerLost
from distmap.driver.jobs import JobEntry
from distmap.driver.messages import Incident, Landed, Printed, ReadRequest
from distmap.driver.output import OutputRouter
from distmap.engine.base import WorkerInfo
from distmap.tasks.broadcast import Broadcast
from distmap.tasks.code import dump_code
from distmap.tasks.failures import Failure
from distmap.tasks.items import dump_items
from distmap.wire.messages import Output, Report

DEADLINE = 10


def test_a_job_runs_to_its_end(harness):
    """Reads are asked for, every result lands once, and Finished is the last message."""
    job, box = harness.open(lambda x: x * x, 100)
    found, finished = harness.serve(job, box, range(100))
    assert found == {x: x * x for x in range(100)}
    assert finished.outcome == "done"
    assert (finished.snapshot.done, finished.snapshot.total) == (100, 100)
    idle = []
    harness.portal.ask(harness.driver.when_idle, lambda: idle.append(True))
    assert idle == [True]


def test_an_ordered_job_delivers_after_its_chunks_were_released(harness):
    """Results that wait for an earlier one still know their place."""
    job, box = harness.open(lambda x: x, 30, gather="ordered", chunksize=3)
    found = {}
    items = list(range(30))
    landed = []
    while len(found) < 30:
        message = box.get(timeout=DEADLINE)
        if isinstance(message, ReadRequest):
            taken, items = items[: message.most], items[message.most :]
            payload, blobs = dump_items(taken)
            harness.portal.call(harness.driver.chunk_read, job, message.chunk, payload, blobs, len(taken), not items)
        elif isinstance(message, Landed):
            values, _ = results_of(message)
            landed.append(message.start + message.lo)
            found.update(enumerate(values, landed[-1]))
            harness.portal.call(harness.driver.consumed, job, len(values), message.report.nbytes)
    assert landed == sorted(landed)
    assert found == {x: x for x in range(30)}


def test_failed_tries_are_counted(harness):
    """A report knows which try of an item failed."""

    def fail(x):
        raise ValueError(x)

    job, box = harness.open(fail, 1, retries=2, stop_on_failure=False)
    found, finished = harness.serve(job, box, [7])
    assert "attempt 3" in found[0].__notes__[0]
    assert finished.snapshot.retried == 2


def test_a_job_that_goes_on_leaves_nothing_of_what_is_done(harness):
    """Items that raised and attempts whose process died are forgotten with their chunk, not with their job."""

    def fail(x):
        raise ValueError(x)

    box = queue.SimpleQueue()
    spec = JobSpec(size=None, pushed=True, stop_on_failure=False, chunksize=2)
    driver, chunks = harness.driver, []

    def sink(message):
        if isinstance(message, ReadRequest):  # of pushed items: answered inside the sink
            chunks.append(message.chunk)
            driver.chunk_taken(record.id, message.chunk, *dump_items([1, 2]), 2)
        elif isinstance(message, Landed):
            box.put(message)

    record = JobEntry(spec, dump_code(fail), sink)

    def push_and_die():
        driver.added(record.id, 2, 0)
        (attempt,) = driver._attempts
        driver.died(1, 0, attempt, 1, "died", "for a test")
        assert not driver._attempts
        assert record.chunks[chunks[0]].deaths == {1: [("inline", "for a test")]}
        driver.post(SlotReady(1, 0))

    harness.portal.ask(driver.open, record)
    harness.portal.ask(push_and_die)
    landed = [box.get(timeout=DEADLINE) for _ in range(2)]
    assert sorted((message.lo, message.hi) for message in landed) == [(0, 1), (1, 2)]
    state = harness.portal.ask(driver.snapshot, record.id).state
    assert (state, *harness.portal.ask(lambda: (record.chunks, driver._attempts, driver._reports))) == (
        "running", {}, {}, {},
    )  # fmt: skip


def test_input_that_fails_is_the_error_of_the_job(harness):
    """What reading raised comes with Finished."""
    job, box = harness.open(lambda x: x, None)
    request = box.get(timeout=DEADLINE)
    error = OSError("disk gone")
    harness.portal.call(harness.driver.input_failed, job, request.chunk, error)
    finished = box.get(timeout=DEADLINE)
    assert finished.outcome == "failed"
    assert finished.error is error


def test_a_bug_ends_every_job(harness):
    """An exception inside the driver reaches the consumers as the error of their jobs."""
    _, box = harness.open(lambda x: x, 5)
    box.get(timeout=DEADLINE)
    harness.portal.call(harness.driver.post, "no event")
    finished = box.get(timeout=DEADLINE)
    assert finished.outcome == "failed"
    assert finished.error is harness.told[0]


def test_closing_ends_what_is_left(harness):
    """A job that is open when the pool ends is told so."""
    _, box = harness.open(lambda x: x, 5)
    box.get(timeout=DEADLINE)
    harness.portal.ask(harness.driver.close)
    assert box.get(timeout=DEADLINE).outcome == "cancelled"


def test_a_pinned_broadcast_outlives_its_job(harness):
    """A broadcast stays on the workers until it is unpinned; a function goes with its job."""
    handle = Broadcast({"k": 1})
    harness.portal.call(harness.driver.pin, handle.digest)
    job, box = harness.open(lambda x: handle.value["k"] + x, 1)
    found, _ = harness.serve(job, box, [1])
    assert found == {0: 2}
    assert harness.portal.ask(lambda: (len(harness.driver._blobs), handle.digest in harness.driver._blobs)) == (1, True)
    harness.portal.ask(harness.driver.unpin, handle.digest)
    assert not harness.portal.ask(lambda: len(harness.driver._blobs))


def test_a_broken_driver_takes_no_more_jobs(harness):
    """After a bug a new job ends at once instead of waiting for slots that are lost."""
    harness.portal.call(harness.driver.post, "no event")
    _, box = harness.open(lambda x: x, 5)
    assert "bug of distmap" in str(box.get(timeout=DEADLINE).error)


class Quiet:
    """An engine that notes the tasks it is given and does nothing."""

    place = "there"

    def __init__(self):
        self.tasks = []

    def assign(self, worker, task, parts):
        self.tasks.append(task)

    def __getattr__(self, name):
        return lambda *args: None


@pytest.fixture
def talk(make_harness):
    """Opens a job of five items in one chunk on two quiet workers; gives harness, workers, tasks and the opener."""
    harness = make_harness(workers=0)
    engine = Quiet()
    workers = [
        harness.portal.ask(harness.driver.joined, engine, WorkerInfo(name, "here", 1, "3.11"))
        for name in ("ann", "bob")
    ]

    def open_job(router, **spec):
        box = queue.SimpleQueue()
        record = JobEntry(JobSpec(size=5, chunksize=5, name="job", **spec), dump_code(abs), box.put, router=router)
        job = harness.portal.ask(harness.driver.open, record)
        request = box.get(timeout=DEADLINE)
        payload, blobs = dump_items(range(5))
        harness.portal.ask(harness.driver.chunk_read, job, request.chunk, payload, blobs, 5, True)
        return job, box

    return harness, workers, engine.tasks, open_job


def test_incidents_are_told(talk):
    """A job hears of items that are run again, of processes that died, and of workers that were lost with its items."""
    harness, (ann, bob), tasks, open_job = talk
    _, box = open_job(None, retries=1)
    (task,) = tasks

    payload, _ = dump_items([1, Failure("ValueError", "bad", "", None, "")])
    report = Report(0, task.attempt, 0, 2, 0.1, False, (1,))
    harness.portal.ask(harness.driver.reported, ann, report, payload.parts)
    landed = box.get(timeout=DEADLINE)
    assert isinstance(landed, Landed)
    incident = box.get(timeout=DEADLINE)
    assert incident[:4] == ("retried", 1, "ann", 1)
    assert failure_of(incident.report, incident.at) == "ValueError: bad"
    harness.portal.ask(harness.driver.died, ann, 0, task.attempt, 2, "died", "killed by SIGSEGV")
    assert box.get(timeout=DEADLINE) == Incident("died", 2, "ann", 1, "killed by SIGSEGV")
    harness.portal.ask(harness.driver.lost, bob, True, "silent for 30 s")
    lost = box.get(timeout=DEADLINE)
    assert lost[:5] == ("lost", None, "bob", 0, "silent for 30 s; 2 chunks that it held are run again")
    # Nobody's fault, or nobody's work: nothing to tell.
    harness.portal.ask(harness.driver.post, SlotReady(ann, 0))
    harness.portal.ask(harness.driver.died, ann, 0, None, None, "idle", "out of memory")
    harness.portal.ask(harness.driver.post, WorkerLost(ann, charged=False))
    assert box.empty()


def test_what_tasks_print_is_shown_until_they_end(talk):
    """Output of the attempt that runs rings once and is tagged; that of another worker or after its end is dropped."""
    harness, (ann, bob), tasks, open_job = talk
    router = OutputRouter(item=True)
    shown = []
    router._write = lambda text, stream: shown.append((stream, text))
    _, box = open_job(router)
    (task,) = tasks
    assert task.output

    def printed(worker, text, *, attempt=task.attempt, stream=0):
        pieces = ((3, stream, len(text)),) if text else ()
        harness.portal.ask(harness.driver.printed, worker, Output(0, attempt, 0, pieces), [text] if text else [])

    printed(ann, b"one\n")
    printed(ann, b"two\n", stream=1)
    assert box.get(timeout=DEADLINE) == Printed()
    router.show()
    assert shown == [("stdout", "[ann #3] one\n"), ("stderr", "[ann #3] two\n")]
    printed(bob, b"not mine\n")
    printed(ann, b"unknown\n", attempt=99)
    printed(77, b"nobody\n")
    printed(ann, b"")
    harness.portal.ask(harness.driver.reported, ann, Report(0, task.attempt, 0, 0, 0.0, True, ()), [])
    printed(ann, b"late\n")
    assert not router.waiting


def test_dropped_lines_are_told_of_a_little_later(talk):
    """A worker that dropped lines and then is silent does not keep that to itself until the end of the job."""
    harness, (ann, _), tasks, open_job = talk
    router = OutputRouter()
    shown = []
    router._write = lambda text, stream: shown.append(text)
    _, box = open_job(router)
    for _ in range(2):
        harness.portal.ask(harness.driver.printed, ann, Output(0, tasks[0].attempt, 7, ()), [])
    assert box.get(timeout=DEADLINE) == Printed()
    router.show()
    assert [text.split(" of ")[0] for text in shown] == ["[distmap] \u2026 14 lines"]


def test_a_job_without_a_router_has_its_tasks_be_silent(talk):
    """Tasks are told to print to nobody; what comes all the same is not heard."""
    harness, (ann, _), tasks, open_job = talk
    _, box = open_job(None)
    assert not tasks[0].output
    harness.portal.ask(harness.driver.printed, ann, Output(0, tasks[0].attempt, 0, ((0, 0, 2),)), [b"x\n"])
    assert box.empty()


def test_sizes_that_lie_cut_nothing_but_their_text(talk):
    """Pieces that announce more than there is give what is there."""
    harness, (ann, _), tasks, open_job = talk
    router = OutputRouter()
    shown = []
    router._write = lambda text, stream: shown.append(text)
    open_job(router)
    output = Output(0, tasks[0].attempt, 0, ((0, 0, 2), (1, 7, 10**9), (2, 0, 5)))
    harness.portal.ask(harness.driver.printed, ann, output, [b"a\nb\n"])
    router.show()
    assert shown == ["[ann] a\n", "[ann] b\n"]
