"""IPython's own autoreload in a real kernel: an edited module is what the workers run, without a word from the user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from support.notebooks import write_book

pytestmark = pytest.mark.timeout(90)

HELPERS = """
import constants

def scale(x):
    return constants.SCALE * x {more}

class Model:
    k = {k}

    def run(self, x):
        return self.k + x {more}
"""

SET_UP = """
%load_ext autoreload
%autoreload 2
import constants, distmap, helpers
from helpers import Model, scale

def by_cell(x):
    return helpers.scale(x) + 1

def all_of_it():
    functions = helpers.scale, scale, by_cell, Model().run
    mapped = [pool.map(fn, [3], progress=False)[0] for fn in functions]
    return mapped, [pool.submit(fn, 3).result(20) for fn in functions]

pool = distmap.Pool(2)
"""


def edit(name: str, text: str) -> str:
    """A cell that writes a module, as an editor does."""
    return f"with open({name + '.py'!r}, 'w') as file:\n    _ = file.write({text!r})"


#: Cells, and what each prints. autoreload looks at the files before a cell runs.
CELLS = [
    (edit("constants", "SCALE = 2"), ""),
    (edit("helpers", HELPERS.format(more="", k=1)), ""),
    (SET_UP, ""),
    ("print(all_of_it())", "([6, 6, 7, 4], [6, 6, 7, 4])"),
    (edit("helpers", HELPERS.format(more="+ 100", k=10)), ""),
    ("print(all_of_it())", "([106, 106, 107, 113], [106, 106, 107, 113])"),
    # In IPython 9 this changes one name of the module, and nothing else.
    (edit("constants", "SCALE = 50"), ""),
    ("print(all_of_it())", "([250, 250, 251, 113], [250, 250, 251, 113])"),
    (edit("helpers", HELPERS.format(more="+ 100", k=1000)), ""),
    ("print(all_of_it())", "([250, 250, 251, 1103], [250, 250, 251, 1103])"),
    ("pool.terminate()", ""),
]


def execute(folder: Path, sources: list[str]) -> list[Any]:
    """Run the cells in a kernel of their own that works in the folder; gives them with their outputs."""
    path = folder / "book.ipynb"
    write_book(path, sources)
    command = [sys.executable, "-m", "jupyter", "execute", "--inplace", "--kernel_name=python3", str(path)]
    settings = {name: str(folder / f".{name}") for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=80, env={**os.environ, **settings})
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(path.read_text(encoding="utf-8"))["cells"]  # type: ignore[no-any-return]


def printed(cell: Any) -> str:
    outputs = [output for output in cell["outputs"] if output.get("name") == "stdout"]
    return "".join(line for output in outputs for line in output["text"]).strip()


def test_an_edited_module_runs_in_its_new_form(needs: Callable[[bool, str], None], tmp_path: Path) -> None:
    """`%autoreload 2` is enough: map and submit, functions, classes and what they import are those of the last save."""
    needs(find_spec("nbclient") is not None, "nbclient")
    cells = execute(tmp_path, [source for source, _ in CELLS])
    assert [printed(cell) for cell in cells] == [wanted for _, wanted in CELLS]
