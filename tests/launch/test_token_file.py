"""The file of the token for workers that a pool has started."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from distmap.errors import TokenError
from distmap.launch.token_file import TokenFile
from distmap.transport.token import Secret


def test_a_token_that_is_in_a_file_stays_there(token_file: Path) -> None:
    """Workers read the same file, which is left alone."""
    file = TokenFile(None)
    assert file.path == token_file
    file.remove()
    assert token_file.exists()


def test_another_token_gets_a_private_file_for_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that the pool was given lies beside the user's, where nobody else can read it, and is removed."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    token = Secret.generate()
    file = TokenFile(token)
    assert tmp_path in file.path.parents
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert file.path.read_text().strip() == token.reveal()
    file.remove()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    file.remove()


def test_a_folder_that_takes_no_file_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence names the file, and says what to do."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    with pytest.raises(TokenError, match=r"cannot be made: .*DISTMAP_TOKEN_FILE"):
        TokenFile(Secret.generate())
