"""What TLS inside the messages costs: workers that a proxy could lead to, beside a worker that is reached directly.

Both are on loopback: one shows its certificate in TLS of the connection, the other has a port without TLS and speaks it
inside the messages. With nginx on this machine a third one is behind it, so that each byte is encrypted twice on its
way; what that costs is nginx's and not a target.
"""

from __future__ import annotations

import contextlib
import operator
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from common import Report, each, interleave, options, ratio, timed
from limits import certificate
from peers import loopback_workers

import distmap

DIRECT = "direct TLS"
INSIDE = "TLS inside the messages"
NGINX = "TLS inside, behind nginx"


def halved(array: np.ndarray) -> np.ndarray:
    """An array of the same size."""
    return array * 0.5


def same(x: int) -> int:
    return x


@contextlib.contextmanager
def behind_nginx(url: str) -> Iterator[tuple[str, str] | None]:
    """The URL of an nginx that ends TLS before the worker, and the certificate to trust; None where there is none."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx is None:
        yield None
        return
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        cert, key = certificate(folder)
        temporary = "".join(
            f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        settings = f"""
            daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{ }}
            http {{ access_log off; {temporary}
                server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {cert}; ssl_certificate_key {key};
                    location / {{ proxy_pass {url.replace("ws://", "http://")}/; proxy_http_version 1.1;
                        proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; }} }} }}
        """
        Path(folder, "nginx.conf").write_text(settings)
        process = subprocess.Popen([nginx, "-c", f"{folder}/nginx.conf"], stderr=sys.stderr)
        try:
            yield f"wss://127.0.0.1:{port}/", cert
        finally:
            process.terminate()
            process.wait(10)


def main() -> None:
    args = options(__doc__ or "", rounds=7, quick_rounds=2)
    report = Report("inner_tls", args)
    count, size = (4, 1 << 18) if args.quick else (16, 1 << 21)
    arrays = [np.full(size, float(index)) for index in range(count)]
    with (
        loopback_workers(1) as direct_urls,
        loopback_workers(1, "--base-path", "/") as inside_urls,
        loopback_workers(1, "--base-path", "/") as behind_urls,
        behind_nginx(behind_urls[0]) as proxied,
        contextlib.ExitStack() as stack,
    ):
        pools = {
            DIRECT: stack.enter_context(distmap.Pool(direct_urls[0])),
            INSIDE: stack.enter_context(distmap.Pool(inside_urls[0])),
        }
        if proxied is not None:
            pools[NGINX] = stack.enter_context(distmap.Pool(proxied[0], ca=proxied[1]))
        for pool in pools.values():
            pool.wait_for_workers(1, 30)
        bulk = {
            name: timed(lambda pool=pool: pool.map(halved, arrays, chunksize=1, progress=False))
            for name, pool in pools.items()
        }
        medians = report.case(f"{count} x {size * 8 / 1e6:.0f} MB there and back", interleave(bulk, args.rounds))
        report.target("bulk: inside the messages / direct", ratio(medians, DIRECT, INSIDE), 2.0)
        single = {
            name: each(lambda x, pool=pool: pool.submit(same, x).result(), 50 if args.quick else 300, operator.eq)
            for name, pool in pools.items()
        }
        medians = report.case("one call and its result", interleave(single, args.rounds))
        report.target("one call: inside the messages / direct", ratio(medians, DIRECT, INSIDE), 1.5)
    report.finish()


if __name__ == "__main__":
    main()
