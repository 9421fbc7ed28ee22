"""A real JupyterLab in a real browser, driven as a user would: for the tests of this folder and for `docs/pictures.py`.

Owns the server with its temporary settings (`Server`), the browser (`chromium`) and one open notebook (`Lab`). Every
wait is for something that can be seen, with a deadline; nothing sleeps for a fixed time. Knows nothing of pytest, and
imports Playwright only where it is used: without it the tests are skipped.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from support.notebooks import write_book
from support.waiting import until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Locator, Page

#: How long anything may take to appear: the machine of a CI run is busy.
DEADLINE = 20.0

#: Milliseconds between two looks at a page that is loading. The default, at every frame, makes it draw all the time.
POLL = 50

#: Nothing is fetched, no first-run page comes up; a container's small /dev/shm and missing user namespaces do no harm.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
WIDE, HIGH = 1100, 900

#: JupyterLab asks on its first day whether it may fetch news; the question would cover the lower right corner.
SETTINGS = {"@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False}}

#: The notebook in front, once its document and its kernel are there.
READY = """() => {
    const panel = window.jupyterapp?.shell?.currentWidget;
    if (!panel?.context?.isReady || !panel.sessionContext?.isReady) return false;
    const kernel = panel.sessionContext.session?.kernel;
    // Busy too: a page that is reloaded finds its kernel at work.
    return kernel?.connectionStatus === 'connected' && ['idle', 'busy'].includes(kernel.status);
}"""
IDLE = """() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'idle'
    && ![...document.querySelectorAll('.jp-InputPrompt')].some(prompt => prompt.textContent.includes('*'))"""
# Clicking into a cell and pressing Shift+Enter loses the execution now and then; the command does not. Not awaited:
# it is over when the cell is.
RUN = """index => {
    const app = window.jupyterapp;
    app.shell.currentWidget.content.activeCellIndex = index;
    void app.commands.execute('notebook:run-cell');
}"""
OPEN = "path => { void window.jupyterapp.commands.execute('docmanager:open', {path}) }"
#: Closes what is open, as it is: unsaved changes are not asked about.
LEAVE = """() => {
    for (const widget of [...window.jupyterapp.shell.widgets('main')]) {
        if (widget.context) widget.context.model.dirty = false;
        widget.close();
    }
}"""
LEFT = "() => ![...window.jupyterapp.shell.widgets('main')].some(widget => widget.context)"
COMMAND = "([id, args]) => window.jupyterapp.commands.execute(id, args)"
#: Colour and ground of an element as it is seen: the nearest ancestor that is not transparent is the ground.
COLOURS = """(element, part) => {
    if (!element.isConnected) return null;  // an update came in between
    const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    const seen = [];
    const layers = [getComputedStyle(element)[part]];
    for (let at = element; at; at = at.parentElement) seen.unshift(getComputedStyle(at).backgroundColor);
    const paint = colours => {
        canvas.fillStyle = 'white';
        canvas.fillRect(0, 0, 1, 1);
        for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    return [paint([...seen, ...layers]), paint(seen)];
}"""


def chromium_path() -> str | None:
    """The browser that is installed here; None if there is none. DISTMAP_CHROMIUM names another one."""
    wanted = os.environ.get("DISTMAP_CHROMIUM")
    names = [wanted] if wanted else ["chromium", "chromium-browser", "google-chrome-stable", "google-chrome"]
    return next(filter(None, map(shutil.which, names)), None)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """The installed browser, without a window."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=DEADLINE * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


class Server:
    """One JupyterLab (and Notebook) server on a free loopback port; all that it reads and writes is in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.root.mkdir(parents=True)
        self.token = secrets.token_hex(16)
        # Kernels and their task processes have it in their environment, also when their parent is gone.
        self._mark = f"DISTMAP_LAB={uuid.uuid4().hex}"
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        settings = {
            name: str(folder / name.lower())
            for name in (
                "JUPYTER_CONFIG_DIR",
                "JUPYTER_DATA_DIR",
                "JUPYTER_RUNTIME_DIR",
                "JUPYTERLAB_SETTINGS_DIR",
                "JUPYTERLAB_WORKSPACES_DIR",
                "IPYTHONDIR",
                "MPLCONFIGDIR",
            )
        }
        for plugin, values in SETTINGS.items():
            path = Path(settings["JUPYTERLAB_SETTINGS_DIR"], f"{plugin}.jupyterlab-settings")
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps(values), encoding="utf-8")
        command = [
            *(sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}"),
            "--allow-root",  # the user of a CI container
            "--ServerApp.port_retries=0",
            f"--ServerApp.root_dir={self.root}",
            "--ServerApp.terminals_enabled=False",
            "--LabApp.expose_app_in_browser=True",
            "--JupyterNotebookApp.expose_app_in_browser=True",
            "--LabApp.news_url=None",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        ]
        # By the environment, as the command line is for all to read.
        environ = {**os.environ, **settings, **dict([self._mark.split("=")]), "JUPYTER_TOKEN": self.token}
        self.log = folder / "server.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=self.root, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def ready(self) -> Server:
        """Wait until it answers."""
        try:
            until(self._answers, 60, "JupyterLab answers")
        except BaseException:
            self.stop()
            raise
        return self

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"JupyterLab ended:\n{self.log.read_text(encoding='utf-8')[-3000:]}")
        try:
            self.ask("GET", "api/status")
        except OSError:
            return False
        return True

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """What the server's REST interface says."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/{path}", data, method=method)
        request.add_header("Authorization", f"token {self.token}")
        with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def start_kernel(self, path: str) -> None:
        """Start a kernel for a notebook, unless it has one.

        The page would do so too, but later, and now and then it starts two at once and loses what it runs first.
        """
        what = {"path": path, "name": path, "type": "notebook", "kernel": {"name": "python3"}}
        self.ask("POST", "api/sessions", what)

    def end_kernels(self) -> None:
        """Shut down every kernel, and wait until nothing that it started is left."""
        for kernel in self.ask("GET", "api/kernels"):
            self.ask("DELETE", f"api/kernels/{kernel['id']}")
        with contextlib.suppress(TimeoutError):
            until(lambda: not self.processes(), 10, "the kernels end")
        if left := self.processes():
            self._kill(left)
            raise AssertionError(f"left behind by a kernel: {left}")

    def processes(self) -> dict[int, str]:
        """What the server's kernels have started and is alive (Linux), the kernels included."""
        found: dict[int, str] = {}
        for process in psutil.process_iter():
            try:
                if process.pid != self.process.pid and self._mark in _environ(process):
                    found[process.pid] = " ".join(process.cmdline())[:200]
            except psutil.Error:
                continue
        return found

    def _kill(self, pids: Sequence[int] | dict[int, str]) -> None:
        for pid in pids:
            with contextlib.suppress(psutil.Error):
                psutil.Process(pid).kill()

    def stop(self) -> None:
        """End the server and whatever is left of its kernels."""
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._kill(self.processes())


def _environ(process: psutil.Process) -> str:
    """The environment as one text; that of other users is not read."""
    path = Path(f"/proc/{process.pid}/environ")
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    except OSError:
        return ""


class Lab:
    """One notebook, open in a page of its own.

    Args:
        cells: the sources of its code cells; None opens `folder/book.ipynb` as it is.
        app: "lab" or "notebook" (Notebook 7).
        page: where JupyterLab is loaded already, and nothing is open.
    """

    def __init__(
        self,
        server: Server,
        context: BrowserContext,
        folder: Path,
        cells: Sequence[str] | None,
        *,
        app: str = "lab",
        page: Page | None = None,
    ) -> None:
        self.server = server
        self.folder = folder
        self.file = folder / "book.ipynb"
        self.app = app
        if cells is not None:
            folder.mkdir(parents=True, exist_ok=True)
            write_book(self.file, cells)
        path = self.file.relative_to(server.root).as_posix()
        server.start_kernel(path)
        if page is not None:
            self.page: Page = page
            page.evaluate(OPEN, path)
        else:
            self.page = context.new_page()
            self.page.set_default_timeout(DEADLINE * 1000)
            # A fresh workspace: JupyterLab would restore what was open before.
            route = "notebooks" if app == "notebook" else f"lab/workspaces/{uuid.uuid4().hex}/tree"
            self.page.goto(f"{server.url}/{route}/{path}?reset&token={server.token}")
        self._wait_ready()

    def _wait_ready(self) -> None:
        self.page.wait_for_function(READY, polling=POLL)

    # --- looking ----------------------------------------------------------------------------------------------------

    def cell(self, index: int) -> Locator:
        """The cell, with its source."""
        return self.page.locator(".jp-Notebook .jp-Cell").nth(index)

    def output(self, index: int) -> Locator:
        """All that the cell shows."""
        return self.cell(index).locator(".jp-Cell-outputArea")

    def panel(self, index: int) -> Locator:
        """The panel or card of a job in a cell's output."""
        return self.output(index).locator(".dm-card")

    def see(self, where: int | Locator, text: Any) -> None:
        """Wait for a text (a string, or a pattern) in a cell's output."""
        from playwright.sync_api import expect

        expect(self._place(where)).to_contain_text(text)

    def see_no(self, where: int | Locator, text: Any) -> None:
        """Wait until a text is not, or no more, in a cell's output."""
        from playwright.sync_api import expect

        expect(self._place(where)).not_to_contain_text(text)

    def _place(self, where: int | Locator) -> Locator:
        return self.output(where) if isinstance(where, int) else where

    def text(self, index: int) -> str:
        """The text of a cell's output as it is seen now."""
        return self.output(index).inner_text()

    def done_items(self, index: int) -> int:
        """The number of finished items that the panel shows; -1 while it shows none."""
        counts = self.panel(index).locator(".dm-counts b").first
        if not counts.is_visible():
            return -1
        return int("".join(filter(str.isdigit, counts.inner_text())) or -1)

    def colours(self, place: Locator, part: str = "color") -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Colour of the text, or of what `part` names as JavaScript does, and of its ground: red, green, blue."""
        ink, ground = until(lambda: place.evaluate(COLOURS, part), DEADLINE, "the element stays")
        return tuple(ink), tuple(ground)

    def picture(self, path: Path, place: Locator | None = None) -> None:
        """What is seen, as a file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written here: Playwright would do it in a thread that stays.
        path.write_bytes((place or self.page).screenshot())

    # --- doing ------------------------------------------------------------------------------------------------------

    def run(self, index: int) -> None:
        """Start a cell, once no other runs; it is not waited for.

        What is sent while a cell is on its way to an error is dropped by the kernel (`stop_on_error`).
        """
        self.page.wait_for_function(IDLE, polling=POLL)
        self.page.evaluate(RUN, index)

    def run_through(self, *indexes: int) -> None:
        """Run cells one after the other, each to its end."""
        for index in indexes:
            self.run(index)
            self.wait_ended(index)

    def wait_ended(self, index: int) -> None:
        """Wait until the cell has ended: its number stands in the brackets."""
        import re

        from playwright.sync_api import expect

        expect(self.cell(index).locator(".jp-InputPrompt")).to_have_text(re.compile(r"\[\d+\]:"))

    def command(self, name: str, **arguments: Any) -> Any:
        """One of the front end's commands, to its end."""
        return self.page.evaluate(COMMAND, [name, arguments])

    def interrupt(self) -> None:
        """The ■ of the toolbar."""
        self.page.locator(".jp-NotebookPanel-toolbar [data-command='notebook:interrupt-kernel']").click()

    def click(self, index: int, button: str) -> None:
        """A button in a cell's output, by its name."""
        self.output(index).get_by_role("button", name=button, exact=True).click()

    def theme(self, name: str) -> None:
        """ "JupyterLab Dark" or "JupyterLab Light"."""
        self.command("apputils:change-theme", theme=name)
        self.page.locator(f"body[data-jp-theme-name='{name}']").wait_for(state="attached")
        # It fades away over the page.
        self.page.locator("#jupyterlab-splash").wait_for(state="detached")

    def reload(self) -> None:
        """Load the page again; the kernel goes on."""
        self.page.reload()
        self._wait_ready()

    def save(self) -> dict[str, Any]:
        """Save the notebook and read the file."""
        before = self.file.stat().st_mtime_ns
        self.command("docmanager:save")
        until(lambda: self.file.stat().st_mtime_ns != before, DEADLINE, "the notebook was not saved")
        return self.saved()

    def saved(self) -> dict[str, Any]:
        """The file as it is."""
        book: dict[str, Any] = json.loads(self.file.read_text(encoding="utf-8"))
        return book

    def leave(self) -> Page:
        """Close the notebook; gives the page, for another one."""
        self.page.evaluate(LEAVE)
        self.page.wait_for_function(LEFT, polling=POLL)
        return self.page

    def close(self) -> None:
        """Close the page. The kernel stays: `Server.end_kernels`."""
        self.page.close(run_before_unload=False)


def contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """Contrast of two colours by WCAG 2: 1 (none) to 21; 4.5 is wanted for text, 3 for what is large or bold."""

    def luminance(colour: tuple[int, ...]) -> float:
        parts = [c / 255 for c in colour]
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
