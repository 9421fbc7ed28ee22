"""A worker on a terminal of its own, in a home with nothing in it: what it shows, and what is typed."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


class Terminal:
    """A worker at a terminal of its own: what it shows there, and what is typed. Its standard output is a pipe."""

    def __init__(self, *args: str, env: Mapping[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        self.shown = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "distmap.worker.cli", *args],
            stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, env=env, start_new_session=True, text=True,
        )  # fmt: skip
        os.close(theirs)

    def until(self, text: str, seconds: float = 15) -> None:
        """Wait until it shows the text, behind what was waited for before."""
        end = time.monotonic() + seconds
        while text not in self.shown:
            left = end - time.monotonic()
            assert left > 0, f"it never showed {text!r}:\n{self.shown}"
            if select.select([self._ours], [], [], left)[0]:
                try:
                    self.shown += os.read(self._ours, 4096).decode()
                except OSError:  # it has ended
                    raise AssertionError(f"it ended before it showed {text!r}:\n{self.shown}") from None

    def type(self, line: str) -> None:
        self.shown = ""
        os.write(self._ours, f"{line}\n".encode())

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()
        os.close(self._ours)


@contextmanager
def terminal(home: Path, *args: str) -> Iterator[Terminal]:
    """A worker of a user with nothing in their home."""
    gone = ("DISTMAP_TOKEN_FILE", "DISTMAP_TOKEN", "DISTMAP_HEADER_FILE", "XDG_CONFIG_HOME")
    env = {name: value for name, value in os.environ.items() if name not in gone} | {"HOME": str(home)}
    shown = Terminal(*args, env=env)
    try:
        yield shown
    finally:
        shown.close()
