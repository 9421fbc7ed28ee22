"""The wheel of this distmap."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path

from distmap._version import __version__
from distmap.launch.wheel import make_wheel, requirements


def test_it_is_a_wheel_of_this_version(tmp_path: Path) -> None:
    """What is unpacked can be imported, has its version, and its record names every file; it is the same each time."""
    name, content = make_wheel()
    assert name == f"distmap-{__version__}-py3-none-any.whl"
    assert make_wheel() == (name, content)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        archive.extractall(tmp_path)
        files = set(archive.namelist())
    record = (tmp_path / f"distmap-{__version__}.dist-info" / "RECORD").read_text()
    assert {line.split(",")[0] for line in record.splitlines()} == files
    assert not [file for file in files if "__pycache__" in file]
    code = "import importlib.metadata as m, distmap; print(distmap.__file__, m.version('distmap'))"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(tmp_path / "distmap" / "__init__.py"), __version__]


def test_what_it_needs() -> None:
    """Its requirements are those of distmap itself, without extras."""
    names = {one.partition(">")[0] for one in requirements()}
    assert names == {"cloudpickle", "cryptography", "psutil", "tqdm", "websockets"}
