"""A stand-in for ssh that runs the command on this machine; the real one is in tests/reach. Knows no distmap."""

from __future__ import annotations

from pathlib import Path


def local_ssh(folder: Path, before: str = "") -> str:
    """Make it; gives what DISTMAP_SSH is set to.

    Args:
        folder: Where the script goes, and the temporary files of what it runs.
        before: Lines of sh that come first.
    """
    script = folder / "ssh"
    script.write_text(f'#!/bin/sh\n{before}\nfor last; do :; done\nexport TMPDIR={folder}\nexec sh -c "$last"\n')
    script.chmod(0o755)
    return str(script)
