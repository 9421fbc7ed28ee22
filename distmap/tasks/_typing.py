"""What task processes use in place of `typing`, whose import would be a quarter of their start.

Owns stand-ins for the few names that matter when code runs; type checkers see the real ones. Modules that task
processes import need them, and `NamedTuple` is for all that are imported before a pool gives its first result: no class
of it is compiled from text. Task processes also import `_pickle` and `_signal`, because `pickle` imports `re` and
`signal` imports `enum`.
"""

from __future__ import annotations

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any as Any
    from typing import Literal as Literal
    from typing import NamedTuple as NamedTuple
    from typing import cast as cast
else:
    from collections import _tuplegetter
    from types import FunctionType

    Any = object

    def cast(kind, value):
        """The value."""
        return value

    class Literal:
        """`Literal[...]` is for type checkers."""

        def __class_getitem__(cls, values):
            return cls

    _tuple = tuple.__new__

    #: `__new__` for 0, 1, 2, ... fields, but for their names. `collections.namedtuple` compiles one for each class:
    #: most of what a class costs.
    _NEW = (
        lambda _cls: _tuple(_cls, ()),
        lambda _cls, a: _tuple(_cls, (a,)),
        lambda _cls, a, b: _tuple(_cls, (a, b)),
        lambda _cls, a, b, c: _tuple(_cls, (a, b, c)),
        lambda _cls, a, b, c, d: _tuple(_cls, (a, b, c, d)),
        lambda _cls, a, b, c, d, e: _tuple(_cls, (a, b, c, d, e)),
        lambda _cls, a, b, c, d, e, f: _tuple(_cls, (a, b, c, d, e, f)),
        lambda _cls, a, b, c, d, e, f, g: _tuple(_cls, (a, b, c, d, e, f, g)),
        lambda _cls, a, b, c, d, e, f, g, h: _tuple(_cls, (a, b, c, d, e, f, g, h)),
        lambda _cls, a, b, c, d, e, f, g, h, i: _tuple(_cls, (a, b, c, d, e, f, g, h, i)),
        lambda _cls, a, b, c, d, e, f, g, h, i, j: _tuple(_cls, (a, b, c, d, e, f, g, h, i, j)),
        lambda _cls, a, b, c, d, e, f, g, h, i, j, k: _tuple(_cls, (a, b, c, d, e, f, g, h, i, j, k)),
        lambda _cls, a, b, c, d, e, f, g, h, i, j, k, m: _tuple(_cls, (a, b, c, d, e, f, g, h, i, j, k, m)),
    )

    def _new_of_many(_cls, *values, **named):
        """`__new__` for more fields than that."""
        rest = _cls._fields[len(values) :]
        if len(values) > len(_cls._fields) or not named.keys() <= {*rest}:
            raise TypeError(f"{_cls.__name__} takes each of these once: {', '.join(_cls._fields)}")
        given = {**_cls._field_defaults, **named}
        try:
            return _tuple(_cls, (*values, *map(given.__getitem__, rest)))
        except KeyError:
            missing = [name for name in rest if name not in given]
        raise TypeError(f"{_cls.__name__} needs values for {', '.join(missing)}")

    class _NamedTuple(tuple):
        __slots__ = ()

        def __repr__(self):
            values = ", ".join([f"{name}={value!r}" for name, value in zip(self._fields, self, strict=True)])
            return f"{type(self).__name__}({values})"

        def __getnewargs__(self):
            return tuple(self)

        @classmethod
        def _make(cls, values):
            made = _tuple(cls, values)
            if len(made) != len(cls._fields):
                raise TypeError(f"{cls.__name__} has {len(cls._fields)} fields, not {len(made)}")
            return made

        def _replace(self, /, **named):
            made = _tuple(type(self), map(named.pop, self._fields, self))
            if named:
                raise ValueError(f"{type(self).__name__} has no fields {', '.join(named)}")
            return made

        def _asdict(self):
            return dict(zip(self._fields, self, strict=True))

    class _Named(type):
        def __new__(cls, name, bases, body):
            if not bases:
                return super().__new__(cls, name, bases, body)
            fields = tuple(body.pop("__annotations__", ()))
            defaults = {field: body.pop(field) for field in fields if field in body}
            maker = _new_of_many
            if len(fields) < len(_NEW):
                names = {"co_name": "__new__", "co_qualname": f"{name}.__new__", "co_varnames": ("_cls", *fields)}
                code = _NEW[len(fields)].__code__.replace(**names)
                maker = FunctionType(code, globals(), "__new__", tuple(defaults.values()))
            body |= {field: _tuplegetter(at, None) for at, field in enumerate(fields)}
            body |= {"__slots__": (), "__new__": maker, "__match_args__": fields}
            return type(name, (_NamedTuple,), {**body, "_fields": fields, "_field_defaults": defaults})

    class NamedTuple(metaclass=_Named):
        """As `typing.NamedTuple`, in a tenth of the time: of the annotations only the names are read."""


#: What bytes come in.
Buffer = bytes | bytearray | memoryview
