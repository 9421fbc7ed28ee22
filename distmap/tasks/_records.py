"""Classes of named fields that change: what `dataclasses` makes, at a tenth of its time.

Owns `Record`. To import `dataclasses` takes 6 ms, as it imports `inspect`, and each class takes another 0.3 ms:
together a tenth of the time from the start of a script to its first result. Type checkers see a dataclass. A subclass
of a record may add methods, and no fields.
"""

from __future__ import annotations

from distmap.tasks._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import field as field
    from typing import Any, ClassVar, dataclass_transform

    @dataclass_transform(eq_default=False, field_specifiers=(field,))
    class Record:
        _fields: ClassVar[tuple[str, ...]]
        _defaults: ClassVar[dict[str, Any]]

        def __init_subclass__(cls, *, frozen: bool = False, kw_only: bool = False) -> None: ...

else:
    from reprlib import recursive_repr

    class field:
        """A field whose default is made for each record."""

        def __init__(self, *, default_factory):
            self.make = default_factory

    class _Made(type):
        def __new__(cls, name, bases, body, *, frozen=False, kw_only=False):
            if not bases or hasattr(bases[0], "_fields"):
                return super().__new__(cls, name, bases, body)
            fields = tuple(body.get("__annotations__", ()))
            defaults = {name: body.pop(name) for name in fields if name in body}
            body |= {"__slots__": fields, "__match_args__": () if kw_only else fields}
            body["__init__"] = _init(fields, defaults, frozen, kw_only, "__post_init__" in body)
            if frozen:
                body |= {"__setattr__": _refuse, "__delattr__": _refuse, "__eq__": _equal, "__hash__": _hash}
            return super().__new__(cls, name, bases, {**body, "_fields": fields, "_defaults": defaults})

    class Record(metaclass=_Made):
        """Base of classes that list their fields, with defaults or `field(default_factory=...)`, and have slots for it.

        A record is equal to itself only. With `frozen=True` its fields cannot be set, and equal fields make it equal.
        With `kw_only=True` fields are given by name. `__post_init__` is called once they are set.
        """

        __slots__ = ()

        @recursive_repr()
        def __repr__(self):
            values = ", ".join([f"{name}={getattr(self, name)!r}" for name in self._fields])
            return f"{type(self).__qualname__}({values})"

    def _init(fields, defaults, frozen, kw_only, post):
        """The only text that is compiled for a class: an `__init__` that sets its fields."""
        parameters, body = ["self", "*"] if kw_only and fields else ["self"], []
        for name in fields:
            made = isinstance(defaults.get(name), field)
            value = f"_make_{name}() if {name} is _defaults else {name}" if made else name
            default = "=_defaults" if made else f"=_defaults[{name!r}]" if name in defaults else ""
            parameters.append(name + default)
            body.append(f"_set(self, {name!r}, {value})" if frozen else f"self.{name} = {value}")
        body.append("self.__post_init__()" if post else "pass")
        namespace = {f"_make_{name}": default.make for name, default in defaults.items() if isinstance(default, field)}
        # By its file a traceback knows the frame as one of distmap's.
        namespace |= {"_defaults": defaults, "_set": object.__setattr__, "__file__": __file__}
        exec(f"def __init__({', '.join(parameters)}):\n " + "\n ".join(body), namespace)
        return namespace["__init__"]

    def _refuse(self, name, *_):
        raise AttributeError(f"{type(self).__name__} does not change: its field {name!r} cannot be set")

    def _values(record):
        return tuple([getattr(record, name) for name in record._fields])

    def _equal(self, other):
        return _values(self) == _values(other) if type(other) is type(self) else NotImplemented

    def _hash(self):
        return hash(_values(self))
