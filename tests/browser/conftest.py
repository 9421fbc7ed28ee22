"""Fixtures of the tests in a real JupyterLab: one server for all, a browser for each file, a notebook for each test.

The tests of a file open their notebooks one after the other in one page: to load JupyterLab takes five seconds of CPU.
Only Notebook 7, a notebook that is opened again, and the test after a failure get a new page.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.jupyterlab_page import HIGH, WIDE, Lab, Server, chromium, chromium_path

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of this folder are marked `browser`; the browser's own processes come and go as it likes."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.own_leaks("processes"))
            item.add_marker(pytest.mark.timeout(120))


@pytest.fixture(scope="session")
def _present(needs: Callable[[bool, str], None]) -> None:
    for module in ("playwright", "jupyterlab", "notebook"):
        needs(find_spec(module) is not None, f"{module} (pip install -e '.[test]')")
    needs(chromium_path() is not None, "Chromium (apt-get install chromium, or DISTMAP_CHROMIUM=/path/to/it)")


@pytest.fixture(scope="session")
def server(_present: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("lab"))
    try:
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="module")
def browser(_present: None, server: Server) -> Iterator[Browser]:
    """Not for the session: Playwright's loop runs in this thread meanwhile, and no other test could `asyncio.run`."""
    with chromium() as browser:
        server.ready()
        yield browser


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the pictures of the pages go, for whoever looks into a failure: DISTMAP_SCREENSHOTS, or pytest's folder."""
    wanted = os.environ.get("DISTMAP_SCREENSHOTS")
    return Path(wanted).resolve() if wanted else tmp_path_factory.mktemp("screenshots")


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    """What the pages of a file share: they are those of one user."""
    context = browser.new_context(viewport={"width": WIDE, "height": HIGH})
    yield context
    context.close()


@pytest.fixture(scope="module")
def spare() -> list[Page]:
    """The page in which JupyterLab is loaded, while no test has it."""
    return []


@pytest.fixture
def lab(
    request: pytest.FixtureRequest, server: Server, context: BrowserContext, spare: list[Page], pictures: Path
) -> Iterator[Callable[..., Lab]]:
    """`lab(cell, cell, ...)` opens a notebook with these cells. At the end nothing of its kernel may be left."""
    name = re.sub(r"\W+", "-", request.node.name).strip("-")
    folder = server.root / name
    opened: list[Lab] = []

    def open_book(*cells: str, app: str = "lab") -> Lab:
        """Without cells: the test's notebook again, as it was saved."""
        page = spare.pop() if spare and cells and app == "lab" else None
        opened.append(Lab(server, context, folder, cells or None, app=app, page=page))
        return opened[-1]

    failed = request.session.testsfailed
    yield open_book
    for number, one in enumerate(opened):
        if not one.page.is_closed():
            one.picture(pictures / f"{name}{f'-{number}' * (number > 0)}.png")
            if one.app == "lab" and not spare and request.session.testsfailed == failed:
                spare.append(one.leave())
            else:
                one.close()
    print(f"pictures: {pictures}")
    server.end_kernels()
