"""Tests of distmap.tasks.extras: which data files and versions go to workers elsewhere, and within which bounds."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from pathlib import Path

import pytest

from distmap.core.limits import LIMITS
from distmap.tasks import extras
from distmap.tasks.extras import Extras, Lack, Source, differences, distributions, gather, lacking, survey


def package(folder: Path, *files: str) -> dict[str, Source]:
    for name in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return {"pkg": Source(True, str(folder / "pkg/__init__.py"), "", b"", (str(folder / "pkg"),))}


def test_data_files_are_all_that_is_no_code(tmp_path: Path) -> None:
    """Not modules, what Python makes of them, hidden files, metadata, nor folders behind a link."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/x.txt").write_text("x")
    sources = package(
        tmp_path,
        *("pkg/__init__.py", "pkg/a.txt", "pkg/deep/b.json", "pkg/deep/mod.py", "pkg/__pycache__/m.pyc", "pkg/.git/x"),
        *("pkg/.hidden", "pkg/pkg.egg-info/PKG-INFO", "pkg/node_modules/x.js", "pkg/lib.so"),
    )
    os.symlink(tmp_path / "elsewhere", tmp_path / "pkg/link", target_is_directory=True)
    os.symlink(tmp_path / "nowhere", tmp_path / "pkg/broken")
    found = survey(sources)
    assert sorted(found.files["pkg"]) == ["pkg/a.txt", "pkg/deep/b.json", "pkg/lib.so"]
    assert found.bases == {"pkg": (str(tmp_path),)}
    unit = gather(sources, found).units["pkg"]
    assert dict(unit.files) == {name: name.encode() for name in found.files["pkg"]}
    assert unit.left_out == {}
    assert unit.modules == ("pkg",)


def test_stamps_tell_of_every_change(tmp_path: Path) -> None:
    """A file that is edited, comes or goes changes them, and the digest; nothing else does."""
    sources = package(tmp_path, "pkg/a.txt")
    before = survey(sources)
    digest = gather(sources, before).units["pkg"].digest
    assert survey(sources) == before
    (tmp_path / "pkg/b.txt").write_text("new")
    assert survey(sources).stamps != before.stamps
    assert gather(sources, survey(sources)).units["pkg"].digest != digest
    (tmp_path / "pkg/b.txt").unlink()
    assert gather(sources, survey(sources)).units["pkg"].digest == digest


def test_the_smallest_files_go_first(tmp_path: Path) -> None:
    """What is beyond the bytes, or the number of files, of a call is left out, and noted with its size."""
    sources = package(tmp_path, "pkg/a", "pkg/bbbbbbbbbb", "pkg/ccc")
    unit = gather(sources, survey(sources), LIMITS._replace(data_bytes=13)).units["pkg"]
    assert [name for name, _ in unit.files] == ["pkg/a", "pkg/ccc"]
    assert unit.left_out == {"pkg/bbbbbbbbbb": 14}
    assert len(survey(sources, LIMITS._replace(data_files=2)).files["pkg"]) == 2


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A folder that is gone, or a file that went meanwhile, is no error here."""
    sources = package(tmp_path, "pkg/a")
    found = survey(sources)
    (tmp_path / "pkg/a").unlink()
    assert gather(sources, found).units["pkg"].files == ()
    (tmp_path / "pkg").rmdir()
    assert survey(sources).files == {"pkg": {}}


def test_versions_of_distributions() -> None:
    """Modules are looked up by what they are called and by who installed them; the standard library has none."""
    numpy = pytest.importorskip("numpy")

    assert distributions(["numpy", "json", "sys", "no_such_module"]) == {"numpy": ("numpy", numpy.__version__)}
    pytest.importorskip("sklearn")
    assert distributions(["sklearn"])["sklearn"][0] == "scikit-learn"


def test_modules_are_known_by_the_files_of_their_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no list of modules lies, the list of files tells; a folder that says nothing of itself hides no other."""
    monkeypatch.syspath_prepend(str(tmp_path))
    files = (
        "many/__init__.py,,",
        "many/data.txt,,",
        "single.py,,",
        "fast.cpython-311-x86_64-linux-gnu.so,,",
        "../bin/x.py,,",
    )
    for name, record in {"dist_many-1.0": files, "aaa-2.0": files, "zzz-3.0": ("text/readme.txt,,",)}.items():
        info = tmp_path / f"{name}.dist-info"
        info.mkdir()
        (info / "RECORD").write_text("\n".join(record))
    (tmp_path / "dist_many-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: dist-many\nVersion: 1.0\n")
    known = "dist-many", "1.0"
    assert distributions(["many", "single", "fast", "text", "x"]) == {"many": known, "single": known, "fast": known}


def test_modules_are_known_as_the_standard_library_knows_them() -> None:
    """Every module that is installed here belongs to the distributions that importlib.metadata names for it."""
    ours: dict[str, set[str]] = {}
    for folder in sys.path:
        for top, those in extras._read_folder(folder).items():
            ours.setdefault(top, set()).update(distribution.name for distribution in those)
    theirs = {
        top: set(names)
        for top, names in metadata.packages_distributions().items()
        if top.isidentifier() and top != "__pycache__"
    }
    assert {top: ours.get(top) for top in theirs} == theirs


def test_only_other_versions_are_told() -> None:
    """What is the same, and what is not there at all, is nobody's news."""
    numpy = pytest.importorskip("numpy")

    assert "numpy" in sys.modules
    here = numpy.__version__
    wanted = {"numpy": here, "no-such-package": "1", "unknown": "2", "other-name": "3"}
    modules = {"no-such-package": "no_such_module", "other-name": "numpy"}
    lacks = lacking(Extras({}, wanted, modules))
    assert lacks == [Lack("no-such-package", "1", None)]  # what can be imported is taken for the right version
    assert differences(lacks) == []
    (lack,) = lacking(Extras({}, {"numpy": "0.1"}))
    assert differences([lack]) == [f"numpy is 0.1 here and {here} on"]


@pytest.mark.parametrize(
    ("wanted", "there", "serious"),
    [("1.9.0", None, True), ("1.9.0", "1.9.3", False), ("1.9.0", "1.10.0", True), ("2.1.0+cu118", "2.1.0+cpu", False)],
)
def test_how_much_another_version_matters(wanted: str, there: str | None, serious: bool) -> None:
    """A package that is missing matters, and one that differs before the second dot."""
    assert Lack("some", wanted, there).serious is serious


def test_what_is_installed_meanwhile_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions are looked up anew when the path or a folder on it has changed."""
    monkeypatch.syspath_prepend(str(tmp_path))
    assert distributions(["later"]) == {}
    info = tmp_path / "dist_later-3.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: dist-later\nVersion: 3.0\n")
    (info / "top_level.txt").write_text("later")
    assert distributions(["later"]) == {"later": ("dist-later", "3.0")}
