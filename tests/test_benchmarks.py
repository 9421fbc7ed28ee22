"""What benchmark scripts share does its part; no time is measured here, and no peer needs to be installed."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"
SHARED = ("common", "machine", "peers", "engine_peers", "limits", "work", "page", "plots", "run_all")


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a module of `benchmarks/`, which is no package, and forget all of them afterwards."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in SHARED:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module
    for name in SHARED:
        sys.modules.pop(name, None)


def results(common: ModuleType, *, quick: bool = False, foreign: float = 0.0) -> dict[str, Any]:
    """Results of two scripts, as their files hold them."""
    machine = {"python": "3.11.7", "system": "Linux 6.1", "processor": "a processor", "cores": 2, "memory_gb": 8}
    data = {"quick": quick, "foreign": foreign, "seconds": 1.0, "notes": [], "targets": []}
    data |= {"machine": machine | {"packages": {"distmap": "0.1", "ray": "2.60"}}}

    def case(key: str, unit: str, median: dict[str, float]) -> dict[str, Any]:
        rounds = {who: [value, value * 2, value / 2] for who, value in median.items()}
        return {"case": f"case {key}", "key": key, "unit": unit, "median": median, "rounds": rounds}

    raw = common.LIMIT + "raw"
    inward = {common.OURS: 0.2, "mp.Pool": 2.0, "Ray": 0.8, raw: 0.1, "serial, one process": 0.01}
    rate = {common.OURS: 10_000.0, "mp.Pool": 50_000.0}
    return {
        "arrays": data | {"script": "arrays", "cases": [case("in", "s", inward)]},
        "dispatch": data | {"script": "dispatch", "cases": [case("rate", "/s", rate)]},
    }


def test_rounds_are_interleaved(load: Any) -> None:
    """All take their turns, every second round goes backwards, and a warm-up is not counted."""
    common, order = load("common"), []
    contenders = {name: lambda name=name: order.append(name) or len(order) for name in "abc"}
    got = common.interleave(contenders, 2, limits={"c": 1})
    assert "".join(order) == "ba" + "abc" + "ba"
    assert got == {"a": [3, 7], "b": [4, 6], "c": [5]}


def test_a_contender_that_raises_is_left_out(load: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The others go on, and it is named."""
    common = load("common")
    assert common.interleave({"a": lambda: 1.0, "b": lambda: 1 / 0}, 2) == {"a": [1.0, 1.0]}
    assert "b: left out, it raised ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("quick", "exact", "value", "verdict"),
    [
        (False, False, 1.0, "met"),
        (False, False, 2.0, "NOT MET"),
        (False, False, None, "not measured"),
        (True, False, 2.0, "too short to judge"),
        (True, False, 1.0, "met"),
        (True, True, 2.0, "NOT MET"),
    ],
)
def test_a_quick_run_reports_no_miss(load: Any, quick: bool, exact: bool, value: float | None, verdict: str) -> None:
    """A target that is missed with small sizes is not judged, unless its figure is a count."""
    report = load("common").Report("script", Namespace(quick=quick, json=None))
    report.target("text", value, 1.5, exact=exact)
    assert [target["verdict"] for target in report.targets] == [verdict]


def test_a_wrong_result_is_no_figure(load: Any) -> None:
    """A round whose result is wrong raises, so that its contender is left out."""
    common = load("common")
    assert common.timed(lambda: [1], [1].__eq__)() >= 0
    with pytest.raises(RuntimeError, match="wrong results"):
        common.timed(lambda: [2], [1].__eq__)()
    with pytest.raises(RuntimeError, match="a wrong result for 1"):
        common.each(lambda x: x, 2, lambda x, value: value == 0)()


def test_the_page_names_the_best_peer(load: Any) -> None:
    """The best of the other libraries stands beside distmap and the limit; what ran without any library is no peer."""
    page = load("page")
    inward, rate = sorted(page.compare(results(load("common"))), key=lambda it: it.figure.script)
    assert (inward.peer, inward.its, inward.limit) == ("Ray", 0.8, 0.1)
    assert inward.ratio == pytest.approx(0.25)
    assert rate.peer == "mp.Pool"
    assert rate.ratio == pytest.approx(5.0)  # of rates, more is better
    made = page.regions(results(load("common")))
    assert "4.0 times better than Ray" in made["ahead"]
    assert "5.0 times behind mp.Pool" in made["behind"]
    assert "| limit: 100 ms |" not in made["overview"]
    assert "| 100 ms | Ray: 800 ms | 200 ms | **0.25** |" in made["overview"]
    assert made["slots"] == "Not measured.\n"


def test_the_page_says_when_its_figures_are_no_good(load: Any) -> None:
    """Small sizes, and scripts beside which other programs were busy, are named."""
    page, common = load("page"), load("common")
    assert "care" not in page.machine_line(results(common))
    assert "small sizes" in page.machine_line(results(common, quick=True))
    assert "busy while these ran: arrays, dispatch" in page.machine_line(results(common, foreign=0.5))


def test_only_regions_of_the_page_are_written(load: Any) -> None:
    """The text around them stays; every region of the page is one that is made."""
    page = load("page")
    text = "head\n<!-- figures: a -->\nold\n<!-- end -->\ntail\n"
    assert page.fill(text, {"a": "new"}) == "head\n<!-- figures: a -->\n\nnew\n<!-- end -->\ntail\n"
    with pytest.raises(ValueError, match="no figures are called 'a'"):
        page.fill(text, {"b": "new"})
    made = page.regions(results(load("common")))
    written = page.fill((ROOT / "docs" / "performance.md").read_text(encoding="utf-8"), made)
    assert set(re.findall(r"<!-- figures: ([\w-]+) -->", written)) == set(made)
    assert page.fill(written, made) == written


@pytest.mark.timeout(60)
def test_the_page_and_its_pictures_are_written(load: Any, tmp_path: Path) -> None:
    """One call writes the page, the pictures that have figures, and a file of all figures."""
    pytest.importorskip("matplotlib")
    page, common = load("page"), load("common")
    (tmp_path / "performance.md").write_text("<!-- figures: chunks -->\n<!-- end -->\n", encoding="utf-8")
    page.write(results(common), tmp_path)
    assert "| mp.Pool | 50,000 /s |" in (tmp_path / "performance.md").read_text(encoding="utf-8")
    kept = json.loads((tmp_path / "performance" / "figures.json").read_text(encoding="utf-8"))
    assert kept["scripts"]["arrays"]["cases"]["case in"]["Ray"] == {
        "median": 0.8, "lowest": 0.4, "highest": 1.6, "rounds": 3, "unit": "s"
    }  # fmt: skip
    drawn = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "performance").glob("*.svg")}
    assert set(drawn) == {"overview.svg", "bulk.svg"}
    assert ">64 arrays of 16 MB in</text>" in drawn["overview.svg"]


def test_every_figure_of_the_page_has_a_script(load: Any) -> None:
    """What the page shows is run for it."""
    page, run_all = load("page"), load("run_all")
    assert {figure.script for figure in page.FIGURES} <= set(run_all.PAGE)


def test_every_script_is_run_and_described() -> None:
    """Each script is in run_all.py, unless it says why not, and in the table of the README."""
    readme = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    scripts = {path.stem for path in BENCHMARKS.glob("*.py")} - set(SHARED)
    assert set(re.findall(r"^\| `(\w+)\.py`", readme, re.M)) == scripts
    tree = ast.parse((BENCHMARKS / "run_all.py").read_text(encoding="utf-8"))
    named = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and node.value in scripts}
    assert named == scripts - {"large_result", "way"}


@pytest.mark.timeout(60)
def test_a_script_runs(tmp_path: Path) -> None:
    """From the command line, with small sizes: it writes what was measured, and on what."""
    command = [sys.executable, str(BENCHMARKS / "panel.py"), "--quick", "--rounds", "1", "--json"]
    subprocess.run([*command, str(tmp_path / "out.json")], check=True, stdout=subprocess.DEVNULL, timeout=60)
    data = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert data["quick"]
    assert data["machine"]["packages"]["distmap"]
    assert all(case["median"] for case in data["cases"])
