"""What tasks need on a worker beside their items: code, values, modules, surroundings.

Owns which of these a worker is sent, and in which order a task names them. Must not know how they are sent. On the
loop's thread.
"""

from __future__ import annotations

from collections.abc import Sequence

from distmap.driver.blobs import Blobs
from distmap.driver.workers import WorkerEntry
from distmap.tasks.code import Code


def needs_of(code: Code, worker: WorkerEntry, blobs: Blobs) -> tuple[bytes, ...]:
    """What each task of the code needs on the worker, in the order in which it is used there."""
    needs = [blob.digest for blob in code.surroundings.of(worker.engine.place)]
    for setup in code.setups:
        if setup.tags <= worker.info.tags:
            needs += [*[blob.digest for blob in setup.code.blobs], setup.code.digest]
    return that_travel(needs + [blob.digest for blob in code.blobs], worker, blobs)


def that_travel(needs: Sequence[bytes], worker: WorkerEntry, blobs: Blobs) -> tuple[bytes, ...]:
    """Those that the worker is sent.

    What modules find on this machine need not travel here, what processes of it share cannot travel elsewhere.
    """
    unwanted = ("extras",) if worker.engine.place == "here" else ("secret", "descriptor")
    return tuple([digest for digest in needs if blobs[digest].kind not in unwanted])
