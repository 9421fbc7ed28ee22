"""The check of a way through a real Jupyter server with jupyter-server-proxy."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from support.jupyter_servers import kernel_of, server
from support.optional import needs
from support.services import free_port

from distmap import Pool

TOKEN = "of-the-server"


@pytest.mark.timeout(90)
def test_ways_through_a_jupyter_server(tmp_path: Path) -> None:
    """A kernel finds itself; from elsewhere a token is asked for; a closed pool is told from a server that is down."""
    needs(find_spec("jupyter_server_proxy") is not None, "jupyter-server-proxy")
    port = free_port()
    with Pool(1) as outside, Pool(1, headers={"Authorization": f"token {TOKEN}"}) as known:
        with server(tmp_path, port, TOKEN) as url, kernel_of(url, TOKEN) as kernel:
            kernel.run("from distmap import Pool; pool = Pool(listen=True)")
            assert kernel.run("print(pool.check()[0].summary)").strip() == (
                "Every hop is passed, end to end through a proxy. This pool itself answers."
            )
            way = kernel.run("print(pool.url)").strip()
            found = known.check(way)
            assert found.ok, found
            assert found["HTTP upgrade"].facts["server"].startswith("Tornado")

            found = outside.check(way)
            assert found.failed == found["HTTP upgrade"], found
            assert found["HTTP upgrade"].facts["status"] == 403
            assert found["HTTP upgrade"].words.startswith("HTTP 403")
            assert "wants its token" in found["HTTP upgrade"].words

            kernel.run("pool.terminate()")
            found = known.check(way)
            assert found.failed == found["hello"], found
            assert "the Jupyter server there is up, and nobody listens" in found["hello"].words

        found = known.check(way)
        assert found.failed == found["TCP"], found
