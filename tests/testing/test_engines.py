"""The conformance suite, put to the engines that start fast: each for real, in a process of its own."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from distmap.pool import Pool
from distmap.testing import engine_faults, engine_results, engines
from distmap.testing.engines import CASES, ENGINES

#: Those that start fast, the slowest first; and what they need.
LIGHT = {"dask": "distributed", "mpi": "mpi4py", "loky": "loky", "processes": "", "threads": "", "local": ""}
#: So many are tried at a time: most of their time they wait.
AT_ONCE = 3
SECONDS = 200
RECORDS = Path(__file__).parents[2] / "docs" / "engines"


def states(record: dict[str, Any]) -> dict[str, str]:
    return {case: found["state"] for case, found in record["cases"].items()}


def put_to(name: str, folder: Path) -> tuple[str, dict[str, Any]]:
    """What the suite says of an engine, and the record that it writes."""
    path = folder / f"{name}.json"
    command = [sys.executable, "-m", "distmap.testing.engines", name, "--json", str(path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SECONDS)
    return done.stdout, json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Any]]]:
    """All of them begin at once; a test waits for its own."""
    folder = tmp_path_factory.mktemp("records")
    with ThreadPoolExecutor(AT_ONCE) as threads:
        here = [name for name, package in LIGHT.items() if not package or find_spec(package)]
        yield {name: threads.submit(put_to, name, folder) for name in here}


@pytest.mark.own_leaks("processes", "threads", "descriptors", "files")  # of the runs of others
@pytest.mark.timeout(SECONDS + 20)
@pytest.mark.parametrize("name", LIGHT)
def test_a_light_engine_keeps_its_promises(
    name: str, runs: dict[str, Future[Any]], needs: Callable[[bool, str], None]
) -> None:
    """Every case is kept, or is known not to be, with a reason; and so it stands in the documentation."""
    needs(name in runs, LIGHT[name])
    said, record = runs[name].result(SECONDS)
    assert record, said
    assert set(record["cases"]) == {case.name for case in CASES}
    assert {found["state"] for found in record["cases"].values()} <= {"kept", "not kept", "not asked"}, said
    assert all(found["reason"] for found in record["cases"].values() if found["state"] != "kept")
    page = json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))
    assert states(record) == states(page), "what the documentation shows is old: see docs/matrix.py"


def test_every_case_is_in_the_suite() -> None:
    """No case is written and then forgotten; each has a row of its own, and says in a sentence what it promises."""
    written = {
        name
        for module in (engine_results, engine_faults)
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
    }
    assert written == {case.name for case in CASES}
    assert len({case.feature for case in CASES}) == len(CASES)
    assert all(case.promise.endswith(".") for case in CASES)


def test_what_is_lacking_is_a_case() -> None:
    """No engine is said to lack what is not asked of it."""
    names = {case.name for case in CASES}
    for engine in ENGINES.values():
        assert set(engine.lacks) <= names
        assert engine.untried <= set(engine.lacks)


def test_a_function_that_makes_a_pool_is_enough() -> None:
    """`run` takes it; cases that need more of the engine are left out, and say why."""
    chosen = [case for case in CASES if case.name in ("keeps_the_order", "spares_the_engines_workers")]
    told: list[Any] = []
    found = engines.run(lambda: Pool("inline"), chosen, told=told.append)
    assert [(one.state, bool(one.reason)) for one in found] == [("kept", False), ("not asked", True)]
    assert told == found


def test_the_command_line_tells_how_it_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints a line for each case and a sum, and writes a record with versions and the day."""
    path = tmp_path / "threads.json"
    assert engines.main(["threads", "--case", "folds", "--case", "keeps_the_order", "--json", str(path)]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[:2] for line in printed.splitlines()] == [
        ["kept", "keeps_the_order"],
        ["kept", "folds"],
        ["2", "kept"],
    ]
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["version"] == f"Python {record['python']}"
    assert record["cases"]["folds"] == {"state": "kept", "reason": ""}
    assert len(record["date"]) == 10
