"""The part of an installation that runs on a worker; `tests/face/test_install.py` runs pip itself."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from distmap.tasks.pip import Installed, install, split, without_passwords


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            "Looking in indexes: https://ann:pw@host/simple, https://host",
            "Looking in indexes: https://****@host/simple, https://host",
        ),
        ("https://ann:p@ss@host/simple", "https://****@host/simple"),
        ("git+https://token@github.com/a/b@main", "git+https://****@github.com/a/b@main"),
        ("polars @ https://host/polars.whl", "polars @ https://host/polars.whl"),
        ("mail ann@host", "mail ann@host"),
    ],
)
def test_passwords_are_not_told(given: str, said: str) -> None:
    """Of an address the user and the password are hidden, and nothing else."""
    assert without_passwords(given) == said


def test_passwords_are_not_on_the_command_line() -> None:
    """What has one goes into a file, with the option that it belongs to."""
    given = ["a==1", "--index-url", "https://u:p@host/", "--pre", "--extra-index-url=https://u:p@host/", "--upgrade"]
    arguments, secret = split(given)
    assert arguments == ["a==1", "--pre", "--upgrade"]
    assert secret == ["--index-url https://u:p@host/", "--extra-index-url=https://u:p@host/"]
    assert split(["a", "-f", "/wheels"]) == (["a", "-f", "/wheels"], [])


def test_what_pip_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code, what was installed and the last lines come back; every line is printed, with passwords hidden."""
    fake = tmp_path / "python"
    fake.write_text(
        f"#!{sys.executable}\nimport sys\n"
        "for n in range(9): print('line', n)\n"
        "where = sys.argv[sys.argv.index('--requirement') + 1]\n"
        "print('file:', open(where).read().strip())\n"
        "print('Successfully installed a-1 b-2')\nprint('args:', *sys.argv[1:4])\nsys.exit(3)\n"
    )
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    done = install(["a", "https://u:p@host/a.whl"])
    printed = capsys.readouterr().out
    assert done == Installed(3, ("a-1", "b-2"), tuple(printed.splitlines()[-6:]), str(fake))
    assert "file: https://****@host/a.whl" in printed
    assert "args: -m pip install" in printed
    assert not list(Path(os.environ["TMPDIR"]).glob("distmap-pip-*"))
