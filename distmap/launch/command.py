"""Workers that any command line starts: mpiexec, srun, docker, a script.

Owns the processes of such commands, each in a process group of its own, and what they say last. It must not know how
many there should be. On one event loop.

The shell that runs a command watches a pipe of this process beside it: if that breaks, because the pool's process was
killed, the shell ends the group. So nothing of it stays, whatever the command is.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import re
import secrets
import shlex
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial

from distmap.core.launch_limits import LAUNCH
from distmap.errors import LaunchError
from distmap.launch.launcher import Ended, Started
from distmap.wire.handshake import sanitized

log = logging.getLogger("distmap.launch")

#: Runs the command in `$1`. `$2`: seconds that its group has to end, if the pipe on standard input breaks; a line in it
#: says that it has ended.
_GUARD = """
exec 3<&0 </dev/null
(
    trap '' TERM INT HUP
    read -r _ <&3 && exit
    kill -TERM 0
    sleep "$2"
    kill -KILL 0
) >/dev/null 2>&1 &
guard=$!
exec 3<&-
eval "$1"
code=$?
kill -KILL "$guard" 2>/dev/null
exit "$code"
"""

#: What stands for what in a command; other braces are the command's own.
_NAMES = re.compile(r"\{(url|n|token_file)\}")


class CommandLauncher:
    """A launcher of one command line, which is run once for each worker, or with `{n}` once for so many.

    Args:
        command: For a POSIX shell. `{url}` is what `distmap-worker` is given, `{n}` the number of workers,
            `{token_file}` the file of the token.
        token_file: That file.
        env: The environment of the command, without the token.

    Raises:
        ValueError: It has no `{url}`, or there is a token in it.
    """

    slots = 1

    def __init__(self, command: str, token_file: str, env: Mapping[str, str]) -> None:
        if "{url}" not in command:
            raise ValueError(
                f"launch= needs {{url}} where the command of the worker has the pool's address, such as "
                f'"mpiexec -n 32 distmap-worker {{url}}"; got {command!r}'
            )
        if "dm1_" in command:
            raise ValueError(
                "launch= holds a token, and every user of this host can read command lines: take it out. The command "
                "has the file of the token in DISTMAP_TOKEN_FILE, and as {token_file}"
            )
        self.name = _shortened(command)
        self.changed: Callable[[], None] = lambda: None
        self._command, self._token_file = command, token_file
        # The worker of this environment, before that of another one.
        path = os.pathsep.join(filter(None, (os.path.dirname(sys.executable), env.get("PATH", os.defpath))))
        self._env = {**env, "PATH": path, "DISTMAP_TOKEN_FILE": token_file}
        self._runs: dict[str, _Run] = {}
        self._over: dict[str, Ended] = {}
        self._ids = (f"{prefix}-{number}" for prefix in [secrets.token_hex(4)] for number in itertools.count(1))

    async def start(self, n: int, url: str) -> Sequence[str]:
        """See Launcher."""
        if os.name != "posix":
            raise LaunchError(f"launch={self.name!r} needs a POSIX shell, which this system has not")
        many = "{n}" in self._command
        workers = n if many else 1
        words = {"url": url, "n": str(workers), "token_file": shlex.quote(self._token_file)}
        command = _NAMES.sub(lambda match: words[match[1]], self._command)
        started = []
        for _ in range(1 if many else n):
            id = next(self._ids)
            run = _Run(workers, partial(self._has_ended, id))
            try:
                await run.start(command, {**self._env, "DISTMAP_LAUNCH": id})
            except OSError as error:
                raise LaunchError(f"{self.name} could not be started: {error.strerror or error}") from error
            log.info("= started: %s", self.name)
            self._runs[id] = run
            started.append(id)
        return started

    def _has_ended(self, id: str, code: int) -> None:
        run = self._runs.pop(id)
        how = f"ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        said = f" and said: {words}" if (words := run.words) else " and said nothing"
        self._over[id] = Ended(code == 0, f"{self.name} {how}{said}")
        log.info("x %s %s", self.name, how)
        self.changed()

    async def look(self) -> Mapping[str, Started]:
        """See Launcher."""
        return {id: Started("running", run.workers, run.words) for id, run in self._runs.items()}

    def hurry(self) -> None:
        """See Launcher: it always knows."""

    async def ended(self, id: str, *, expected: bool) -> Ended | None:
        """See Launcher."""
        ended = self._over.pop(id)
        return None if expected and not ended.well else ended

    async def end(self, ids: Sequence[str]) -> None:
        """See Launcher."""
        for id in ids:
            if (run := self._runs.get(id)) is not None:
                run.signal(signal.SIGKILL if run.told else signal.SIGTERM)

    async def close(self) -> None:
        """See Launcher."""
        runs = list(self._runs.values())
        for number, seconds in ((signal.SIGTERM, LAUNCH.end), (signal.SIGKILL, None)):
            for run in runs:
                run.signal(number)
            waits = [run.waits for run in runs if run.waits is not None]
            if not waits or not (await asyncio.wait(waits, timeout=seconds))[1]:
                break


class _Run:
    """One run of the command."""

    def __init__(self, workers: int, ended: Callable[[int], None]) -> None:
        self.workers = workers
        self.waits: asyncio.Task[None] | None = None
        #: Whether it was told to end.
        self.told = False
        self._ended = ended
        self._tail = b""
        self._process: asyncio.subprocess.Process | None = None
        #: Our ends of three pipes: what it says; one that breaks with this process; one that is open while anything of
        #: it runs, wherever that prints to.
        self._reads = self._holds = self._runs = -1

    @property
    def words(self) -> str:
        """What it said last, in one line."""
        text = " ".join(self._tail.decode("utf-8", "replace").split())
        return sanitized(text if len(text) <= LAUNCH.words else f"...{text[-LAUNCH.words :]}", LAUNCH.words + 3)

    async def start(self, command: str, env: Mapping[str, str]) -> None:
        """Start it; OSError if there is no shell, or no process can be made."""
        self._reads, writes = os.pipe()
        watches, self._holds = os.pipe()
        self._runs, running = os.pipe()
        arguments = ["sh", "-c", _GUARD, "distmap-launch", command, f"{LAUNCH.end:.0f}"]
        try:
            self._process = await asyncio.create_subprocess_exec(
                *arguments, stdin=watches, stdout=writes, stderr=writes, pass_fds=[running], env=env,
                start_new_session=True,
            )  # fmt: skip
        except BaseException:
            self._close()
            raise
        finally:
            for end in (writes, watches, running):
                os.close(end)
        os.set_blocking(self._reads, False)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._reads, self._read)
        self.waits = loop.create_task(self._wait(self._process))

    def _close(self) -> None:
        for end in (self._reads, self._holds, self._runs):
            os.close(end)

    def signal(self, number: int) -> None:
        """To all of its group."""
        self.told = True
        if self._process is not None and self.waits is not None and not self.waits.done():
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def _read(self) -> bool:
        """Read what there is; False at the end, or if there is nothing more now."""
        try:
            data = os.read(self._reads, 1 << 16)
        except BlockingIOError:
            return False
        self._tail = (self._tail + data)[-4 * LAUNCH.words :]
        if not data:
            asyncio.get_running_loop().remove_reader(self._reads)
        return bool(data)

    async def _wait(self, process: asyncio.subprocess.Process) -> None:
        code = await process.wait()
        with suppress(OSError):
            os.write(self._holds, b"\n")
        loop = asyncio.get_running_loop()
        if self.told:  # a worker removes its files
            over = asyncio.Event()
            loop.add_reader(self._runs, over.set)
            with suppress(TimeoutError):
                async with asyncio.timeout(LAUNCH.end):
                    await over.wait()
            loop.remove_reader(self._runs)
        with suppress(ProcessLookupError, PermissionError):  # PermissionError: of macOS, for a group of zombies
            os.killpg(process.pid, signal.SIGKILL)  # what it left behind
        while self._read():
            pass
        loop.remove_reader(self._reads)
        self._close()
        self._ended(128 - code if 128 < code <= 192 else code)  # of a shell, for a signal


def _shortened(command: str) -> str:
    text = " ".join(command.split())
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
