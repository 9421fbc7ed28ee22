"""Exceptions are taken apart and built without their constructors."""

from __future__ import annotations

from distmap.tasks import rebuild_errors as rebuild


def build(reduced: object) -> object:
    """As an unpickler does."""
    make, args, *rest = reduced  # type: ignore[misc]
    made = make(*args)
    if len(rest) == 4:
        rest[3](made, rest[0])
    return made


class Picky(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__("picky")
        self.code = code


def test_an_exception_is_built_without_its_constructor() -> None:
    """What it has comes along; its `__init__` is not called."""
    back = build(rebuild.reduce_error(Picky(code=3), set()))
    assert isinstance(back, Picky)
    assert (back.args, back.code) == (("picky",), 3)


def test_links_are_told_once() -> None:
    """Whoever comes first in a pickle takes care of the links of all; the others say nothing of theirs."""
    first, second = ValueError(1), KeyError(2)
    first.__cause__, second.__context__ = second, first
    linked: set[int] = set()
    links = rebuild.reduce_error(first, linked)[2][3]
    assert [one for one, *_ in links] == [first, second]
    assert rebuild.reduce_error(second, linked)[2][3] == []


def test_what_is_left_behind_looks_like_it() -> None:
    """A part that does not travel is replaced, with a note, and never by another exception."""
    inner = KeyError("inner")
    error = ValueError("text", 5, inner)
    error.add_note("first")
    back = build(rebuild.reduce_error(error, set(), lambda part: not isinstance(part, int)))
    assert isinstance(back, ValueError)
    assert (back.args[0], repr(back.args[1]), str(back.args[1]), back.args[2]) == ("text", "5", "5", inner)
    assert back.__notes__ == ["first", "does not pickle and was left behind: argument 1 (5)"]

    class Mute:
        def __str__(self) -> str:
            raise SystemExit

    assert "Mute" in str(rebuild.Placeholder(Mute()))
