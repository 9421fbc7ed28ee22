"""The `distmap-worker` command: one worker of a pool.

Owns the command line, the format of the log and the signals. It must not know what a pool sends. It writes exactly one
line to standard output, which programs may read: `listening on wss://HOST:PORT` or `registered with wss://HOST:PORT`.
Everything for people goes to standard error. (`--check` runs no worker: its report goes to standard output.)
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from distmap._version import __version__
from distmap.core.limits import LIMITS
from distmap.driver.portal import new_loop
from distmap.errors import ConnectError, DistmapError
from distmap.slots.devices import TAG, VARIABLES, Devices, find_devices
from distmap.slots.memory import limit_of
from distmap.slots.memory import shown as shown_bytes
from distmap.tasks.nesting import cores
from distmap.transport.first_hop import load_hop
from distmap.transport.identity import PYTHON
from distmap.transport.jupyter_errors import page_sentence
from distmap.transport.jupyter_url import is_page, proxied_port
from distmap.transport.room import parse_relay, worker_room
from distmap.transport.ssh_meeting import WorkerAtLogin
from distmap.transport.ssh_url import is_ssh
from distmap.transport.token import Secret, load_token, token_path, token_source
from distmap.transport.url import DEFAULT_PORT, WorkerURL, parse_url
from distmap.worker import option_values as values
from distmap.worker.asking import credentials, kept_files
from distmap.worker.checked import checked
from distmap.worker.idle import shown
from distmap.worker.supervisor import FATAL, Settings, Supervisor

log = logging.getLogger("distmap.worker")

#: Settings of mallopt(3): frames of 256 KB come and go; with the default thresholds each would be mapped anew, which
#: costs page faults.
MALLOPT = ((-3, 32 << 20), (-1, 512 << 20), (-2, 16 << 20))  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD


class _NoToken(argparse.Action):
    """Refuses a token on the command line with the reason, and without repeating the token."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        parser.error(
            "there is no --token: a command line can be read by every user of this host (ps) and stays in the shell's "
            "history. Put the token into a file that only you can read and give --token-file FILE, or set "
            "DISTMAP_TOKEN_FILE or DISTMAP_TOKEN. If that token is in use, make a new one"
        )


def build_parser() -> argparse.ArgumentParser:
    """The command line of `distmap-worker`."""
    # No abbreviations: argparse would read `--token` as `--token-file`.
    parser = argparse.ArgumentParser(
        prog="distmap-worker",
        description="Run tasks for one distmap pool at a time. Without URL it listens; with URL it dials that pool.",
        epilog="Whoever holds the token can run code as you on this host. SIGTERM or Ctrl-C: finish what runs, then "
        "leave; a second one: leave at once.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "url", nargs="?", metavar="URL", help="a listening pool: wss://HOST:PORT, or ssh://USER@LOGIN/PATH"
    )
    parser.add_argument("--name", default=socket.gethostname().split(".")[0], help="shown in the pool (default: host)")
    parser.add_argument("--tag", action="append", default=[], metavar="TAG", help="for map(tags=…); may be repeated")
    parser.add_argument("--host", help="address to listen on (default: 127.0.0.1; 0.0.0.0 for every interface)")
    parser.add_argument(
        "--port", type=values.port, help=f"port to listen on (default: {DEFAULT_PORT}; 0 picks a free one)"
    )
    parser.add_argument("--token-file", type=Path, metavar="FILE", help=f"the token (default: {token_path()})")
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate (default: one made for this run)")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key")
    _add_task_processes(parser)
    _add_ways_through_proxies(parser)
    parser.add_argument(
        "--drain", type=values.seconds, default=25.0, metavar="S", help="seconds to finish on SIGTERM (default: 25)"
    )
    parser.add_argument(
        "--exit-if-orphaned",
        type=values.seconds,
        nargs="?",
        const=LIMITS.orphan_after,
        metavar="S",
        help=f"leave after S seconds without a pool (S without a number: {LIMITS.orphan_after:g})",
    )
    parser.add_argument(
        "--idle",
        type=values.duration,
        metavar="TIME",
        help="with URL: leave the pool after so long without work (30, 10m, 2h), until it has some, with no traffic; "
        f"off: stay (default: {shown(LIMITS.idle_leave)} through the proxy of a Jupyter server or hub, else off)",
    )
    parser.add_argument(
        "--retry",
        type=values.seconds,
        metavar="S",
        help="with URL: leave (exit code 2) after dialling for S seconds a pool that is not there (default: never)",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="only go the way to URL, hop by hop, and say which one fails and what to do (exit code 0: none does)",
    )
    parser.add_argument("--version", action="version", version=f"distmap {__version__}, Python {PYTHON}")
    parser.add_argument("--token", nargs="?", action=_NoToken, help=argparse.SUPPRESS)
    return parser


def _add_task_processes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--slots",
        type=values.slots,
        default=cores(),
        metavar="N",
        help="task processes (default: cores); gpu: one for each GPU, which is then the only one that it sees",
    )
    parser.add_argument(
        "--memory-limit",
        metavar="SIZE",
        help="memory that a slot may use, such as 2GB or 80%% (of this host, in equal parts); an item that passes it "
        "fails (default: no limit)",
    )
    parser.add_argument(
        "--env",
        type=values.variable,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a variable for the environment of task processes; may be repeated",
    )


def _add_ways_through_proxies(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--base-path",
        metavar="PATH",
        help="listen for a proxy that ends TLS and leads PATH here ('/' if it leads everything): without TLS on the "
        "port itself, so that all of it is inside the messages",
    )
    parser.add_argument(
        "--relay",
        metavar="URL",
        help="in place of URL: wait for a pool at this distmap-relay: wss://HOST/PATH, or what Pool(relay=...) has",
    )
    parser.add_argument(
        "--header-file",
        type=Path,
        metavar="FILE",
        help="with URL: headers for a proxy, a line 'Name: value' each (default: DISTMAP_HEADER_FILE)",
    )
    parser.add_argument(
        "--ca", type=Path, metavar="FILE", help="with URL: certificates to trust for a proxy (default: DISTMAP_CA)"
    )
    parser.add_argument(
        "--proxy",
        type=values.proxy,
        metavar="URL",
        help="with URL: go out through it; '' for none (default: HTTPS_PROXY, ALL_PROXY)",
    )


def main(argv: Sequence[str] | None = None, *, token: Secret | None = None, socket_path: str = "") -> int:
    """Run a worker until a signal ends it; returns the exit code.

    Args:
        argv: The command line; None: that of the process.
        token: Instead of what the command line or the environment names.
        socket_path: Listen on this Unix socket, for one pool; leave when that has gone.
    """
    parser = build_parser()
    options = _options(parser, argv)
    try:
        devices = _devices(options)
    except ValueError as error:
        print(f"distmap-worker: --slots gpu: {error}", file=sys.stderr, flush=True)
        return FATAL
    try:
        memory_limit = limit_of(options.memory_limit, options.slots)
    except ValueError as error:
        parser.error(f"--memory-limit: {error}")
    source = token_source(options.token_file)
    tokens = "from the variable DISTMAP_TOKEN" if source is None else f"in the file {source}"
    try:
        url = None if options.url is None else _pool_url(options)
        if url is None:
            token, hop = load_token(token, token_file=options.token_file), load_hop()
        elif options.check:
            token_file, header_file = kept_files(url, options.token_file, options.header_file)
            token, hop = load_token(token_file=token_file), load_hop(header_file, options.ca, options.proxy)
        else:
            files = options.token_file, options.header_file, options.ca
            token, hop = credentials(url, *files, options.proxy, at_relay=options.relay is not None)
        if options.relay is not None and url is not None:
            # A check says soon that nobody is there.
            hop = replace(hop, room=worker_room(token, url, LIMITS.check_seconds if options.check else options.retry))
        elif url is not None and is_ssh(options.url):
            hop = WorkerAtLogin(options.url).hop
        if options.check and url is not None:
            return checked(url, token, hop)
        settings = Settings(
            name=options.name,
            slots=options.slots,
            token=token,
            tags=frozenset(options.tag),
            drain=options.drain,
            orphan_exit=options.exit_if_orphaned,
            retry=options.retry,
            idle=_idle(options.idle, url),
            memory_limit=memory_limit,
            devices=devices,
            env=dict(options.env),
            hop=hop,
            once=bool(socket_path),
            launch=options.launch,
        )
        options.socket_path = socket_path
        with asyncio.Runner(loop_factory=new_loop) as runner:
            return runner.run(_work(settings, options, url, tokens))
    except (DistmapError, OSError) as error:
        print(f"distmap-worker: {error}", file=sys.stderr, flush=True)
        return FATAL


def _options(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """What the command line says. A worker that a pool's launcher has started leaves when that pool is gone."""
    options = parser.parse_args(argv)
    _check(parser, options)
    options.launch = os.environ.pop("DISTMAP_LAUNCH", "")  # what its tasks start is none of that launcher's
    if options.launch and options.exit_if_orphaned is None:
        options.exit_if_orphaned = LIMITS.orphan_after
    return options


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End with a sentence if options do not fit together."""
    if options.relay is not None:
        if options.url is not None:
            parser.error("--relay is in place of URL: the pool and this worker meet at the relay; give one of them")
        options.url = options.relay  # what dials is treated alike
    if options.url is not None and (options.host or options.port is not None or options.tls_cert or options.tls_key):
        parser.error("with URL this worker dials and does not listen: leave out --host, --port, --tls-cert, --tls-key")
    for name in ("retry", "idle", "header_file", "ca", "proxy"):
        if options.url is None and getattr(options, name) is not None:
            parser.error(f"--{name.replace('_', '-')} is for a worker that dials: give URL, or leave it out")
    if options.check and options.url is None:
        parser.error("--check needs the URL of a pool or worker: distmap-worker --check wss://HOST:PORT")
    if options.base_path is not None and (options.url is not None or options.tls_cert):
        parser.error("--base-path is for a worker that listens without TLS: leave out URL, --tls-cert and --tls-key")
    if (options.tls_cert is None) != (options.tls_key is None):
        parser.error("--tls-cert and --tls-key belong together: give both or neither")
    if len(options.tag) > LIMITS.tags or any(len(tag) > LIMITS.tag_chars for tag in options.tag):
        parser.error(f"at most {LIMITS.tags} tags of at most {LIMITS.tag_chars} characters each")
    if not 1 <= len(options.name) <= LIMITS.name_chars:
        parser.error(f"--name takes 1 to {LIMITS.name_chars} characters")


async def _work(settings: Settings, options: argparse.Namespace, url: WorkerURL | None, tokens: str) -> int:
    _set_up_log()
    _tune_malloc()

    def announce(line: str) -> None:
        if url is None and not options.socket_path:
            address = parse_url(line.rpartition(" ")[2])
            if address.scheme == "ws":
                _say(f"for the proxy:    lead {address.path}/ to http://{address.host}:{address.port}")
                address = replace(address, host="HOST-OF-THE-PROXY", port=443, scheme="wss")
            _say(f'in the notebook:  Pool("{address}")')
            _say(f"with this token:  {settings.token}, {tokens}")
        print(line, flush=True)

    supervisor = Supervisor(settings, announce=announce)
    _catch_signals(supervisor)
    slots = "1 slot" if settings.slots == 1 else f"{settings.slots} slots"
    if settings.memory_limit is not None:
        slots += f" of at most {shown_bytes(settings.memory_limit)}"
    if settings.devices is not None:
        slots += f" ({settings.devices})"
    _say(f"distmap-worker {settings.name}: {slots}, Python {PYTHON}, distmap {__version__}")
    if url is not None:
        return await supervisor.dial(url)
    return await supervisor.listen(
        _listening_address(options),
        tls_cert=options.tls_cert,
        tls_key=options.tls_key,
    )


def _pool_url(options: argparse.Namespace) -> WorkerURL:
    if options.relay is not None:
        return parse_relay(options.relay)
    if is_ssh(options.url):
        return WorkerAtLogin(options.url).target.url
    url = parse_url(options.url)
    if options.url.strip().lower().startswith("http") and is_page(url):
        raise ConnectError(page_sentence(url))
    return url


def _listening_address(options: argparse.Namespace) -> WorkerURL:
    if options.socket_path:
        return WorkerURL("localhost", 0, path=options.socket_path, scheme="unix")
    host, port = options.host or "127.0.0.1", DEFAULT_PORT if options.port is None else options.port
    if options.base_path is None:
        return WorkerURL(host, port)
    path = options.base_path.strip("/")
    return WorkerURL(host, port, path=f"/{path}" if path else "", scheme="ws")


def _catch_signals(supervisor: Supervisor) -> None:
    loop = asyncio.get_running_loop()
    for name in ("SIGTERM", "SIGINT", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is None:
            continue
        try:
            loop.add_signal_handler(number, supervisor.terminate, name)
        except NotImplementedError:  # Windows: its loop has no signal handlers, so go through a thread-safe call
            signal.signal(number, lambda *_, name=name: loop.call_soon_threadsafe(supervisor.terminate, name))


def _set_up_log() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S"))
    root = logging.getLogger("distmap")
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    root.propagate = False


def _tune_malloc() -> None:
    if sys.platform == "linux":
        try:
            mallopt = ctypes.CDLL(None).mallopt
        except AttributeError:  # musl has none
            return
        for what, value in MALLOPT:
            mallopt(what, value)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _idle(given: float | None, url: WorkerURL | None) -> float | None:
    """Seconds without work after which the worker leaves its pool; None: it stays."""
    if given is None and url is not None and proxied_port(url) is not None:
        return LIMITS.idle_leave
    return given or None


def _devices(options: argparse.Namespace) -> Devices | None:
    """The GPUs of this host, if each is to have a slot.

    Raises:
        ValueError: There is none, or they are chosen in two ways.
    """
    if options.slots != values.GPU:
        return None
    if taken := sorted(VARIABLES & dict(options.env).keys()):
        raise ValueError(f"it sets {taken[0]} for each slot; to choose GPUs, set it in the environment of this worker")
    devices = find_devices()
    options.slots = len(devices)
    options.tag.append(TAG)
    return devices


if __name__ == "__main__":
    sys.exit(main())
