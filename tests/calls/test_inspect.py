"""What a pool shows of itself."""

from __future__ import annotations

import distmap
from distmap.calls.inspect import Worker


def test_repr_reads_well():
    """The repr tells workers, slots and what runs; the repr of a worker its name, slots and Python."""
    pool = distmap.Pool(2)
    with pool:
        assert repr(pool) == "<Pool: 1 worker, 2 slots, idle>"
        (worker,) = pool.workers
        assert "local" in repr(worker)
        assert "2 slots" in repr(worker)
        assert f"{worker.python}" in repr(worker)
    assert repr(pool) == "<Pool: closed>"


def test_the_card_tells_what_runs(tmp_path):
    """The calls that run, by name, and how to add a worker."""
    pool = distmap.Pool(1)
    with pool:
        stream = pool.imap(abs, iter(int, 1))
        card = pool._repr_mimebundle_()["text/html"]
        assert "1 imap" in card
        assert "distmap-worker" in card
        stream.close()
    assert "distmap-worker" not in pool._repr_mimebundle_()["text/html"]


def test_no_version_is_made_up() -> None:
    """Where an engine does not tell which Python its workers have, a worker says nothing of it."""
    told = Worker("cpu", "node1", 2, "3.11", "ready", 0.0, 0.0, 0.0, "", frozenset())
    assert repr(told) == "<Worker cpu on node1: ready, 2 slots, Python 3.11>"
    assert repr(told._replace(python="")) == "<Worker cpu on node1: ready, 2 slots>"
