"""What `distmap.per_process` keeps, and what it lets go."""

from __future__ import annotations

import importlib
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import distmap
from distmap.core.limits import LIMITS
from distmap.tasks.per_process import Values, values


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """What a test keeps in this process goes with it."""
    yield
    values.clear()


@pytest.fixture(scope="module")
def pool() -> Iterator[distmap.Pool]:
    """One slot, so that there is one process to keep anything."""
    with distmap.Pool(1) as pool:
        yield pool


class Model:
    """Something that is not cheap to make."""

    def __init__(self, *made_of: Any, **named: Any) -> None:
        self.made_of = made_of, named


def cell(source: str, **names: Any) -> dict[str, Any]:
    """Run a cell of a notebook."""
    namespace: dict[str, Any] = {"__name__": "__main__", "distmap": distmap, **names}
    exec(source, namespace)
    return namespace


# --- in a task process ------------------------------------------------------------------------------------------------

MODEL = """
loads = __import__("collections").Counter()

@distmap.per_process
def model(name="small"):
    import sys
    sys.loads = getattr(sys, "loads", 0) + 1
    return [name, SIZE, sys.loads]

def use(x):
    found = model(), model("large"), model()
    assert found[0] is found[2]
    return found[0], found[1]
"""


def test_a_value_lasts_from_call_to_call(pool: distmap.Pool) -> None:
    """All items and calls get one object for each set of arguments; an edited comment changes nothing."""
    first = pool.map(cell(MODEL, SIZE=1)["use"], range(3))
    assert first == [(["small", 1, 1], ["large", 1, 2])] * 3
    again = cell(f"# a comment above moves every line\n\n{MODEL}", SIZE=1)
    assert pool.map(again["use"], range(2)) == first[:2]


def test_a_change_makes_a_new_value_and_lets_the_old_one_go(pool: distmap.Pool) -> None:
    """What the function captures is part of it; the old values are gone before the new one is computed."""
    source = """
import sys, weakref
class Model: pass

@distmap.per_process
def model():
    old = getattr(sys, "last_model", None)
    made = Model()
    made.itself = made
    made.before = old is not None and old() is not None
    made.size = SIZE
    sys.last_model = weakref.ref(made)
    return made

def use(x):
    return model().size, model().before, id(model())
"""
    space = cell(source, SIZE=1)
    ((one, _, _first),) = set(pool.map(space["use"], range(3)))
    space["SIZE"] = 2
    ((two, alive, second),) = set(pool.map(space["use"], range(3)))
    assert (one, two, alive) == (1, 2, False)
    assert pool.map(space["use"], [0]) == [(2, False, second)]


def test_functions_of_modules_keep_values_too(
    pool: distmap.Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decorated function of a module beside the notebook keeps its value, until the module is edited."""
    source = (
        "import distmap\n@distmap.per_process\ndef model():\n    return [1]\n"
        "def use(x):\n    return model()[0], id(model())\n"
    )
    path = tmp_path / "kept_models.py"
    path.write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("kept_models")
    try:
        ((one, first),) = set(pool.map(module.use, range(3)))
        assert pool.map(module.use, [0]) == [(one, first)]
        path.write_text(source.replace("[1]", "[12345]"))
        importlib.reload(module)
        assert [size for size, _ in pool.map(module.use, range(2))] == [12345] * 2
        assert pool.map(module.model, ()) == []
    finally:
        del importlib.sys.modules["kept_models"]  # type: ignore[attr-defined]


def test_an_error_is_not_kept(pool: distmap.Pool) -> None:
    """A function that failed is called again by the next item, and its value is kept then."""
    source = """
import sys
@distmap.per_process
def flaky():
    sys.tries = getattr(sys, "tries", 0) + 1
    if sys.tries < 3:
        raise OSError("no weights yet")
    return sys.tries
def use(x):
    return flaky()
"""
    found = pool.map(cell(source)["use"], range(5), on_error="return")
    assert [str(value) for value in found] == ["no weights yet"] * 2 + ["3"] * 3


def test_a_lambda_keeps_its_value_beside_another(pool: distmap.Pool) -> None:
    """Functions of one name that differ in what they captured do not push each other out."""
    source = """
def make(name):
    return distmap.per_process(lambda: [name])
one, two = make("one"), make("two")
def use(x):
    return one()[0], two()[0], id(one()), id(two())
"""
    (found,) = set(pool.map(cell(source)["use"], range(4)))
    assert found[:2] == ("one", "two")


# --- in this process --------------------------------------------------------------------------------------------------


def test_it_keeps_here_too() -> None:
    """In the notebook and in an inline pool the function is computed once, and keeps its name and documentation."""
    made: list[str] = []

    @distmap.per_process
    def model(name: str) -> Model:
        """Loads a model."""
        made.append(name)
        return Model(name)

    assert model("a") is model("a")
    assert model("b") is not model("a")
    assert (model.__name__, model.__doc__) == ("model", "Loads a model.")
    with distmap.Pool("inline") as pool:
        assert len(set(pool.map(lambda x: id(model("a")), range(3)))) == 1
    assert made[:2] == ["a", "b"]


def test_arguments_are_compared_by_content_and_type() -> None:
    """Equal lists, arrays and keywords are one call; 1, 1.0 and True are three, as is nan by itself."""
    make = distmap.per_process(Model)
    assert make([1, {"a": 2}], x=1, y=[2]) is make([1, {"a": 2}], y=[2], x=1)
    assert len({id(make(value)) for value in (1, 1.0, True, "1", b"1", None)}) == 6
    assert make(float("nan")) is make(float("nan"))
    assert make(Model) is make(Model)
    assert make(len) is not make(max)


def test_an_argument_without_content_is_refused(tmp_path: Path) -> None:
    """An open file as argument is an error that says what to give instead."""
    make = distmap.per_process(Model)
    with (
        open(tmp_path / "weights", "w", encoding="utf-8") as file,
        pytest.raises(TypeError, match=r"argument of type TextIOWrapper has no content .* a path"),
    ):
        make(file)


def test_what_captures_something_that_does_not_pickle_is_itself() -> None:
    """Functions that captured different locks have different values, though a lock has no content."""

    def make(lock: Any) -> Callable[[], Any]:
        return distmap.per_process(lambda: lock)

    locks = [threading.Lock() for _ in range(2)]
    functions = [make(lock) for lock in locks]
    assert [function() for function in functions] == locks
    assert [function() for function in functions] == locks


def test_threads_wait_for_one_computation() -> None:
    """Threads that need a value at the same time get the same object; it is computed once."""
    together, made, found = threading.Barrier(8), [], []

    @distmap.per_process
    def model() -> Model:
        made.append(1)
        inside.set()
        assert go.wait(10)
        return Model()

    def ask() -> None:
        together.wait(10)
        found.append(model())

    inside, go = threading.Event(), threading.Event()
    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert inside.wait(10)
    go.set()
    for thread in threads:
        thread.join(10)
    assert (len(made), len(found), len(set(map(id, found)))) == (1, 8, 1)


def test_the_number_of_values_is_bounded() -> None:
    """The value that was not used for the longest time goes first, and nothing else keeps it."""
    kept = Values(3)
    first = weakref.ref(kept.get(Model, (0,), {}))
    second = weakref.ref(kept.get(Model, (1,), {}))
    for number in (2, 0, 3):
        kept.get(Model, (number,), {})
    assert len(kept) == 3
    assert first() is not None
    assert second() is None
    assert values._most == LIMITS.per_process_values


@pytest.mark.parametrize("how", ["async", "generator", "number"])
def test_what_cannot_be_kept_is_refused(how: str) -> None:
    """A coroutine or a generator can be used once, and a number cannot be called: one sentence at the decorator."""

    async def later() -> None: ...

    def one_by_one() -> Iterator[int]:
        yield 1

    wrong: Any = {"async": later, "generator": one_by_one, "number": 5}[how]
    words = "got 5" if how == "number" else "can be used only once"
    with pytest.raises(TypeError, match=words):
        distmap.per_process(wrong)
