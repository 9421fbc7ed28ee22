"""Runs pip in the environment of a task process: the part of `pool.install` that runs on each worker.

Owns the command line, the turn of workers that share an environment, and what is told of pip's output. Addresses with a
password are never on the command line, and never told. Must not know pools or workers. Nothing but the module itself
travels: it is imported there, and imports what it needs when it is called.
"""

from __future__ import annotations

import os
import sys

from distmap.tasks._typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Lines of pip's output that are kept for its error.
LAST_LINES = 6


class Installed(NamedTuple):
    """What pip did."""

    #: 0 if all is there now.
    code: int
    #: Name and version of what it installed.
    changed: tuple[str, ...]
    #: What it said last.
    last: tuple[str, ...]
    #: The interpreter whose environment it is.
    python: str


def install(requirements: Sequence[str]) -> Installed:
    """Run `python -m pip install` with these arguments for this interpreter; print what it says, line by line."""
    import subprocess
    import tempfile

    arguments, secret = split(requirements)
    command = [sys.executable, "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    last: list[str] = []
    changed: tuple[str, ...] = ()
    with _turn(), tempfile.TemporaryDirectory(prefix="distmap-pip-") as folder:
        if secret:
            path = os.path.join(folder, "requirements.txt")  # the folder is ours alone
            with open(path, "w", encoding="utf-8") as file:
                file.write("\n".join(secret) + "\n")
            command += ["--requirement", path]
        process = subprocess.Popen(
            [*command, "--progress-bar=off", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        try:
            assert process.stdout is not None
            for raw in process.stdout:
                line = without_passwords(raw.rstrip())
                if not line:
                    continue
                print(line, flush=True)
                last = [*last, line][-LAST_LINES:]
                if line.startswith("Successfully installed "):
                    changed = tuple(line.split()[2:])
            code = process.wait()
        finally:  # an interrupt, or a cancel
            if process.poll() is None:
                process.kill()
                process.wait()
            process.stdout.close()  # type: ignore[union-attr]
    return Installed(code, changed, tuple(last), sys.executable)


def _has_password(text: str) -> bool:
    return without_passwords(text) != text


def without_passwords(text: str) -> str:
    """The text with **** for user and password in each address."""
    import re

    return re.sub(r"(\b[a-zA-Z][\w+.-]*://)[^/\s]+@", r"\1****@", text)


def split(requirements: Sequence[str]) -> tuple[list[str], list[str]]:
    """Arguments for the command line, and lines for a requirements file: those with an address that has a password."""
    arguments: list[str] = []
    secret: list[str] = []
    for part in requirements:
        if not _has_password(part):
            arguments.append(part)
        elif arguments and arguments[-1] in ("-i", "--index-url", "--extra-index-url", "-f", "--find-links"):
            secret.append(f"{arguments.pop()} {part}")
        else:
            secret.append(part)
    return arguments, secret


class _turn:
    """Waits until no other process of this host runs pip for this environment: two at once would break it."""

    def __enter__(self) -> None:
        self._fd = -1
        if os.name == "posix":
            import fcntl

            # The folder itself: there is no file to be left behind.
            self._fd = os.open(sys.prefix, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX)
            except OSError:  # a file system without locks: pip goes ahead
                pass

    def __exit__(self, *error: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)
