"""The stand-ins for `typing` do what the real ones would."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import distmap
from distmap.tasks import _typing as light
from distmap.wire.messages import Draining, Task


class Point(light.NamedTuple):
    """Where."""

    x: int
    y: int = 2

    @property
    def sum(self) -> int:
        return self.x + self.y


def test_a_named_tuple() -> None:
    """Fields, defaults, methods, docstring and module are those of the class; a field that has no default is due."""
    assert (Point(1), Point(1, y=3).sum, Point(1)._replace(x=5)) == ((1, 2), 4, (5, 2))
    assert (Point.__doc__, Point.__module__, Point._fields) == ("Where.", __name__, ("x", "y"))
    assert repr(Point(1)) == "Point(x=1, y=2)"
    assert pickle.loads(pickle.dumps(Point(7))) == Point(7)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'x'"):
        Point()  # type: ignore[call-arg]


def test_a_named_tuple_without_fields() -> None:
    """A message that says nothing but its name."""
    assert Draining() == ()
    assert Task._fields[0] == "slot"


def test_what_only_type_checkers_read() -> None:
    """At run time it costs nothing and changes nothing."""
    assert light.cast(int, "x") == "x"
    assert light.Literal["a", "b"] is light.Literal
    assert not light.TYPE_CHECKING


def test_a_task_process_imports_little() -> None:
    """What is between the start of a task process and its first task: none of the costly parts of the library."""
    costly = "asyncio cloudpickle concurrent ctypes dataclasses enum hashlib inspect logging multiprocessing pickle re"
    costly += " signal socket ssl subprocess tempfile threading traceback typing websockets"
    code = f"import sys, distmap.slots.child; print(*({set(costly.split())} & set(sys.modules)))"
    env = {**os.environ, "PYTHONPATH": str(Path(distmap.__file__).parents[1])}
    # Without `site`: what it imports is the environment's affair.
    command = [sys.executable, "-S", "-c", code]
    told = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=20)
    assert told.stdout.split() == []
