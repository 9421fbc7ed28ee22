"""`pool.install`: pip on every worker, with a panel, and fresh task processes afterwards.

Owns the call, what it returns and its error. pip itself runs in a task process of each worker (`tasks/pip.py`). Must
not know engines: the driver has the task processes replaced.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from distmap.calls.controls import JobControls
from distmap.calls.options import MapOptions
from distmap.calls.reader import JobContext
from distmap.calls.setups import SetUp, record_of
from distmap.core.progress import JobState, ProgressOption
from distmap.driver.messages import WorkerStatus, empty_snapshot
from distmap.errors import InstallError
from distmap.tasks.code import Code
from distmap.tasks.failures import headline
from distmap.tasks.pip import Installed, install, without_passwords
from distmap.views.display import JobDisplay


class Installation(Mapping[str, str]):
    """What `pool.install` did, by worker: "installed polars-1.9.0", or "had all of it"."""

    def __init__(self, words: Mapping[str, str]) -> None:
        self._words = dict(words)

    def __getitem__(self, worker: str) -> str:
        return self._words[worker]

    def __iter__(self) -> Any:
        return iter(self._words)

    def __len__(self) -> int:
        return len(self._words)

    def __repr__(self) -> str:
        return "\n".join(f"{worker}: {words}" for worker, words in self._words.items()) or "nothing"


def checked_requirements(requirements: Sequence[object]) -> tuple[str, ...]:
    """The requirements as text.

    Raises:
        TypeError: one of them is no text and no path.
        ValueError: there are none, or one has several lines.
    """
    if not requirements:
        raise ValueError("install() takes what pip is to install, such as pool.install('polars==1.9.0')")
    found = []
    for one in requirements:
        if not isinstance(one, str | os.PathLike):
            raise TypeError(f"install(...) takes text, as `pip install` does; got {type(one).__name__}")
        text = os.fspath(one)
        if not isinstance(text, str) or not text.strip() or "\n" in text:
            raise ValueError(f"install(...) takes one requirement or option of pip in each argument; got {text!r}")
        found.append(text)
    return tuple(found)


def check_members(members: Sequence[WorkerStatus]) -> None:
    """Raise TypeError if there are workers whose processes are not distmap's."""
    foreign = [member.info.name for member in members if member.place == "foreign"]
    if foreign:
        raise TypeError(
            f"install() works on slots of this machine and on distmap-workers; {', '.join(foreign)} "
            f"{'is' if len(foreign) == 1 else 'are'} run by somebody else: install it there by the means of that"
        )


def job_of(requirements: tuple[str, ...]) -> Callable[[], Installed]:
    """What runs on each worker."""
    return partial(install, requirements)


def run(
    context: JobContext,
    code: Code,
    requirements: tuple[str, ...],
    options: MapOptions,
    progress: ProgressOption,
    aside: Callable[[Callable[[], object]], object],
) -> Installation:
    """Run pip on all workers, and replace their task processes.

    Raises:
        InstallError: pip failed on a worker.
    """
    title = without_passwords(f"pip install {' '.join(requirements)}")
    handle = SetUp(context, code, job_of(requirements), "worker", options, aside, name=title)
    record = record_of(handle)
    display = JobDisplay(title, "", JobControls(context, record.id), lambda: record.latest, ("install", "install"))
    view = display.show(progress)
    record.watched = view is not None
    if record.router is not None:
        record.router.write_by(view)
    state: JobState = "failed"
    try:
        handle.begin()
        failed = {worker: words for worker in handle if (words := _failure(handle[worker]))}
        state = "failed" if failed else "done"
    except KeyboardInterrupt:
        display.interrupted, state = True, "interrupted"
        raise
    finally:
        handle.close()
        display.close(record.latest or empty_snapshot(record.spec), state)
        # Also after a failure: pip may have changed something before.
        importlib.invalidate_caches()
        context.portal.call(context.driver.workers.renew)
    if failed:
        raise InstallError(f"{title} failed on " + "; and on ".join(f"{who}:{said}" for who, said in failed.items()))
    return Installation({worker: _words(handle[worker]) for worker in handle})


def _failure(result: Installed | BaseException) -> str:
    if isinstance(result, BaseException):
        return f" {headline(result)}"
    if result.code == 0:
        return ""
    hint = ""
    if any("No module named pip" in line for line in result.last):
        hint = f" (there is no pip: run `{result.python} -m ensurepip` there)"
    return "\n".join(["", *(f"  {line}" for line in result.last or (f"pip ended with code {result.code}",))]) + hint


def _words(result: Installed) -> str:
    return f"installed {', '.join(result.changed)}" if result.changed else "had all of it"
