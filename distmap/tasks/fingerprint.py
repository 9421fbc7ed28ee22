"""What a function does, as a digest that another process, or the cell moved and run again, gives too.

Owns `fingerprint`: which parts a function has (its code, defaults, captured values, the globals and local modules that
it reaches), what these are called, and what changed between two of them. `bytecode.py` says what code does,
`canonical.py` what values are. Must not know jobs, items or files. For the kernel, in the calling thread: task
processes do not import this.

The digest of a pickle would not do: it holds line numbers and the file name of a notebook's cell, which has the number
of the kernel's process in it. Each function and class found on the way is a part of its own, named in the digests of
others: so circles end, and a change is charged to the part that has it.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from types import CodeType, FunctionType, GetSetDescriptorType, MemberDescriptorType, MethodType, ModuleType
from typing import Any, TypeGuard

from distmap.tasks.bundling import bundle
from distmap.tasks.bytecode import attributes_of, digest_of_code, globals_of
from distmap.tasks.canonical import Encoder, join
from distmap.tasks.imports import imports_of_code
from distmap.tasks.modules import DISTMAP, namespace, place, registered
from distmap.tasks.object_paths import cells_of
from distmap.tasks.picklers import by_value, replaced, underlying
from distmap.tasks.sources import digests_of

#: Grows when a later distmap finds other digests for the same function.
_FORM = 1
_PYTHON, _METHOD = "Python ", "the way distmap compares functions, number "
_HEAP_TYPE = 1 << 9
#: Names in a class that say where it is written, or only what follows from the rest; pydantic's hold ids of objects.
_OF_CLASSES = {"__module__", "__dict__", "__weakref__", "__doc__", "__firstlineno__", "__static_attributes__"}
_OF_CLASSES |= {"_abc_impl", "__abstractmethods__", "__annotate__", "__annotate_func__", "__annotations_cache__"}
_OF_CLASSES |= {f"__pydantic_{name}__" for name in ("core_schema", "validator", "serializer", "decorators")}
_MISSING = object()
#: The end of the name of a part that holds what does not pickle.
_TYPE_ONLY = "only the type counts)"


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a function does.

    Attributes:
        digest: 32 bytes; equal ones mean that the function gives the same results, as far as that can be seen.
        name: its qualified name, such as `score`.
        parts: name of a part, for people -> its digest in hexadecimal: `the code of score`, `the default of alpha`,
            `the captured value scale`, `the global helper`, `the module util`, `Python 3.12`.
        installed: installed packages that it reaches. They count by their names only.
    """

    digest: bytes
    name: str
    parts: dict[str, str]
    installed: frozenset[str]

    @property
    def exact(self) -> bool:
        """Whether every captured value counts with its content. What does not pickle counts with its type only."""
        return not any(name.endswith(_TYPE_ONLY) for name in self.parts)

    def versions(self) -> dict[str, str]:
        """The versions that the packages that it reaches give. Another version is no change, but worth a word."""
        names = {name.partition(".")[0] for name in self.installed} - {DISTMAP} - sys.stdlib_module_names
        # What is installed under the name of a module may take seconds to find out.
        found = {name: namespace(sys.modules.get(name)).get("__version__") for name in sorted(names)}
        return {name: version for name, version in found.items() if isinstance(version, str)}


def fingerprint(fn: object) -> Fingerprint:
    """What a callable does, with everything of the notebook and of local modules that it reaches.

    Counted are the code and its constants, names, defaults, captured values, attributes, the globals that it uses and
    what they use, classes of the notebook with their methods, and the text of local modules. Not counted are comments,
    docstrings, annotations of functions, the layout of the source, where it stands, and installed packages.
    """
    walk = _Walk()
    walk.root(fn)
    walk.finish()
    parts = dict(sorted(walk.parts.items()))
    state = sha256()
    for name, digest in parts.items():
        state.update(f"{name}\0{digest}\n".encode("utf-8", "surrogatepass"))
    return Fingerprint(state.digest(), _name_of(fn), parts, frozenset(walk.references))


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """What is different in the parts of two fingerprints, in words: `the global helper changed`."""
    for kind in (_PYTHON, _METHOD):
        old, new = ([name for name in parts if name.startswith(kind)] for parts in (before, after))
        if old != new:  # then all code differs, and says nothing
            return [f"{' '.join(new)} is used in place of {' '.join(old)}"]
    changed = [f"{name} changed" for name in after if name in before and before[name] != after[name]]
    # What is new or gone follows from what changed.
    return changed or [
        *[f"{name} is new" for name in after if name not in before],
        *[f"{name} is gone" for name in before if name not in after],
    ]


def version_changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Which packages have another version, in words: `numpy is 2.4 and was 2.3`."""
    return [
        f"{name} is {after[name]} and was {before[name]}"
        for name in after
        if before.get(name, after[name]) != after[name]
    ]


class _Walk:
    """Finds the parts of one function."""

    def __init__(self) -> None:
        self.parts: dict[str, str] = {}
        #: Names of parts, also of those to come.
        self._taken: set[str] = set()
        #: Modules that go by their names only.
        self.references: set[str] = set()
        #: id of a function or class -> the name of its part; they are kept, so that no id is used again.
        self._names: dict[int, str] = {}
        self._queue: deque[FunctionType | type] = deque()
        self._kept: list[object] = []
        #: The names that are used of each local module; None: all.
        self._local: dict[str, set[str] | None] = {}
        #: Modules that were made at run time, while they are looked at.
        self._inside: set[str] = set()
        self._seen: set[tuple[int, str]] = set()
        self._home: object = None
        #: The part that is just looked at.
        self._here = ""
        self._encoder = Encoder(self._refer, self._note)
        self._set(f"{_PYTHON}{sys.version_info[0]}.{sys.version_info[1]}", b"")
        self._set(f"{_METHOD}{_FORM}", b"")

    def root(self, fn: Any) -> None:
        """Begin with what is called."""
        if isinstance(fn, MethodType):
            self.root(fn.__func__)
            self._value("the object that it is bound to", fn.__self__)
        elif isinstance(fn, partial):
            self.root(fn.func)
            for at, value in enumerate(fn.args, start=1):
                self._value(f"the argument {at} of its partial()", value)
            for name, value in sorted(fn.keywords.items()):
                self._value(f"the argument {name}", value)
        elif isinstance(fn, FunctionType) and by_value(fn):
            self._home = fn.__globals__
            self._add(fn, f"the code of {_plain(fn.__code__.co_qualname)}")
        elif isinstance(getattr(fn, "__wrapped__", None), FunctionType) and not isinstance(fn, FunctionType):
            self.root(fn.__wrapped__)  # such as what lru_cache gives
            self._value(f"the decorator of {_name_of(fn)}", fn)
        elif isinstance(fn, type) and by_value(fn):
            self._add(fn, f"the class {_plain(fn.__qualname__)}")
        else:
            self._value(f"the function {_name_of(fn)}", fn)

    def finish(self) -> None:
        """Look at all that was found on the way."""
        while self._queue:
            found = self._queue.popleft()
            name = self._names[id(found)]
            if isinstance(found, type):
                self._class(found, name)
            else:
                self._function(found, name)
        for module, digest in digests_of(bundle(self._local), self._local).items():
            self._set(f"the module {module}", digest)

    # --- parts --------------------------------------------------------------------------------------------------------

    def _set(self, name: str, encoded: bytes) -> None:
        self.parts[self._free(name)] = sha256(encoded).hexdigest()

    def _free(self, name: str) -> str:
        """The name, with a number if there is such a part already."""
        found, count = name, 1
        while found in self._taken:
            count += 1
            found = f"{name} ({count})"
        self._taken.add(found)
        return found

    def _add(self, obj: FunctionType | type, name: str) -> str:
        """A function or a class is a part of its own, looked at later."""
        found = self._names[id(obj)] = self._free(name)
        self._kept.append(obj)
        self._queue.append(obj)
        return found

    def _value(self, name: str, value: object) -> None:
        """A value is a part; a function or a class gets this name if it has none yet."""
        if self._is_new(value):
            self._add(value, name)
            return
        self._here = name
        self._encoder.forget()
        encoded = self._encoder.encode(value)
        if self._encoder.opaque:
            name += f" (of each {' and '.join(sorted(self._encoder.opaque))} {_TYPE_ONLY}"
        self._set(name, encoded)

    def _captured(self, name: str, value: object, words: str) -> None:
        known = id(value) in self._names
        if name == "__class__" and known:
            return  # of super(): the class itself names its methods
        named = self._is_new(value) and not value.__qualname__.endswith("<lambda>")
        self._value(self._by_name(value) if named else words, value)

    def _by_name(self, obj: Any) -> str:
        label = _plain(obj.__qualname__)
        if isinstance(obj, type):
            return f"the class {label}"
        if "." in label and self._here.startswith("the class "):
            return f"the method {label}"
        return f"the function {label}" + (f" in {self._here}" if label.endswith("<lambda>") else "")

    def _function(self, fn: FunctionType, name: str) -> None:
        code, home = fn.__code__, fn.__globals__.get("__name__")
        installed = type(home) is str and place(home) == "reference" and not registered(home)
        of = "" if name.startswith("the code of ") else f" of {_plain(fn.__qualname__)}"
        self._encoder.forget()
        if installed:
            self._set_own(name, join("installed", f"{home} {code.co_qualname}".encode()))
        else:
            self._set_own(name, digest_of_code(code, self._encoder.encode))
        defaults = fn.__defaults__ or ()
        arguments = code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount]
        for argument, value in (*zip(arguments, defaults, strict=True), *sorted((fn.__kwdefaults__ or {}).items())):
            self._value(f"the default of {argument}{of}", value)
        if installed:
            self._note(home)
        else:
            for used in sorted(globals_of(code)):
                self._global(fn.__globals__, used, code)
            package = fn.__globals__.get("__package__")
            for module in imports_of_code(code, package if type(package) is str else ""):
                while module:  # `import a.b` binds a
                    self._note(module)
                    module = module.rpartition(".")[0]
        for variable, _, value in sorted(cells_of(fn), key=lambda cell: cell[0]):
            self._captured(variable, value, f"the captured value {variable}{of}")
        for attribute, value in sorted(vars(fn).items()):
            if attribute != "__wrapped__" or id(value) not in self._names:
                self._captured(attribute, value, f"the attribute {attribute} of {_plain(fn.__qualname__)}")

    def _global(self, space: dict[str, Any], name: str, code: CodeType) -> None:
        value = space.get(name, _MISSING)
        known = isinstance(value, ModuleType) and place(value.__name__) == "local"
        if known:
            names = attributes_of(code, name)
            for attribute in names if names is not None else [None]:
                self._note(value.__name__, attribute)
        if (id(space), name) in self._seen or name == "__builtins__":
            return
        self._seen.add((id(space), name))
        self._kept.append(space)
        home = space.get("__name__")
        words = f"the global {name}" if space is self._home or home == "__main__" else f"the global {name} of {home}"
        if known:
            self._set(words, join("module", value.__name__.encode()))
        elif value is not _MISSING:
            is_class = isinstance(value, type) and value.__qualname__ == name and self._is_new(value)
            self._value(self._by_name(value) if is_class else words, value)
        elif name not in namespace(sys.modules["builtins"]):
            self._set(words, b"missing")

    def _class(self, cls: type, name: str) -> None:
        self._here = name
        self._encoder.forget()
        parts = [self._encoder.encode((type(cls), cls.__bases__))]
        for key, value in sorted(vars(cls).items()):
            if key in _OF_CLASSES or isinstance(value, GetSetDescriptorType):
                continue
            if isinstance(value, MemberDescriptorType):
                encoded = b"slot"
            elif isinstance(value, FunctionType) and self._is_new(value):
                encoded = self._add(value, f"the method {_plain(cls.__qualname__)}.{key}").encode()
            else:
                encoded = self._encoder.encode(value)
            parts += (key.encode("utf-8", "surrogatepass"), encoded)
        self._set_own(name, join("class", *parts))

    def _set_own(self, name: str, encoded: bytes) -> None:
        self.parts[name] = sha256(encoded).hexdigest()

    # --- what stands for functions, classes and modules ---------------------------------------------------------------

    def _refer(self, obj: Any) -> bytes:
        if isinstance(obj, ModuleType):
            return self._module(obj)
        if not self._is_by_value(obj):
            self._note(obj.__module__, obj.__qualname__.partition(".")[0])
            return join("named", f"{obj.__module__} {obj.__qualname__}".encode())
        name = self._names.get(id(obj))
        if name is None:
            name = self._add(obj, self._by_name(obj))
        return join("part", name.encode("utf-8", "surrogatepass"))

    def _is_new(self, value: object) -> TypeGuard[FunctionType | type]:
        """Whether it is a function or a class that becomes a part of its own."""
        return (
            issubclass(type(value), (FunctionType, type)) and id(value) not in self._names and self._is_by_value(value)
        )

    def _is_by_value(self, obj: Any) -> bool:
        if isinstance(obj, type) and not obj.__flags__ & _HEAP_TYPE:
            return False
        return replaced(obj) is None and by_value(obj)

    def _module(self, module: ModuleType) -> bytes:
        name = module.__name__
        self._note(name)
        if place(name) != "value" or name == "__main__" or name in self._inside:
            return join("module", name.encode())
        self._inside.add(name)
        own = {key: value for key, value in sorted(vars(module).items()) if not key.startswith("__")}
        encoded = self._encoder.encode(own)
        self._inside.discard(name)
        return join("module", name.encode(), encoded)

    def _note(self, module: object, name: str | None = None) -> None:
        """A module is reached: a name of it, or the whole."""
        if type(module) is not str:
            return
        where = place(module)
        if where == "local" or module not in sys.modules:  # what is not imported yet may be local: `bundle` knows
            names = self._local.setdefault(module, set())
            if name is None:
                self._local[module] = None
            elif names is not None:
                names.add(name.partition(".")[0])
        elif where == "reference":
            self.references.add(module)


def _name_of(fn: object) -> str:
    fn = underlying(fn) or fn
    name = getattr(fn, "__qualname__", None)
    return name if isinstance(name, str) else type(fn).__qualname__


def _plain(qualname: str) -> str:
    """A qualified name as people say it."""
    return qualname.replace(".<locals>", "")
