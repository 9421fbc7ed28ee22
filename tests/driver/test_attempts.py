"""Which attempts run where, and which of their results are not delivered yet."""

from __future__ import annotations

from distmap.core.events import JobSpec
from distmap.driver.attempts import AttemptEntry, Attempts
from distmap.driver.jobs import JobEntry
from distmap.driver.messages import ReportData
from distmap.tasks.code import dump_code


def entry() -> JobEntry:
    return JobEntry(JobSpec(size=1), dump_code(abs), lambda message: None)


def report(lo: int, hi: int) -> ReportData:
    return ReportData(0, lo, hi, (), [], "ann", 0)


def test_a_report_is_forgotten_with_its_last_result() -> None:
    """Results are settled in any pieces; each piece comes with the report that holds it."""
    attempts, job = Attempts(), entry()
    first, second = report(0, 3), report(3, 5)
    for each in (first, second):
        attempts.add_report(7, job, each)
    assert attempts.settle(7, 1, 4) == [(job, 1, 3, first), (job, 3, 4, second)]
    assert attempts.settle(7, 0, 1) == [(job, 0, 1, first)]
    assert len(attempts) == 1
    assert attempts.settle(7, 4, 5) == [(job, 4, 5, second)]
    assert attempts.settle(7, 0, 5) == []
    assert len(attempts) == 0


def test_what_ends_takes_its_attempts_with_it() -> None:
    """The end of an attempt, a slot, a worker or a job leaves the attempts of others."""
    attempts, one, other = Attempts(), entry(), entry()
    for number in range(8):
        attempts.add(number, AttemptEntry(other if number == 7 else one, 0, number // 4, number % 4, 0, 1))
    assert attempts.busy_workers() == {0, 1}
    ended = attempts.end(0)
    assert ended is not None
    assert (ended.worker, ended.slot) == (0, 0)
    assert attempts.end(0) is None
    attempts.end_slot(0, 1)
    assert attempts.get(1) is None
    assert [each.slot for each in attempts.end_worker(0)] == [2, 3]
    attempts.add_report(5, one, report(0, 1))
    attempts.end_job(one)
    assert len(attempts) == 1
    assert attempts.get(7) is not None
