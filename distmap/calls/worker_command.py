"""The line that starts a worker for a pool on another machine, and what is needed for it there.

Owns these words, for where the pool runs: behind a JupyterHub or a Jupyter server, behind SSH, on a laptop. No secret
is in them. It must not know how a worker connects.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from distmap.calls.jupyter_server import JupyterServer, find_server
from distmap.launch import scripts
from distmap.tasks._typing import NamedTuple

if TYPE_CHECKING:
    from distmap.transport.token import Secret


class CommandText(str):
    """Text that a notebook shows as it is, and not with quotes and `\\n`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class Way(NamedTuple):
    """How a worker elsewhere comes to a pool."""

    #: What is to be typed, line by line.
    lines: tuple[str, ...]
    #: What else is needed, a sentence each; three at most.
    notes: tuple[str, ...] = ()


#: What makes a job script of the line, by kind of batch system.
SCRIPTS: dict[str, Callable[..., str]] = {"pbs": scripts.pbs, "slurm": scripts.slurm}


def way_to(url: str | None, server: JupyterServer | None, token: str, *, at_relay: bool = False) -> Way:
    """How a worker comes to a pool.

    Args:
        url: Where the pool listens; None: it does not.
        server: The Jupyter server that leads there, if one does.
        token: Where the pool's token is, from `token_words`.
        at_relay: Whether the URL is that of a relay.
    """
    if url is None:
        return _way_out()
    line = _command(url, at_relay)
    if server is None:
        return Way((line,), (f"It asks for the token of this pool: {token}.",))
    asks = f"It asks for the token of this pool: {token}."
    if server.hub is not None:
        hub, name = server.hub
        notes = [
            f"It asks for a token of the hub: make one at {hub}/token with the scope `access:servers!server={name}`."
        ]
    else:
        notes = ["It asks for the token of this Jupyter server: in a terminal here, `jupyter server list` shows it."]
    notes.append(asks)
    if not server.known:
        notes.append(
            f"{server.address.host} stands for the host of your hub. To have it filled in: "
            '`Pool(listen="the address of this page, copied from the browser")`.'
        )
    elif server.address.is_loopback:
        notes.append(
            f"{server.address.host} is this machine. For a worker on another one give the address by which that one "
            'reaches this Jupyter server: `Pool(listen="http://this-host:8888/")`.'
        )
    else:
        notes.append(
            "Where nobody can be asked: `--header-file FILE` with a line `Authorization: token ...` in it, and "
            "`--token-file FILE`; both `chmod 600`."
        )
    return Way((line,), tuple(notes))


def text_of(way: Way) -> CommandText:
    """The lines to type, and the rest as comments below them."""
    return CommandText("\n".join([*way.lines, *[f"# {note}" for note in way.notes]]))


def script_of(kind: str, url: str | None, options: dict[str, Any], *, at_relay: bool = False) -> CommandText:
    """A job script with the line in it.

    Raises:
        ValueError: There is no such kind, or the pool does not listen.
    """
    if kind not in SCRIPTS:
        known = ", ".join(f'"{name}"' for name in sorted(SCRIPTS)) or "none"
        raise ValueError(f"worker_command(kind) knows {known}, or None for the line alone; got {kind!r}")
    if url is None:
        raise ValueError('workers in batch jobs dial in: make the pool with listen="wss://0.0.0.0:8786" (or True)')
    return CommandText(SCRIPTS[kind](_command(url, at_relay), **options))


def words_to(url: str, at_relay: bool) -> str:
    """What `distmap-worker` is given for that."""
    return f"{'--relay ' if at_relay else ''}{shlex.quote(url)}"


def _command(url: str, at_relay: bool) -> str:
    return f"distmap-worker {words_to(url, at_relay)}"


def token_words(token: Secret | str | None) -> str:
    """Where the token of a pool that was given this one is to be had, for people."""
    from distmap.transport.token import token_source

    if token is not None:
        return "the one that you gave to the pool"
    path = token_source()
    if path is None:
        return "that of the variable DISTMAP_TOKEN here"
    return f"in a terminal here, `cat {shlex.quote(str(path))}` shows it"


def _way_out() -> Way:
    """For a pool that does not listen: how it gets to a worker, or a pool gets to listen."""
    server = find_server()
    if server is not None and server.hub is not None:
        return Way(
            (
                "pool = Pool(listen=True)   # here: workers then come in through the hub",
                "pool.worker_command()      # the line to type on the other machine",
            )
        )
    if "SSH_CONNECTION" in os.environ:
        return Way(
            ('pool.add("ssh://THAT-HOST")   # here; ssh starts a worker there, with your configuration and keys',)
        )
    return Way(
        (
            "distmap-worker --host 0.0.0.0     # there; it prints its address: wss://THAT-HOST:8786",
            'pool.add("wss://THAT-HOST:8786")  # here',
        )
    )
