"""What `import distmap` costs beside `import multiprocessing.pool`, and what it must not load."""

from __future__ import annotations

import subprocess
import sys
import time

from common import Report, interleave, options, ratio

HEAVY = ("websockets", "asyncio", "ipywidgets", "IPython", "numpy", "pandas", "cloudpickle", "ssl", "tqdm", "psutil")
STATEMENTS = {
    "nothing": "pass",
    "distmap": "import distmap",
    "distmap, Pool looked up": "import distmap; distmap.Pool",
    "multiprocessing.pool": "import multiprocessing.pool",
    "concurrent.futures.process": "import concurrent.futures.process",
    "joblib": "import joblib",
}
#: The time of the statement alone, by the clock of the process that runs it: the interpreter's start is left out.
INSIDE = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"


def inside(statement: str) -> float:
    """Seconds that the statement takes in a fresh interpreter."""
    return float(subprocess.check_output([sys.executable, "-c", INSIDE.format(statement)]))


def whole(statement: str) -> float:
    """Seconds from starting an interpreter to its end."""
    began = time.perf_counter()
    subprocess.check_call([sys.executable, "-c", statement])
    return time.perf_counter() - began


def main() -> None:
    args = options(__doc__ or "", rounds=25, quick_rounds=5)
    report = Report("import_cost", args)
    contenders = {name: (lambda text=text: inside(text)) for name, text in STATEMENTS.items() if name != "nothing"}
    medians = report.case("the import alone", interleave(contenders, args.rounds))
    report.target("import distmap / import multiprocessing.pool", ratio(medians, "multiprocessing.pool"), 2.0)

    contenders = {name: (lambda text=text: whole(text)) for name, text in STATEMENTS.items()}
    report.case("a process that does nothing else", interleave(contenders, args.rounds))

    probe = f"import sys, distmap; print(*[name for name in {HEAVY} if name in sys.modules])"
    loaded = subprocess.check_output([sys.executable, "-c", probe], text=True).split()
    report.note(f"not loaded by import distmap: {', '.join(name for name in HEAVY if name not in loaded)}")
    report.target("heavy modules that import distmap loads", float(len(loaded)), 0, exact=True)
    if loaded:
        report.note(f"LOADED by import distmap: {', '.join(loaded)}")
    report.finish()


if __name__ == "__main__":
    main()
