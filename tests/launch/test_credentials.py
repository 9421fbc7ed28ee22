"""The files that let workers come in that a pool has started."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from distmap.errors import TokenError
from distmap.launch.credentials import Credentials
from distmap.transport.token import Secret


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without anything in it."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_what_is_in_a_file_stays_there(token_file: Path, home: Path) -> None:
    """Workers read the same files, which are left alone; without headers there is no file of them."""
    files = Credentials(None, str(home / "headers"))
    assert (files.token_file, files.header_file) == (token_file, home / "headers")
    files.remove()
    assert token_file.exists()
    assert Credentials(None).header_file is None
    assert not home.exists()


def test_other_secrets_get_a_private_file_for_the_time(home: Path) -> None:
    """A token and headers that the pool was given lie beside the user's token, where nobody else can read them."""
    token = Secret.generate()
    files = Credentials(token, {"Authorization": "token x", "A": "b"})
    assert files.header_file is not None
    for path, text in ((files.token_file, token.reveal()), (files.header_file, "Authorization: token x\nA: b")):
        assert home in path.parents
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.read_text() == f"{text}\n"
    files.remove()
    assert not [path for path in home.rglob("*") if path.is_file()]
    files.remove()


def test_a_process_leaves_no_file_of_its_own(home: Path) -> None:
    """Its end removes them if nothing else has, and that of a forked child does not."""
    code = (
        "import os, sys\n"
        "from distmap.launch.credentials import Credentials\nfrom distmap.transport.token import Secret\n"
        "files = Credentials(Secret.generate(), {'A': 'b'})\n"
        "if (child := os.fork()) == 0:\n    sys.exit()\n"
        "os.waitpid(child, 0)\nprint(files.token_file.exists(), files.header_file.exists())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == "True True\n"
    assert home.exists()
    assert not [path for path in home.rglob("*") if path.is_file()]


def test_a_folder_that_takes_no_file_is_an_error(home: Path) -> None:
    """The sentence names the file, and says what to do."""
    home.touch()
    with pytest.raises(TokenError, match=r"cannot be made: .*DISTMAP_TOKEN_FILE"):
        Credentials(Secret.generate())
