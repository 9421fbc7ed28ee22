"""The files that let workers come in that a pool has started: the token, and headers for a proxy on the way.

Owns such files where the secrets are in none yet: private, in the folder of the user's token, so on every machine that
has this home; removed with the pool. It must not know who starts workers.
"""

from __future__ import annotations

import os
import secrets
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from distmap.errors import TokenError
from distmap.transport.token import Secret, load_token, token_path, token_source


class Credentials:
    """Files that hold them.

    Args:
        token: What the pool was given; None: what it found.
        headers: A mapping, or a file that has them; None: none are needed, or the variable for them names their file.

    Raises:
        TokenError: One cannot be written.
    """

    def __init__(self, token: Secret | str | None, headers: Mapping[str, str] | str | Path | None = None) -> None:
        self._own: list[Path] = []
        #: Removes those that were made for this; the end of this process does if nobody has.
        self._end = weakref.finalize(self, _remove, self._own, os.getpid())
        source = None if token is not None else token_source()
        self.token_file = self._written(load_token(token).reveal()) if source is None else source.absolute()
        self.header_file: Path | None = None
        if isinstance(headers, Mapping):
            try:
                self.header_file = self._written("\n".join(f"{name}: {value}" for name, value in headers.items()))
            except BaseException:
                self.remove()
                raise
        elif headers is not None:
            self.header_file = Path(headers).absolute()

    def _written(self, text: str) -> Path:
        path = token_path().with_name(f"launch-{secrets.token_hex(8)}")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
            with open(os.open(path, flags, 0o600), "w") as file:
                self._own.append(path)
                file.write(text + "\n")
        except OSError as error:
            raise TokenError(
                f"the file {path} for workers cannot be made: {error.strerror or error}; give the pool its token by a "
                "file that they can read: DISTMAP_TOKEN_FILE"
            ) from error
        return path

    def remove(self) -> None:
        """Remove those that were made for this."""
        self._end()


def _remove(paths: Sequence[Path], pid: int) -> None:
    if os.getpid() == pid:  # else this is a forked child: they are its parent's
        for path in paths:
            with suppress(OSError):
                path.unlink()
