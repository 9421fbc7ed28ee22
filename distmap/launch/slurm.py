"""Workers in jobs of Slurm, each worker a job of its own: so one may end, or never begin, and the others go on.

Owns the commands `sbatch`, `squeue` and `scancel` of one pool, the folder of its logs, and what they say when something
fails. The script is that of `scripts.py`. It must not know how many workers there should be. On one event loop.

The workers of one start are the tasks of one job array, so it takes one command, however many there are.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from distmap.core.launch_limits import LAUNCH
from distmap.errors import LaunchError
from distmap.launch.launcher import Ended, Started
from distmap.launch.scripts import slurm_worker
from distmap.launch.slurm_url import SlurmOptions
from distmap.wire.handshake import sanitized

log = logging.getLogger("distmap.launch")

#: What a job in another state than these has: its worker has ended.
_ALIVE = {"PENDING": "queued", "CONFIGURING": "queued", "RUNNING": "running", "SUSPENDED": "running"}
_ALIVE |= {"REQUEUED": "queued", "REQUEUE_HOLD": "queued", "RESV_DEL_HOLD": "queued", "SPECIAL_EXIT": "queued"}

#: Tasks of one job array: Slurm takes 1,000 if nobody has told it otherwise.
_ARRAY = 1000

#: Variables of the job that the pool itself may run in, which would be options of the new one, and such as filter what
#: the commands tell. Those of the user for `sbatch` (SBATCH_ACCOUNT ...) count.
_LEFT_OUT = ("SLURM_", "SQUEUE_", "SCANCEL_")


class SlurmLauncher:
    """A launcher of jobs.

    Args:
        options: What to ask for.
        token_file: The file of the token, which the nodes must be able to read.
        env: The environment of the jobs, without the token.
    """

    name = "Slurm"

    def __init__(self, options: SlurmOptions, token_file: str, env: Mapping[str, str]) -> None:
        self.slots = options.gpus or options.cpus or 1
        self.changed: Callable[[], None] = lambda: None
        self._options, self._token_file = options, token_file
        kept = {name: value for name, value in env.items() if not name.startswith(_LEFT_OUT) or name == "SLURM_CONF"}
        self._env = {**kept, "DISTMAP_TOKEN_FILE": token_file}
        #: Names all jobs of this pool.
        self._job = f"distmap-{secrets.token_hex(4)}"
        cache = Path(env.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self._logs = cache / "distmap" / self._job
        self._known: dict[str, Started] = {}
        self._failed = self._asked = False
        # When it was looked last, and how long to wait until the next time.
        self._looked, self._pause = 0.0, LAUNCH.tick

    async def start(self, n: int, url: str) -> Sequence[str]:
        """See Launcher."""
        self._path("sbatch")
        options, self._asked = self._options, True
        self._logs.mkdir(parents=True, exist_ok=True)
        script = slurm_worker(
            self._line(url),
            cpus=options.cpus,
            gpus=options.gpus,
            time=options.time,
            token_file=self._token_file,
            setup=['export DISTMAP_LAUNCH="${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"', *options.setup],
        )
        # These count more than those in the script.
        ours = [f"--job-name={self._job}", f"--output={self._logs}/%A_%a.log"]
        ids = list[str]()
        for first in range(0, n, _ARRAY):
            count = min(_ARRAY, n - first)
            array = [*options.more, *ours, f"--array=0-{count - 1}"]
            said = (await self._ask("sbatch", "--parsable", *array, given=script)).strip()
            job = said.partition(";")[0]
            if not job.isdecimal():
                raise LaunchError(f"Slurm: sbatch did not name the job, and said: {sanitized(said, LAUNCH.words)}")
            log.info("= Slurm has job %s: %d workers", job, count)
            ids += [f"{job}_{number}" for number in range(count)]
            self._known = {**self._known, **dict.fromkeys(ids, Started("queued"))}
        self.hurry()
        return ids

    def _line(self, url: str) -> str:
        """The command of a worker. Its last word is the URL, as `scripts` takes it."""
        options = self._options
        if options.python or not options.setup:
            # -P: the folder of the job is no place of modules.
            words = [options.python or sys.executable, "-P", "-m", "distmap.worker.cli"]
        else:
            words = ["distmap-worker"]
        return " ".join([*map(shlex.quote, [*words, *options.worker]), url])

    async def look(self) -> Mapping[str, Started]:
        """See Launcher."""
        loop = asyncio.get_running_loop()
        if not self._known or loop.time() < self._looked + self._pause:
            return self._known
        try:
            said = await self._ask("squeue", "--noheader", "--array", f"--name={self._job}", "--format=%i|%T|%r")
        except LaunchError as error:  # its controller may be away for minutes
            log.warning("%s", error)
        else:
            now = {}
            for line in said.splitlines():
                id, state, reason = (*line.strip().split("|", 2), "", "")[:3]
                if state in _ALIVE and id in self._known:
                    queued = _ALIVE[state] == "queued"
                    now[id] = Started("queued", 1, sanitized(reason)) if queued else Started("running")
            self._known = now
        self._pause = min(2 * self._pause, LAUNCH.look_most)
        self._looked = loop.time()
        return self._known

    def hurry(self) -> None:
        """See Launcher. Many changes at once are one look all the same."""
        self._pause = LAUNCH.tick

    async def ended(self, id: str, *, expected: bool) -> Ended | None:
        """See Launcher."""
        if expected:
            return None
        path = self._logs / f"{id}.log"
        try:
            words = " ".join(path.read_text("utf-8", "replace").split())
        except OSError:
            words = ""
        self._failed = True
        said = f"its log ends with: {words[-LAUNCH.words :]}" if words else f"it has no log at {path}"
        return Ended(False, f"job {id} of Slurm ended before its worker came, and {sanitized(said, 2 * LAUNCH.words)}")

    async def end(self, ids: Sequence[str]) -> None:
        """See Launcher."""
        try:
            await self._ask("scancel", *ids)
        except LaunchError as error:  # some may have ended by themselves
            log.warning("%s", error)
        self.hurry()

    async def close(self) -> None:
        """See Launcher."""
        if self._asked:  # a submission may have been cut short, and its job be there
            try:
                await self._ask("scancel", f"--name={self._job}")
            except LaunchError as error:
                log.warning(
                    "! jobs of the pool may be left in Slurm; end them by `scancel --name=%s`: %s", self._job, error
                )
        if not self._failed:
            await asyncio.to_thread(shutil.rmtree, self._logs, ignore_errors=True)

    def _path(self, program: str) -> str:
        """Where a command of Slurm is; LaunchError if it is not there."""
        path = shutil.which(program, path=self._env.get("PATH"))
        if path is None:
            raise LaunchError(
                f"Slurm: the command {program} is not on this machine; make the pool on a login node or on a node of "
                "the cluster"
            )
        return path

    async def _ask(self, program: str, *arguments: str, given: str = "") -> str:
        """What a command of Slurm prints; LaunchError if it is not there, refuses or does not answer."""
        path = self._path(program)
        try:
            process = await asyncio.create_subprocess_exec(
                path, *arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE, env=self._env, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise LaunchError(f"Slurm: {program} could not be started: {error.strerror or error}") from error
        try:
            async with asyncio.timeout(LAUNCH.ask):
                out, err = await process.communicate(given.encode())
        except BaseException as error:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            if isinstance(error, TimeoutError):
                raise LaunchError(f"Slurm: {program} did not answer within {LAUNCH.ask:g} s") from None
            raise
        if process.returncode:
            words = " ".join((err or out).decode("utf-8", "replace").split())
            raise LaunchError(f"Slurm: {program} refused: {sanitized(words, LAUNCH.words)}")
        return out.decode("utf-8", "replace")
