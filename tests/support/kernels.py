"""A kernel without a browser: the test is the front end. For the tests of several folders."""

from __future__ import annotations

import os
import queue
import re
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jupyter_client.manager import KernelManager

ROOT = Path(__file__).resolve().parents[2]

#: Seconds that anything may take to arrive.
DEADLINE = 30.0


class Kernel:
    """One kernel, and all that it says."""

    def __init__(self, folder: Path, overlay: str = "") -> None:
        path = os.pathsep.join(filter(None, [overlay, str(ROOT), os.environ.get("PYTHONPATH", "")]))
        env = dict(os.environ, PYTHONPATH=path, IPYTHONDIR=str(folder))
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(env=env, cwd=str(folder))
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=DEADLINE)
        self.folder = folder
        #: comm id -> what the front end knows of that widget; closed ones are gone.
        self.widgets: dict[str, dict[str, Any]] = {}
        #: display id -> what stands there now.
        self.displays: dict[str, dict[str, Any]] = {}
        #: Of the cell that runs or ran last: what it printed, its error, its displays.
        self.printed = ""
        self.shown: list[str] = []
        self.error: dict[str, Any] | None = None
        self.running = ""
        #: The request whose reply was not taken yet.
        self.asked = ""
        self.subshell = self._new_subshell()

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

    def _new_subshell(self) -> str | None:
        control = self.client.control_channel
        control.send(self.client.session.msg("create_subshell_request"))
        try:
            return control.get_msg(timeout=5)["content"].get("subshell_id")
        except queue.Empty:  # ipykernel 6 knows no such request
            return None

    # --- what the user does -------------------------------------------------------------------------------------------

    def start(self, code: str) -> Kernel:
        """Run a cell; it is not waited for."""
        self._take_reply()
        self.printed, self.error = "", None
        self.shown = []
        self.running = self.asked = self.client.execute(textwrap.dedent(code))
        return self

    def _take_reply(self) -> None:
        """Take the reply to the last cell: ipykernel 7.0 to 7.3 never sees a request that comes while it replies."""
        end = time.monotonic() + DEADLINE
        while self.asked:
            reply = self.client.get_shell_msg(timeout=end - time.monotonic())
            if reply["parent_header"].get("msg_id") == self.asked:
                self.asked = ""

    def run(self, code: str) -> Kernel:
        """Run a cell to its end."""
        return self.start(code).end()

    def end(self) -> Kernel:
        return self.until(lambda: not self.running)

    def click(self, button: str) -> None:
        """As JupyterLab does: to the subshell that it has for widgets, if it has one."""
        comm, *_ = [key for key, state in self.widgets.items() if state.get("description") == button]
        data = {"method": "custom", "content": {"event": "click"}, "buffers": []}
        message = self.client.session.msg("comm_msg", {"comm_id": comm, "data": data})
        if self.subshell is not None:
            message["header"]["subshell_id"] = self.subshell
        self.client.shell_channel.send(message)

    def interrupt(self) -> None:
        self.manager.interrupt_kernel()

    # --- what the user sees -------------------------------------------------------------------------------------------

    def until(self, happened: Callable[[], object]) -> Kernel:
        """Take what the kernel says until `happened()`."""
        end = time.monotonic() + DEADLINE
        while not happened():
            assert time.monotonic() < end, (self.printed, self.error, self.displays, self.widgets)
            try:
                self._hear(self.client.get_iopub_msg(timeout=0.05))
            except queue.Empty:
                continue
        return self

    def _hear(self, message: dict[str, Any]) -> None:
        kind, content = message["msg_type"], message["content"]
        mine = message["parent_header"].get("msg_id") == self.running
        if kind == "comm_open":
            self.widgets[content["comm_id"]] = dict(content["data"].get("state", {}))
        elif kind == "comm_msg":
            self.widgets[content["comm_id"]].update(content["data"].get("state", {}))
        elif kind == "comm_close":
            self.widgets.pop(content["comm_id"], None)
        elif kind in ("display_data", "update_display_data"):
            name = content["transient"]["display_id"]
            self.displays[name] = content["data"]
            if mine and kind == "display_data":
                self.shown.append(name)
        elif kind == "stream" and mine:
            self.printed += content["text"]
        elif kind == "error" and mine:
            self.error = content
        elif kind == "status" and mine and content["execution_state"] == "idle":
            self.running = ""

    @property
    def buttons(self) -> set[str]:
        return {state["description"] for state in self.widgets.values() if state.get("_model_name") == "ButtonModel"}

    @property
    def html(self) -> str:
        """All that stands in the widgets."""
        return "".join(state.get("value", "") for state in self.widgets.values() if "value" in state)

    @property
    def card(self) -> dict[str, Any]:
        [name] = self.shown
        return self.displays[name]

    @property
    def raised(self) -> str:
        return "" if self.error is None else self.error["ename"]

    @property
    def traceback(self) -> str:
        assert self.error is not None
        return re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(self.error["traceback"]))
