"""Workers that cannot run the code of a job."""

from __future__ import annotations

from typing import Any

from distmap.core import events as ev


def _workers(harness: Any, *ids: int, slots: int = 1, tags: frozenset[str] = frozenset()) -> None:
    for number in ids:
        harness.send(ev.WorkerJoined(number, slots, tags=tags))


def _refuse(harness: Any, assign: ev.Assign, *, unfit: bool = False) -> list[Any]:
    return harness.send(ev.AttemptRefused(assign.attempt, unfit))  # type: ignore[no-any-return]


def _of(assigns: list[ev.Assign], worker: int) -> list[ev.Assign]:
    return [assign for assign in assigns if assign.worker == worker]


def _finish(harness: Any, pick: Any, assigns: list[ev.Assign]) -> set[int]:
    """Report everything to the end; the workers that it was given to."""
    todo, seen = list(assigns), set()
    while todo:
        assign = todo.pop(0)
        seen.add(assign.worker)
        todo += harness.feed(harness.report(assign))
    return seen


def _world(harness: Any, pick: Any, assigns: list[ev.Assign], refuses: dict[int, bool]) -> set[tuple[int, int]]:
    """Play it to the end: workers refuse what they get for good, or (True) as unfit once; the jobs and who ran them."""
    todo: list[Any] = list(assigns)
    ran: set[tuple[int, int]] = set()
    told: dict[tuple[int, int], int] = {}
    while todo:
        command = todo.pop(0)
        attempt = harness.state.attempts.get(command.attempt)
        if attempt is None or attempt.state == "void":
            continue
        place = command.job, command.worker
        if attempt.state == "stopping":
            out = harness.send(ev.AttemptReported(attempt.id, attempt.lo, attempt.lo, (), 0.0, 0, True))
        elif command.worker in refuses and command.attempt <= told.get(place, command.attempt):
            if refuses[command.worker]:
                told.setdefault(place, harness.state.last_attempt)
            out = _refuse(harness, command, unfit=refuses[command.worker])
        else:
            ran.add(place)
            out = harness.report(command)
        todo += harness.feed(out)
        for revoke in pick(out, ev.Revoke):
            known = harness.state.attempts[revoke.attempt]
            todo += harness.feed(harness.send(ev.AttemptReported(known.id, known.lo, known.lo, (), 0.0, 0, True)))
    return ran


def test_a_worker_that_refuses_is_left_out(harness: Any, pick: Any) -> None:
    """Its items run elsewhere, none is charged, what waits there is taken back, and it gets nothing more of the job."""
    _workers(harness, 1, 2, slots=2)
    assigns = harness.job(size=40, chunksize=1)
    out = _refuse(harness, _of(assigns, 1)[0])
    assert {revoke.worker for revoke in pick(out, ev.Revoke)} == {1}
    assert all(assign.worker == 2 for assign in pick(out, ev.Assign))
    rest = [one for one in assigns if one.attempt in harness.state.attempts]
    for revoke in pick(out, ev.Revoke):
        rest += harness.feed(harness.send(ev.AttemptReported(revoke.attempt, revoke.stop, revoke.stop, (), 0, 0, True)))
    assert _world(harness, pick, rest + harness.feed(out), {1: False}) == {(1, 2)}
    assert harness.commands[-1] == ev.Finish(1, "done")
    assert harness.snapshot().requeued == 0
    # Other jobs know nothing of that.
    assert {assign.worker for assign in harness.job(2, size=4, chunksize=1)} == {1, 2}


def test_without_another_worker_the_job_fails(harness: Any, pick: Any) -> None:
    """The last refusal ends the job as refused; a worker that is silent counts, as it may come back and run it."""
    _workers(harness, 1, 2, 3)
    assigns = harness.job(size=3, chunksize=1)
    harness.send(ev.WorkerSuspected(3))
    assert _world(harness, pick, [one for one in assigns if one.worker < 3], {1: False, 2: False}) == set()
    assert not pick(harness.commands, ev.Finish)
    out = harness.send(ev.WorkerTrusted(3))
    _world(harness, pick, _of(assigns, 3) + pick(out, ev.Assign), {3: False})
    assert harness.commands[-1] == ev.Finish(1, "failed", refused=True)


def test_a_worker_that_leaves_does_not_count(harness: Any, pick: Any) -> None:
    """A job is not kept for a worker that wants to leave."""
    _workers(harness, 1, 2)
    assigns = harness.job(size=2, chunksize=1)
    harness.send(ev.WorkerDraining(2))
    harness.report(_of(assigns, 2)[0])
    assert _refuse(harness, _of(assigns, 1)[0])[-1] == ev.Finish(1, "failed", refused=True)


def test_unfit_workers_stay_out_while_another_one_is_there(harness: Any, pick: Any) -> None:
    """They are let in when the last other one is lost, or wants to leave."""
    _workers(harness, 1, 2)
    assigns = harness.job(size=20, chunksize=1)
    running, waiting = _of(assigns, 1)
    out = _refuse(harness, running, unfit=True)
    assert pick(out, ev.Assign) == []
    harness.report(waiting, hi=waiting.lo)
    assert all(assign.worker == 2 for assign in harness.feed(harness.report(_of(assigns, 2)[0])))
    out = harness.send(ev.WorkerLost(2, charged=False))
    assert {assign.worker for assign in pick(out, ev.Assign)} == {1}
    _finish(harness, pick, harness.feed(out))
    assert harness.commands[-1] == ev.Finish(1, "done")


def test_unfit_workers_alone_are_let_in_at_once(harness: Any, pick: Any) -> None:
    """Where all workers are unfit all of them run the job; a refusal that was under way runs again there."""
    _workers(harness, 1, 2)
    assigns = harness.job(size=4, chunksize=1)
    one, one_waits, two, two_waits = _of(assigns, 1) + _of(assigns, 2)
    _refuse(harness, one, unfit=True)
    out = _refuse(harness, two, unfit=True)
    assert {assign.worker for assign in pick(out, ev.Assign)} == {1, 2}
    out += _refuse(harness, one_waits, unfit=True)
    assert not pick(out, ev.Finish)
    out += harness.report(two_waits, hi=two_waits.lo)
    _finish(harness, pick, harness.feed(out))
    assert harness.commands[-1] == ev.Finish(1, "done")


def test_an_unfit_worker_that_does_not_load_it_either(harness: Any, pick: Any) -> None:
    """A worker that was let in and then refuses for good is left out for good."""
    _workers(harness, 1)
    running, waiting = harness.job(size=2, chunksize=1)
    out = _refuse(harness, running, unfit=True)
    (again,) = pick(out, ev.Assign) or harness.feed(harness.report(waiting, hi=waiting.lo))[:1]
    out = _refuse(harness, again)
    left = [one for one in harness.commands if isinstance(one, ev.Assign) and one.attempt > again.attempt]
    for assign in left:
        out += harness.report(assign, hi=assign.lo)
    if not pick(out, ev.Finish):
        out += harness.report(waiting, hi=waiting.lo)
    assert pick(harness.commands, ev.Finish) == [ev.Finish(1, "failed", refused=True)]


def test_tags_count_too(harness: Any, pick: Any) -> None:
    """A worker without the tags of the job is no other worker."""
    _workers(harness, 1, tags=frozenset({"gpu"}))
    _workers(harness, 2)
    (assign,) = harness.job(size=1, tags=frozenset({"gpu"}))
    assert _refuse(harness, assign)[-1] == ev.Finish(1, "failed", refused=True)


def test_many_workers_that_refuse(harness: Any, pick: Any) -> None:
    """One after the other they are left out; the one that can runs all of it, and two such jobs share it."""
    _workers(harness, *range(1, 30), slots=2)
    assigns = harness.job(1, size=100, chunksize=1) + harness.job(2, size=100, chunksize=1)
    refuses = {number: number % 2 > 0 for number in range(1, 29)}
    assert _world(harness, pick, assigns, refuses) == {(1, 29), (2, 29)}
    assert {(command.job, command.outcome) for command in pick(harness.commands, ev.Finish)} == {
        (1, "done"),
        (2, "done"),
    }
    (group,) = harness.state.worker_index.groups.values()
    assert (group.without, group.jobs, group.job_heap, group.victims) == (frozenset(), 0, [], [])


def test_an_item_that_runs_alone_runs_elsewhere(harness: Any, pick: Any) -> None:
    """A worker that is kept quiet for an item, and refuses the job meanwhile, is let go."""
    _workers(harness, 1, 2, slots=2)
    assigns = harness.job(size=2, chunksize=1)
    first, second = assigns
    out = harness.send(ev.SlotDied(first.worker, first.slot, first.attempt, first.lo, "memory"))
    out += harness.send(ev.SlotReady(first.worker, first.slot))
    quiet = next(one for one in harness.state.worker_index.workers.values() if one.quiet_for is not None)
    if second.worker == quiet.id:
        out += _refuse(harness, second)
    else:
        (alone,) = pick(out, ev.Assign)
        out += _refuse(harness, alone)
        out += harness.report(second)
    todo = [one for one in pick(out, ev.Assign) if one.attempt in harness.state.attempts]
    _finish(harness, pick, todo)
    assert harness.commands[-1] == ev.Finish(1, "done")
    assert all(one.quiet_for is None for one in harness.state.worker_index.workers.values())


def test_a_chunk_that_is_being_read_meanwhile(harness: Any, pick: Any) -> None:
    """The place that is kept for it goes along to the workers that are left."""
    _workers(harness, 1, 2)
    harness.job(size=9, chunksize=1, feed=False)
    (read,) = pick(harness.commands, ev.Read)
    out = harness.send(ev.ChunkRead(1, read.chunk, 1, 8, False))
    (assign,), (second,) = pick(out, ev.Assign), pick(out, ev.Read)
    _refuse(harness, assign)
    (group,) = [group for group in harness.state.worker_index.groups.values() if group.jobs]
    assert set(group.reservations) == {1}
    harness.left[1] = 8
    out = harness.send(ev.ChunkRead(1, second.chunk, 1, 8, False))
    harness.left[1] = 7
    again = [one for one in harness.commands if isinstance(one, ev.Assign) and one.attempt in harness.state.attempts]
    assert {worker for _, worker in _world(harness, pick, again + harness.feed(out), {assign.worker: False})} == {
        3 - assign.worker
    }
    assert harness.commands[-1] == ev.Finish(1, "done")
