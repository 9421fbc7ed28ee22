"""What the error of an item keeps, so that the item can be run again in this process."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import distmap
from distmap.calls.rerun import Rerun, make_rerunnable
from distmap.driver.messages import Input, Room
from distmap.tasks.code import dump_code
from distmap.tasks.items import dump_items

#: The shared pool lives longer than a test.
pytestmark = pytest.mark.own_leaks


def _divide(x: Any) -> float:
    return 1 / x


def _error(fn: Callable[..., Any], items: Any, at: int, *, room: Room | None = None, **code: Any) -> Any:
    """An error with what a job would give it."""
    error = ValueError("as it came")
    ran_with = Input(dump_code(fn, **code), dump_items(items)[0], room or Room())
    make_rerunnable(error, ran_with, 7 + at, at)
    return error


def test_the_item_alone_is_run() -> None:
    """The function gets the argument of the failed item; what it returns is returned, what it raises is raised."""
    assert _error(_divide, [1, 2, 4], 2).rerun_locally() == 0.25
    with pytest.raises(ZeroDivisionError):
        _error(_divide, [1, 0, 4], 1).rerun_locally()


@pytest.mark.parametrize(
    ("style", "item", "gets"), [("star", (1, 2), ((1, 2), {})), ("call", ((1,), {"b": 2}), ((1,), {"b": 2}))]
)
def test_arguments_as_the_call_gave_them(style: Any, item: Any, gets: Any) -> None:
    """Items of `starmap` and of `submit` are opened as there."""
    assert _error(lambda *args, **kwargs: (args, kwargs), [item], 0, style=style).rerun_locally() == gets


def test_the_seed_of_the_item() -> None:
    """`distmap.rng()` gives the numbers that the item had; afterwards there is none."""
    again = _error(lambda x: distmap.rng().random(), [0, 1], 1, seed=3).rerun_locally
    assert again() == again() == np.random.default_rng(np.random.SeedSequence(3, spawn_key=(8,))).random()
    with pytest.raises(RuntimeError, match="only inside"):
        distmap.rng()


def test_a_function_that_is_gone_is_kept_as_a_copy() -> None:
    """A lambda that nobody holds any more runs from what was sent; one that lives runs itself."""
    here = np.arange(3)
    alive = lambda x: here  # noqa: E731
    assert _error(alive, [0], 0).rerun_locally() is here
    error = _error(lambda x: here, [0], 0)
    value = error.rerun_locally()
    assert value is not here
    assert value.tolist() == [0, 1, 2]


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Items beyond the limit are not kept, nor a function that is too large: the sentence says what to do."""
    room = Room()
    monkeypatch.setattr("distmap.calls.rerun.LIMITS", distmap.core.limits.LIMITS._replace(rerun_bytes=300_000))
    room.left = 300_000
    items = [np.zeros(20_000) for _ in range(3)]
    first, second = (_error(np.sum, items, at, room=room) for at in (0, 1))
    assert first.rerun_locally() == 0.0
    with pytest.raises(ValueError, match="too large for what was left"):
        second.rerun_locally()
    large = np.zeros(30_000)
    with pytest.raises(ValueError, match="define it under a name"):
        _error(lambda x: large, [0], 0).rerun_locally()


def test_no_array_of_the_caller_is_kept_alive() -> None:
    """The copy of an item shares no memory with the input: a change of it afterwards does not matter."""
    items = [np.ones(30_000), np.ones(30_000)]
    error = _error(np.sum, items, 1)
    items[1][:] = 0
    assert error.rerun_locally() == 30_000


def test_errors_that_travel_leave_the_item_behind() -> None:
    """An error with a way to run its item pickles and copies as ever; the copy says that it has none."""
    error = _error(_divide, [0], 0)
    for other in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert type(other) is ValueError
        with pytest.raises(ValueError, match="was pickled"):
            other.rerun_locally()


@dataclass(frozen=True)
class Frozen(Exception):
    code: int


class Own(Exception):
    def rerun_locally(self) -> str:
        return "mine"


def test_classes_with_rules_of_their_own() -> None:
    """A frozen class takes it too; one that has such a method keeps its own."""
    frozen, own = Frozen(1), Own()
    for error in (frozen, own):
        make_rerunnable(error, Input(dump_code(_divide), dump_items([2])[0], Room()), 0, 0)
    assert frozen.rerun_locally() == 0.5  # type: ignore[attr-defined]
    assert own.rerun_locally() == "mine"


def test_nothing_known() -> None:
    """An error whose input was given up says so."""
    error = ValueError()
    make_rerunnable(error, None, 0, 0)
    assert isinstance(error.rerun_locally, Rerun)  # type: ignore[attr-defined]
    assert repr(error.rerun_locally) == "<rerun_locally not possible>"  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="given up"):
        error.rerun_locally()  # type: ignore[attr-defined]


def test_failures_are_pairs_that_run_again(pool2: distmap.Pool) -> None:
    """`job.failures` unpacks into index and error as before, and each runs its own item."""
    pool2.map(_divide, [1, 0, 2, 0.0], on_error="return", progress=False)
    assert pool2.last is not None
    assert [index for index, _ in pool2.last.failures] == [1, 3]
    assert pool2.last.failures[1].item == 3
    with pytest.raises(ZeroDivisionError, match="float"):
        pool2.last.failures[1].rerun_locally()


def test_an_item_that_was_never_sent(pool2: distmap.Pool) -> None:
    """One that did not pickle was not sent: the sentence says to call the function with it."""
    pool2.map(str, [1, threading.Lock()], on_error="return", progress=False)
    assert pool2.last is not None
    with pytest.raises(ValueError, match="before it was sent"):
        pool2.last.failures[0].rerun_locally()
