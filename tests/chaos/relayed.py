"""Many workers of one pool at a relay, which restarts in the middle of a map.

    cd tests && python -m chaos.relayed --workers 1000            # simulated workers in one process
    cd tests && python -m chaos.relayed --workers 50 --real       # real `distmap-worker` processes

The relay is a real process and so is everything between the two ends. A simulated worker is a real one (its dialling,
its proofs, its session) whose task processes are replaced by a timer and a runner in the same process: so a thousand of
them fit into one.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from chaos.shortened import shorten, worker_command

#: What each item takes.
SECONDS = 0.5


@contextlib.contextmanager
def started(*command: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, text=True, **options)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


class RelayProcess:
    """A relay on one port, over its restarts."""

    def __init__(self, folder: Path) -> None:
        self._log = open(folder / "relay.log", "a")
        self.port, self.process = 0, None
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "distmap.relay.cli", "--port", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline().rpartition(":")[2])

    def stop(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=30)

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"


def most_files() -> None:
    """Let this process and what it starts open as many files as the system allows."""
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=100)
    parser.add_argument("--real", action="store_true", help="real workers, which sleep")
    parser.add_argument("--away", type=float, default=2.0, help="seconds for which the relay is away (%(default)s)")
    parser.add_argument("--grace", type=float, default=30.0, help="how long workers may be away (%(default)s)")
    options = parser.parse_args()
    most_files()
    shorten(reconnect_grace=options.grace)
    from chaos.common import Place, verdict, watchdog

    watchdog(600)
    with Place() as place:
        figures, problems = play(options, place.folder)
        problems += sorted(place.left())
    return verdict(figures, problems)


def play(options: argparse.Namespace, folder: Path) -> tuple[dict[str, object], list[str]]:
    """One map before the restart, one over it."""
    from chaos.common import ran, runs

    from distmap import Pool

    count, real, away = options.workers, options.real, options.away
    figures: dict[str, object] = {"workers": f"{count} {'real' if real else 'simulated'}"}
    problems: list[str] = []
    relay, path = RelayProcess(folder), str(folder / "ran")
    clock = time.monotonic
    with contextlib.ExitStack() as stack:
        stack.callback(relay.stop)
        log = stack.enter_context(open(folder / "workers.log", "w"))
        quiet = {"stdout": log, "stderr": log, "stdin": subprocess.PIPE}
        began = clock()
        if real:
            for number in range(count):
                line = worker_command("--relay", relay.url, "--slots", "1", "--name", f"w{number}")
                stack.enter_context(started(*line, **quiet))
        else:
            line = [sys.executable, "-m", "chaos.simulated", relay.url, str(count)]
            stack.enter_context(started(*line, **quiet))
        pool = stack.enter_context(Pool(relay=relay.url, connect_timeout=300))
        pool.wait_for_workers(count, 300)
        figures["seconds until all had joined"] = round(clock() - began, 2)

        def work(item: int) -> int:
            ran(path, item)
            if real:
                time.sleep(SECONDS)
            return item * item

        def restart() -> None:
            relay.stop()
            time.sleep(away)
            relay.start()

        items = 4 * count
        began = clock()
        right = pool.map(work, range(items), chunksize=1, progress=False) == [item * item for item in range(items)]
        figures["a map of"] = f"{items} items of {SECONDS} s in {clock() - began:.2f} s ({4 * SECONDS} at best)"
        figures["memory of the relay"] = f"{psutil.Process(relay.process.pid).memory_info().rss >> 20} MB"
        before = {worker.name for worker in pool.workers}
        breaking = threading.Timer(SECONDS, restart)
        breaking.start()
        began = clock()
        again = pool.map(work, range(items, 2 * items), chunksize=1, progress=False)
        right = right and again == [item * item for item in range(items, 2 * items)]
        figures["with a restart"] = f"{clock() - began:.2f} s, relay away for {away:g} s or more"
        breaking.join()
        while any(worker.state != "ready" for worker in pool.workers) and clock() - began < options.grace:
            time.sleep(0.05)
        figures["seconds until all were back"] = round(clock() - began - SECONDS, 2)
        twice = [item for item, times in runs(path).items() if times > 1]
        figures["items that ran twice"] = len(twice)
        figures["memory of the pool"] = f"{psutil.Process().memory_info().rss >> 20} MB"
        if not right:
            problems.append("a result is wrong")
        if twice or len(runs(path)) != 2 * items:
            problems.append(f"{len(twice)} items ran twice, {2 * items - len(runs(path))} did not run")
        if {worker.name for worker in pool.workers} != before or len(pool.workers) != count:
            problems.append(f"{len(pool.workers)} of {count} workers are there at the end")
        lost = [line for line in (folder / "workers.log").read_text().splitlines() if "gone: " in line]
        if lost:
            problems.append(f"{len(lost)} sessions ended: {lost[0]}")
    return figures, problems


if __name__ == "__main__":
    sys.exit(main())
