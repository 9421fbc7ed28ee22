"""Of local modules counts what a function reaches, as Python reads it, and whatever may have an effect by itself."""

from __future__ import annotations

import pytest

from distmap.tasks.extras import Source
from distmap.tasks.payload import digest_of
from distmap.tasks.sources import EVERYTHING, digests_of

Texts = dict[str, str]


def digests(texts: Texts, *names: str | None, module: str = "m", folder: str = "/a") -> dict[str, bytes]:
    """The digests of modules, if these names are used of one of them. One with others in it is a package."""
    sources = {
        name: Source(any(other.startswith(f"{name}.") for other in texts), f"{folder}/{name}.py", text,
                     digest_of(f"{folder}{text}".encode()), ())
        for name, text in texts.items()
    }  # fmt: skip
    used = None if EVERYTHING in names else {name for name in names if name is not None}
    return digests_of(sources, {module: used})


@pytest.mark.parametrize(
    "other",
    [
        "# a comment\nx = 1\n\n\ndef f(a):\n    return a  # it",
        '"""What it is for."""\nx = 1\ndef f(a):\n    """Give it."""\n    return a',
        "x = (\n    1\n)\ndef f(a): return (a)",
    ],
)
def test_comments_docstrings_and_layout_do_not_matter(other: str) -> None:
    """Texts that differ in nothing else are equal, in whatever folder they lie."""
    one = digests({"m": "x = 1\ndef f(a):\n    return a"}, EVERYTHING)
    assert one == digests({"m": other}, EVERYTHING, folder="/b")


#: A module with a gap (?), of which f is used: what stands in the gap matters.
COUNTS = [
    "def f(): return ?",
    "def f(): return g()\ndef g(): return ?",
    "k = ?\ndef f(): return k",
    "k = {}\nk['a'] = ?\ndef f(): return k",
    "a, b = 1, ?\ndef f(): return a",
    "k = j = ?\ndef f(x=k): return x",
    "def f(): return C()\nclass C:\n    x = ?",
    "def f(): return C()\nclass C:\n    @property\n    def x(self): return ?",
    "class B:\n    x = ?\nclass C(B): pass\ndef f(): return C",
    "import os\nos.environ.update(a='?')\ndef f(): return 1",
    "def register(fn): return fn\n@register\ndef g(): return ?\ndef f(): return 1",
    "class Base: pass\nclass Kind(Base):\n    x = ?\ndef f(): return Base.__subclasses__()",
    "class Kind:\n    def g(self): return ?\nKind.h = Kind.g\ndef f(): return 1",
    "class Kind:\n    @classmethod\n    def g(cls, x=print(?)): return x\ndef f(): return 1",
    "if True:\n    k = ?\ndef f(): return 1",
    "try:\n    import fast\nexcept ImportError:\n    fast = ?\ndef f(): return fast",
    "k = int('?')\ndef f(): return 1",
    "def g(): return ?\ndef f(name): return globals()[name]()",
    "import sys\ndef g(): return ?\ndef f(name): return getattr(sys.modules[__name__], name)()",
    "def __getattr__(name): return ?\ndef f(): return 1",
    "total = 0\ndef g():\n    global total\n    total += ?\ndef f():\n    g()\n    return total",
    "def f(): return 1\ndef f(): return ?",
    "for x in [?]: pass\ndef f(): return 1",
    "def g(x=print(?)): return x\ndef f(): return 1",
    "def f(): return eval('g()')\ndef g(): return ?",
    "broken = = ?",
]


@pytest.mark.parametrize("text", COUNTS)
def test_what_is_reached_or_has_an_effect_counts(text: str) -> None:
    """Used definitions and what they mention, and all that runs when the module is imported."""
    assert digests({"m": text.replace("?", "1")}, "f") != digests({"m": text.replace("?", "2")}, "f")


@pytest.mark.parametrize(
    "text",
    [
        "def f(): return 1\ndef g(): return ?",
        "def f(): return 1\nk = ?",
        "def f(): return 1\nk: int = [?, {'a': ?}]",
        "def f(): return 1\nclass C:\n    k = ?\n    @staticmethod\n    def m(): return ?",
        "def f(): return 1\nclass Wrong(ValueError):\n    k = ?",
        "def f(): return 1\nasync def g(): return f(?)",
        "def f(): return 1\nif __name__ == '__main__':\n    print(?)",
        "from typing import TYPE_CHECKING\ndef f(): return 1\nif TYPE_CHECKING:\n    k = ?",
    ],
)
def test_what_is_not_reached_does_not_count(text: str) -> None:
    """A definition that nothing used mentions, a part for type checkers or scripts. It counts if all is used."""
    one, other = ({"m": text.replace("?", number)} for number in "12")
    assert digests(one, "f") == digests(other, "f")
    if "if " not in text:
        assert digests(one, EVERYTHING) != digests(other, EVERYTHING)
        assert digests(one, "f", "unknown") != digests(other, "f", "unknown")  # it may come from anywhere


#: Two modules; "used" and "unused" of the second one.
OTHER = "def used(): return ?\ndef unused(): return !"


@pytest.mark.parametrize(
    "text",
    [
        "import other\ndef f(): return other.used()",
        "import other as o\ndef f(): return o.used()",
        "from other import used\ndef f(): return used()",
        "from other import used as u, unused\ndef f(): return u()",
        "from other import *\ndef f(): return used()",
        "def f():\n    from other import used\n    return used()",
        "import other\ndef f(): return g()\ndef g(): return other.used",
    ],
)
def test_what_is_used_of_another_module_counts(text: str) -> None:
    """However it is imported; the rest of that module does not."""
    texts = {"m": text, "other": OTHER.replace("?", "1").replace("!", "1")}
    used = {"m": text, "other": OTHER.replace("?", "2").replace("!", "1")}
    unused = {"m": text, "other": OTHER.replace("?", "1").replace("!", "2")}
    one = digests(texts, "f")
    assert one["other"] != digests(used, "f")["other"]
    assert one["m"] == digests(used, "f")["m"]
    assert one == digests(unused, "f")


@pytest.mark.parametrize(
    "text",
    [
        "import other\ndef f(): return g(other)",
        "import other\ndef f(): return getattr(other, 'unused')()",
        "def f():\n    import other\n    return other.unused()",
        "import importlib\ndef f(): return importlib.import_module('other')",
        "try:\n    from other import *\nexcept ImportError: pass\ndef f(): return unused()",
    ],
)
def test_a_module_of_which_anything_may_be_used_counts_whole(text: str) -> None:
    """It is passed on, or looked into by a name that is not in the text."""
    one, another = ({"m": text, "other": OTHER.replace("!", number)} for number in "12")
    assert digests(one, "f")["other"] != digests(another, "f")["other"]


def test_effects_of_what_is_imported_count_though_no_name_of_it_is_used() -> None:
    """A module that is imported for what it does."""
    texts = {"m": "import plugin\ndef f(): return 1", "plugin": "print(1)"}
    assert digests(texts, "f") != digests(texts | {"plugin": "print(2)"}, "f")
    assert "plugin" not in digests(texts | {"m": "def f(): return 1"}, "f")


@pytest.mark.parametrize(
    "text",
    [
        "import p.inner\ndef f(): return p.inner.g()",
        "import p.inner as i\ndef f(): return i.g()",
        "from p import inner\ndef f(): return inner.g()",
        "from p.inner import g\ndef f(): return g()",
        "from p import g\ndef f(): return g()",
    ],
)
def test_modules_of_packages_are_followed(text: str) -> None:
    """With what the package itself does, and relative imports in it."""
    texts = {"m": text, "p": "from .inner import g\nprint(1)", "p.inner": "from . import deep\ndef g(): return deep.k",
             "p.deep": "k = 1"}  # fmt: skip
    one = digests(texts, "f")
    assert set(one) == {"m", "p", "p.inner", "p.deep"}
    for name, other in (("p", "from .inner import g\nprint(2)"), ("p.deep", "k = 2")):
        assert {key for key, digest in digests(texts | {name: other}, "f").items() if digest != one[key]} == {name}


def test_circles_end() -> None:
    """Modules that import each other, and all names of each other."""
    texts = {"m": "from n import *\ndef f(): return g()", "n": "from m import *\nimport m\ndef g(): return m.f"}
    assert set(digests(texts, "f", "nobody")) == {"m", "n"}
