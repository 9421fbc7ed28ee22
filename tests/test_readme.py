"""The README keeps its word: its code runs, its commands are those of the CI, and what it names exists."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import distmap

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = (
    'python -m pip install -e ".[examples]" && jupyter execute --inplace notebooks/quickstart.ipynb',
    'python -m pip install -e ".[test]" && pytest -n 4',
)


def section(title: str) -> str:
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def names(text: str) -> list[str]:
    """The names in code of the first column of a table."""
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return [name for cell in cells for code in re.findall(r"`([^`]+)`", cell) for name in re.findall(r"^[\w-]+", code)]


@pytest.mark.timeout(60)
def test_the_first_code_runs(tmp_path: Path) -> None:
    """The example on the first screen runs as a script, without a main guard."""
    [code] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    script = tmp_path / "example.py"
    script.write_text(code + "print(results[10], total)\n", encoding="utf-8")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=50)
    assert done.stderr == ""
    assert done.stdout == "91 96\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_stand_there(command: str) -> None:
    """The two commands are in the README to the letter."""
    assert f"\n{command}\n" in README


def test_ci_runs_the_test_command() -> None:
    """CI runs the README's own test command."""
    assert COMMANDS[1] in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_every_call_is_there() -> None:
    """Every call in the table is one of Pool's, and Pool has no public name that the README does not mention."""
    listed = {name for name in names(section("Calls")) if name != "with"}
    assert {name for name in listed if not hasattr(distmap.Pool, name)} - {"last"} == set()
    public = {name for name, _ in inspect.getmembers(distmap.Pool) if not name.startswith("_")}
    assert {name for name in public if f"`{name}" not in README} == set()


def test_it_is_short() -> None:
    """The README has at most 120 lines; everything else is in `docs/`."""
    assert len(README.splitlines()) <= 120


def test_links_lead_somewhere() -> None:
    """Every local link and picture is a file of the project, and a heading of it where it names one."""
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        assert (ROOT / path).exists(), target
        if anchor:
            text = (ROOT / path).read_text(encoding="utf-8") if path else README
            titles = re.findall(r"^#+ (.*)$", text, re.M)
            assert anchor in {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}
    for target in re.findall(r'(?:src|srcset)="([^"]+)"', README):
        assert (ROOT / target).exists(), target


def test_the_version_is_one() -> None:
    """The package tells the version that it is built with."""
    from distmap._version import __version__

    assert distmap.__version__ == __version__
