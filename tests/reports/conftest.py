"""Fixtures of the report tests: what users of libraries of this kind report elsewhere, one file for each kind of fault.

Each file is a table: an input, what plain Python gives for it (`[fn(x) for x in data]`), what distmap must give. Rows
have ids that name the kind. `pool` runs every row on slots of this machine and on two real workers over TLS.
"""

from __future__ import annotations

import importlib
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

import pytest

import distmap
from distmap.testing.workers import WorkerProcess


@pytest.fixture(scope="module")
def local_pool() -> Iterator[distmap.Pool]:
    """Two slots of this machine, shared by the tests of a file."""
    with distmap.Pool(2) as pool:
        yield pool


@pytest.fixture(scope="module")
def remote_pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[distmap.Pool]:
    """Two workers of one slot over TLS, shared by the tests of a file; each runs in an empty folder of its own."""
    with ExitStack() as stack:
        workers = [
            stack.enter_context(
                WorkerProcess(
                    "--port",
                    "0",
                    "--slots",
                    "1",
                    "--name",
                    name,
                    cwd=_empty(tmp_path_factory, name),
                    env={"TMPDIR": str(_empty(tmp_path_factory, f"{name}-files"))},
                )
            )
            for name in ("ann", "bob")
        ]
        pool = stack.enter_context(distmap.Pool([worker.url for worker in workers]))
        pool.wait_for_workers(2, 15)
        yield pool


def _empty(factory: pytest.TempPathFactory, name: str) -> Path:
    return factory.mktemp(name)


@pytest.fixture(scope="module", params=["local", "remote"])
def pool(request: pytest.FixtureRequest) -> distmap.Pool:
    """The same test on slots of this machine and on workers elsewhere."""
    found: distmap.Pool = request.getfixturevalue(f"{request.param}_pool")
    return found


@pytest.fixture
def beside(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Path]]:
    """Writes files into a folder that is on the path, like that of a notebook: `beside({"pkg/mod.py": text})`.

    For a remote `pool` it is on the path by a name that only this process knows, as on a machine of its own. What was
    imported from it is forgotten afterwards.
    """
    before = set(sys.modules)
    callspec = getattr(request.node, "callspec", None)
    far = sys.platform == "linux" and callspec is not None and callspec.params.get("pool") == "remote"
    fd = os.open(tmp_path, os.O_RDONLY)
    folder = Path(f"/proc/self/fd/{fd}") if far else tmp_path
    monkeypatch.syspath_prepend(str(folder))

    def write(files: Mapping[str, str | bytes]) -> Path:
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else textwrap.dedent(content).encode())
        importlib.invalidate_caches()
        return tmp_path

    yield write
    for name in [name for name in set(sys.modules) - before if _lies_in(sys.modules[name], folder)]:
        del sys.modules[name]
    os.close(fd)


def _lies_in(module: object, folder: Path) -> bool:
    spec = getattr(module, "__spec__", None)
    places = (getattr(spec, "origin", None), *(getattr(spec, "submodule_search_locations", None) or ()))
    return not isinstance(module, ModuleType) or any(str(folder) in str(place) for place in places)
