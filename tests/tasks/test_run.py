"""Items are run and reported as one goes, stopped, and fail one at a time."""

from __future__ import annotations

import functools
import operator
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.running import ATTEMPT, Interrupting, Outcome, run

from distmap.tasks.broadcast import Broadcast
from distmap.tasks.cells import CELL_AT, CELL_ATTEMPT, CELL_FLUSH, CELL_INTERRUPT, CELL_STOP, CELL_STOP_ATTEMPT
from distmap.tasks.failures import Failure
from distmap.tasks.items import Folded, dump_item, join_items
from distmap.tasks.run import interruptible, report_is_due, rng
from distmap.tasks.runner import Runner
from distmap.wire.messages import Report

TESTS = Path(__file__).resolve().parent


@pytest.mark.parametrize("items", [[1, 2, 3], range(1, 4), [[1], [2], [3]], np.array([1, 2, 3])])
def test_items_are_run_in_order(items: Any) -> None:
    """One report with all results, for every form of a chunk."""
    outcome = run(lambda x: x * 2, items)
    assert outcome.reports == [(0, 3, True)]
    assert [str(value) for value in outcome.values] == [str(x * 2) for x in items]
    (message,) = outcome.messages
    assert isinstance(message, Report)
    assert (message.slot, message.attempt, message.failed) == (2, ATTEMPT, ())
    assert message.seconds > 0
    assert outcome.cells[CELL_ATTEMPT] == ATTEMPT
    assert outcome.cells[CELL_AT] == 2


@pytest.mark.parametrize("items", [[1, 2, 3, 4], [[1], [2], [3], [4]], np.arange(1, 5)])
def test_a_span_of_a_chunk(items: Any) -> None:
    """Items outside [lo, hi) are not run."""
    outcome = run(lambda x: x, items, 1, 3)
    assert outcome.reports == [(1, 3, True)]
    assert [str(value) for value in outcome.values] == [str(x) for x in items[1:3]]
    assert run(lambda x: x, items, 2, 2).reports == [(2, 2, True)]


def test_styles() -> None:
    """An item is given as fn(x), fn(*x) or fn(*args, **kwargs)."""
    assert run(operator.add, [(1, 2), (3, 4)], style="star").values == [3, 7]
    assert run(operator.add, [([1], [2])], style="star").values == [[1, 2]]
    chunk = join_items([dump_item(((7,), {"base": 8})), dump_item((("11",), {"base": 2}))])
    outcome = run(lambda x, base: int(str(x), base), chunk, 0, 2, style="call")
    assert outcome.values == [7, 3]
    assert run(lambda *a, **k: (a, k), [((1,), {})], style="call").values == [((1,), {})]


def test_failures_cost_their_item_only() -> None:
    """Whatever an item raises, the others are run and the failure stands in its place, and names it."""

    def fn(x: Any) -> Any:
        def deep() -> Any:
            return deep()

        {
            1: lambda: 1 // 0,
            2: lambda: sys.exit(3),
            3: deep,
            4: lambda: (_ for _ in ()).throw(GeneratorExit),
            5: lambda: (_ for _ in ()).throw(KeyboardInterrupt),
            6: lambda: (_ for _ in ()).throw(MemoryError),
        }.get(x, int)()
        return x

    for items in (list(range(8)), [np.int64(x) for x in range(8)]):
        outcome = run(fn, items)
        assert outcome.failed == [1, 2, 3, 4, 5, 6]
        failures = outcome.values[1:7]
        names = [
            "ZeroDivisionError",
            "SystemExit",
            "RecursionError",
            "GeneratorExit",
            "KeyboardInterrupt",
            "MemoryError",
        ]
        assert [failure.type for failure in failures] == names
        assert failures[0].item == short(items[1])
        assert "distmap" not in failures[0].text.replace(str(TESTS.parent), "")
        assert [outcome.values[0], outcome.values[7]] == [0, 7]


def short(x: Any) -> str:
    return repr(x)


class Bomb:
    def __reduce__(self) -> Any:
        return explode, ()


def explode() -> None:
    raise OSError("boom")


def test_items_and_results_that_do_not_travel_cost_their_item_only() -> None:
    """An item or result that does not pickle, or does not unpickle, is its own failure."""
    outcome = run(lambda x: x, [[0], threading.Lock(), [2], Bomb(), [4]])
    assert outcome.failed == [1, 3]
    assert "cannot be pickled" in outcome.values[1].message
    assert outcome.values[3].message == "the item reached the worker but cannot be unpickled there: OSError: boom"
    assert "pickle of" in outcome.values[3].item
    outcome = run(lambda x: threading.Lock() if x == 1 else [x], range(3))
    assert outcome.failed == [1]
    assert outcome.values[1].message.startswith("the result cannot be pickled: TypeError")


def test_a_result_that_does_not_pickle_names_its_item() -> None:
    """Not itself, which nobody has seen; the item is looked up again, as far as that goes."""
    assert run(lambda x: threading.Lock(), range(5, 7)).values[1].item == "6"
    assert run(lambda x: x.clear() or threading.Lock(), [[5], [6]]).values[1].item == "[6]"
    assert run(lambda x: threading.Lock(), [[5], [6]]).values[1].sent
    item = join_items([dump_item(((5,), {"k": 1}))])
    assert run(lambda *a, **k: threading.Lock(), item, 0, 1, style="call").values[0].item == "(5, {'k': 1})"
    assert run(lambda x: threading.Lock(), [Once()]).values[0].item == "it does not unpickle a second time: OSError"
    outcome = run(lambda x: x, range(5, 9), combine=lambda a, b: threading.Lock())
    assert [value.item for value in outcome.values] == ["5", "6", "7", "8"]


class Once:
    """Unpickles the first time only."""

    left = 1

    def __reduce__(self) -> Any:
        return once, ()


def once() -> int:
    Once.left -= 1
    if Once.left < 0:
        raise OSError("boom")
    return 1


def test_the_call_style_shows_the_arguments() -> None:
    """The repr of a failed submit is that of its arguments."""
    for item, expected in ((((5,), {}), "5"), (((5, 6), {}), "(5, 6)"), (((5,), {"k": 1}), "(5, {'k': 1})")):
        outcome = run(lambda *a, **k: 1 // 0, join_items([dump_item(item)]), 0, 1, style="call")
        assert outcome.values[0].item == expected


def test_results_are_reported_as_they_come() -> None:
    """While slow items run, finished ones do not wait long for their report."""
    outcome = run(lambda x: time.sleep(0.03) or x, range(6))
    assert outcome.values == list(range(6))
    assert len(outcome.reports) > 1
    assert outcome.reports[-1][1:] == (6, True)
    assert [ended for *_, ended in outcome.reports] == [False] * (len(outcome.reports) - 1) + [True]
    spans = [(lo, hi) for lo, hi, _ in outcome.reports]
    assert [lo for lo, _ in spans] == [0, *(hi for _, hi in spans[:-1])]


def test_a_slow_item_after_fast_ones_holds_up_nothing_but_itself() -> None:
    """What was finished before a slow item is reported before the item after it, or, where items took less than a
    microsecond, a few items later; what is slow from then on is reported one by one."""
    outcome = run(lambda x: time.sleep(0.06) if x >= 1000 else x, range(1012))
    first, second, *others = [lo for lo, _, _ in outcome.reports]
    assert first == 0
    assert 1001 <= second <= 1008
    assert others == list(range(second + 1, 1012))


class Told(list[int]):
    """Cells that the parent writes when an item begins."""

    def __init__(self, at: int, writes: dict[int, int]) -> None:
        super().__init__([-1] * 8)
        self._when, self._writes = at, writes

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(index, value)
        if index == CELL_AT and value == self._when:
            for cell, what in self._writes.items():
                super().__setitem__(cell, what)


def told(at: int, writes: dict[int, int], fn: Any = lambda x: time.sleep(0.002) or x, runner: Any = None) -> Outcome:
    outcome = Outcome()
    outcome.cells = Told(at, writes)
    if runner is not None:
        outcome.runner = runner
    return outcome.run(fn, range(10))


def test_stop() -> None:
    """Nothing at or beyond the stop is run while it is meant for this attempt."""

    def ran(stop: dict[int, int], at: int) -> tuple[int, int, bool]:
        reports = told(at, stop).reports  # more than one if the machine was busy meanwhile
        return reports[0][0], reports[-1][1], reports[-1][2]

    assert ran({CELL_STOP_ATTEMPT: ATTEMPT, CELL_STOP: 5}, 2) == (0, 5, True)
    assert ran({CELL_STOP_ATTEMPT: ATTEMPT, CELL_STOP: 0}, 0) == (0, 0, True)
    assert ran({CELL_STOP_ATTEMPT: ATTEMPT + 1, CELL_STOP: 5}, 2) == (0, 10, True)


def test_flush() -> None:
    """The parent can ask for what is finished."""
    outcome = told(4, {CELL_FLUSH: 1})
    assert outcome.reports[0] == (0, 4, False)
    assert outcome.cells[CELL_FLUSH] == 0


@pytest.mark.parametrize(
    ("seconds", "done", "left", "due"),
    [(0.049, 10, 90, False), (0.05, 10, 90, True), (0.06, 60, 40, False), (0.099, 99, 1, False), (0.1, 99, 1, True)],
)
def test_a_report_waits_for_an_end_that_is_near(seconds: float, done: int, left: int, due: bool) -> None:
    """What is finished is reported after 50 ms; with the rest, if that takes less again; but always after 100 ms."""
    assert report_is_due(seconds, done, left) is due


def test_interrupt_between_items() -> None:
    """An attempt that is to be interrupted ends before its next item."""
    assert told(3, {CELL_INTERRUPT: ATTEMPT}).reports == [(0, 3, True)]


def test_interrupt_in_an_item() -> None:
    """KeyboardInterrupt of an interrupted attempt gives the item and the rest back; what is before it is reported."""

    def fn(x: int) -> int:
        if x == 4:
            raise KeyboardInterrupt
        return x

    outcome = told(4, {CELL_INTERRUPT: ATTEMPT}, fn)
    assert outcome.reports[-1][1:] == (4, True)
    assert outcome.values == [0, 1, 2, 3]
    assert outcome.failed == []


def test_inline_an_interrupt_is_raised_on() -> None:
    """In this process KeyboardInterrupt is the user's: reported is what is finished, then it goes on upwards."""

    def fn(x: int) -> int:
        if x == 1:
            raise KeyboardInterrupt
        return x

    outcome = Outcome()
    outcome.runner = Runner(inline=True)
    with pytest.raises(KeyboardInterrupt):
        outcome.run(fn, range(4))
    assert outcome.reports == [(0, 1, True)]
    with pytest.raises(KeyboardInterrupt):
        outcome.run(Interrupting(), range(4))


def test_combine_folds_each_report() -> None:
    """With `combine` a report carries one value, whatever failed beside it."""
    assert run(lambda x: x, range(5), combine=operator.add).values == [Folded(10)]
    outcome = run(lambda x: 6 // x, [3, 0, 2], combine=operator.add)
    assert outcome.failed == [1]
    assert outcome.values[0] == Folded(5)
    assert outcome.values[1].type == "ZeroDivisionError"
    outcome = run(lambda x: 1 // 0, [1, 2], combine=operator.add)
    assert outcome.failed == [0, 1]
    assert all(isinstance(value, Failure) for value in outcome.values)
    assert run(lambda x: x, [], combine=operator.add).values == []


def test_a_combine_that_fails_costs_the_item_it_was_given() -> None:
    """The item whose result could not be folded in fails; the rest is folded."""
    outcome = run(lambda x: "text" if x == 2 else x, range(4), combine=operator.add)
    assert outcome.failed == [2]
    assert outcome.values[0] == Folded(4)
    outcome = run(lambda x: x, range(3), combine=lambda a, b: threading.Lock())
    assert outcome.failed == [0, 1, 2]
    assert all("folded result" in failure.message for failure in outcome.values)


def test_broadcast_values() -> None:
    """`.value` in a function gives the value."""
    handle = Broadcast([1, 2, 3])
    assert run(lambda i: handle.value[i], range(3)).values == [1, 2, 3]
    assert run(lambda pair: pair[0].value[pair[1]], [(handle, 1)]).values == [2]
    handle.release()


def test_rng_depends_on_seed_and_index_only() -> None:
    """The same item draws the same numbers whatever chunk it is in, and goes on with them within the item."""
    draw = lambda x: (float(rng().random()), float(rng().random()))  # noqa: E731
    together = run(draw, range(4), 0, 4, 10, seed=3).values
    apart = [run(draw, range(4), at, at + 1, 10, seed=3).values[0] for at in range(4)]
    assert together == apart
    expected = np.random.default_rng(np.random.SeedSequence(3, spawn_key=(11,)))
    assert together[1] == (expected.random(), expected.random())
    assert run(draw, [1]).values != run(draw, [1]).values


def test_rng_outside_a_task() -> None:
    """It says where it works."""
    with pytest.raises(RuntimeError, match="seed="):
        rng()


@pytest.fixture
def alarm() -> Iterator[Callable[[Callable[[Any], None]], None]]:
    before = signal.getsignal(signal.SIGINT)

    def arm(handler: Callable[[Any], None]) -> None:
        signal.signal(signal.SIGINT, lambda signum, frame: handler(frame))

    yield arm
    signal.signal(signal.SIGINT, before)


def test_where_an_interrupt_may_be_raised(alarm: Callable[[Callable[[Any], None]], None]) -> None:
    """It may in user code and in mapped builtins, but not while items are opened or reports are written."""
    seen: list[bool] = []
    alarm(lambda frame: seen.append(interruptible(frame)))
    send = functools.partial(signal.raise_signal, signal.SIGINT)

    class Loud:
        def __init__(self, x: int) -> None:
            self.x = x

        def __reduce__(self) -> Any:
            send()
            return Quiet, (self.x,)

    run(lambda x: send(), [1])
    run(signal.raise_signal, [signal.SIGINT.value])
    run(signal.raise_signal, [(signal.SIGINT.value,)], style="star")
    run(signal.raise_signal, [[signal.SIGINT.value]], style="star")
    assert seen == [True] * 4
    del seen[:]
    run(lambda x: Loud(x), [1])
    assert seen
    assert not any(seen)
    assert not interruptible(None)


class Quiet:
    def __init__(self, x: int) -> None:
        self.x = x


def test_a_task_may_ruin_its_process_standard_streams() -> None:
    """Closing descriptors 0 to 2, changing the folder and sys.exit in a task leave the next items unharmed."""
    source = """
        import os, sys
        from distmap.tasks.runner import Runner
        from distmap.tasks.code import dump_code
        from distmap.tasks.items import dump_items, load_results
        from distmap.wire.messages import Task
        out = os.dup(1)
        def fn(x):
            import os, sys
            for fd in range(3):
                try: os.close(fd)
                except OSError: pass
            os.chdir("/")
            if x == 1: sys.exit()
            return [x]
        code = dump_code(fn)
        runner, values = Runner(), []
        runner.put(code.digest, "code", code.payload)
        emit = lambda r, p: values.extend(load_results(p.parts, r.lo, r.hi))
        runner.run(Task(0, 1, code.digest, (), 0, 3, 0, 0.0), dump_items(range(3))[0], [-1] * 8, emit)
        os.write(out, repr([values[0], values[1].type, values[2]]).encode())
        os._exit(0)
    """
    env = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source)], capture_output=True, text=True, timeout=15, env=env, check=True
    )
    assert done.stdout == "[[0], 'SystemExit', [2]]"
