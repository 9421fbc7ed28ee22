"""What the chaos scripts share: a place with a token, what every item ran, what is left behind, a watchdog.

Owns nothing of distmap's. A script makes a `Place` first; its functions run in task processes, so what they call is
imported there from this folder.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any

from distmap.transport.token import Secret
from distmap.wire.messages import Drop, Message, Put
from distmap.wire.session import Session


def arguments(doc: str | None, *, minutes: float = 20.0) -> argparse.ArgumentParser:
    """The parser of a script: how long, and the seed of what is random."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=minutes, help="how long it runs (%(default)s)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of what is random (the time)")
    return parser


class Place:
    """A folder, a token and a mark in the environment of all that is started in it; a context manager.

    At the end nothing may be left: no process with the mark, no thread, no socket or pipe, no temporary file or shared
    memory of ours.
    """

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="chaos")
        self.folder = Path(self._temporary.name)
        self.mark = uuid.uuid4().hex
        self._environ = dict(os.environ)

    def __enter__(self) -> Place:
        os.environ["DISTMAP_CHAOS"] = self.mark
        os.environ["TMPDIR"] = tempfile.tempdir = str(self.folder)
        token = self.folder / "token"
        token.touch(mode=0o600)
        token.write_text(Secret.generate().reveal() + "\n", encoding="utf-8")
        os.environ["DISTMAP_TOKEN_FILE"] = str(token)
        os.environ.pop("DISTMAP_TOKEN", None)
        # Task processes import this folder.
        tests = str(Path(__file__).resolve().parents[1])
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [tests, os.environ.get("PYTHONPATH")]))
        self._before = self._seen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tempfile.tempdir = None
        os.environ.clear()
        os.environ.update(self._environ)
        self._temporary.cleanup()

    def _seen(self) -> set[str]:
        found = {f"thread {one.name}" for one in threading.enumerate()}
        found |= {f"file {path}" for place in (self.folder, Path("/dev/shm")) for path in place.glob("distmap*")}
        found |= {f"process {pid}: {command}" for pid, command in processes(self.mark).items()}
        if sys.platform.startswith("linux"):
            for name in os.listdir("/proc/self/fd"):
                try:
                    target = os.readlink(f"/proc/self/fd/{name}")
                except OSError:
                    continue  # the descriptor of the listing itself
                if target.startswith(("socket:", "pipe:", "/memfd:", "/dev/shm/")):
                    found.add(f"descriptor {target}")
        return found

    def left(self, seconds: float = 10.0) -> set[str]:
        """What is there that was not there at the beginning; waits a while until it has gone."""
        end = time.monotonic() + seconds
        while (left := self._seen() - self._before) and time.monotonic() < end:
            time.sleep(0.1)
        return left


def processes(mark: str) -> dict[int, str]:
    """All processes but this one with the mark in their environment, also those whose parent has gone (Linux)."""
    found: dict[int, str] = {}
    if not sys.platform.startswith("linux"):
        return found
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            marked = mark.encode() in Path(f"/proc/{pid}/environ").read_bytes()
            if marked and int(pid) != os.getpid():
                words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
                found[int(pid)] = words.decode(errors="replace")[:200]
        except OSError:
            continue  # ended meanwhile, or not ours
    return found


# --- what ran ---------------------------------------------------------------------------------------------------------


def ran(path: str, item: object) -> None:
    """Note, in the task process, that an item begins to run: one line, whole, whoever else writes."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, f"{item}\n".encode())
    os.close(file)


def runs(path: str) -> Counter[str]:
    """How often each item ran."""
    try:
        return Counter(Path(path).read_text(encoding="utf-8").split())
    except FileNotFoundError:
        return Counter()


class Sent:
    """Counts the blobs that sessions of this process send; a context manager.

    A blob that a worker gets twice was lost before, and a worker that has a second session was lost, too.
    """

    def __init__(self) -> None:
        self.sessions: list[Session] = []
        self.blobs = self.again = 0
        self._there: set[tuple[Session, bytes]] = set()
        self._send = Session.send

    def __enter__(self) -> Sent:
        send, self_ = self._send, self

        def counting(session: Session, message: Message, parts: Any = ()) -> None:
            self_._count(session, message)
            send(session, message, parts)

        Session.send = counting  # type: ignore[method-assign]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        Session.send = self._send  # type: ignore[method-assign]

    def _count(self, session: Session, message: Message) -> None:
        if session not in self.sessions:
            self.sessions.append(session)
        if isinstance(message, Put):
            self.blobs += 1
            self.again += (session, message.digest) in self._there
            self._there.add((session, message.digest))
        elif isinstance(message, Drop):
            self._there.discard((session, message.digest))

    def problems(self, workers: int) -> list[str]:
        """What was not as it is where so many workers joined and none was lost."""
        found = [f"{self.again} blobs were sent again"] if self.again else []
        if len(self.sessions) != workers:
            found.append(f"{len(self.sessions)} sessions were made for {workers} workers")
        return found


# --- the end ----------------------------------------------------------------------------------------------------------


def watchdog(seconds: float) -> None:
    """End this process with the stacks of all threads, if this is not called again within so many seconds."""
    faulthandler.dump_traceback_later(seconds, exit=True)


def verdict(figures: dict[str, object], problems: list[str]) -> int:
    """Print the figures, and what went wrong; gives the exit code."""
    faulthandler.cancel_dump_traceback_later()
    for name, value in figures.items():
        print(f"{name:>32}: {value}")
    for problem in problems:
        print(f"WRONG: {problem}")
    print("ok" if not problems else f"{len(problems)} problems", flush=True)
    return bool(problems)
