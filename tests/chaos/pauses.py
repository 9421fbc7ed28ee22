"""A side that stands still for longer than the grace, and goes on: a worker that is stopped, a kernel that is busy.

    stopped    SIGSTOP of the worker in the middle of a map: it is lost, its late results are refused, it joins anew
    busy       C code in the kernel holds the interpreter lock: the worker waits, nobody is lost, nothing runs twice

From the folder `tests/`:  python -m chaos.pauses stopped busy
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import subprocess
import sys
import time

from chaos.shortened import shorten, worker_command

SCENES = ("stopped", "busy")
ITEMS = 60


def run(scene: str, grace: float) -> list[str]:
    from chaos.common import Place, Sent, ran, runs, watchdog

    from distmap import Pool

    problems = []
    watchdog(grace + 120)
    with Place() as place, Sent() as sent:
        path = str(place.folder / "ran")

        def work(item: int) -> int:
            ran(path, item)
            time.sleep(0.05)
            return item * item

        with subprocess.Popen(
            worker_command("--port", "0", "--slots", "2"), stdout=subprocess.PIPE, text=True
        ) as worker:
            assert worker.stdout is not None
            where: list[str | int] = [worker.stdout.readline().rpartition(" ")[2].strip()]
            if scene == "stopped":
                where.append(1)
            with Pool(where, progress=False) as pool:
                pool.wait_for_workers(len(where), 60)
                job = pool.map_async(work, range(ITEMS), chunksize=2)
                while sum(runs(path).values()) < ITEMS // 4:
                    time.sleep(0.01)
                if scene == "stopped":
                    os.kill(worker.pid, signal.SIGSTOP)
                    found = job.result(grace + 60)
                    os.kill(worker.pid, signal.SIGCONT)
                    pool.wait_for_workers(2, 60)
                    if pool.map(abs, range(-50, 0), chunksize=1) != list(range(50, 0, -1)):
                        problems.append("wrong results afterwards")
                else:
                    ctypes.PyDLL(None).usleep(int(1.5e6 * grace))  # PyDLL keeps the lock
                    found = job.result(60)
                stats = job.stats
            worker.terminate()
        twice = sum(runs(path).values()) - ITEMS
        print(f"{scene}: {stats['losses']} workers lost, {twice} items ran twice, {len(sent.sessions)} sessions")
        if found != [item * item for item in range(ITEMS)]:
            problems.append("wrong results")
        expected = (1, 2) if scene == "stopped" else (0, 1)
        if (stats["losses"], len(sent.sessions)) != expected or (twice and scene == "busy"):
            problems.append(f"{expected} losses and sessions were expected")
        problems += [f"left behind: {left}" for left in place.left()]
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", nargs="+", choices=SCENES)
    parser.add_argument("--grace", type=float, default=30.0, help="seconds until a silent worker is lost")
    given = parser.parse_args()
    share = given.grace / 30
    shorten(reconnect_grace=given.grace, suspect_after=10 * share, beat_every=5 * share, doubt_after=6.5 * share)
    wrong = 0
    for scene in given.scenes:
        problems = run(scene, given.grace)
        print(f"{scene}: {'; '.join(problems) or 'ok'}", flush=True)
        wrong += bool(problems)
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
