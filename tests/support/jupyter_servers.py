"""A JupyterHub and a Jupyter server, both with jupyter-server-proxy, and cells that run in kernels there.

Owns their settings and their REST calls. Knows nothing of distmap but where its token is.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.services import free_port, program, running
from support.waiting import until
from websockets.sync.client import connect

_SETTINGS = """
c.JupyterHub.bind_url = "http://127.0.0.1:{public}/base/"
c.JupyterHub.hub_bind_url = "http://127.0.0.1:{hub}"
c.JupyterHub.public_url = "http://127.0.0.1:{public}"
c.JupyterHub.db_url = "sqlite:///:memory:"
c.JupyterHub.cookie_secret_file = "{folder}/cookie"
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.JupyterHub.spawner_class = "simple"
c.SimpleLocalProcessSpawner.home_dir_template = "{folder}/home/{{username}}"
c.Spawner.cmd = ["{python}", "-m", "jupyterhub.singleuser", "--allow-root"]
c.Spawner.args = ["--ServerApp.jpserver_extensions={extensions}"]
c.Spawner.environment = {environment}
c.Spawner.poll_interval = 1
c.ConfigurableHTTPProxy.command = ["{proxy}"]
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{api}"
c.ConfigurableHTTPProxy.auth_token = "{secret}"
c.ConfigurableHTTPProxy.pid_file = "{folder}/proxy.pid"
c.JupyterHub.services = [{{"name": "tests", "api_token": "{secret}"}}]
scopes = ["admin:users", "admin:servers", "access:servers", "tokens"]
c.JupyterHub.load_roles = [{{"name": "tests", "scopes": scopes, "services": ["tests"]}}]
"""


def ask(url: str, token: str, method: str = "GET", data: object = None) -> Any:
    """The answer of a REST call, decoded."""
    body = None if data is None else json.dumps(data).encode()
    request = urllib.request.Request(url, body, {"Authorization": f"token {token}"}, method=method)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=15) as answer:
        text = answer.read()
    return json.loads(text) if text else None


class Hub:
    """A JupyterHub that runs."""

    def __init__(self, public: int, api: int, secret: str) -> None:
        self.url = f"http://127.0.0.1:{public}/base"
        #: The token file of the pools in its kernels.
        self.token_file = os.environ["DISTMAP_TOKEN_FILE"]
        self._api = api
        self._secret = secret

    def ask(self, path: str, method: str = "GET", data: object = None) -> Any:
        return ask(f"{self.url}/hub/api/{path}", self._secret, method, data)

    def token(self, user: str, scope: str) -> str:
        """A token of the user, with this scope only."""
        made = self.ask(f"users/{user}/tokens", "POST", {"scopes": [scope], "expires_in": 600})
        return str(made["token"])

    def start(self, user: str) -> None:
        with contextlib.suppress(urllib.error.HTTPError):  # the user is there already
            self.ask(f"users/{user}", "POST")
        self.ask(f"users/{user}/server", "POST")
        until(lambda: self.ask(f"users/{user}")["servers"].get("", {}).get("ready"), 30, f"the server of {user}")

    def stop(self, user: str) -> None:
        self.ask(f"users/{user}/server", "DELETE")
        until(lambda: not self.ask(f"users/{user}")["servers"], 30, f"the end of the server of {user}")

    def last_activity(self, user: str) -> str:
        """When the hub's proxy last saw data of that user's server."""
        routes = ask(f"http://127.0.0.1:{self._api}/api/routes", self._secret)
        return str(routes[f"/base/user/{user}"]["last_activity"])

    @contextlib.contextmanager
    def kernel(self, user: str, notebook: str = "fit.ipynb") -> Iterator[Kernel]:
        with _kernel(f"{self.url}/user/{user}", self._secret, notebook) as kernel:
            yield kernel


class Kernel:
    """A kernel of a Jupyter server, that runs one cell after the other."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket

    def run(self, code: str) -> str:
        """What the cell prints and shows."""
        header = {
            "msg_id": uuid.uuid4().hex,
            "msg_type": "execute_request",
            "version": "5.3",
            "username": "",
            "session": "s",
        }
        content = {"code": code, "silent": False, "store_history": False, "allow_stdin": False, "stop_on_error": True}
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
        self._socket.send(json.dumps(message))
        said = ""
        while True:
            message = json.loads(self._socket.recv(timeout=30))
            if message["parent_header"].get("msg_id") != header["msg_id"]:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "stream":
                said += content["text"]
            elif kind == "execute_result":
                said += content["data"]["text/plain"]
            elif kind == "error":
                raise AssertionError("\n".join(content["traceback"]))
            elif kind == "status" and content["execution_state"] == "idle":
                return said


@contextlib.contextmanager
def _kernel(server: str, token: str, notebook: str) -> Iterator[Kernel]:
    made = ask(
        f"{server}/api/sessions", token, "POST",
        {"path": notebook, "type": "notebook", "name": notebook, "kernel": {"name": "python3"}},
    )  # fmt: skip
    where = f"{server.replace('http', 'ws', 1)}/api/kernels/{made['kernel']['id']}/channels"
    headers = {"Authorization": f"token {token}"}
    with connect(where, additional_headers=headers, max_size=None, proxy=None, compression=None) as socket:
        yield Kernel(socket)
    # Gone already if its server was stopped.
    with contextlib.suppress(urllib.error.URLError):
        ask(f"{server}/api/sessions/{made['id']}", token, "DELETE")


def _extensions(*, proxy: bool) -> dict[str, bool]:
    """Of a server, by name: what no test here needs takes a second to start."""
    unused = ("jupyter_lsp", "jupyter_server_terminals", "jupyterlab", "nbclassic", "notebook", "notebook_shim")
    return {**dict.fromkeys(unused, False), "jupyter_server_proxy": proxy}


def _environment(folder: Path) -> dict[str, str]:
    """So that neither the files of whoever runs the tests are read, nor the settings of their shell."""
    names = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    return {
        **{name: str(folder / name.lower()) for name in names},
        **{name: os.environ[name] for name in ("DISTMAP_TOKEN_FILE", "TMPDIR", "PYTHONPATH") if name in os.environ},
    }


@contextlib.contextmanager
def hub(folder: Path) -> Iterator[Hub]:
    """A JupyterHub with configurable-http-proxy; everybody may log in."""
    public, internal, api = free_port(), free_port(), free_port()
    secret = uuid.uuid4().hex
    settings = folder / "jupyterhub_config.py"
    settings.write_text(
        _SETTINGS.format(
            public=public, hub=internal, api=api, folder=folder, python=sys.executable, secret=secret,
            proxy=program("configurable-http-proxy"), extensions=_extensions(proxy=True),
            environment={**_environment(folder), "JUPYTERHUB_SINGLEUSER_APP": "jupyter_server.serverapp.ServerApp"},
        )
    )  # fmt: skip
    command = [sys.executable, "-m", "jupyterhub", "-f", settings]
    with running(command, folder / "hub.log", port=public, cwd=folder):
        found = Hub(public, api, secret)
        until(lambda: _answers(found), 30, "the hub")
        yield found
        # They are in sessions of their own, and outlive a hub that has to be killed.
        for user in found.ask("users"):
            if user["servers"]:
                found.stop(user["name"])


def _answers(hub: Hub) -> bool:
    try:
        return bool(hub.ask("users") is not None)
    except (urllib.error.URLError, ConnectionError):
        return False


@contextlib.contextmanager
def server(folder: Path, port: int, token: str, *, proxy: bool = True) -> Iterator[str]:
    """A Jupyter server, with jupyter-server-proxy or without; gives its URL."""
    command = [
        sys.executable, "-m", "jupyter_server", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
        "--ServerApp.port_retries=0", f"--ServerApp.root_dir={folder}", "--ServerApp.base_url=/here/",
        f"--ServerApp.jpserver_extensions={_extensions(proxy=proxy)}",
    ]  # fmt: skip
    environment = {**os.environ, **_environment(folder), "JUPYTER_TOKEN": token}
    with running(command, folder / "server.log", port=port, cwd=folder, env=environment):
        yield f"http://127.0.0.1:{port}/here"


def kernel_of(server: str, token: str, notebook: str = "fit.ipynb") -> contextlib.AbstractContextManager[Kernel]:
    """A kernel of a Jupyter server."""
    return _kernel(server, token, notebook)
