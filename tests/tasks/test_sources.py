"""The digest of a local module holds what its text says to Python."""

from __future__ import annotations

import pytest

from distmap.tasks.extras import Source
from distmap.tasks.payload import digest_of
from distmap.tasks.sources import digest_of_source, normal


@pytest.mark.parametrize(
    "other",
    [
        "# a comment\nx = 1\n\n\ndef f(a):\n    return a  # it",
        '"""What it is for."""\nx = 1\ndef f(a):\n    """Give it."""\n    return a',
        "x = (\n    1\n)\ndef f(a): return (a)",
    ],
)
def test_comments_docstrings_and_layout_do_not_matter(other: str) -> None:
    """Texts that differ in nothing else are equal."""
    assert normal("x = 1\ndef f(a):\n    return a") == normal(other)


@pytest.mark.parametrize("other", ["x = 2\ndef f(a): return a", "x = 1\ndef f(a): return -a", "x = 1", "x ="])
def test_all_else_matters(other: str) -> None:
    """Another value, another body, something that is gone, a text that is no Python."""
    assert normal("x = 1\ndef f(a): return a") != normal(other)


def test_a_body_of_a_docstring_alone_is_read() -> None:
    """A function whose body is its docstring has an empty one then."""
    assert normal('def f():\n    """Later."""') == normal('def f():\n    "Some day."')


def test_the_place_of_a_module_does_not_matter() -> None:
    """The same text in another folder has the same digest."""
    sources = [Source(False, path, "x = 1", digest_of(path.encode()), ()) for path in ("/one/a.py", "/other/b.py")]
    assert len({digest_of_source(source) for source in sources}) == 1
