"""The secrets of a worker that dials: the pool's token, and that of a Jupyter server or hub on the way.

Owns where they are looked for, and the questions to the person at the terminal if one is missing or is not accepted.
What is typed is not shown; it is kept only if that person wants it, in files by host, which only that user can read. It
must not know what happens once the pool is there.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

from distmap.errors import AuthenticationError, ConnectError, DistmapError, TokenError
from distmap.transport.dial import GivenUp, prove
from distmap.transport.first_hop import FirstHop, Headers, load_hop
from distmap.transport.jupyter_url import hub_of, proxied_port
from distmap.transport.token import Secret, load_token, token_path
from distmap.transport.url import WorkerURL

#: Times that one question is asked.
_TIMES = 3


def credentials(
    url: WorkerURL,
    token_file: Path | None,
    header_file: Path | None,
    ca: Path | None,
    proxy: str | None,
    *,
    at_relay: bool = False,
) -> tuple[Secret, FirstHop]:
    """The pool's token, and what a proxy on the way needs; asks on a terminal for what is missing.

    Args:
        url: The pool, or the relay where it is met.
        token_file: Of the command line; else the environment, the file kept for that host, the user's own.
        header_file: Of the command line; else DISTMAP_HEADER_FILE, the file kept for that host.
        ca: See FirstHop.
        proxy: See FirstHop.
        at_relay: Whether it is a relay: that does not know the token of the pool.

    Raises:
        TokenError: There is no token of the pool, and nobody to ask, or no answer.
        ConnectError: A file of headers or certificates cannot be used.
    """
    # A file that the user named is the user's: it is not replaced, and its next content is read at each dial.
    may_ask_login = header_file is None and not os.environ.get("DISTMAP_HEADER_FILE")
    token_file, header_file = kept_files(url, token_file, header_file)
    named = token_file or os.environ.get("DISTMAP_TOKEN_FILE") or os.environ.get("DISTMAP_TOKEN")
    has_token = bool(named) or token_path().exists()
    hop = load_hop(header_file, ca, proxy)
    terminal = sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()
    if not has_token and (url.shown or not url.is_loopback) and (terminal or url.path):
        # A token made here would be another one than the pool's.
        token = None
        if not terminal:
            raise TokenError(
                f"this machine has no token of the pool at {url}: copy the pool's token file (its worker_command() "
                "names it) to this machine, chmod 600, and give --token-file FILE"
            )
    else:
        token = load_token(token_file=token_file)
    if not terminal:
        assert token is not None
        return token, hop
    return _Questions(url, token, hop, may_ask_login, at_relay).answered()


def kept_files(url: WorkerURL, token_file: Path | None, header_file: Path | None) -> tuple[Path | None, Path | None]:
    """The files of the command line, and in the place of one that nobody named that which was kept for the host."""
    kept = _Kept(url)
    if token_file is None and not (os.environ.get("DISTMAP_TOKEN_FILE") or os.environ.get("DISTMAP_TOKEN")):
        token_file = kept.token if kept.token.exists() else None
    if header_file is None and not os.environ.get("DISTMAP_HEADER_FILE"):
        header_file = kept.headers if kept.headers.exists() else None
    return token_file, header_file


class _Kept:
    """The files for one host."""

    def __init__(self, url: WorkerURL) -> None:
        usual = url.path and url.port in (443, 80)
        self.folder = token_path().parent / re.sub(r"[^\w.-]", "_", url.host if usual else f"{url.host}_{url.port}")
        self.token, self.headers = self.folder / "token", self.folder / "headers"

    def write(self, path: Path, line: str) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # so that the mode is that of a new file
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(f"{line}\n")


class _Questions:
    """What is asked until the pool is reached, or something else is wrong."""

    def __init__(
        self, url: WorkerURL, token: Secret | None, hop: FirstHop, may_ask_login: bool, at_relay: bool
    ) -> None:
        self._url = url
        self._kept = _Kept(url)
        self._token = token
        self._hop = hop
        self._may_ask_login = may_ask_login
        # What cannot be tried: a relay does not know the token, and a login by SSH is made later.
        self._only_the_way = at_relay or bool(url.shown)
        # What was typed: file -> its line.
        self._typed: dict[Path, str] = {}

    def answered(self) -> tuple[Secret, FirstHop]:
        logins = tokens = 0
        if self._hop.headers or proxied_port(self._url) is None:
            self._need_token()
        problem: DistmapError | None = None
        while not self._url.shown:
            # Without a token of the pool only the way there is tried; where that is open, the token is asked for.
            problem = asyncio.run(_problem(self._url, self._token or Secret.generate(), self._hop))
            if isinstance(problem, ConnectError) and problem.wants_login and self._may_ask_login and logins < _TIMES:
                if self._hop.headers:
                    _say(str(problem))
                logins += 1
                self._ask_login()
            elif isinstance(problem, AuthenticationError) and self._token is not None and tokens < _TIMES:
                _say(f"The token that this machine has ({self._token.kid}) is not that of the pool.")
                tokens += 1
                self._ask_token()
            elif self._token is not None:
                break
            self._need_token()
        assert self._token is not None
        if self._typed and (problem is None or self._only_the_way):
            self._offer_to_keep()
        return self._token, self._hop

    def _need_token(self) -> None:
        if self._token is None:
            self._ask_token()

    def _ask_token(self) -> None:
        for _ in range(_TIMES):
            text = _ask("Token of the pool (the pool's worker_command() tells where to find it; not shown): ")
            try:
                self._token = Secret.parse(text, source="what you typed")
            except TokenError as error:
                _say(str(error))
            else:
                self._typed[self._kept.token] = text
                return
        raise TokenError(f"no token for the pool at {self._url}")

    def _ask_login(self) -> None:
        hub = hub_of(self._url)
        if hub is None:
            question = f"Token of the Jupyter server at {self._url.host} (`jupyter server list` there; not shown): "
        else:
            _say(f"Make a token at {hub[0]}/token with the scope access:servers!server={hub[1]}")
            question = f"Token of {self._url.host} (not shown): "
        # As it is copied: perhaps with the name of the header.
        text = re.sub(r"^(?:authorization:)?\s*(?:token|bearer)\s+", "", _ask(question), flags=re.IGNORECASE)
        line = f"token {text}"
        self._hop = replace(self._hop, headers=Headers({"Authorization": line}))
        self._typed[self._kept.headers] = f"Authorization: {line}"

    def _offer_to_keep(self) -> None:
        where = " and ".join(str(path) for path in self._typed)
        print(f"Keep for next time, readable by you only, in {where}? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            _say("Not kept. For next time: files of your own with --token-file and --header-file, chmod 600")
            return
        for path, line in self._typed.items():
            self._kept.write(path, line)
        if self._kept.headers in self._typed:
            # From the file, so that a new token in it is used without a restart.
            self._hop = replace(self._hop, headers=Headers(file=self._kept.headers))


async def _problem(url: WorkerURL, token: Secret, hop: FirstHop) -> DistmapError | None:
    """Why the pool is not reached with these; None: it is. The pool hears of it only if the token is wrong."""

    def stop() -> dict[str, object]:
        raise GivenUp

    try:
        await prove(url, token=token, role="worker", info=stop, hop=hop)
    except GivenUp:
        return None
    except DistmapError as error:
        return error
    raise AssertionError("`info` raises")


def _ask(question: str) -> str:
    try:
        return getpass.getpass(question, stream=sys.stderr).strip()
    except (EOFError, KeyboardInterrupt):
        raise TokenError("no token was typed") from None


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
