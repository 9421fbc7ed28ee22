"""What an executor's worker runs."""

from __future__ import annotations

import sys
import threading
from typing import Any

import pytest

from distmap.engine import attempt as module
from distmap.engine.attempt import run_attempt
from distmap.tasks.code import dump_code
from distmap.tasks.items import dump_items, load_results
from distmap.wire.messages import Output, Report, Task


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was sent nothing before."""
    monkeypatch.setattr(module, "_store", module._PayloadStore())
    monkeypatch.setattr(module, "_thread_state", module._ThreadState())


def test_a_worker_keeps_a_bounded_number_of_payloads() -> None:
    """Functions that were not used for long are forgotten, and asked for again."""
    items, _ = dump_items([3])

    def attempt(code: Any, *, with_code: bool) -> Any:
        blobs = [module.BlobParts(b.digest, b.kind, tuple(b.payload.parts)) for b in code.blobs]
        blobs.append(module.BlobParts(code.digest, "code", tuple(code.payload.parts)))
        needs = tuple(b.digest for b in code.blobs)
        return run_attempt(Task(0, 1, code.digest, needs, 0, 1, 0, 0.0), blobs if with_code else [], items.parts, None)

    codes = [dump_code(lambda x, n=n: x + n) for n in range(30)]
    first = attempt(codes[0], with_code=True)
    assert load_results(first.messages[0][1], 0, 1, ()) == [3]
    assert not attempt(codes[0], with_code=False).missing
    for code in codes:
        attempt(code, with_code=True)
    assert codes[0].digest in attempt(codes[0], with_code=False).missing


def test_what_a_thread_works_with_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much is sent meanwhile, a payload in use is not forgotten."""
    gate = threading.Barrier(2)
    monkeypatch.setattr(module, "gate", gate, raising=False)
    items, _ = dump_items([3])
    table = list(range(300_000))  # a value of its own beside the code

    def slow(x: int) -> int:
        from distmap.engine import attempt

        attempt.gate.wait(10)  # type: ignore[attr-defined]
        attempt.gate.wait(10)  # type: ignore[attr-defined]
        return table[x]

    def run(code: Any) -> Any:
        blobs = [module.BlobParts(b.digest, b.kind, tuple(b.payload.parts)) for b in code.blobs]
        blobs.append(module.BlobParts(code.digest, "code", tuple(code.payload.parts)))
        needs = tuple(b.digest for b in code.blobs)
        return run_attempt(Task(0, 1, code.digest, needs, 0, 1, 0, 0.0), blobs, items.parts, None)

    code, answers = dump_code(slow), []
    thread = threading.Thread(target=lambda: answers.append(run(code)))
    thread.start()
    gate.wait(10)
    for n in range(2 * module.KEPT):
        run(dump_code(lambda x, n=n: x + n))
    assert code.digest in module._store.library.payloads
    gate.wait(10)
    thread.join(10)
    assert load_results(answers[0].messages[-1][1], 0, 1, ()) == [3]
    run(dump_code(lambda x: -x))
    assert code.digest not in module._store.library.payloads
    assert len(module._store.library.payloads) <= module.KEPT


def test_the_first_answer_of_a_thread_says_so() -> None:
    """Its way may have taken as long as the start of a process, and the time that it took itself comes along."""
    items, _ = dump_items([3])
    code = dump_code(abs)
    blobs = [module.BlobParts(code.digest, "code", tuple(code.payload.parts))]
    task = Task(0, 1, code.digest, (), 0, 1, 0, 0.0)
    answers = [run_attempt(task, blobs, items.parts, None) for _ in range(2)]
    assert [answer.first for answer in answers] == [True, False]
    assert all(answer.seconds > 0 for answer in answers)


def test_attempts_of_several_threads_print_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a foreign process with threads each attempt has what its own thread printed; others print as ever."""
    gate = threading.Barrier(3)
    monkeypatch.setattr(module, "gate", gate, raising=False)

    def meet(x: object) -> None:
        from distmap.engine import attempt

        attempt.gate.wait(10)  # type: ignore[attr-defined]
        print("in", threading.current_thread().name)
        attempt.gate.wait(10)  # type: ignore[attr-defined]

    code, (items, _) = dump_code(meet), dump_items(["a"])
    blobs = [module.BlobParts(blob.digest, blob.kind, tuple(blob.payload.parts)) for blob in code.blobs]
    blobs.append(module.BlobParts(code.digest, "code", tuple(code.payload.parts)))
    needs = tuple(blob.digest for blob in code.blobs)
    answers: dict[str, Any] = {}

    def attempt(number: int) -> None:
        task = Task(0, number, code.digest, needs, 0, 1, 0, 0.0)
        answers[threading.current_thread().name] = run_attempt(task, blobs, items.parts, None)

    threads = [threading.Thread(target=attempt, args=(n,), name=f"thread {n}") for n in (1, 2)]
    before = sys.stdout
    for thread in threads:
        thread.start()
    gate.wait(10)
    assert sys.stdout is not before
    gate.wait(10)
    for thread in threads:
        thread.join(10)
    assert sys.stdout is before
    for name, answer in answers.items():
        (output, (text,)), (report, _) = answer.messages
        assert isinstance(output, Output)
        assert isinstance(report, Report)
        assert text == f"in {name}\n".encode()
