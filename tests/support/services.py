"""Programs of other people that tests run: found, started, and ended with the test.

Owns their processes. What a program needs in its settings is said by the test that runs it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from support.optional import needs
from support.waiting import until

#: Debian keeps servers here, which are not on every user's PATH.
_ALSO = "/usr/sbin:/usr/local/sbin:/sbin"


def program(name: str) -> str:
    """The path of a program; skips the test where it is missing, and fails it in CI."""
    found = shutil.which(name) or shutil.which(name, path=_ALSO)
    needs(found is not None, name)
    assert found is not None
    return found


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def listens(port: int) -> bool:
    """Whether somebody takes connections there."""
    with socket.socket() as sock:
        sock.settimeout(1)
        return sock.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def running(command: Sequence[str | Path], log: Path, *, port: int | None = None, **options: Any) -> Iterator[Any]:
    """The program, once it takes connections on its port; it and all that it started are ended afterwards.

    Args:
        command: The program, which must stay in the foreground, and its arguments.
        log: Where what it prints goes; shown if it does not start.
        port: None: it is not waited for.
        options: For `subprocess.Popen`.
    """
    out: IO[bytes]
    with open(log, "ab") as out:
        process = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            **options,
        )  # fmt: skip
    try:
        if port is not None:
            try:
                until(lambda: process.poll() is not None or listens(port), seconds=30)
                assert process.poll() is None
            except (TimeoutError, AssertionError):
                raise AssertionError(f"{command[0]} did not start:\n{log.read_text()[-3000:]}") from None
        yield process
    finally:
        for number, seconds in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
                break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
