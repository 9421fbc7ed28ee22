"""Limits of another size, for a whole process: 120 s of a kernel's silence are too long for a test.

Import this before anything else of distmap, and call `shorten`: modules take the limits when they are imported.
"""

from __future__ import annotations

import json
import os
import sys

from distmap.core import limits

#: The environment variable that `python -m chaos.shortened` reads: limits as JSON.
VARIABLE = "DISTMAP_CHAOS_LIMITS"


def shorten(**values: float) -> None:
    """Give these limits to the modules that are imported from now on, and to workers that are started."""
    early = [name for name in sys.modules if name.startswith(("distmap.wire", "distmap.transport", "distmap.worker"))]
    assert not early, f"imported before the limits were set: {early}"
    limits.LIMITS = limits.LIMITS._replace(**values)  # type: ignore[arg-type]
    os.environ[VARIABLE] = json.dumps(values)


def worker_command(*args: str) -> list[str]:
    """The command of a worker with the limits of the environment."""
    return [sys.executable, "-m", "chaos.shortened", *args]


if __name__ == "__main__":
    shorten(**json.loads(os.environ.get(VARIABLE, "{}")))
    from distmap.worker.cli import main

    sys.exit(main(sys.argv[1:]))
