"""A real `distmap-worker` as a child process, for tests and examples.

Owns the process and the reading of what it says. It knows nothing of pools.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO

START_SECONDS = 15.0


class WorkerProcess:
    """`python -m distmap.worker.cli` with these arguments; a context manager that leaves no process behind.

    Args:
        args: the command line, for example `"--port", "0"`.
        token_file: what DISTMAP_TOKEN_FILE is set to.
        env: more environment variables.
        cwd: the folder it runs in; this process's own by default.
    """

    def __init__(
        self,
        *args: str,
        token_file: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
    ) -> None:
        environment = {**os.environ, **(env or {})}
        if token_file is not None:
            environment["DISTMAP_TOKEN_FILE"] = str(token_file)
        #: What it has printed so far, by lines.
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        self._news = threading.Condition()
        self._ended = 0
        self.process = subprocess.Popen(
            [sys.executable, "-m", "distmap.worker.cli", *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=cwd,
        )
        pipes = (self.process.stdout, self.stdout), (self.process.stderr, self.stderr)
        self._readers = [threading.Thread(target=self._read, args=pair, daemon=True) for pair in pipes]
        for reader in self._readers:
            reader.start()

    def _read(self, pipe: IO[str], lines: list[str]) -> None:
        for line in pipe:
            with self._news:
                lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._ended += 1
            self._news.notify_all()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def url(self) -> str:
        """The URL of its one line on standard output; waits for it."""
        return self.line("stdout", "://").rpartition(" ")[2]

    def line(self, where: str, text: str, timeout: float = START_SECONDS) -> str:
        """The first line on "stdout" or "stderr" that holds the text; waits for it.

        Raises:
            TimeoutError: it did not come; the message holds what did.
        """
        lines = self.stdout if where == "stdout" else self.stderr

        def found() -> list[str]:
            return [line for line in lines if text in line]

        with self._news:
            self._news.wait_for(lambda: found() or self._ended == len(self._readers), timeout)
            if not found():
                said = "\n".join([*self.stdout, *self.stderr])
                raise TimeoutError(f"the worker (exit code {self.process.poll()}) never said {text!r}:\n{said}")
            return found()[0]

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = START_SECONDS) -> int:
        """Its exit code, once it has ended and all it said has been read."""
        code = self.process.wait(timeout)
        for reader in self._readers:
            reader.join(timeout)
        return code

    def stop(self) -> None:
        """End it: politely, then not."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(getattr(signal, "SIGCONT", signal.SIGTERM))
                self.process.terminate()
                self.process.terminate()  # twice: at once
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(5)
        for reader in self._readers:
            reader.join(5)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
