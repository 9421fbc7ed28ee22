"""Tests of distmap.tasks.rebuild: one object of each kind, taken apart and built again in this process."""

from __future__ import annotations

import gc
import pickle
import sys
import threading
import types
import weakref
from collections.abc import Iterator

import numpy as np
import pytest

from distmap.tasks import rebuild
from distmap.tasks.pickling import dump_small


def build(reduced: object) -> object:
    """As an unpickler does."""
    make, args, *rest = reduced  # type: ignore[misc]
    made = make(*args)
    if len(rest) == 4:
        rest[3](made, rest[0])
    return made


@pytest.fixture
def module() -> Iterator[types.ModuleType]:
    """A module that was made at run time."""
    made = types.ModuleType("made_for_rebuild")
    sys.modules["made_for_rebuild"] = made
    yield made
    del sys.modules["made_for_rebuild"]


def test_an_object_has_one_identity() -> None:
    """What was made for a key is found again under it while it lives, also one that cannot be watched."""
    made = rebuild.remake("test-1", object, ())
    assert rebuild.remake("test-1", list, ()) is made
    box = rebuild.remake("test-2", set, ())
    assert rebuild.remake("test-2", list, ()) is box
    gone = weakref.ref(box)
    del box
    gc.collect()
    assert gone() is None
    assert rebuild.remake("test-2", list, ()) == []


def test_a_name_is_looked_for_in_modules_of_the_other_side_first(module: types.ModuleType) -> None:
    """An object that says no module is found in an installed one, though a local one has it too."""
    module.sin = np.sin  # type: ignore[attr-defined]
    sys.modules["numpy"] = sys.modules.pop("numpy")  # now after it
    assert rebuild.home_of(types.SimpleNamespace(), "sin") is None
    assert rebuild.home_of(np.sin, "sin") == "numpy"
    assert rebuild.find("os.path", "join") is __import__("os").path.join
    with pytest.raises(AttributeError):
        rebuild.find("os.path", "nothing")


def test_what_is_of_no_known_kind_is_left_alone() -> None:
    """A builtin that nobody finds is not taken apart, so that pickle says why it cannot."""
    assert rebuild.reduce_named(len) is None
    assert rebuild.reduce_named(np.add) is None


class Node:
    def __init__(self, code: int) -> None:
        self.code = code


def test_a_weak_reference_keeps_what_it_brought() -> None:
    """Nobody else has the object on the other side; one that was dead stays dead."""
    node = Node(code=1)
    back = pickle.loads(dump_small(weakref.ref(node)))
    gc.collect()
    assert back().code == 1
    assert pickle.loads(dump_small(back))().code == 1
    dead = weakref.ref(Node(code=2))
    assert pickle.loads(dump_small(dead))() is None
    assert isinstance(pickle.loads(dump_small(threading.local())), threading.local)


def test_the_shell_is_not_there() -> None:
    """The stand-in for `get_ipython` says what does not work, and what does."""
    with pytest.raises(NameError, match=r"`!command` and `%magic` do not work .* use subprocess.run"):
        rebuild.get_ipython()
    assert not rebuild.is_shell(3)
