"""From process start to the first result of a pool of two: what the first cell of a notebook waits for.

Every round is a fresh interpreter that runs a small script; the clock stops when its line arrives. In the case "in a
kernel" it starts after what every Jupyter kernel has imported long before its first cell (asyncio and its kin).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import LIMIT, OURS, Report, interleave, options, ratio

BODIES = {
    OURS: """
import distmap
with distmap.Pool(2) as pool:
    print(pool.apply({fn}, (12,)), flush=True)
""",
    "mp.Pool spawn": """
import multiprocessing
if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        print(pool.apply({fn}, (12,)), flush=True)
""",
    "ProcessPoolExecutor spawn": """
import multiprocessing, concurrent.futures
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        print(pool.submit({fn}, 12).result(), flush=True)
""",
    "mp.Pool fork": """
import multiprocessing
if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(pool.apply({fn}, (12,)), flush=True)
""",
    "mp.Pool forkserver": """
import multiprocessing
if __name__ == "__main__":
    with multiprocessing.get_context("forkserver").Pool(2) as pool:
        print(pool.apply({fn}, (12,)), flush=True)
""",
    "joblib": """
import joblib
if __name__ == "__main__":
    print(joblib.Parallel(n_jobs=2)([joblib.delayed({fn})(12)])[0], flush=True)
""",
    LIMIT + "two bare interpreters and a pipe": """
import os, sys
if __name__ == "__main__":
    near, far = os.pipe()
    for _ in range(2):
        command = [sys.executable, "-c", "import os; os.write(1, b'{expected} ')"]
        os.posix_spawn(sys.executable, command, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, far, 1)])
    print(os.read(near, 100).decode().split()[0], flush=True)
    os.wait(), os.wait()
""",
}
KERNEL = """
import math
if __name__ == "__main__":
    import asyncio, concurrent.futures, logging, subprocess, uuid
    print(flush=True)
"""
#: A function of the script itself, as in a notebook; and one that every process can import.
CASES = {
    "a function of the script": ("def square(x):\n    return x * x\n", "square", "144"),
    "a function of the standard library": ("import math\n", "math.isqrt", "3"),
    # A notebook has no script for children to run again: only the first process imports these.
    "in a kernel": (KERNEL, "math.isqrt", "3"),
}


def first_result(script: Path, expected: str) -> float:
    """Seconds from starting the script to the line that holds its first result."""
    began = time.perf_counter()
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        if not line:  # it says that it is ready
            began = time.perf_counter()
            line = process.stdout.readline().strip()
        elapsed = time.perf_counter() - began
        process.stdout.read()
    if line != expected:
        raise RuntimeError(f"{script.name} printed {line!r} instead of {expected}")
    return elapsed


def main() -> None:
    args = options(__doc__ or "", rounds=9, quick_rounds=3)
    report = Report("cold", args)
    with tempfile.TemporaryDirectory() as folder:
        for case, (head, fn, expected) in CASES.items():
            contenders = {}
            for who, body in BODIES.items():
                script = Path(folder) / f"{len(case)}-{fn}-{who.replace(' ', '-')}.py"
                # Nothing but text is formatted: the bodies hold no other braces.
                script.write_text(head + body.format(fn=fn, expected=expected))
                contenders[who] = lambda script=script, expected=expected: first_result(script, expected)
            got = interleave(contenders, args.rounds, limits={"joblib": 2, "mp.Pool forkserver": 4})
            medians = report.case(f"process start to first result, {case}", got, key=case)
            report.target(f"{case}: / ProcessPoolExecutor spawn", ratio(medians, "ProcessPoolExecutor spawn"), 1.0)
            report.target(f"{case}: / mp.Pool spawn (aim)", ratio(medians, "mp.Pool spawn"), 1.3)
    report.finish()


if __name__ == "__main__":
    main()
