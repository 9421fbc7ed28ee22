"""What travels of local modules, and when it is read anew."""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from support.modules import write

from distmap.tasks.bundling import bundle, imported, pack, pack_versions
from distmap.tasks.modules import packed_here


def test_a_bundle_holds_everything_that_is_imported(folder: Path) -> None:
    """A module's packages, what it imports (also what is not imported yet) and nothing installed is in its bundle."""
    pytest.importorskip("numpy")
    write(
        folder,
        lab_init="from .core import work",
        lab__core="from . import consts\nimport numpy, json\nimport beside\ndef work():\n    import not_there\n",
        lab__consts="",
        lab__unused="",
        beside="def f():\n    import later\n",
        later="import lab.late",
        lab__late="",
    )
    importlib.import_module("lab.core")
    found = bundle(["lab.core"])
    assert sorted(found) == ["beside", "lab", "lab.consts", "lab.core", "lab.late", "later"]
    assert found["lab"].package
    assert found["lab"].path == (str(folder / "lab"),)
    assert not found["later"].package
    assert found["beside"].filename == str(folder / "beside.py")
    assert imported(["lab.core"]) is None
    assert bundle(["numpy", "json", "nowhere"]) == {}


def test_a_module_with_a_loader_of_its_own_is_in_its_bundle() -> None:
    """Test modules, which pytest loads, travel to workers elsewhere like any other, with what they import."""
    found = bundle([__name__])
    assert found[__name__].text == Path(__file__).read_text(encoding="utf-8")


def test_content_is_that_of_the_last_import(folder: Path) -> None:
    """Editing the file changes nothing until it is imported again; then it does, and the bundle's digest too."""
    write(folder, edited="K = 1")
    module = importlib.import_module("edited")
    digest, packed, _ = pack(frozenset({"edited"}))
    assert digest in packed_here
    assert pickle.loads(packed)["edited"].text == "K = 1"
    write(folder, edited="K = 2222")
    assert pack(frozenset({"edited"}))[:2] == (digest, packed)
    importlib.reload(module)
    changed, packed, _ = pack(frozenset({"edited"}))
    assert changed != digest
    assert pickle.loads(packed)["edited"].text == "K = 2222"
    importlib.reload(module)
    assert pack(frozenset({"edited"}))[0] == changed
    checks = imported(["edited"])
    assert checks is not None
    assert all(mapping.get(key) is value for mapping, key, value in checks)
    importlib.reload(module)
    assert not all(mapping.get(key) is value for mapping, key, value in checks)


def test_a_module_that_is_not_imported_is_read_anew(folder: Path) -> None:
    """What only tasks import is taken from the disk as it is now."""
    write(folder, user="def f():\n    import lazy\n", lazy="K = 1")
    importlib.import_module("user")
    assert bundle(["user"])["lazy"].text == "K = 1"
    write(folder, lazy="K = 22")
    assert bundle(["user"])["lazy"].text == "K = 22"


LOCAL = """
import importlib, sys
from pathlib import Path
sys.path.insert(0, "")
from support.far import Far

def write(name, text):
    path = Path(name)
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    importlib.invalidate_caches()

write("helpers.py", "BASE = 10\\nfrom lab import scale\\nclass Thing:\\n    def __init__(self, v): self.v = v\\n"
      "def f(x):\\n    import lazy\\n    return BASE + scale(x) + lazy.ONE\\ng = lambda x: x + BASE\\n")
write("lab/__init__.py", "from .core import scale\\n")
write("lab/core.py", "from . import consts\\ndef scale(x):\\n    return x * consts.K\\n"
      "def fails(x):\\n    raise KeyError(x)\\n")
write("lab/consts.py", "K = 2\\n")
write("lazy.py", "ONE = 1\\n")
import helpers
import lab.core
told = []
def check(name, true):
    if not true:
        told.append(name)

with Far() as far:
    check("by reference", far.map(helpers.f, [1, 2]) == [13, 15])
    check("called by a lambda", far.map(lambda x: helpers.f(x) + 1, [1]) == [14])
    check("a module's lambda", far.map(helpers.g, [1]) == [11])
    check("instances come back", [type(t) for t in far.map(helpers.Thing, [1])] == [helpers.Thing])
    check("instances go in", far.map(lambda t: t.v, [helpers.Thing(4)]) == [4])
    def within(x):
        from lab import consts
        import lazy
        return consts.K + lazy.ONE
    check("imported inside the function", far.map(within, [1]) == [3])
    write("helpers.py", Path("helpers.py").read_text().replace("BASE = 10", "BASE = 500"))
    check("edited only", far.map(helpers.f, [1]) == [13])
    helpers.f.__code__ = (lambda x: "patched").__code__
    check("edited, and code put in place as autoreload does", far.map(helpers.f, [1]) == [503])
    importlib.reload(helpers)
    check("edited and imported again", far.map(helpers.f, [1]) == [503])
    check("through a lambda", far.map(lambda x: helpers.g(x), [1]) == [501])
    check("the new class", [type(t) for t in far.map(helpers.Thing, [1])] == [helpers.Thing])
    write("lab/consts.py", "K = 7\\n")
    importlib.reload(lab.consts)
    check("a submodule that another imports", far.map(lab.core.scale, [1]) == [7])
    del sys.modules["helpers"]
    write("helpers.py", "def f(x): return 'new'\\n")
    import helpers
    check("forgotten and imported", far.map(helpers.f, [1]) == ["new"])
    write("lazy.py", "ONE = 111\\n")
    check("never imported here", far.map(lambda x: __import__("lazy").ONE + within(x), [1]) == [229])
    try:
        far.map(lab.core.fails, [1])
    except KeyError as exc:
        check("source lines in the remote traceback", "raise KeyError(x)" in str(exc.__cause__))
print("failed:", told)
"""


def test_local_modules_follow_their_edits(script: Callable[..., str]) -> None:
    """Functions and classes of local modules work in an interpreter that has no such files, as last imported here."""
    assert script(LOCAL) == "failed: []"


def test_modules_that_fail_to_import_there_are_named(script: Callable[..., str]) -> None:
    """A module that raises on the far side makes one clear failure for the whole task."""
    told = script(
        """
        import sys
        from pathlib import Path
        sys.path.insert(0, "")
        from support.far import Far
        Path("picky.py").write_text("import sys\\nif not hasattr(sys, 'here'):\\n    raise OSError('only here')\\n"
                                    "def f(x): return x\\n")
        sys.here = True
        import picky
        with Far() as far:
            failure, lacks = far.outcomes(picky.f, [1, 2, 3])
        print(failure.type, failure.message)
        """
    )
    assert told == "OSError only here"


def test_nothing_local_is_no_bundle() -> None:
    """A function that imports installed modules only sends none."""
    assert pack(frozenset({"numpy", "json.decoder", "no_such_module"})) is None


def test_versions_have_one_digest_however_they_were_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal names that are not the same text in memory make no other code of an unchanged function."""
    pytest.importorskip("numpy")
    monkeypatch.setattr("distmap.tasks.extras.remote_workers.expected", True)
    digests = set()
    for names in (["numpy"], ["num" + "".join(["p", "y"])], ["numpy.linalg"], ["numpy"]):
        packed = pack_versions(names)
        assert packed is not None
        digests.add(packed[0])
    assert len(digests) == 1
