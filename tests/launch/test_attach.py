"""The program that is sent to the far end of a login; run here as it is run there."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.waiting import until

from distmap._version import __version__
from distmap.launch import attach
from distmap.transport.token import load_token

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the far end has Unix sockets")

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture
def far() -> Iterator[Path]:
    """The temporary folder and the home of the far end, with a short name."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as path:
        yield Path(path)


class Login:
    """The program at work, and its answers."""

    def __init__(self, far: Path, **changed: Any) -> None:
        path = os.pathsep.join(filter(None, [str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
        self.process = subprocess.Popen(
            [sys.executable, str(Path(attach.__file__)), "MARK"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "TMPDIR": str(far), "HOME": str(far), "PATH": path, "XDG_DATA_HOME": ""},
        )
        request = {
            "id": "one",
            "token": load_token().reveal(),
            "arguments": ["--slots=1", "--exit-if-orphaned=20"],
            "python": sys.executable,
            "minor": MINOR,
            "distmap": __version__,
            "install": None,
            "requires": [],
            "seconds": 15,
        }
        self.write(json.dumps({**request, **changed}).encode() + b"\n")

    def write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            if line.startswith(b"MARK"):
                answer: dict[str, Any] = json.loads(line.removeprefix(b"MARK"))
                return answer
        raise AssertionError(f"no answer, exit code {self.process.wait(10)}")

    def __enter__(self) -> Login:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.communicate(timeout=10)


def end_worker(far: Path) -> None:
    """End the worker that was started there."""
    (folder,) = far.glob("distmap-ssh-*/*")
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if str(folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(int(pid), 15)
        except OSError:
            continue
    until(lambda: not folder.exists())


def test_any_python_can_run_it() -> None:
    """It uses neither syntax nor modules that Python 3.7 has not."""
    tree = ast.parse(Path(attach.__file__).read_text(encoding="utf-8"), feature_version=(3, 7))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert imported <= sys.stdlib_module_names


@pytest.mark.skipif(sys.platform != "linux", reason="looks for a process by /proc")
def test_logins_of_one_id_lead_to_one_worker(far: Path) -> None:
    """Logins at one time, and later ones, find the worker that the first one started; it hangs on none of them."""
    with Login(far) as first, Login(far) as second:
        assert first.answer() == second.answer() == {"connected": True}
        first.process.kill()
        second.write(b"\x16\x03\x01")  # passed to the worker: it waits for more of TLS
    with Login(far) as third:
        assert third.answer() == {"connected": True}
    end_worker(far)


def test_bytes_pass_both_ways_and_an_end_ends_it(far: Path) -> None:
    """What comes goes on unchanged, in both directions; when the worker's end closes, the login is over."""
    folder = far / f"distmap-ssh-{os.getuid()}" / "one"
    folder.mkdir(parents=True, mode=0o700)
    folder.parent.chmod(0o700)
    data = os.urandom(50_000)  # what fits into a pipe
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen()
        with Login(far) as login:
            assert login.answer() == {"connected": True}
            worker, _ = listener.accept()
            with worker, worker.makefile("rb") as file:
                login.write(data)
                assert file.read(len(data)) == data
                worker.sendall(data)
            assert login.process.stdout is not None
            assert login.process.stdout.read() == data
            assert login.process.wait(10) == 0


def test_what_it_finds_wrong(far: Path) -> None:
    """Each thing that fails has its name, with what is needed for a sentence."""
    with Login(far, python="/no/python") as login:
        assert login.answer() == {"failed": "none", "text": "/no/python"}
    with Login(far, minor="2.7") as login:
        answer = login.answer()
        assert answer["failed"] == "python"
        assert sys.executable in answer["found"][0]
    with Login(far, arguments=["--slots=0"]) as login:
        answer = login.answer()
        assert answer["failed"] == "start"
        assert "exit code 2" in answer["text"]
        assert "--slots: expected a number" in answer["text"]
    assert not list(far.glob("distmap-ssh-*/*"))


def test_a_folder_that_others_can_enter_is_not_used(far: Path) -> None:
    """Another user who was there first gets nothing."""
    folder = far / f"distmap-ssh-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o755)
    with Login(far) as login:
        answer = login.answer()
    assert answer["failed"] == "system"
    assert "not a folder that only you can enter" in answer["text"]


def test_folders_of_workers_that_were_killed_go(far: Path) -> None:
    """A day later the next start removes them; younger ones stay, for who looks at a log."""
    base = far / f"distmap-ssh-{os.getuid()}"
    old, young = base / "old", base / "young"
    for folder in (old, young):
        folder.mkdir(parents=True)
    os.utime(old, (1, 1))
    base.chmod(0o700)
    with Login(far, python="/no/python") as login:
        login.answer()
    assert not old.exists()
    assert young.exists()


@pytest.mark.timeout(40)
def test_installing_fails_with_what_was_printed(far: Path) -> None:
    """A damaged wheel, and pip that cannot bring what is needed, are named; a later try begins anew."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("distmap/__init__.py", "")
    wheel = buffer.getvalue()
    install = {"bytes": len(wheel), "sha256": "0" * 64}
    with Login(far, install=install, distmap="0.0.0", requires=["./no-such-wheel.whl"]) as login:
        assert login.answer() == {"want": "wheel"}
        login.write(wheel)
        assert login.answer() == {"failed": "install", "text": "the wheel did not arrive whole"}
    install["sha256"] = hashlib.sha256(wheel).hexdigest()
    with Login(far, install=install, distmap="0.0.0", requires=["./no-such-wheel.whl"]) as login:
        assert login.answer() == {"want": "wheel"}
        login.write(wheel)
        assert login.answer() == {"doing": "pip install ./no-such-wheel.whl"}
        answer = login.answer()
        assert answer["failed"] == "install"
        assert "no-such-wheel.whl" in answer["text"]
    assert not list(far.glob(".local/share/distmap/*/complete"))
