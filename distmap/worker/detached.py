"""A worker that something else starts for one pool: its command line is FOLDER [OPTION ...].

Owns its folder, which only this user can enter: it listens there on a Unix socket and opens no port, its log is there,
and it removes the folder when it has left in good order. The token comes on standard input. It leaves when its pool
says goodbye, or has been away for too long. It must not know who starts it.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from distmap.transport.token import Secret
from distmap.worker.cli import main as work
from distmap.worker.supervisor import OK


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; returns the exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    folder, options = Path(given[0]), given[1:]
    token = Secret.parse(sys.stdin.readline(), source="what came on standard input")
    code = work(["--exit-if-orphaned", *options], token=token, socket_path=str(folder / "socket"))
    if code == OK:
        shutil.rmtree(folder, ignore_errors=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
