"""The `distmap-relay` command.

Owns its command line, the format of its log and its signals. It writes exactly one line to standard output, which
programs may read: `listening on ws://HOST:PORT`. Everything for people goes to standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from distmap._version import __version__
from distmap.core.relay_limits import RELAY
from distmap.relay.relay import Allowed, Relay

log = logging.getLogger("distmap.relay")

#: Where it listens when nothing is said.
DEFAULT_PORT = 8787

#: Open files besides connections.
_OTHER_FILES = 64


def build_parser() -> argparse.ArgumentParser:
    """The command line of `distmap-relay`."""
    parser = argparse.ArgumentParser(
        prog="distmap-relay",
        description="Let a pool and its workers meet that cannot reach each other: both dial this relay.",
        epilog="It holds no token and sees only what the two ends have encrypted. SIGTERM or Ctrl-C ends it; both ends "
        "dial again until it is back, and lose nothing.",
        allow_abbrev=False,
    )
    add, most = parser.add_argument, _within(int, 1, 1_000_000)
    add("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1; 0.0.0.0 for every interface)")
    add("--port", type=_within(int, 0, 65535), default=DEFAULT_PORT, help="port to listen on (default: %(default)s)")
    add("--tls-cert", type=Path, metavar="FILE", help="certificate to show (default: no TLS, for a proxy that ends it)")
    add("--tls-key", type=Path, metavar="FILE", help="its private key, if it is not in the same file")
    add(
        "--base-path", default="", metavar="PATH", help="path that a proxy leads here: for what is printed at the start"
    )
    add("--rooms", type=most, default=RELAY.rooms, metavar="N", help="pools at one time (default: %(default)s)")
    add(
        "--connections",
        type=most,
        default=RELAY.connections,
        metavar="N",
        help="connections at one time: two for each worker, some for each pool (default: %(default)s)",
    )
    add(
        "--room-connections",
        type=most,
        default=RELAY.room_connections,
        metavar="N",
        help="the same for one pool (default: %(default)s)",
    )
    add(
        "--rate",
        type=_within(float, 0, 1e6),
        default=RELAY.rate / 1e6,
        metavar="MB",
        help="megabytes a second that one connection may send; 0: no limit (default: %(default)g)",
    )
    parser.add_argument("--version", action="version", version=f"distmap {__version__}")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a relay until a signal ends it; returns the exit code."""
    parser = build_parser()
    options = parser.parse_args(argv)
    if options.tls_key is not None and options.tls_cert is None:
        parser.error("--tls-key needs its certificate too: --tls-cert")
    try:
        return asyncio.run(_relay(options))
    except OSError as error:
        print(f"distmap-relay: {error}", file=sys.stderr, flush=True)
        return 2


async def _relay(options: argparse.Namespace) -> int:
    _set_up_log()
    connections = min(options.connections, _files() - _OTHER_FILES)
    if connections < options.connections:
        log.warning("only %d connections: this process may open %d files (ulimit -n)", connections, _files())
    relay = Relay(Allowed(options.rooms, connections, options.room_connections, options.rate * 1e6))
    context = None
    if options.tls_cert is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(options.tls_cert, options.tls_key, password=_no_password)
        except (OSError, ValueError) as error:
            raise OSError(
                f"the TLS certificate {options.tls_cert} (key {options.tls_key or 'in it'}) cannot be used: {error}"
            ) from error
    try:
        port = await relay.open(options.host, options.port, context)
    except OSError as error:
        raise OSError(f"cannot listen on {options.host} port {options.port}: {error.strerror or error}") from error
    stopping = asyncio.Event()
    _catch_signals(stopping)
    _tell(options, "ws" if context is None else "wss", port)
    try:
        await stopping.wait()
        log.info("= stopping: pools and workers are told, and dial again")
    finally:
        await relay.close()
    return 0


def _tell(options: argparse.Namespace, scheme: str, port: int) -> None:
    """Print where it listens, and the lines to type."""
    everywhere = options.host in ("", "0.0.0.0", "::")
    host = socket.gethostname() if everywhere else options.host
    host = f"[{host}]" if ":" in host else host
    path, hub = options.base_path.strip("/"), os.environ.get("JUPYTERHUB_SERVICE_PREFIX", "").strip("/")
    if path or everywhere or scheme == "wss" or not hub:
        proxied = path or (scheme == "ws" and not everywhere)
        shown = f"wss://YOUR-PROXY/{path}" if proxied else f"{scheme}://{host}:{port}"
    else:
        shown = f"wss://YOUR-HUB/{hub}/proxy/{port}"  # jupyter-server-proxy, which leads to any port of this machine
    print(f'in the notebook:  Pool(relay="{shown}")', file=sys.stderr)
    print(f"on each worker:   distmap-worker --relay {shown}", file=sys.stderr, flush=True)
    print(f"listening on {scheme}://{host}:{port}", flush=True)


def _files() -> int:
    """How many files this process may open; as many as the system lets it have."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return 1 << 30
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # macOS takes no "unlimited"
        hard = soft
    return 1 << 30 if hard == resource.RLIM_INFINITY else hard


def _no_password() -> str:
    raise ValueError("its key is encrypted; give a key without a password")


def _catch_signals(stopping: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for name in ("SIGTERM", "SIGINT", "SIGHUP"):
        if (number := getattr(signal, name, None)) is None:
            continue
        try:
            loop.add_signal_handler(number, stopping.set)
        except NotImplementedError:  # Windows: its loop has no signal handlers
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stopping.set))


def _set_up_log() -> None:
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S"
    )


def _within(kind: type[int] | type[float], low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            number = kind(text)
        except ValueError:
            number = kind(low) - 1
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"expected a number from {low:g} to {high:g}, got {text!r}")
        return number

    return parse


if __name__ == "__main__":
    sys.exit(main())
