"""Two loopback workers with TLS beside two local slots: tiny items and large arrays; and a raw TLS socket."""

from __future__ import annotations

import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import OURS, WORKERS, Report, interleave, loopback_workers, options, ratio, timed

import distmap

REMOTE = "distmap, 2 loopback workers, TLS"
#: A plain sender: what one TLS stream carries between two processes, without WebSocket, sessions or pickles.
SENDER = """
import socket, ssl, sys
host, port, total = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
piece = memoryview(bytearray(256 << 10))
with context.wrap_socket(socket.create_connection((host, port))) as connection:
    while total > 0:
        total -= connection.send(piece[: min(len(piece), total)])
    connection.recv(1)  # unread session tickets would turn the close into a reset, which drops what is under way
"""


def square(x: int) -> int:
    return x * x


def probe(array: np.ndarray) -> float:
    return float(array[::512].sum())


def make(task: tuple[int, int]) -> np.ndarray:
    return np.full(task[1], float(task[0]))


def certificate(folder: str) -> tuple[str, str]:
    """A throw-away certificate for 127.0.0.1, and its key."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "benchmark")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = builder.not_valid_after(now + datetime.timedelta(days=1)).add_extension(here, critical=False)
    signed = builder.sign(key, hashes.SHA256())
    cert_path, key_path = Path(folder) / "cert.pem", Path(folder) / "key.pem"
    cert_path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    key_path.write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
    return str(cert_path), str(key_path)


def raw_tls(total: int) -> float:
    """Seconds for so many bytes from another process, received into memory made for them."""
    import socket

    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate(folder))
        host, port = server.getsockname()
        sender = subprocess.Popen([sys.executable, "-c", SENDER, host, str(port), str(total)])
        plain, _ = server.accept()
        with context.wrap_socket(plain, server_side=True) as connection:
            target = memoryview(bytearray(16 << 20))
            began, got = time.perf_counter(), 0
            while got < total:
                place = got % len(target)
                count = connection.recv_into(target[place : place + (256 << 10)])
                if not count:
                    raise RuntimeError("the raw sender ended early")
                got += count
            elapsed = time.perf_counter() - began
            connection.sendall(b"!")
        sender.wait(30)
    return elapsed


def main() -> None:
    args = options(__doc__ or "", rounds=5, quick_rounds=2)
    report = Report("remote", args)
    count, size = (8, 1 << 18) if args.quick else (64, 1 << 21)
    total = count * size * 8
    with loopback_workers(WORKERS) as urls, distmap.Pool(urls) as remote, distmap.Pool(WORKERS) as ours:
        remote.wait_for_workers(WORKERS, 30)
        for n in (20_000, 200_000) if args.quick else (100_000, 1_000_000):
            contenders = {
                OURS: timed(lambda n=n: ours.map(square, range(n))),
                REMOTE: timed(lambda n=n: remote.map(square, range(n))),
            }
            medians = report.case(f"{n:,} tiny items", interleave(contenders, args.rounds))
            report.target(f"{n:,} tiny items: workers / local pool", ratio(medians, OURS, REMOTE), 2.0)

        arrays = [np.full(size, float(index)) for index in range(count)]
        tasks = [(index, size) for index in range(count)]
        for way, fn, items in (("in", probe, arrays), ("out", make, tasks)):
            contenders = {
                OURS: timed(lambda fn=fn, items=items: ours.map(fn, items)),
                REMOTE: timed(lambda fn=fn, items=items: remote.map(fn, items)),
                "a raw TLS socket": lambda: raw_tls(total),
            }
            name = f"{way}: {count} x {size * 8 / 1e6:.0f} MB"
            medians = report.case(name, interleave(contenders, args.rounds))
            if REMOTE in medians and "a raw TLS socket" in medians:
                share = medians["a raw TLS socket"] / medians[REMOTE]
                report.note(
                    f"{way}: {total / 1e9 / medians[REMOTE]:.2f} GB/s, {share:.0%} of one raw TLS socket's rate"
                )
    report.finish()


if __name__ == "__main__":
    main()
