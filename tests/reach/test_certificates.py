"""Authorities of one's own, of a company, and none at all: what ends TLS on the way has to be trusted."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.dialled import dialled
from support.nginx import nginx
from support.services import program

import distmap
from distmap.errors import ConnectError
from distmap.testing.workers import WorkerProcess
from distmap.transport.token import load_token

pytestmark = pytest.mark.usefixtures("no_proxies")


def openssl(folder: Path, *arguments: str | Path) -> None:
    command = [program("openssl"), *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=15)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """As a company makes them: an authority, one below it, a certificate with its chain; and one without either."""
    folder = tmp_path_factory.mktemp("openssl")
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    for name in ("company", "other"):
        openssl(
            folder, "req", "-x509", *new, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name} CA"
        )
    (folder / "below.ext").write_text("basicConstraints=critical,CA:true\n")
    (folder / "hop.ext").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for name, by in (("below", "company"), ("hop", "below")):
        openssl(folder, "req", *new[:-2], "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl(
            folder, "x509", "-req", "-in", f"{name}.csr", "-CA", f"{by}.pem", "-CAkey", f"{by}.key",
            "-CAcreateserial", "-days", "2", "-extfile", f"{name}.ext", "-out", f"{name}.pem",
        )  # fmt: skip
    (folder / "chain.pem").write_text((folder / "hop.pem").read_text() + (folder / "below.pem").read_text())
    openssl(
        folder, "req", "-x509", *new, "-keyout", "box.key", "-out", "box.pem", "-subj", "/CN=box",
        "-addext", "subjectAltName=DNS:localhost",
    )  # fmt: skip
    return SimpleNamespace(
        company=folder / "company.pem", other=folder / "other.pem", box=folder / "box.pem", folder=folder
    )


@pytest.fixture(scope="module")
def hops(tmp_path_factory: pytest.TempPathFactory, signed: SimpleNamespace) -> Iterator[SimpleNamespace]:
    """Before one worker: a proxy of a company that opens TLS and signs anew, and a box that signs itself."""
    folder = tmp_path_factory.mktemp("hops")
    with WorkerProcess("--port", "0", "--slots", "1", "--name", "gpu1") as worker, contextlib.ExitStack() as stack:
        urls = {}
        for name, (cert, key) in {"company": ("chain.pem", "hop.key"), "box": ("box.pem", "box.key")}.items():
            server = stack.enter_context(
                nginx(
                    folder / name,
                    f"""
                    server {{
                        listen 127.0.0.1:@PORT@ ssl;
                        ssl_certificate {signed.folder / cert};
                        ssl_certificate_key {signed.folder / key};
                        location / {{
                            proxy_pass {worker.url.replace("wss://", "https://")};
                            proxy_ssl_verify off;
                            proxy_ssl_protocols TLSv1.3;
                            proxy_http_version 1.1;
                            proxy_set_header Upgrade $http_upgrade;
                            proxy_set_header Connection "upgrade";
                        }}
                    }}""",
                )
            )
            urls[name] = f"wss://localhost:{server.port}"
        yield SimpleNamespace(**urls, token=load_token())


@pytest.mark.own_leaks("processes")  # the worker, which the other tests use too, has slots from now on
def test_a_proxy_of_a_company_that_signs_anew(
    hops: SimpleNamespace, signed: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It opens the TLS of a worker; if its authority is named, it carries the TLS of the two ends inside."""
    with pytest.raises(ConnectError, match="the certificate that localhost shows is not trusted"):
        dialled(hops.company, hops.token)
    dialled(hops.company, hops.token, ca=signed.company)
    monkeypatch.setenv("DISTMAP_CA", str(signed.company))
    dialled(hops.company, hops.token)
    with distmap.Pool(hops.company, token=hops.token) as pool:
        assert pool.map(abs, [-1, -2]) == [1, 2]
        assert [one.way for one in pool.workers] == ["end to end through a proxy"]


def test_a_box_that_signs_itself(hops: SimpleNamespace, signed: SimpleNamespace) -> None:
    """Its certificate is named itself."""
    with pytest.raises(ConnectError, match=r"is not trusted \(self-signed certificate\)"):
        dialled(hops.box, hops.token)
    dialled(hops.box, hops.token, ca=signed.box)


def test_another_authority_does_not_count(hops: SimpleNamespace, signed: SimpleNamespace) -> None:
    """The name of another one, or a name that the certificate is not for, ends in one sentence."""
    with pytest.raises(ConnectError) as caught:
        dialled(hops.company, hops.token, ca=signed.other)
    sentence = str(caught.value)
    assert sentence.startswith(f"{hops.company}: TLS ends at a proxy there, and the certificate that localhost shows")
    assert "DISTMAP_CA, ca=, --ca" in sentence
    assert "\n" not in sentence
    with pytest.raises(ConnectError, match="IP address mismatch"):
        dialled(hops.box.replace("localhost", "127.0.0.1"), hops.token, ca=signed.box)


def test_a_worker_that_dials_names_an_authority(hops: SimpleNamespace, signed: SimpleNamespace) -> None:
    """`--ca` of the command line; the wrong one is told in its log, and the worker tries again."""
    with WorkerProcess("--ca", str(signed.other), "--slots", "1", hops.company) as worker:
        assert "the certificate that localhost shows is not trusted" in worker.line("stderr", "not trusted")
        assert worker.process.poll() is None
