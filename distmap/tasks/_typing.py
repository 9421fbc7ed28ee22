"""What task processes use in place of `typing`, whose import would be a quarter of their start.

Owns stand-ins for the few names that matter when code runs; type checkers see the real ones. Only modules that task
processes import need them; `Buffer` is for all. Task processes also import `_pickle` and `_signal`, because `pickle`
imports `re` and `signal` imports `enum`.
"""

from __future__ import annotations

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any as Any
    from typing import Literal as Literal
    from typing import NamedTuple as NamedTuple
    from typing import cast as cast
else:
    from collections import namedtuple

    Any = object

    def cast(kind, value):
        """The value."""
        return value

    class Literal:
        """`Literal[...]` is for type checkers."""

        def __class_getitem__(cls, values):
            return cls

    class _Named(type):
        def __new__(cls, name, bases, body):
            if not bases:
                return super().__new__(cls, name, bases, body)
            fields = body.pop("__annotations__", ())
            defaults = [body.pop(field) for field in fields if field in body]
            made = namedtuple(name, fields, defaults=defaults, module=body.pop("__module__"))
            for key, value in body.items():
                setattr(made, key, value)
            return made

    class NamedTuple(metaclass=_Named):
        """As `typing.NamedTuple`, in half the time: the annotations are only read for the names."""


#: What bytes come in.
Buffer = bytes | bytearray | memoryview
