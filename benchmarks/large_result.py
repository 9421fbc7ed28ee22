"""One result of 4 GiB and more: from a slot of this machine, and from a worker over its connection on loopback.

How long it takes, what memory the client needs beside the result, and whether the worker stays in touch meanwhile.
Not part of run_all.py: it takes 12 GB of memory.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import sys
import threading
import time

import distmap


def zeros(count: int) -> bytes:
    """A result of so many bytes."""
    return bytes(count)


def take(pool: distmap.Pool, name: str, count: int) -> None:
    """Get one such result; print seconds and memory, and whether a worker was silent meanwhile."""
    silent: list[str] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            silent.extend(worker.state for worker in pool.workers if worker.state != "ready")

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    try:
        (result,) = pool.map(zeros, [count], progress=False)
    finally:
        over.set()
        watcher.join()
    seconds = time.perf_counter() - began
    if len(result) != count or result[-1] != 0:
        raise RuntimeError("a wrong result")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(f"{name}: {count / 2**30:.2f} GiB in {seconds:.1f} s, {count / 2**30 / seconds:.2f} GiB/s; ", end="")
    print(f"peak of the client {peak / 2**30:.2f} GiB; not in touch: {len(silent)} of its looks")


def main() -> None:
    """Run both, or one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=4.25, help="size of the result (default 4.25)")
    parser.add_argument("--only", choices=("local", "remote"), help="one of the two; peaks are then its own")
    args = parser.parse_args()
    count = int(args.gib * 2**30)
    if args.only != "remote":
        with distmap.Pool(1) as pool:
            take(pool, "local", count)
    if args.only != "local":
        run = "import sys; from distmap.worker.cli import main; sys.exit(main(sys.argv[1:]))"
        command = [sys.executable, "-c", run, "--slots", "1", "--port", "0"]
        worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ)
        try:
            assert worker.stdout is not None
            found = re.search(r"wss://\S+", worker.stdout.readline())
            assert found is not None, "the worker did not say where it listens"
            with distmap.Pool(found.group()) as pool:
                take(pool, "remote", count)
        finally:
            worker.terminate()
            worker.wait()


if __name__ == "__main__":
    main()
