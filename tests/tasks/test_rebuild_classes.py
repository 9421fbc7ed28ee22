"""Classes that travel by value are made as they were."""

from __future__ import annotations

import pytest

from distmap.tasks.rebuild_classes import make_class


def test_classes_are_made_empty_whatever_their_bases_want() -> None:
    """A base that wants a keyword, or looks at what is not there yet, is not asked; a wrong one is an error."""

    class Base:
        def __init_subclass__(cls, *, key: str) -> None:
            cls.key = key

    made = make_class(type, "Made", (Base,), {})
    assert issubclass(made, Base)
    with pytest.raises(TypeError, match="key"):
        type("Other", (Base,), {})  # it asks again
    with pytest.raises(TypeError, match="not an acceptable base type"):
        make_class(type, "Made", (bool,), {})
