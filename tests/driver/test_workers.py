"""What engines report of workers, and what happens to a job that no worker can serve."""

from __future__ import annotations

import queue

import pytest

from distmap.calls.results import failure_of
from distmap.core.events import JobSpec
from distmap.driver import workers as module
from distmap.driver.jobs import JobEntry
from distmap.driver.messages import Incident, Landed, Printed
from distmap.driver.output import OutputRouter
from distmap.engine.base import WorkerInfo
from distmap.tasks.code import dump_code
from distmap.tasks.failures import Failure
from distmap.tasks.items import dump_items
from distmap.wire.messages import Died, Output, Ready, Report

DEADLINE = 10


def test_a_job_with_no_worker_ends_with_a_reason(make_harness):
    """Nobody waits for ever for workers that do not come."""
    harness = make_harness(workers=0, worker_timeout=0.05, no_workers=lambda: RuntimeError("nobody came"))
    _, box = harness.open(lambda x: x, 5)
    finished = box.get(timeout=DEADLINE)
    assert str(finished.error) == "nobody came"


def test_names_of_workers_are_unique(make_harness):
    """Two workers of one name are told apart."""
    harness = make_harness(workers=2)
    assert [member.info.name for member in harness.portal.ask(harness.driver.worker_statuses)] == ["inline", "inline-2"]


def test_tags_that_no_worker_has_end_with_a_reason(make_harness):
    """The error names the tags and who is there."""
    harness = make_harness(worker_timeout=0.05, no_workers=lambda: RuntimeError("nobody came"))
    _, box = harness.open(lambda x: x, 5, tags=frozenset(["gpu"]))
    finished = box.get(timeout=DEADLINE)
    assert "no worker has the tags ['gpu']" in str(finished.error)
    assert "inline (no tags)" in str(finished.error)


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


def test_incidents_are_sent(talk):
    """A job hears of items that are run again, of processes that died, and of workers that were lost with its items."""
    harness, (ann, bob), tasks, open_job = talk
    _, box = open_job(None, retries=1)
    (task,) = tasks

    payload, _ = dump_items([1, Failure("ValueError", "bad", "", None, "")])
    report = Report(0, task.attempt, 0, 2, 0.1, False, (1,))
    harness.portal.ask(ann.reported, report, payload.parts)
    landed = box.get(timeout=DEADLINE)
    assert isinstance(landed, Landed)
    incident = box.get(timeout=DEADLINE)
    assert incident[:4] == ("retried", 1, "ann", 1)
    assert failure_of(incident.report, incident.at) == "ValueError: bad"
    harness.portal.ask(ann.died, Died(0, task.attempt, 2, "died", "killed by SIGSEGV"))
    assert box.get(timeout=DEADLINE) == Incident("died", 2, "ann", 1, "killed by SIGSEGV")
    harness.portal.ask(bob.lost, True, "silent for 30 s")
    lost = box.get(timeout=DEADLINE)
    assert lost[:5] == ("lost", None, "bob", 0, "silent for 30 s; 2 chunks that it held are run again")
    # Nobody's fault, or nobody's work: nothing to tell.
    harness.portal.ask(ann.ready, Ready(0))
    harness.portal.ask(ann.died, Died(0, -1, -1, "idle", "out of memory"))
    harness.portal.ask(ann.lost, False, "it left")
    assert box.empty()


def test_what_tasks_print_is_shown_until_they_end(talk):
    """Output of an attempt is announced once, and tagged; that of another worker or after its end is dropped."""
    harness, (ann, bob), tasks, open_job = talk
    router = OutputRouter(item=True)
    shown = []
    router._write = lambda text, stream: shown.append((stream, text))
    _, box = open_job(router)
    (task,) = tasks
    assert task.output

    def printed(worker, text, *, attempt=task.attempt, stream=0):
        pieces = ((3, stream, len(text)),) if text else ()
        harness.portal.ask(worker.printed, Output(0, attempt, 0, pieces), [text] if text else [])

    printed(ann, b"one\n")
    printed(ann, b"two\n", stream=1)
    assert box.get(timeout=DEADLINE) == Printed()
    router.show()
    assert shown == [("stdout", "[ann #3] one\n"), ("stderr", "[ann #3] two\n")]
    printed(bob, b"not mine\n")
    printed(ann, b"unknown\n", attempt=99)
    printed(ann, b"")
    harness.portal.ask(ann.reported, Report(0, task.attempt, 0, 0, 0.0, True, ()), [])
    printed(ann, b"late\n")
    assert not router.waiting


def test_dropped_lines_are_reported_a_little_later(talk):
    """A worker that dropped lines and then is silent does not keep that to itself until the end of the job."""
    harness, (ann, _), tasks, open_job = talk
    router = OutputRouter()
    shown = []
    router._write = lambda text, stream: shown.append(text)
    _, box = open_job(router)
    for _ in range(2):
        harness.portal.ask(ann.printed, Output(0, tasks[0].attempt, 7, ()), [])
    assert box.get(timeout=DEADLINE) == Printed()
    router.show()
    assert [text.split(" of ")[0] for text in shown] == ["[distmap] \u2026 14 lines"]


def test_tasks_of_a_job_without_a_router_send_no_output(talk):
    """Tasks are sent without the wish for output; output that comes all the same is dropped."""
    harness, (ann, _), tasks, open_job = talk
    _, box = open_job(None)
    assert not tasks[0].output
    harness.portal.ask(ann.printed, Output(0, tasks[0].attempt, 0, ((0, 0, 2),)), [b"x\n"])
    assert box.empty()


def test_sizes_that_lie_cut_nothing_but_their_text(talk):
    """Pieces that announce more than there is give what is there."""
    harness, (ann, _), tasks, open_job = talk
    router = OutputRouter()
    shown = []
    router._write = lambda text, stream: shown.append(text)
    open_job(router)
    output = Output(0, tasks[0].attempt, 0, ((0, 0, 2), (1, 7, 10**9), (2, 0, 5)))
    harness.portal.ask(ann.printed, output, [b"a\nb\n"])
    router.show()
    assert shown == ["[ann] a\n", "[ann] b\n"]


def test_reports_of_a_lost_worker_are_ignored(talk):
    """What an engine still reports of a worker that was lost changes nothing."""
    harness, (ann, bob), tasks, open_job = talk
    open_job(None)
    (task,) = tasks
    harness.portal.ask(ann.lost, False, "it left")
    before = harness.portal.ask(lambda: len(harness.driver.trace))
    harness.portal.ask(ann.died, Died(0, task.attempt, 1, "died", "too late"))
    harness.portal.ask(ann.broke, task.attempt, 1, "too late")
    assert harness.portal.ask(lambda: len(harness.driver.trace)) == before
    (again,) = tasks[1:]
    assert harness.portal.ask(lambda: harness.driver._attempts.get(again.attempt).worker) == bob.id


def test_other_threads_see_the_state_of_workers(talk):
    """A status says how a worker is at that moment, and does not change later."""
    harness, (ann, bob), _, open_job = talk
    statuses = lambda: harness.portal.ask(harness.driver.worker_statuses)  # noqa: E731
    open_job(None)
    before = statuses()
    assert [(status.info.name, status.state, status.busy) for status in before] == [
        ("ann", "ready", True), ("bob", "ready", False),
    ]  # fmt: skip
    harness.portal.ask(ann.suspected)
    harness.portal.ask(bob.draining)
    harness.portal.ask(bob.measured, 0.25, 0.5, 0.75)
    assert [status.state for status in statuses()] == ["suspect", "draining"]
    assert statuses()[1][3:6] == (0.25, 0.5, 0.75)
    harness.portal.ask(ann.trusted)
    assert statuses()[0].state == before[0].state == "ready"


def test_a_worker_out_of_reach_is_reconnecting_until_it_is_back(talk):
    """Its state says so, its drops, returns and kept results are counted, and its leaving is not forgotten by it."""
    harness, (ann, bob), _, _ = talk
    states = lambda: [status.state for status in harness.portal.ask(harness.driver.worker_statuses)]  # noqa: E731
    for worker in (ann, bob):
        harness.portal.ask(worker.disconnected, "the connection broke")
        harness.portal.ask(worker.suspected)
    assert states() == ["reconnecting", "reconnecting"]
    harness.portal.ask(bob.draining)
    for worker in (ann, bob):
        harness.portal.ask(worker.resumed, 1.5, 7)
        harness.portal.ask(worker.trusted)
    assert states() == ["ready", "draining"]
    assert (ann.drops, ann.resumes, ann.kept, ann.reconnecting) == (1, 1, 7, False)


def test_a_job_waits_for_a_worker_that_may_come_back(make_harness, monkeypatch):
    """Until the connection may not come back any more and nobody else has come; then its error says who was lost."""
    monkeypatch.setattr(module, "LIMITS", module.LIMITS._replace(reconnect_grace=0.6))
    harness = make_harness(workers=0, worker_timeout=0.05, no_workers=lambda: RuntimeError("nobody came"))
    loop = harness.driver.workers.loop
    ann = harness.portal.ask(harness.driver.joined, Quiet(), WorkerInfo("ann", "here", 1, "3.11"))
    harness.portal.ask(ann.disconnected, "the connection broke")
    heard = harness.portal.ask(loop.time)
    _, box = harness.open(lambda x: x, 5)
    harness.portal.ask(ann.lost, True, "nothing has listened there")
    finished = next(message for message in iter(lambda: box.get(timeout=DEADLINE), None) if hasattr(message, "error"))
    assert harness.portal.ask(loop.time) - heard >= 0.6 - 0.05
    assert str(finished.error) == "nobody came"
    assert finished.error.__notes__ == ["ann was lost before (nothing has listened there)."]
