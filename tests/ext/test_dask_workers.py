"""Who is there in a Dask cluster, and finding out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from support.waiting import until

from distmap.engine.adapter import Member

#: Dask's threads and sockets come and go by themselves.
pytestmark = pytest.mark.own_leaks("threads", "descriptors")


class Events:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.names: list[set[str]] = []
        self.ends: list[str] = []

    def members(self, members: Sequence[Member]) -> None:
        self.names.append({member.name for member in members})

    def received(self, data: bytes) -> None: ...

    def ended(self, why: str) -> None:
        self.ends.append(why)


@pytest.fixture
def client(needs: Callable[[bool, str], None]) -> Iterator[Any]:
    """Of a cluster in this process, with one worker."""
    try:
        import distributed
    except ImportError:
        needs(False, "distributed")
    options: dict[str, Any] = {"dashboard_address": ":0", "silence_logs": 60}
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False, **options) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


def test_who_is_there_is_told(client: Any) -> None:
    """At once, and again when somebody has come or gone; a worker that is gone has its calls ended after that."""
    from distmap.ext.dask_workers import DaskWorkers

    workers = DaskWorkers(client, "Dask", told := Events())
    try:
        workers.open()
        assert told.names == [{"dask-0"}]
        (place,) = workers.places.values()
        assert (place.member.slots, place.member.python[:2], place.member.tags) == (2, "3.", frozenset())
        assert workers.direct is True
        client.cluster.scale(2)
        until(lambda: told.names[-1] == {"dask-0", "dask-1"}, 20)

        ended = threading.Event()

        class Call:
            def cancel(self) -> None:
                assert len(told.names[-1]) == 1
                ended.set()

        for place in workers.places.values():
            place.calls.add(Call())  # type: ignore[arg-type]
        client.cluster.scale(1)
        assert ended.wait(20)
        assert len(workers.places) == 1
    finally:
        workers.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "distmap-dask"]


def test_a_worker_without_distmap_is_left_out(
    client: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is named, once; and so is one with another version."""
    from distmap.ext import dask_workers

    monkeypatch.setattr(dask_workers, "LOOK_EVERY", 0.01)
    monkeypatch.setattr(dask_workers, "__version__", "0.0.7")
    workers = dask_workers.DaskWorkers(client, "Dask", told := Events())
    try:
        workers.open()
        for _ in range(3):
            workers.wait_for(workers.look(wait=True))
        assert not workers.places
        assert told.names == []
        (said,) = [record.getMessage() for record in caplog.records if record.name == "distmap"]
        assert "install distmap 0.0.7 there" in said
    finally:
        workers.close()


def test_a_scheduler_that_is_lost_forgets_what_ran(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it is back soon, its workers come anew; if not, the engine has ended, with the reason."""
    from distmap.ext import dask_workers

    monkeypatch.setattr(dask_workers, "LOOK_EVERY", 0.01)
    monkeypatch.setattr(dask_workers, "GONE_AFTER", 60)
    workers = dask_workers.DaskWorkers(client, "Dask", told := Events())
    try:
        workers.open()
        client.status = "connecting"
        with pytest.raises(ConnectionError):
            workers.wait_for(workers.look())
        client.status = "running"
        until(lambda: told.names == [{"dask-0"}, set(), {"dask-0"}], 20)
        monkeypatch.setattr(dask_workers, "GONE_AFTER", 0)
        client.status = "connecting"
        until(lambda: told.ends, 20)
        assert "its scheduler has been out of reach for 0 s" in told.ends[0]
    finally:
        client.status = "running"
        workers.close()
