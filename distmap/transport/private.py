"""Files with a secret in them: read only if no other user can.

Owns the checks of such a file. It must not know what the secret is.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from distmap.core.limits import LIMITS
from distmap.errors import DistmapError


def read_private(path: Path, what: str, failed: type[DistmapError], remedy: str) -> list[str]:
    """The lines of the file, without empty ones and comments (`#`).

    Args:
        path: The file.
        what: Its kind, for errors: "token file".
        failed: The error to raise.
        remedy: What to do if it cannot be read: the end of the sentence.
    """
    try:
        # Not blocking, in case the path is a named pipe.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        raise failed(f"the {what} {path} cannot be read: {error.strerror or error}; {remedy}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise failed(f"the {what} {path} is not a regular file")
        if sys.platform != "win32":
            if status.st_uid not in (os.geteuid(), 0):
                raise failed(f"the {what} {path} belongs to another user; copy it to a file of your own")
            # Secrets of Kubernetes and credentials of systemd are files of root, which we may read by way of a group.
            if status.st_mode & (0o077 if status.st_uid == os.geteuid() else 0o027):
                mode = stat.S_IMODE(status.st_mode)
                raise failed(f"the {what} {path} is open to others (mode {mode:04o}); do: chmod 600 {path}")
        text = os.read(descriptor, LIMITS.token_file_bytes).decode("utf-8", "replace")
    finally:
        os.close(descriptor)
    return [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]
