"""How pools that have their workers started come to the conformance suite: by a command line, and by Slurm.

Owns these starts. The Slurm is the one that `sbatch` finds here, which has to have three cores free.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distmap.pool import Pool
from distmap.testing.engine_suite import Started
from distmap.transport.token import Secret

#: Workers of each pool.
WORKERS = 2


@dataclass
class Launched(Started):
    """Workers of the pool that was made last; a pool is given once they have come."""

    pools: list[Pool] = field(default_factory=list)

    def pool(self, *more: Any) -> Pool:
        """See Started."""
        pool = super().pool(*more)
        self.pools.append(pool)
        try:
            pool.scale(WORKERS)
            pool.wait_for_workers(WORKERS + len(more), timeout=60)
        except BaseException:
            pool.terminate()
            raise
        return pool

    def one_more(self) -> None:
        """Have one more worker; one that was killed before is replaced, too."""
        self.pools[-1].scale(WORKERS + 1)
        self.pools[-1].wait_for_workers(WORKERS + 1, timeout=self.patience)

    def processes(self) -> list[int]:
        """Those of the workers themselves."""
        return sorted(self.pools[-1].run(os.getppid, each="worker").values())


@contextlib.contextmanager
def _launched(target: Any, **options: Any) -> Iterator[Started]:
    with tempfile.TemporaryDirectory(prefix="distmap-suite-") as folder, contextlib.ExitStack() as stack:
        token = Path(folder, "token")
        token.touch(mode=0o600)
        token.write_text(Secret.generate().reveal() + "\n", encoding="utf-8")
        before = os.environ.get("DISTMAP_TOKEN_FILE")
        os.environ["DISTMAP_TOKEN_FILE"] = str(token)
        stack.callback(_restore, before)
        started = Launched(target, {"connect_timeout": 10.0, **options}, tag="suite")
        started.pids = started.processes
        started.join = started.one_more
        started.leave = lambda: started.pools[-1].scale(WORKERS)
        yield started


def _restore(token_file: str | None) -> None:
    os.environ.pop("DISTMAP_TOKEN_FILE", None)
    if token_file is not None:
        os.environ["DISTMAP_TOKEN_FILE"] = token_file


def command() -> contextlib.AbstractContextManager[Started]:
    """Two commands that each start a worker."""
    return _launched([], launch="distmap-worker {url} --slots 1 --tag suite")


def slurm() -> contextlib.AbstractContextManager[Started]:
    """Two jobs of Slurm with a worker each."""
    return _launched(f"slurm://?workers={WORKERS}&cpus=1&time=10&tag=suite")
