"""What stands between the start of a script and its first result."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import distmap

#: Each of these takes a millisecond or more, and a first result can do without it.
COSTLY = """
cloudpickle cryptography dataclasses hashlib html IPython ipaddress json multiprocessing numpy pathlib pickle platform
psutil random secrets tempfile tqdm urllib.parse uuid websockets
distmap.calls.batches distmap.calls.jupyter_server distmap.calls.stream distmap.checkpoint.store
distmap.core.relay_limits distmap.engine.hub distmap.launch.ssh distmap.slots.devices distmap.transport.tls
distmap.transport.url distmap.views.cards distmap.views.html distmap.views.notebook distmap.views.terminal
""".split()


def test_a_first_result_needs_little() -> None:
    """A pool of this machine imports nothing costly before its first result, beyond what asyncio itself imports."""
    code = f"""
import sys, asyncio, subprocess
known = set(sys.modules)
import distmap
with distmap.Pool(1) as pool:
    print(pool.apply(abs, (-3,)), pool.map(abs, [-1, 2]))
    print(*sorted({set(COSTLY)} & (set(sys.modules) - known)))
"""
    env = {**os.environ, "PYTHONPATH": str(Path(distmap.__file__).parents[1])}
    # Without `site`: what it imports is the environment's affair.
    told = subprocess.run([sys.executable, "-S", "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert told.stdout.splitlines() == ["3 [1, 2]", ""], told.stderr
