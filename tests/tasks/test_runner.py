"""A runner loads code and runs set-ups, and refuses tasks that cannot run."""

from __future__ import annotations

import functools
from functools import partial
from typing import Any

from support.running import ATTEMPT, Interrupting, Outcome, run

from distmap.tasks.cells import CELL_INTERRUPT
from distmap.tasks.code import dump_code
from distmap.tasks.codecache import CodeCache
from distmap.tasks.items import dump_items
from distmap.wire.messages import Refused, Task


def explode() -> None:
    raise OSError("boom")


def test_an_interrupt_while_code_loads_gives_everything_back() -> None:
    """Nothing was run, nothing has failed."""
    outcome = Outcome()
    outcome.cells[CELL_INTERRUPT] = ATTEMPT
    assert outcome.run(Interrupting(), range(4)).reports == [(0, 0, True)]


def test_code_that_raises_keyboard_interrupt_by_itself_is_refused() -> None:
    """Nobody interrupted the attempt, so giving it back would go on for ever."""
    outcome = run(Interrupting(), range(4))
    assert outcome.messages == [Refused(2, ATTEMPT)]
    assert outcome.values[0].type == "KeyboardInterrupt"


def test_code_that_does_not_load_is_refused() -> None:
    """One refusal for the task says why; so for code or values that were never put."""

    class Broken:
        def __reduce__(self) -> Any:
            return explode, ()

        def __call__(self, x: Any) -> Any:
            return x

    outcome = run(Broken(), range(3))
    assert outcome.messages == [Refused(2, ATTEMPT)]
    assert (outcome.values[0].type, outcome.values[0].message) == ("OSError", "boom")
    outcome = Outcome()
    outcome.runner.run(Task(0, 1, b"c" * 16, (), 0, 1, 0, 0.0), dump_items([1])[0], outcome.cells, outcome.emit)
    assert "was not put here" in outcome.values[0].message


def test_put_and_drop() -> None:
    """Code is loaded once; what is dropped is forgotten."""
    outcome = Outcome()
    counter = functools.partial(next, iter(range(100)))
    code = dump_code(lambda x: counter())
    outcome.runner.put(code.digest, "code", code.payload)
    task = Task(0, 1, code.digest, (), 0, 2, 0, 0.0)
    items = dump_items([1, 2])[0]
    outcome.runner.run(task, items, outcome.cells, outcome.emit)
    outcome.runner.run(task, items, outcome.cells, outcome.emit)
    assert outcome.values == [0, 1, 2, 3]
    outcome.runner.drop(code.digest)
    outcome.runner.run(task, items, outcome.cells, outcome.emit)
    assert isinstance(outcome.messages[-1], Refused)


def test_a_set_up_runs_once_before_the_first_item() -> None:
    """It runs before the first function that needs it, and all of them see the globals that it left."""
    namespace: dict[str, Any] = {"__name__": "__main__", "calls": 0}
    source = "def setup(n):\n    global calls\n    calls += n\n    return calls\ndef fn(x):\n    return calls + x\n"
    exec(source, namespace)
    setups = (CodeCache().setup(partial(namespace["setup"], 10), frozenset(), ()),)
    outcome = Outcome()
    assert outcome.run(namespace["fn"], [1, 2], setups=setups).values == [11, 12]
    assert outcome.run(lambda x: namespace["fn"](x), [1, 2], setups=setups).values[2:] == [11, 12]
    # Called by itself it runs again, and what it leaves then counts.
    code = setups[0].code
    payload, _ = dump_items([((), {})])
    task = Task(2, ATTEMPT, code.digest, (), 0, 1, 0, 0.0)
    for right in (20, 30):
        outcome.runner.run(task, payload, outcome.cells, outcome.emit)
        assert outcome.values[-1] == right
        assert outcome.run(namespace["fn"], [1], setups=setups).values[-1] == right + 1


def test_a_set_up_that_fails_refuses_what_needs_it() -> None:
    """No item runs, and the next chunk of the job finds that out without running it again."""
    outcome = Outcome()
    setups = (CodeCache().setup(explode, frozenset(), ()),)
    for _ in range(2):
        outcome.run(abs, [1], setups=setups)
        assert isinstance(outcome.messages[-1], Refused)
