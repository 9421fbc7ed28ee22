"""Whether Ray runs in this process: several pools share it, and the last one shuts down what the first one started.

Owns the start and the end of Ray here. Must not know what runs on it.

Threads: Ray's processes of this machine end with the thread that started them, so Ray is started in a thread that lasts
until it is shut down.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import ray
from ray.util.client import ray as client

_VISIBLE = "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"

_lock = threading.Lock()
_users = 0
#: The thread that started Ray; None if somebody else did.
_starter: ThreadPoolExecutor | None = None


def enter(address: str | None) -> None:
    """Have Ray run in this process, until `leave`.

    Args:
        address: of a client port, "ray://host:10001"; None: the Ray that runs here, one on this machine, or a new one.

    Raises:
        ConnectionError: it cannot be reached.
        ValueError: this process uses another one already.
    """
    global _users, _starter
    with _lock:
        if not ray.is_initialized():
            starter = ThreadPoolExecutor(1, thread_name_prefix="distmap-ray-starter")
            try:
                starter.submit(_start, address).result()
            except BaseException:
                starter.shutdown()
                raise
            _starter = starter
        elif address is not None and address != (used := client_address()):
            here = f"Ray at {used}" if used else "another Ray"
            raise ValueError(
                f'this process uses {here} already: Pool("ray") is for that one, or call ray.shutdown() before '
                f"Pool({address!r})"
            )
        _users += 1


def leave() -> None:
    """Ray is not needed any more by who entered."""
    global _users, _starter
    with _lock:
        _users -= 1
        if not _users and _starter is not None:
            starter, _starter = _starter, None
            starter.submit(ray.shutdown).result()
            starter.shutdown()


def client_address() -> str | None:
    """The address of the client port that this process uses; None if it is part of the cluster itself."""
    return f"ray://{client.get_context().client_worker._conn_str}" if client.is_connected() else None


def head_address() -> tuple[str, int]:
    """Where the cluster answers as long as it lives: host and port."""
    used = client_address()
    host, _, port = (used.removeprefix("ray://") if used else ray.get_runtime_context().gcs_address).rpartition(":")
    return host.strip("[]"), int(port)


def _start(address: str | None) -> None:
    if address is not None:
        ray.init(address, log_to_driver=False, logging_level="ERROR")
        return
    # GPUs stay visible to tasks that reserve none, as on our own slots; without it, Ray warns that this will be so.
    kept = os.environ.get(_VISIBLE)
    os.environ.setdefault(_VISIBLE, "0")
    try:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    finally:
        if kept is None:
            del os.environ[_VISIBLE]
