"""What runs on a login node for two sides that meet there; the whole way is in tests/reach/test_ssh.py."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.local_ssh import local_ssh
from support.waiting import until

from distmap.errors import ConnectError
from distmap.transport import ssh_meeting
from distmap.transport.ssh_meeting import PoolAtLogin, WorkerAtLogin

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a login node has a POSIX shell")


@pytest.fixture
def far() -> Iterator[Path]:
    """The temporary folder of the login node, with a short name."""
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


def begin(far: Path, script: str, *words: str) -> subprocess.Popen[str]:
    """Run it as a login shell does."""
    command = ssh_meeting._command(script, "MARK", *words)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen(["sh", "-c", command], text=True, env={**os.environ, "TMPDIR": str(far)}, **pipes)


def answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("MARK"):
            found: dict[str, Any] = json.loads(line.removeprefix("MARK"))
            return found
    raise AssertionError("no answer")


def prepared(far: Path, path: str = "") -> dict[str, Any]:
    with begin(far, ssh_meeting._PREPARE, path, "pool-1") as process:
        return answer(process)


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ssh://login", "names no socket there; copy the whole address"),
        ("ssh://login/a:b", "it has one of : "),
        ("ssh://login/${HOME}", "it has one of : "),
        ("ssh://login/%2524%7BHOME}", "it has one of : "),
        (f"ssh://login/{'a' * 101}", "or is too long"),
        ("ssh://login/x?slots=8", "it takes none"),
    ],
)
def test_addresses_that_cannot_be_meant(url: str, words: str) -> None:
    """A worker needs the whole address, and a socket has a short name."""
    with pytest.raises(ConnectError, match=words):
        WorkerAtLogin(url)


def test_a_pool_names_its_socket() -> None:
    """Without a path the name comes with the login."""
    assert PoolAtLogin("ssh://ann@login:2222").url == "ssh://ann@login:2222"
    assert PoolAtLogin("ssh://login/run/x.sock").url == "ssh://login/run/x.sock"


def test_room_for_a_socket(far: Path) -> None:
    """The folder is this user's alone, and a socket that was left is removed; anything else stays."""
    path = far / f"distmap-{os.getuid()}" / "pool-1.sock"
    assert prepared(far) == {"path": str(path)}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    listening(path)
    assert prepared(far) == {"path": str(path)}
    assert not path.exists()
    other = far / "file"
    other.touch()
    assert prepared(far, str(other)) == {"path": str(other)}
    assert other.exists()


def test_a_folder_that_others_can_enter_is_not_used(far: Path) -> None:
    """Another user who was there first, or a link, gets nothing."""
    folder = far / f"distmap-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o755)
    assert prepared(far) == {"failed": "folder", "path": str(folder)}
    folder.rmdir()
    (far / "mine").mkdir(0o700)
    folder.symlink_to(far / "mine")
    assert prepared(far) == {"failed": "folder", "path": str(folder)}


def test_the_socket_goes_only_when_told(far: Path) -> None:
    """A login that breaks leaves it: the next one may have it already. Goodbye removes it, with its folder."""
    path = far / "folder" / "x.sock"
    path.parent.mkdir()
    listening(path)
    for said, stays in (("", True), ("bye\n", False)):
        with begin(far, ssh_meeting._HOLD, str(path)) as process:
            assert answer(process) == {"open": True}
            process.communicate(said, timeout=10)
        assert path.exists() is path.parent.exists() is stays


def test_a_worker_waits_for_the_socket(far: Path) -> None:
    """It is told once the socket is there, or that it did not come."""
    path = far / "x.sock"
    with begin(far, ssh_meeting._WAIT, str(path), "20") as process:
        listening(path)
        assert answer(process) == {"there": True}
        assert process.poll() is None
        assert process.stdin is not None
        process.stdin.close()
        until(lambda: process.poll() is not None)
    with begin(far, ssh_meeting._WAIT, str(far / "other"), "0") as process:
        assert answer(process) == {"there": False}


@pytest.mark.parametrize("path", ["/tmp/${HOME}", "/tmp/%24{HOME}", "/tmp/%d"])
def test_a_login_node_that_asks_for_what_this_side_has(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ssh would put its own environment into the path that it sends there, so such a path is not used."""
    said = json.dumps({"path": path})
    told = (
        f'set -- $(printf "%s" "$*" | grep -o "distmap-[0-9a-f]\\{{16\\}}"); printf "%s%s\\n" "$1" \'{said}\'; exit 0'
    )
    monkeypatch.setenv("DISTMAP_SSH", local_ssh(tmp_path, told))
    with pytest.raises(ConnectError, match="a socket cannot be at /tmp/"):
        asyncio.run(PoolAtLogin("ssh://login").open(1, {}))
