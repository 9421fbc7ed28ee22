"""Files with secrets are read only if nobody else can."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from distmap.errors import ConnectError
from distmap.transport.private import read_private


def read(path: Path) -> list[str]:
    return read_private(path, "header file", ConnectError, "name another one")


def test_lines_without_comments(tmp_path: Path) -> None:
    """Empty lines and comments are left out, spaces around lines too."""
    path = tmp_path / "headers"
    path.write_text("# for the hub\n\n  Authorization: token x \n")
    path.chmod(0o600)
    assert read(path) == ["Authorization: token x"]


@pytest.mark.skipif(sys.platform == "win32", reason="no modes there")
def test_what_is_not_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that others can read, that others own, or that is no file is refused with what to do."""
    path = tmp_path / "headers"
    path.write_text("secret")
    path.chmod(0o644)
    with pytest.raises(ConnectError, match=rf"header file {path} is open to others \(mode 0644\); do: chmod 600"):
        read(path)
    path.chmod(0o600)
    with pytest.raises(ConnectError, match="is not a regular file"):
        read(tmp_path)
    with pytest.raises(ConnectError, match="nowhere cannot be read: No such file or directory; name another one"):
        read(tmp_path / "nowhere")
    if os.geteuid() == 0:
        os.chown(path, 54321, -1)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(ConnectError, match="belongs to another user"):
        read(path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="makes a file of root")
@pytest.mark.parametrize(("mode", "taken"), [(0o400, True), (0o440, True), (0o460, False), (0o444, False)])
def test_a_file_of_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, taken: bool) -> None:
    """A file of root may be open to a group for reading, as mounted secrets are, and to nobody for anything else."""
    path = tmp_path / "token"
    path.write_text("secret\n")
    path.chmod(mode)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    if taken:
        assert read(path) == ["secret"]
    else:
        with pytest.raises(ConnectError, match=f"is open to others .mode {mode:04o}"):
            read(path)
