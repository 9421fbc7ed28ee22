"""The examples of the page about libraries that take a pool: each runs on this machine and on a worker elsewhere."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distmap import Pool
from distmap.testing.workers import WorkerProcess

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "libraries.md"
#: A block of code, and what it prints.
EXAMPLE = re.compile(r"^```py\n((?:(?!```).*\n)*)```\n\n```text\n((?:(?!```).*\n)*)```\n", re.MULTILINE)
EXAMPLES = EXAMPLE.findall(PAGE.read_text(encoding="utf-8"))

pytestmark = [
    # Libraries keep threads and files of their own.
    pytest.mark.own_leaks,
    pytest.mark.timeout(60),
    pytest.mark.filterwarnings("default"),
]


def packages_of(code: str) -> list[str]:
    """The packages that it imports."""
    found = [node for node in ast.walk(ast.parse(code)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = [node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name for node in found]
    return [name.partition(".")[0] for name in names]


def library_of(code: str) -> str:
    """What it is about."""
    return next(name for name in packages_of(code) if name not in ("numpy", "tempfile"))


@pytest.fixture(scope="module", params=["local", "remote"])
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    with contextlib.ExitStack() as stack:
        where: Any = 2  # with one, joblib would run its tasks itself
        if request.param == "remote":
            where = stack.enter_context(WorkerProcess("--port", "0", "--slots", "2")).url
        yield stack.enter_context(Pool(where, progress=False))


@pytest.mark.parametrize("example", EXAMPLES, ids=[library_of(code) for code, _ in EXAMPLES])
def test_an_example_of_the_page_runs(
    pool: Pool, example: tuple[str, str], needs: Callable[[bool, str], None], monkeypatch: Any, tmp_path: Path
) -> None:
    """It prints what the page says; what it needs is in the extra `test`."""
    code, expected = example
    for package in packages_of(code):
        needs(importlib.util.find_spec(package) is not None, package)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, PAGE.name, "exec", dont_inherit=True), {"__name__": "__main__", "pool": pool})
    assert printed.getvalue() == expected


def test_the_page_names_what_it_promises() -> None:
    """Each library has its example."""
    named = {package for code, _ in EXAMPLES for package in packages_of(code)}
    assert named >= {"emcee", "dynesty", "scipy", "sklearn", "optuna", "xarray", "zarr"}
    assert len(EXAMPLES) == 9
