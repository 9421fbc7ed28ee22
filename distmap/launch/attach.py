"""The far end of an SSH login: starts a worker there, or finds the one that it started before, and passes bytes to it.

This file is sent over the connection and run there by any Python from 3.7 on, with nothing installed: it imports the
standard library alone, and must not use anything newer. The worker does not hang on the login: if that breaks, the next
one finds the worker by its id. The worker listens on a Unix socket in a folder that only this user can enter.

What it is told comes on standard input: a line of JSON, and a wheel if it asks for one. What it answers are lines that
begin with the mark of its command line. After "connected" both are the bytes of the connection.
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from contextlib import contextmanager, suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    #: What is asked for; what an interpreter has told of itself; what answers.
    Request = dict[str, Any]
    Known = dict[str, Any]
    Say = Callable[..., None]

#: What an interpreter is asked.
PROBE = r"""
import json, sys, sysconfig
known = {"python": ".".join(map(str, sys.version_info[:3])), "executable": sys.executable, "distmap": None}
own = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
known["path"] = [p for p in sys.path if p and not p.endswith(".zip") and p not in own and not p.endswith("lib-dynload")]
if known["python"].startswith(sys.argv[1] + "."):
    sys.path = [p for p in sys.path if p]
    try:
        import importlib.util
        if importlib.util.find_spec("distmap.worker.detached"):
            from distmap._version import __version__ as version
            known["distmap"] = version
    except ImportError:
        pass
print(json.dumps(known))
"""

#: The folder that a login begins in holds no modules of ours, as for any installed command.
INSTALLED = "import sys; sys.path = [p for p in sys.path if p]; "
#: The worker, and what it needs of other packages.
WORKER = INSTALLED + "from distmap.worker.detached import main; sys.exit(main())"
NEEDED = INSTALLED + "import distmap.worker.detached, distmap.transport.listen, distmap.tasks.cloud, tqdm"


class Failed(Exception):
    """Said to the other side: what failed, and what belongs to its sentence."""

    def __init__(self, what: str, **details: Any) -> None:
        super().__init__(what)
        self.answer = dict(details, failed=what)


def main() -> None:
    mark = sys.argv[1]

    def say(**answer: Any) -> None:
        sys.stdout.write("\n" + mark + json.dumps(answer) + "\n")
        sys.stdout.flush()

    request = json.loads(sys.stdin.buffer.readline())
    signal.alarm(request["seconds"])  # whatever hangs: this process does not stay
    try:
        sock = connected(request, say)
    except Failed as failed:
        say(**failed.answer)
    except OSError as error:
        say(failed="system", text=str(error))
    else:
        signal.alarm(0)
        say(connected=True)
        pass_bytes(sock)


def connected(request: Request, say: Say) -> socket.socket:
    """A socket to the worker of this id, which is started if it is not there."""
    base = private_folder()
    folder = os.path.join(base, request["id"])
    with locked(base):  # another login may look for it at the same moment
        sock = to_worker(folder)
        if sock is None:
            sweep(base)
            start(folder, choose(request, say), request)
            sock = to_worker(folder)
        if sock is None:
            raise Failed("start", text="it does not listen")
        return sock


def private_folder() -> str:
    """The folder of all workers of this user that were started so."""
    folder = os.path.join(tempfile.gettempdir(), f"distmap-ssh-{os.getuid()}")
    if len(folder) > 70:  # the name of a socket has a hundred characters at most
        folder = os.path.join("/tmp", os.path.basename(folder))
    with suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    status = os.lstat(folder)
    if status.st_uid != os.getuid() or status.st_mode & 0o170077 != 0o040000:
        raise Failed("system", text=f"{folder} is not a folder that only you can enter; remove it")
    return folder


@contextmanager
def locked(folder: str) -> Iterator[None]:
    """Nobody else is in here with this folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def to_worker(folder: str) -> socket.socket | None:
    """A socket to the worker that listens in this folder, or None."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.connect(os.path.join(folder, "socket"))
    except OSError:
        sock.close()
        return None
    return sock


def sweep(base: str) -> None:
    """Remove the folders of workers that were killed: a worker that leaves removes its own."""
    for folder in glob.glob(os.path.join(base, "*")):
        with suppress(OSError):
            if time.time() - os.stat(folder).st_mtime > 86400:
                sock = to_worker(folder)
                if sock is None:
                    shutil.rmtree(folder, ignore_errors=True)
                else:
                    sock.close()


# --- which Python -----------------------------------------------------------------------------------------------------


def choose(request: Request, say: Say) -> str:
    """The interpreter that the worker runs in."""
    minor, given = request["minor"], request["python"]
    candidates = [os.path.expanduser(given)] if given else names(minor)
    found: list[Known] = []
    for name in dict.fromkeys(candidates):
        known = probe(name, minor)
        if known is None:
            continue
        found.append(known)
        if known["distmap"] and (not request["install"] or known["distmap"] == request["distmap"]):
            return str(known["executable"])
    if not found:
        raise Failed("none", text=given)
    fitting = [known for known in found if known["python"].startswith(minor + ".")]
    if not fitting:
        raise Failed("python", found=[f"{known['python']} ({known['executable']})" for known in found])
    if request["install"]:
        return install(fitting[0], request, say)
    for known in fitting:
        folder = own_folder(known, request)
        if os.path.exists(os.path.join(folder, "complete")):
            return os.path.join(folder, "bin", "python")
    raise Failed("distmap", python=fitting[0]["executable"])


def names(minor: str) -> list[str]:
    """Where a Python may be that the user did not name: as in a shell there, and the one of distmap-worker."""
    found = []
    script = shutil.which("distmap-worker")
    if script:
        with suppress(OSError), open(script, "rb") as file:
            line = file.readline(300)
            if line.startswith(b"#!"):
                found.append(line[2:].decode("utf-8", "replace").strip())
    found += [path for path in map(shutil.which, ("python" + minor, "python3", "python")) if path]
    return [*found, sys.executable]


def probe(python: str, minor: str) -> Known | None:
    """What there is to know of an interpreter; None if it does not run."""
    try:
        done = subprocess.run(
            [python, "-c", PROBE, minor], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )  # fmt: skip
        known: Known = json.loads(done.stdout.decode().strip().rpartition("\n")[2])
    except (OSError, ValueError):
        return None
    known["executable"] = known["executable"] or python
    return known


# --- installing -------------------------------------------------------------------------------------------------------


def own_folder(known: Known, request: Request) -> str:
    """The environment of distmap in this version for that interpreter."""
    base = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    which = hashlib.sha256((known["python"] + known["executable"]).encode()).hexdigest()[:8]
    return os.path.join(base, "distmap", f"{request['distmap']}-py{request['minor']}-{which}")


def install(known: Known, request: Request, say: Say) -> str:
    """An environment with distmap in it; what it has not itself it takes from the interpreter that it is made with."""
    folder = own_folder(known, request)
    python, complete = os.path.join(folder, "bin", "python"), os.path.join(folder, "complete")
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    with locked(os.path.dirname(folder)):
        with suppress(OSError), open(complete) as file:
            if file.read() == request["install"]["sha256"]:
                return python
        say(want="wheel")
        wheel = sys.stdin.buffer.read(request["install"]["bytes"])
        if hashlib.sha256(wheel).hexdigest() != request["install"]["sha256"]:
            raise Failed("install", text="the wheel did not arrive whole")
        shutil.rmtree(folder, ignore_errors=True)
        run("venv", known["executable"], "-m", "venv", "--without-pip", folder)
        site = run("venv", python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
        with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
            archive.extractall(site)
        with open(os.path.join(site, "distmap-base.pth"), "w") as file:
            file.write("".join(f"{path}\n" for path in known["path"]))
        if subprocess.run([python, "-c", NEEDED], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
            say(doing="pip install " + " ".join(request["requires"]))
            pip = [python, "-m", "pip", "--disable-pip-version-check", "--no-input", "-q"]
            if subprocess.run([*pip, "--version"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL).returncode:  # fmt: skip
                run("pip", python, "-m", "ensurepip")
            run("pip", *pip, "install", *request["requires"])
            run("pip", python, "-c", NEEDED)
        with open(complete, "w") as file:
            file.write(request["install"]["sha256"])
    return python


def run(what: str, *command: str) -> str:
    """What the command prints; Failed if it fails."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    text = done.stdout.decode("utf-8", "replace")
    if done.returncode:
        raise Failed("install", text=f"{what}: {' '.join(text.split())[-400:]}")
    return text


# --- the worker -------------------------------------------------------------------------------------------------------


def start(folder: str, python: str, request: Request) -> None:
    """Start the worker, by itself, and wait until it listens."""
    shutil.rmtree(folder, ignore_errors=True)
    os.mkdir(folder, 0o700)
    path = os.path.join(folder, "log")
    with open(path, "wb") as log:
        process = subprocess.Popen(
            [python, "-c", WORKER, folder, *request["arguments"]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(OSError), process.stdin:
        process.stdin.write(request["token"].encode() + b"\n")
    with process.stdout:
        if process.stdout.readline():
            return
    code = process.wait()
    with open(path, "rb") as log:
        text = log.read().decode("utf-8", "replace")
    shutil.rmtree(folder, ignore_errors=True)
    raise Failed("start", text=f"exit code {code}: {' '.join(text.split())[-400:]}")


def pass_bytes(sock: socket.socket) -> None:
    """Both ways, until one side ends."""

    def outwards() -> None:
        while True:
            data = os.read(0, 1 << 18)
            if not data:
                os._exit(0)
            sock.sendall(data)

    def inwards() -> None:
        while True:
            data = memoryview(sock.recv(1 << 18))
            if not data:
                os._exit(0)
            while data:
                data = data[os.write(1, data) :]

    def ending(loop: Callable[[], None]) -> None:
        try:
            loop()
        except OSError:
            os._exit(0)

    threading.Thread(target=ending, args=(outwards,), daemon=True).start()
    ending(inwards)


if __name__ == "__main__":
    main()
