"""The site keeps its word: its examples run, and the names, files and numbers in it are those of the code."""

from __future__ import annotations

import argparse
import ast
import concurrent.futures
import contextlib
import doctest
import importlib
import inspect
import io
import multiprocessing
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import distmap
from distmap.calls.options import MapOptions
from distmap.core.launch_limits import LAUNCH
from distmap.core.limits import LIMITS
from distmap.core.relay_limits import RELAY
from distmap.core.ssh_limits import SSH_LIMITS
from distmap.relay.cli import build_parser as build_relay_parser
from distmap.worker.cli import build_parser

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
#: What is installed: CI runs these tests against a wheel, too.
PACKAGE = Path(distmap.__file__).parent
PAGES = sorted(DOCS.rglob("*.md"))
#: A block of code, and the text block behind it, if there is one: what the code prints.
BLOCK = re.compile(r"^```(python|py)\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)


def blocks(page: Path) -> list[tuple[str, str, str]]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def without_blocks(text: str) -> str:
    """The text without its blocks of code."""
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def name(page: Path) -> str:
    return page.relative_to(DOCS).as_posix()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=name)
def test_the_examples_of_a_page_run(page: Path) -> None:
    """Blocks marked `python` run in order and print what the page says; `py` ones, which need more, compile."""
    space: dict[str, Any] = {"__name__": "__main__"}
    checker = doctest.OutputChecker()
    try:
        for kind, code, expected in blocks(page):
            compiled = compile(code, name(page), "exec", dont_inherit=True)
            if kind == "python":
                printed = io.StringIO()
                with contextlib.redirect_stdout(printed):
                    exec(compiled, space)
                got = printed.getvalue()
                assert checker.check_output(expected, got, doctest.ELLIPSIS), f"{code}\nprinted:\n{got}"
    finally:
        if "pool" in space:
            space["pool"].terminate()


def test_every_example_of_a_docstring_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples in the docstrings of the package give what they say."""
    monkeypatch.chdir(tmp_path)  # some make files
    finder, runner = doctest.DocTestFinder(exclude_empty=True), doctest.DocTestRunner(verbose=False)
    examples = 0
    for path in sorted(PACKAGE.rglob("*.py")):
        if ">>> " not in path.read_text(encoding="utf-8"):
            continue
        module = importlib.import_module(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts))
        for test in finder.find(module):
            examples += len(test.examples)
            report = io.StringIO()
            runner.run(test, out=report.write)
            assert report.getvalue() == ""
    assert examples > 0


def test_sections_of_docstrings_are_found() -> None:
    """Each section of a docstring begins after an empty line and has a name that the reference knows."""
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert re.findall(r"\S\n +(?:Args|Raises|Returns|Attributes|Examples):\n", text) == [], path
        assert re.findall(r"^ +(?:Example|Raise|Return|Arguments|Parameters):$", text, re.M) == [], path


# --- the reference ---------------------------------------------------------------------------------------------------


def read(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def rows(text: str) -> dict[str, list[str]]:
    """The rows of the tables of a page whose first cell has names in code: the first name -> the other cells."""
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `"):
            found.update(dict.fromkeys(re.findall(r"`([\w-]+)", cells[0]), cells[1:]))
    return found


def test_every_public_name_is_in_the_reference() -> None:
    """Each name that `distmap` exports is on the page of all names, and that page has no other."""
    listed = set(re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| (\S.*?) \|", read("reference/names.md"), re.M))))
    assert listed == set(distmap.__all__)
    pages = "".join(map(read, ("reference/pool.md", "reference/jobs.md", "reference/checkpoints.md")))
    described = set(re.findall(r"^::: distmap\.(\w+)$", pages, re.M))
    errors = {name for name in distmap.__all__ if getattr(distmap, name) in vars(distmap.errors).values()}
    assert described | errors | {"__version__"} == set(distmap.__all__)


def test_what_the_reference_describes_exists() -> None:
    """Each object that the reference takes from a docstring can be imported, and has one."""
    for page in PAGES:
        for target in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.M):
            assert inspect.getdoc(pkgutil.resolve_name(target)), target


def test_every_option_is_in_the_reference() -> None:
    """The table of options is that of MapOptions, defaults included, and the calls that take them are named."""
    text = read("reference/options.md")
    table = rows(text)
    assert set(table) == set(MapOptions._fields)
    for option, value in MapOptions._defaults.items():
        default = f'"{value}"' if isinstance(value, str) else repr(value)
        assert table[option][1] == f"`{default}`", option


def test_every_error_is_in_the_reference() -> None:
    """The table of errors has every public exception but the root, and says of what else each is a kind."""
    table = rows(read("reference/errors.md"))
    kinds = {name: getattr(distmap, name) for name in distmap.__all__ if isinstance(getattr(distmap, name), type)}
    errors = {name for name, kind in kinds.items() if issubclass(kind, Exception)} - {"DistmapError"}
    assert set(table) == errors
    foreign = {
        "multiprocessing.TimeoutError": multiprocessing.TimeoutError,
        "concurrent.futures.CancelledError": concurrent.futures.CancelledError,
        "ConnectionError": ConnectionError,
        "ValueError": ValueError,
        "MemoryError": MemoryError,
    }
    for error in errors:
        also = {text for text, kind in foreign.items() if issubclass(kinds[error], kind)}
        assert set(re.findall(r"`([\w.]+)`", table[error][0])) == also, error


@pytest.mark.parametrize(("at", "parser"), [(0, build_parser()), (1, build_relay_parser())])
def test_every_option_of_a_command_is_in_the_reference(at: int, parser: argparse.ArgumentParser) -> None:
    """The tables of `distmap-worker` and `distmap-relay` have the options of the commands."""
    text = read("reference/command-line.md").split("\n# distmap-relay\n")[at]
    listed = set(re.findall(r"`(--[\w-]+)", "\n".join(re.findall(r"^\| (.*?) \|", text, re.M))))
    assert listed == {name for name in parser._option_string_actions if name.startswith("--")} - {"--token"}


def test_defaults_of_the_worker_are_in_the_reference() -> None:
    """They are those of the command."""
    parser = build_parser()
    table = rows(read("reference/command-line.md").replace("`--", "`"))
    assert table["drain"][0] == f"`{parser.get_default('drain'):g}`"
    assert table["exit-if-orphaned"][0].endswith(f"`{LIMITS.orphan_after:g}` without a number")


def test_every_limit_has_a_description() -> None:
    """Each limit has a comment of its own, from which the site makes its table."""
    limits: dict[str, Any] = {
        "limits.py": LIMITS,
        "relay_limits.py": RELAY,
        "ssh_limits.py": SSH_LIMITS,
        "launch_limits.py": LAUNCH,
    }
    for module, fields in ((module, one._fields) for module, one in limits.items()):
        source = (PACKAGE / "core" / module).read_text(encoding="utf-8")
        described = re.findall(r"^    #: [A-Z].*\n(?:    #: .*\n)*    (\w+): ", source, re.M)
        described += re.findall(r"^    #: `.*\n(?:    #: .*\n)*    (\w+): ", source, re.M)
        assert set(described) == set(fields)


def test_every_variable_is_in_the_reference() -> None:
    """Every environment variable that distmap reads or sets is in the reference."""
    source = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    page = read("reference/environment.md")
    assert {name for name in re.findall(r"\bDISTMAP_[A-Z_]*[A-Z]\b", source) if f"`{name}`" not in page} == set()


# --- the site --------------------------------------------------------------------------------------------------------


def test_every_page_is_in_the_navigation() -> None:
    """Each page of `docs/` and each notebook is in the navigation of the site, and each entry of it is a file."""
    nav = re.findall(r": (\S+\.(?:md|ipynb))$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M)
    pages = {name(page) for page in PAGES} | {f"notebooks/{path.name}" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert pages <= set(nav)
    assert all((DOCS / page).exists() or (ROOT / page).exists() for page in nav)
    assert len(nav) == len(set(nav))


def test_links_lead_to_files() -> None:
    """Each local link and picture of a page is a file of the repository."""
    for page in PAGES:
        text = without_blocks(page.read_text(encoding="utf-8"))
        for target in re.findall(r"\]\((?!\w+:|#)([^)#]+)", text):
            assert (page.parent / target).exists(), f"{name(page)}: {target}"


# --- faults ----------------------------------------------------------------------------------------------------------

#: Rows of the list of faults that distmap answers for.
FAULTS = range(1, 56)


def test_every_fault_has_its_tests() -> None:
    """The page of faults has each row of the list once; its tests exist, or it says why there is none."""
    found = [row for row in tables(read("explanation/faults.md")) if "#" in row]
    described = {int(row["#"]): row for row in found if "fault" in row}
    tested = {int(row["#"]): row["tests"] for row in found if "tests" in row}
    assert sorted(described) == sorted(tested) == list(FAULTS)
    assert len(found) == 2 * len(FAULTS)
    assert all(all(row.values()) for row in described.values())
    missing = []
    for number, cell in tested.items():
        for test in code(cell):
            file, _, function = test.partition("::")
            path = ROOT / file
            if not path.is_file() or (function and function not in defined(path)):
                missing.append(f"row {number}: {test}")
        if not code(cell) and not cell.startswith("none: "):
            missing.append(f"row {number} names no test, and no reason")
    assert missing == []


# --- the architecture ------------------------------------------------------------------------------------------------


def defined(path: Path) -> set[str]:
    """What a file defines: functions, classes, methods and variables, as `name` or `Class.name`."""

    def names(body: list[ast.stmt], prefix: str) -> Iterator[str]:
        for node in body:
            match node:
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    yield prefix + node.name
                case ast.ClassDef():
                    yield prefix + node.name
                    yield from names(node.body, f"{prefix}{node.name}.")
                case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
                    yield prefix + name
                case ast.If():
                    yield from names(node.body + node.orelse, prefix)

    return set(names(ast.parse(path.read_text(encoding="utf-8")).body, ""))


def tables(text: str) -> Iterator[dict[str, str]]:
    """The rows of all tables, as heading -> cell."""
    head: list[str] = []
    for line in without_blocks(text).splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
        if not cells or set(line) <= set("|-: "):
            head = head if cells else []
        elif head:
            yield dict(zip(head, cells, strict=True))
        else:
            head = cells


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@pytest.mark.parametrize("page", [DOCS / "architecture.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.stem)
def test_the_files_and_functions_named_there_exist(page: Path) -> None:
    """In a table with the columns "file" and "name", the file exists and defines every name."""
    named = [row for row in tables(page.read_text(encoding="utf-8")) if code(row.get("file", ""))]
    assert named
    wrong = []
    for row in named:
        files, names = code(row["file"]), set(code(row.get("name", "")))
        paths = [path for file in files for path in (PACKAGE / file, ROOT / file) if path.exists()]
        names -= {found for path in paths for found in defined(path)}
        if names or len(paths) < len(files):
            wrong.append((*files, *names))
    assert wrong == []


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.stem)
def test_the_paths_named_in_the_text_exist(page: Path) -> None:
    """Every path of a module or folder of the project that a page names in code is there."""
    for path in re.findall(r"`((?:\w+/)*(?:\w+\.py|\w+/))`", page.read_text(encoding="utf-8")):
        assert any((folder / path).exists() for folder in (PACKAGE, PACKAGE.parent, ROOT)), path


def test_the_way_of_a_map_is_short() -> None:
    """The way of one map has at most 25 steps, local and remote together."""
    steps = [row for row in tables(read("architecture.md")) if row.get("step", "").rstrip("abcdef").isdigit()]
    assert 0 < len(steps) <= 25
