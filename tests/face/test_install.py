"""`pool.install`: real pip, real wheels without an index, in environments that are thrown away."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import textwrap
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import distmap
from distmap.testing.workers import WorkerProcess

#: Environments, a worker and pip's processes live longer than a test, and take their time.
pytestmark = [pytest.mark.own_leaks, pytest.mark.timeout(90)]

ROOT = Path(__file__).resolve().parents[2]


def wheel(folder: Path, version: str, name: str = "crate") -> Path:
    """A wheel of one module."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", f"V = {version!r}\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return path


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The interpreter of an environment of its own, which sees what is installed here (pip too)."""
    folder = tmp_path_factory.mktemp("env")
    venv.create(folder, with_pip=False, symlinks=os.name == "posix")
    site = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    beside = [str(ROOT), *(path for path in sys.path if path.endswith("site-packages"))]
    (Path(site) / "beside.pth").write_text("\n".join(beside) + "\n")
    return str(folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two versions of a package."""
    folder = tmp_path_factory.mktemp("wheels")
    for version in ("1.0", "2.0"):
        wheel(folder, version)
    return folder


@pytest.fixture(scope="module")
def pool(python: str) -> Iterator[distmap.Pool]:
    """Two workers that share the environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", python)
        names = ("ann", "bob")
        workers = [WorkerProcess("--port", "0", "--slots", "2", "--name", name, "--tag", name) for name in names]
        patch.undo()
        with workers[0] as ann, workers[1] as bob, distmap.Pool([ann.url, bob.url]) as made:
            made.wait_for_workers(2, 30)
            yield made


def version(x: int) -> str:
    try:
        import crate  # type: ignore[import-not-found]
    except ImportError:
        return "none"
    return str(crate.V)


def versions(pool: distmap.Pool) -> set[str]:
    return set(pool.map(version, range(40), chunksize=1))


def test_the_next_call_finds_what_was_installed(pool: distmap.Pool, wheels: Path, capfd: Any) -> None:
    """Both where an import had failed before, and where an older version had been imported; lines and lanes show it."""
    index = ["--no-index", "--find-links", str(wheels)]
    assert versions(pool) == {"none"}
    seen: list[distmap.Snapshot] = []
    done = pool.install("crate==1.0", *index, progress=seen.append)
    assert sorted(done.values()) == ["had all of it", "installed crate-1.0"]
    assert set(done) == {"ann", "bob"}
    assert repr(done).count("\n") == 1
    assert {lane.name for lane in seen[-1].lanes} == {"ann", "bob"}
    assert (seen[-1].name[:17], seen[-1].state) == ("pip install crate", "done")
    printed = capfd.readouterr().out
    assert "] Processing" in printed
    assert "[ann] Successfully installed crate-1.0" in printed or "[bob] Successfully installed crate-1.0" in printed
    assert versions(pool) == {"1.0"}
    assert dict(pool.install("crate==2.0", *index, tags={"bob"})) == {"bob": "installed crate-2.0"}
    assert versions(pool) == {"2.0"}, "ann has the same environment"


def test_what_pip_says_of_a_failure(pool: distmap.Pool, wheels: Path) -> None:
    """The error names each worker, with pip's last lines; no password of an address is in it, and the pool goes on."""
    with pytest.raises(distmap.InstallError) as caught:
        pool.install("no-such-thing==3", "--no-index", "--index-url", "http://ann:secret@127.0.0.1:9/")
    text = str(caught.value)
    assert text.startswith("pip install no-such-thing==3 --no-index --index-url http://****@127.0.0.1:9/ failed on ")
    assert text.count("No matching distribution found for no-such-thing==3") == 2
    assert "ann:\n" in text
    assert "bob:\n" in text
    assert "secret" not in text
    assert pool.map(abs, [-1]) == [1]


def test_slots_of_this_machine(python: str, wheels: Path, tmp_path: Path) -> None:
    """They install for this interpreter, once, and this process finds the package too."""
    wheel(tmp_path, "5.0", "bundle")
    script = f"""
        import distmap

        def version(x):
            import bundle
            return bundle.V

        if __name__ == "__main__":
            with distmap.Pool(2) as pool:
                print(pool.map(version, [1], on_error="return")[0].__class__.__name__)
                print(dict(pool.install("bundle", "--no-index", "--find-links", {str(tmp_path)!r})))
                print(set(pool.map(version, range(20), chunksize=1)), version(0))
    """
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(script))
    done = subprocess.run([python, str(path)], capture_output=True, text=True, timeout=80)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if not line.startswith("[")]
    assert lines == ["ModuleNotFoundError", "{'local': 'installed bundle-5.0'}", "{'5.0'} 5.0"]
