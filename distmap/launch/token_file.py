"""The file of a pool's token for the workers that it has started.

Owns such a file where the token is in none yet: private, in the folder of the user's token, so on every machine that
has this home; removed with the pool. It must not know who starts workers.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from distmap.errors import TokenError
from distmap.transport.token import Secret, load_token, token_path, token_source


class TokenFile:
    """The file that holds this token.

    Args:
        token: What the pool was given; None: what it found.

    Raises:
        TokenError: It cannot be written.
    """

    def __init__(self, token: Secret | str | None) -> None:
        source = None if token is not None else token_source()
        self._own = source is None
        self.path = source.absolute() if source is not None else self._written(load_token(token))

    def _written(self, token: Secret) -> Path:
        path = token_path().with_name(f"launch-{secrets.token_hex(8)}")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
            with open(os.open(path, flags, 0o600), "w") as file:
                file.write(token.reveal() + "\n")
        except OSError as error:
            raise TokenError(
                f"the token file {path} for workers cannot be made: {error.strerror or error}; give the pool its token "
                "by a file that they can read: DISTMAP_TOKEN_FILE"
            ) from error
        return path

    def remove(self) -> None:
        """Remove it if it was made for this."""
        if self._own:
            with suppress(OSError):
                self.path.unlink()
