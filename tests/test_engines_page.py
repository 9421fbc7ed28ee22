"""The table of engines in the documentation is what the conformance suite has found."""

from __future__ import annotations

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from distmap.testing.engines import CASES, ENGINES

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def matrix() -> Any:
    """The script that makes the page."""
    spec = spec_from_file_location("matrix", DOCS / "matrix.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_made_of_the_records(matrix: Any) -> None:
    """Nothing in its tables is written by hand, and nothing is older than the records."""
    assert matrix.PAGE.read_text(encoding="utf-8") == matrix.page(), "run: python docs/matrix.py"


def test_every_engine_has_a_record(matrix: Any) -> None:
    """A column for each engine of the suite, with every row; with what and when it was tried; nothing failed."""
    assert set(matrix.records()) <= set(ENGINES)
    for name, record in matrix.records().items():
        assert record["engine"] == name
        assert re.fullmatch(r"(Python )?\d[\w.]+", record["version"]), name
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", record["date"]), name
        assert set(record["cases"]) == {case.name for case in CASES}, name
        assert {one["state"] for one in record["cases"].values()} <= {"kept", "not kept", "not asked"}, name


def test_the_records_name_the_reasons_of_today(matrix: Any) -> None:
    """What is recorded as not kept is what the engine is said to lack now, in the same words."""
    for name, record in matrix.records().items():
        found = {case: one["reason"] for case, one in record["cases"].items() if one["state"] == "not kept"}
        assert found == ENGINES[name].lacks, name


def test_a_reason_stands_once(matrix: Any) -> None:
    """Cells that are not kept carry the number of their reason; an unknown case is shown as not tried."""
    why = {"state": "not kept", "reason": "it is slow"}
    record = {"title": "A", "version": "1.0", "python": "3.11.7", "date": "2026-01-02", "cases": {}}
    record["cases"] = {"folds": {"state": "kept", "reason": ""}, "tries_again": why, "keeps_the_order": why}
    made = matrix.tables({"a": record})
    assert "| `map_reduce` | yes |" in made
    assert made.count("no [1] |") == 2
    assert made.count("It is slow.") == 1
    assert "| `seed=` | not tried |" in made
    assert "| A | 1.0 | 3.11.7 | 2026-01-02 |" in made
