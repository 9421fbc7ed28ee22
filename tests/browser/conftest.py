"""Fixtures of the tests in a real JupyterLab: one server, one browser and one page for all, a notebook for each test.

They open their notebooks one after the other in that page, as loading JupyterLab takes five seconds of CPU.
Only Notebook 7, a notebook that is opened again, and the test after a failure get a new page.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Generator, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.jupyterlab_page import HIGH, WIDE, Lab, Server, chromium, chromium_path

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

HERE = Path(__file__).parent
#: The browser, while tests of this folder run.
_OPEN = contextlib.ExitStack()


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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, None, None]:
    """The browser ends with the last test of this folder.

    Playwright's loop runs in this thread meanwhile, and no other test could `asyncio.run`.
    """
    yield
    if nextitem is None or HERE not in nextitem.path.parents:
        _OPEN.close()


@pytest.fixture(scope="session")
def browser(_present: None, server: Server) -> Iterator[Browser]:
    yield _OPEN.enter_context(chromium())
    _OPEN.close()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the pictures of the pages go, for whoever looks into a failure: DISTMAP_SCREENSHOTS, or pytest's folder."""
    wanted = os.environ.get("DISTMAP_SCREENSHOTS")
    return Path(wanted).resolve() if wanted else tmp_path_factory.mktemp("screenshots")


@pytest.fixture(scope="session")
def context(browser: Browser, server: Server) -> BrowserContext:
    """What the pages share: they are those of one user."""
    server.ready()
    return browser.new_context(viewport={"width": WIDE, "height": HIGH})


@pytest.fixture(scope="session")
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
