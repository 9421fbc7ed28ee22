"""Section 2: what a notebook or a local module defines travels, also what pickles by a name that nobody else knows.

The rows are one source: run as a notebook (`__main__`, without a file), and imported as a module that lies beside it.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import distmap
from distmap.tasks import code

ROOT = Path(__file__).resolve().parents[2]

#: Each `row_*` gives True in plain Python. `ITEMS` come back as what they are, those of `SAME` as the same object.
SOURCE = '''
import abc, collections, copyreg, dataclasses, enum, functools, numbers, threading, typing, weakref
import collections.abc
import sys

import numpy as np

UserId = typing.NewType("UserId", int)
T = typing.TypeVar("T")
P = typing.ParamSpec("P")
Ts = typing.TypeVarTuple("Ts")

def annotated(x: UserId, call: typing.Callable[P, T], *more: typing.Unpack[Ts]) -> T:
    return x

def row_annotations(x):
    return annotated(x, None) == x and UserId(x) == x and annotated.__annotations__["x"] is UserId

class Missing:
    def __reduce__(self):
        return "MISSING"

class Unset:
    def __init__(self, word):
        self.word = word
    def __reduce_ex__(self, protocol):
        return "UNSET"

class Registered:
    __slots__ = ("word", "__weakref__")

class Number(int):
    def __reduce__(self):
        return "SEVEN"

MISSING, UNSET, REGISTERED, SEVEN = Missing(), Unset("u"), Registered(), Number(7)
REGISTERED.word = "r"
copyreg.pickle(Registered, lambda obj: "REGISTERED")

def default(x=MISSING):
    return x is MISSING

def row_sentinels(x):
    return default() and UNSET.word == "u" and REGISTERED.word == "r" and SEVEN == 7

def plus(a):
    return a + 1

ufunc = np.frompyfunc(plus, 1, 1)
summed = np.frompyfunc(lambda a, b: a + b, 2, 1, identity=0)
vectorized = np.vectorize(plus)
vectorized(np.arange(2))

def row_ufuncs(x):
    return ufunc(3) == 4 and list(vectorized(np.arange(2))) == [1, 2] and summed.reduce([1, 2]) == 3

@functools.lru_cache(maxsize=3)
def cached(x):
    return x if x < 2 else cached(x - 1) + cached(x - 2)

def decorate(fn):
    @functools.wraps(fn)
    def wrapper(*args):
        import string
        return fn(*args), string.digits[0]
    return wrapper

@decorate
def wrapped(x):
    return x

@decorate
@functools.cache
def both(x):
    return x

def row_wrappers(x):
    return cached(9) == 34 and cached.cache_info().maxsize == 3 and wrapped(x) == (x, "0") == both(x)

@functools.singledispatch
def dispatched(x):
    return "object"

@dispatched.register
def _(x: int):
    return "int"

@dispatched.register(collections.abc.Mapping)
def of_mapping(x):
    return "mapping"

class Methods:
    @functools.singledispatchmethod
    def dispatched(self, x):
        return "object"
    @dispatched.register
    def _(self, x: int):
        return "int"
    @functools.cached_property
    def costly(self):
        return object()
    def add(self, a, b):
        return a + b
    plus_one = functools.partialmethod(add, 1)

def row_dispatch(x):
    methods = Methods()
    return (
        [dispatched(1), dispatched({}), dispatched("")] == ["int", "mapping", "object"]
        and [methods.dispatched(1), methods.dispatched("")] == ["int", "object"]
        and methods.costly is methods.costly
        and methods.plus_one(2) == 3
    )

class Weakly:
    def __init__(self):
        self.values = weakref.WeakKeyDictionary()
    def __get__(self, obj, owner=None):
        return self if obj is None else self.values[obj]
    def __set__(self, obj, value):
        self.values[obj] = value

class Described:
    field = Weakly()

described = Described()
described.field = 5

class Node:
    parent = staticmethod(lambda: None)

root, kid = Node(), Node()
root.kid, kid.parent = kid, weakref.ref(root)
lonely = weakref.ref(root)
dead = weakref.ref(Node())
pool_of = weakref.WeakValueDictionary(root=root)

def row_weak(x):
    other = Described()
    other.field = 4
    return (
        described.field == 5 and other.field == 4 and root.kid.parent() is root
        and lonely().kid is not None and dead() is None and pool_of["root"] is root
    )

class Plugin:
    seen = {}
    def __init_subclass__(cls, /, key, **more):
        super().__init_subclass__(**more)
        cls.key = key
        Plugin.seen[key] = cls

class Plugged(Plugin, key="a"):
    pass

class Meta(type):
    def __new__(meta, name, bases, body, *, tag):
        made = super().__new__(meta, name, bases, body)
        made.tag = tag
        return made
    def __init__(cls, name, bases, body, *, tag):
        super().__init__(name, bases, body)

class AbstractMeta(abc.ABCMeta):
    def __new__(meta, name, bases, body, *, tag):
        return super().__new__(meta, name, bases, {**body, "tag": tag})
    def __init__(cls, name, bases, body, *, tag):
        super().__init__(name, bases, body)

class Tagged(metaclass=Meta, tag="t"):
    pass

class AbstractTagged(metaclass=AbstractMeta, tag="u"):
    pass

def row_class_keywords(x):
    return (
        Plugged.key == "a" and Plugin.seen == {"a": Plugged} and Tagged().tag == "t" and AbstractTagged().tag == "u"
        and isinstance(Plugged(), Plugin)
    )

class Colour(enum.Enum):
    RED = 1
    CRIMSON = 1
    GREEN = enum.auto()

class Access(enum.Flag):
    R = enum.auto()
    W = enum.auto()
    RW = R | W

class Word(enum.StrEnum):
    YES = "yes"

class Planet(enum.Enum):
    EARTH = (5.9, 6.3)
    def __init__(self, mass, radius):
        self.mass, self.radius, self._kept = mass, radius, 1

class Labelled(str, enum.Enum):
    A = "a", "first"
    def __new__(cls, value, label):
        made = str.__new__(cls, value)
        made._value_, made.label = value, label
        return made

class Operator(enum.Enum):
    ADD = enum.member(lambda a, b: a + b)
    KIND = enum.member(int)
    NONE = object()

@enum.global_enum
class Globally(enum.Enum):
    GLOBAL_ONE = 1

def row_enums(x):
    return (
        Colour.CRIMSON is Colour.RED is Colour["CRIMSON"] and Colour(2) is Colour.GREEN and len(Colour) == 2
        and Access["RW"] == Access.R | Access.W and Access.R in Access.RW and Word("yes") is Word.YES == "yes"
        and Planet.EARTH.radius == 6.3 and Planet.EARTH._kept == 1 and Labelled("a").label == "first"
        and GLOBAL_ONE is Globally.GLOBAL_ONE and Operator.ADD.value(1, 2) == 3 and Operator.KIND.value is int
    )

class Named(typing.NamedTuple):
    a: int
    b: str = "q"

Old = collections.namedtuple("Old", "x y")

class Dict(typing.TypedDict, total=False):
    a: int

class Outer:
    @dataclasses.dataclass
    class Inner:
        a: int

class Proxy:
    def __init__(self, of):
        self.of = of
    __class__ = property(lambda self: type(self.of))

def row_proxy(x):
    return isinstance(Proxy(x), int) and type(Proxy(x)) is Proxy

def row_nested(x):
    return Outer.Inner.__qualname__ == "Outer.Inner" and repr(Outer.Inner(1)) == "Outer.Inner(a=1)"

def row_tuples(x):
    return Named(1) == (1, "q") and Old(1, 2).y == 2 and Dict(a=1) == {"a": 1} and Dict.__total__ is False

@dataclasses.dataclass(slots=True)
class Slotted:
    a: int
    b: list = dataclasses.field(default_factory=list)

@dataclasses.dataclass(slots=True, frozen=True, order=True)
class Frozen:
    a: int

@dataclasses.dataclass(slots=True, kw_only=True, weakref_slot=True)
class Watched:
    a: int

class Slots:
    __slots__ = ("a", "__private")
    def __init__(self):
        self.a, self.__private = 1, 2
    def get(self):
        return self.__private

class MoreSlots(Slots):
    __slots__ = {"c": "documented"}

class WithDict(Slots):
    __slots__ = ("__dict__",)

def refuses(obj):
    try:
        obj.nothing = 1
    except AttributeError:
        return not hasattr(obj, "__dict__")

def row_slots(x):
    free = WithDict()
    free.anything = 1
    return (
        refuses(Slotted(1)) and Slotted(1) == Slotted(1, []) and refuses(Slots()) and MoreSlots().get() == 2
        and refuses(MoreSlots()) and Frozen(1) < Frozen(2) and not hasattr(Frozen(1), "__dict__")
        and weakref.ref(watched := Watched(a=1))() is watched
    )

@typing.runtime_checkable
class Quacks(typing.Protocol):
    def quack(self): ...

class Duck:
    def quack(self):
        return 1

class Abstract(abc.ABC):
    @abc.abstractmethod
    def f(self): ...

class Virtual:
    pass

Abstract.register(Virtual)
numbers.Number.register(Virtual)

class Box(typing.Generic[T]):
    def get(self, x: T) -> T:
        return x

class IntBox(Box[int]):
    def get(self, x):
        return super().get(x)

def row_abstract(x):
    try:
        Abstract()
    except TypeError:
        return (
            isinstance(Virtual(), Abstract) and isinstance(Virtual(), numbers.Number) and isinstance(Duck(), Quacks)
            and not isinstance(3, Quacks) and IntBox().get(1) == 1 and Box[int]().get(2) == 2
        )

local = threading.local()

def row_thread_local(x):
    local.x = x
    return local.x == x

ITEMS = [
    UserId, T, P, Ts, MISSING, UNSET, REGISTERED, SEVEN, Colour.RED, GLOBAL_ONE, Labelled.A, Access.RW,
    Operator.ADD, Operator.KIND, Operator.NONE,
    Slotted, Plugged, Colour, Frozen,
    Slotted(1), Frozen(2), Slots(), MoreSlots(), Named(3), Plugged(), Methods(), Described(), root, Virtual(), Tagged(),
    Planet.EARTH, ufunc, cached, dispatched, wrapped, [MISSING, UserId],
]
SAME = 19

if sys.version_info >= (3, 12):
    exec("""
type Vector = list[float]
type Json = dict[str, Json] | list[Json] | str
type Pair[T] = tuple[T, T]
type Later = NotThereYet
def first[T, **P, *Ts](x: T) -> T: return x
class Of[T]:
    def get(self, x: T) -> "Of[T]": return x
def aliased(x: Vector, y: Json, z: Pair[int], w: Later): return x
""")
    def row_aliases(x):
        value = Json.__value__.__args__[0].__args__[1]
        return (
            aliased(1, 2, 3, 4) == 1 and aliased.__annotations__["x"] is Vector and Vector.__value__ == list[float]
            and value is Json and Json.__module__ == __name__ and first(1) == 1 and Of[int]().get(1) == 1
            and str(Pair[int].__value__) == str(tuple[Pair.__type_params__[0], Pair.__type_params__[0]])
        )
    ITEMS[:0] = [Vector, Json, Pair]
    SAME += 3

ROWS = [value for name, value in list(globals().items()) if name.startswith("row_")]

def check(pool):
    """What went wrong."""
    told = [row.__name__ for row in ROWS if row(1) is not True]
    for row in ROWS:
        try:
            if pool.map(row, [1, 2, 3]) != [True, True, True]:
                told.append((row.__name__, "not as here"))
        except Exception as exc:
            told.append((row.__name__, repr(exc)[:500]))
    for at, item in enumerate(ITEMS):
        try:
            back, = pool.map(lambda x: x, [item])
            if back is not item if at < SAME else type(back) is not type(item):
                told.append(("item", item, back))
        except Exception as exc:
            told.append(("item", item, repr(exc)[:500]))
    if pool.map(lambda x: x is MISSING, [MISSING, MISSING]) != [True, True]:
        told.append("a sentinel of an item is not that of the function")
    return told
'''

NOTEBOOK = """
import sys
import distmap
from distmap.testing.workers import WorkerProcess

with distmap.Pool(2) as pool:
    print("local", check(pool))
with WorkerProcess("--port", "0", "--slots", "2", cwd=sys.argv[1]) as worker, distmap.Pool([worker.url]) as pool:
    print("remote", check(pool))
"""


def test_objects_of_a_notebook(tmp_path: Path) -> None:
    """All kinds of objects that `__main__` defines work on workers, and come back as what they are."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SOURCE + NOTEBOOK, str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=18,
        check=False,
    )
    assert (done.stdout.splitlines(), done.returncode) == (["local []", "remote []"], 0), done.stdout + done.stderr


@pytest.fixture(scope="module")
def lib(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], ModuleType]:
    """The same as a module in a folder that no worker has, imported anew."""
    folder = tmp_path_factory.mktemp("beside")
    (folder / "objects_of_a_module.py").write_text(SOURCE)

    def load() -> ModuleType:
        sys.path.insert(0, str(folder))
        try:
            sys.modules.pop("objects_of_a_module", None)
            return importlib.import_module("objects_of_a_module")
        finally:
            sys.path.remove(str(folder))

    return load


def test_objects_of_a_local_module(pool: distmap.Pool, lib: Callable[[], ModuleType]) -> None:
    """The same objects from a local module: it travels with whatever mentions it, if only by a name."""
    assert lib().check(pool) == []


@pytest.mark.parametrize("item", ["MISSING", "UserId", "T", "P", "cached", "ufunc", "dispatched", "UNSET", "SEVEN"])
def test_a_module_is_noted_by_whatever_is_found_in_it(pool: distmap.Pool, tmp_path: Path, item: str) -> None:
    """One item that is only a name in a module brings that module to workers which have never seen it."""
    name = f"only_{item.lower()}_{pool is not None and len(pool.workers)}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    sys.path.insert(0, str(tmp_path))
    try:
        module = importlib.import_module(name)
        assert pool.map(str, [getattr(module, item)])
        assert pool.map(lambda x: x, [getattr(module, item)]) == [getattr(module, item)] or item == "ufunc"
    finally:
        sys.path.remove(str(tmp_path))
        del sys.modules[name]


def test_a_class_of_a_function_is_one_type(pool: distmap.Pool) -> None:
    """Instances of a class that is local to a function come back as that class, from all chunks and slots."""

    def factory() -> type:
        class Local:
            def __init__(self, x: int) -> None:
                self.x = x

        return Local

    local = factory()
    made = pool.map(lambda x: local(x), range(60), chunksize=4)
    assert {type(one) for one in made} == {local}
    assert [one.x for one in made] == list(range(60))


STRUCTS = """
import typing

import msgspec

class Point(msgspec.Struct):
    x: int
    y: str = "y"
    def both(self):
        return self.x, self.y

class More(Point):
    z: float = 1.5

class Message(msgspec.Struct, frozen=True, kw_only=True, tag="message", rename="camel"):
    my_field: int
    items: list[int] = msgspec.field(default_factory=list)
"""


def test_structs(pool: distmap.Pool, needs: Callable[[bool, str], None]) -> None:
    """Classes of msgspec are laid out when they are made, with keywords that only they know."""
    needs(importlib.util.find_spec("msgspec") is not None, "msgspec")
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(STRUCTS, space)
    Point, More, Message, msgspec = (space[name] for name in ("Point", "More", "Message", "msgspec"))

    def works(x: int) -> bool:
        try:
            Message(my_field=1).my_field = 2
        except AttributeError:
            return (
                Point(1).both() == (1, "y")
                and More(1) == More(1, "y", 1.5)
                and isinstance(More(1), Point)
                and Message(my_field=1).items is not Message(my_field=1).items
                and msgspec.json.encode(Message(my_field=1)) == b'{"type":"message","myField":1,"items":[]}'
            )
        return False

    assert pool.map(works, [1, 2]) == [True, True] == [works(1), works(2)]
    items = [Point(1), More(2), Message(my_field=3)]
    back = pool.map(lambda item: item, items)
    assert back == items
    assert list(map(type, back)) == [Point, More, Message]


GENERATOR = np.random.default_rng(1)
OLD_GENERATOR = np.random.RandomState(1)
PLAIN_GENERATOR = random.Random(1)


class Simulation:
    """Has a generator of its own."""

    def __init__(self) -> None:
        self.parts = {"noise": random.Random(2)}

    def step(self, x: int) -> float:
        return self.parts["noise"].random()

    def __call__(self, x: int) -> float:
        return self.step(x)


def in_closure() -> Callable[[int], float]:
    generator = np.random.default_rng(3)
    return lambda x: generator.normal() + x


def in_helper() -> Callable[[int], float]:
    return lambda x: draw(x)


def draw(x: int, generator: random.Random = PLAIN_GENERATOR) -> float:
    return generator.random()


draw.__module__ = in_helper.__module__ = "__main__"


@pytest.mark.parametrize(
    ("fn", "words"),
    [
        (in_closure(), "its captured variable 'generator' is a random generator (Generator(PCG64)"),
        (lambda x: OLD_GENERATOR.rand(), "its global variable 'OLD_GENERATOR' is a random generator (RandomState("),
        (lambda x: (lambda: GENERATOR.normal())(), "its global variable 'GENERATOR' is"),
        (lambda x, g=PLAIN_GENERATOR: g.random(), "its default argument 'g' is a random generator (<random.Random"),
        (in_helper(), "its global variable 'draw', its default argument 'generator' is"),
        (functools.partial(draw, generator=random.Random(4)), "its argument 'generator' is"),
        (Simulation().step, "the object it is bound to, its attribute 'parts', the value of key 'noise' is"),
        (Simulation(), "its attribute 'parts', the value of key 'noise' is"),
        (GENERATOR.normal, "the object it is bound to is"),
    ],
    ids=["closure", "global", "nested", "default", "of-a-helper", "partial", "method", "callable", "bound-builtin"],
)
def test_a_captured_generator_is_warned_of_once(pool: distmap.Pool, fn: Callable[[int], float], words: str) -> None:
    """Every slot would get a copy of it and draw the same: the warning names it, and what to use instead."""
    code._warned.clear()
    with pytest.warns(UserWarning, match=r"distmap\.rng\(\)") as told:
        assert [pool.map(fn, range(4)), pool.map(fn, range(4))]
    (warning,) = told
    assert words in str(warning.message)
    assert warning.filename == __file__


def test_generators_that_are_no_mistake_are_not_warned_of(pool: distmap.Pool) -> None:
    """One for each item, that of a module, the system's, and what a library keeps inside of its objects."""
    system = random.SystemRandom()
    assert len(set(pool.map(lambda g: g.random(), [random.Random(n) for n in range(9)]))) == 9
    assert all(pool.map(lambda x: system.random() < 1, range(4)))

    def draw(x: int) -> tuple[float, float]:
        return from_random(), float(from_numpy())

    # As `random.random` and `numpy.random.rand` are: every process has its own, with a seed of its own.
    from_random, from_numpy = random.random, np.random.rand
    random.seed(5)
    np.random.seed(5)
    draws = pool.map(draw, range(40), chunksize=1)
    assert len({a for a, _ in draws}) == len({b for _, b in draws}) == 40


def test_what_does_not_travel_is_named_with_the_way_to_it(pool: distmap.Pool) -> None:
    """In functions, items, results and broadcast values: each step to the object that does not pickle."""
    lock = threading.Lock()
    held = {"a": [1, Simulation()]}
    held["a"][1].parts["noise"] = lock
    way = r"the value of key 'a', element 1, its attribute 'parts', the value of key 'noise' \(<unlocked _thread.lock"
    with pytest.raises(distmap.PayloadError, match=rf"captured variable 'held', {way}.* does not pickle: TypeError"):
        pool.map(lambda x: held, [1])
    with pytest.raises(distmap.PayloadError, match=f"the item cannot be pickled: {way}"):
        pool.map(id, [held])
    handle = pool.broadcast(held)
    with pytest.raises(distmap.PayloadError, match=f"captured variable 'handle', its value, {way}"):
        pool.map(lambda x: handle.value, [1])

    def result(x: int) -> object:
        import threading

        return {"a": [1, threading.Lock()]}

    with pytest.raises(distmap.PayloadError, match=r"the result cannot be pickled: the value of key 'a', element 1 \("):
        pool.map(result, [1])


#: As IPython writes `!echo`, `x = !echo` and `%time`.
SHELL = """
def runs(x): get_ipython().system('echo hi')
def gets(x): return get_ipython().getoutput('echo hi {x}')
def magic(x): get_ipython().run_line_magic('time', 'x')
def helped(x): return gets(x)
def asks(x):
    try:
        return type(get_ipython()).__name__
    except NameError:
        return "no shell"
def holds(x): return shell.system('echo hi')
"""


def test_commands_and_magics(pool: distmap.Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`!command` and `%magic` in a function: one sentence says that they do not work there, and what does."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    try:
        space = {"__name__": "__main__", "get_ipython": shell.get_ipython, "shell": shell}
        exec(SHELL, space)
        for name in ("runs", "gets", "magic", "helped"):
            with pytest.raises(NameError, match=r"`!command` and `%magic` do not work .* use subprocess\.run\(\)"):
                pool.map(space[name], [1])
        assert pool.map(space["asks"], [1]) == ["no shell"]
        with pytest.raises(distmap.PayloadError, match=r"global variable 'shell'.*`!command` and `%magic` do not work"):
            pool.map(space["holds"], [1])
    finally:
        InteractiveShell.clear_instance()


@pytest.mark.own_leaks
def test_commands_and_magics_of_a_cell(tmp_path: Path) -> None:
    """In a kernel too, whatever IPython makes of the lines; functions that ask whether they are in a notebook go on."""
    from support.kernels import Kernel

    kernel = Kernel(tmp_path)
    try:
        kernel.run(f"import sys; sys.path.insert(0, {str(ROOT)!r})\nimport distmap; pool = distmap.Pool(1)")
        for line in ("out = !echo hi {x}", "!echo {x}", "%time x", "get_ipython().system('echo')"):
            kernel.run(f"def fn(x):\n    {line}\npool.map(fn, [1])")
            assert kernel.raised == "NameError", line
            assert "`!command` and `%magic` do not work in a function that a pool runs; use subprocess" in " ".join(
                kernel.traceback.split()
            )
        source = """
            def fn(x):
                try:
                    return get_ipython() is None
                except NameError:
                    return "no"
            print(pool.map(fn, [1]))
            pool.terminate()
            """
        assert kernel.run(source).printed.strip() == "['no']"
    finally:
        kernel.close()
