"""The fast pickler takes what the other side can import, and refuses the rest."""

from __future__ import annotations

import io
import operator
import pickle
from collections import OrderedDict
from functools import partial

import pytest

from distmap.tasks.broadcast import Dependencies
from distmap.tasks.kinds import Kinds
from distmap.tasks.picklers import Definitions, FastPickler, PickleContext, by_reference, underlying
from distmap.tasks.pickling import dump_value


class Method:
    def method(self) -> None: ...


def dump(value: object) -> tuple[object, Dependencies]:
    """Through the fast pickler and back."""
    file, needs = io.BytesIO(), Dependencies()
    FastPickler(file, lambda _: True, PickleContext(needs, Kinds(), dump_value)).dump(value)
    return pickle.loads(file.getvalue()), needs


def test_importable_objects_go_by_name_and_their_modules_are_noted() -> None:
    """Functions and classes of installed modules are references."""
    value, needs = dump([operator.add, OrderedDict, {"a": 1}])
    assert value == [operator.add, OrderedDict, {"a": 1}]
    assert "collections" in needs.references
    assert not needs.modules


@pytest.mark.parametrize("source", ["def f(): pass", "class f: pass"])
def test_what_lives_in_a_notebook_is_refused(source: str) -> None:
    """Plain pickle would send a name that no other process can import."""
    cell: dict[str, object] = {"__name__": "__main__"}
    exec(source, cell)
    with pytest.raises(Exception):  # noqa: B017 - what the picklers tell each other is their affair
        dump(cell["f"])
    assert not by_reference(cell["f"])


def test_the_function_behind_partials_and_methods() -> None:
    """Of a builtin there is none."""
    assert underlying(partial(partial(Method().method))) is Method.method
    assert underlying(len) is None


def test_the_classes_of_a_chunk_are_numbered_once() -> None:
    """The same class has the same number."""
    definitions = Definitions()
    assert [definitions.index(kind) for kind in (int, str, int)] == [0, 1, 0]
    assert definitions.classes == [int, str]
