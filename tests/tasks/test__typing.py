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


class Many(light.NamedTuple):
    """More fields than there are templates for."""

    a: int
    b: int
    c: int
    d: int
    e: int
    f: int
    g: int
    h: int
    i: int
    j: int
    k: int
    l: int  # noqa: E741
    m: int = 12
    n: int = 13
    o: int = 14


def test_a_named_tuple_of_many_fields() -> None:
    """It is made as one of few fields is; each field is given once, and one without default is due."""
    many = Many(*range(11), l=11, n=-1)
    assert many == (*range(13), -1, 14) == Many(**many._asdict())
    assert (many.l, many.o, Many(*range(15)).n) == (11, 14, 13)
    assert pickle.loads(pickle.dumps(many)) == many == Many._make(many) == many._replace(a=0)
    with pytest.raises(TypeError, match=r"Many needs values for k, l$"):
        Many(*range(10))  # type: ignore[call-arg]
    for wrong in (lambda: Many(*range(16)), lambda: Many(*range(12), a=0), lambda: Many(*range(12), z=0)):  # type: ignore[call-arg, misc]
        with pytest.raises(TypeError, match=r"Many takes each of these once: a, b, .*, o$"):
            wrong()


def test_what_named_tuples_refuse() -> None:
    """No more values than fields, no fewer, no field that there is not; fields cannot be set."""
    with pytest.raises(TypeError, match=r"Point has 2 fields, not 3$"):
        Point._make((1, 2, 3))
    with pytest.raises(ValueError, match=r"Point has no fields z$"):
        Point(1)._replace(z=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"Point.__new__\(\) got an unexpected keyword argument 'z'"):
        Point(1, z=1)  # type: ignore[call-arg]
    with pytest.raises(AttributeError):
        Point(1).x = 2  # type: ignore[misc]
    match Point(3, 4):
        case Point(x, y):
            assert (x, y) == (3, 4)


def test_named_tuples_are_made_without_compiling() -> None:
    """No text is compiled for a class: that is what makes it cheap to import."""
    made = Point.__new__.__code__
    assert made.co_filename == light.__file__
    assert made.co_varnames == ("_cls", "x", "y")


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
