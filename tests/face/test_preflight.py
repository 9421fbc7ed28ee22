"""A function that needs what a worker does not have: real workers, with and without packages."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import distmap
from distmap.testing.workers import WorkerProcess

#: The workers and their pools live longer than a test.
pytestmark = [pytest.mark.own_leaks, pytest.mark.timeout(60)]


def install(folder: Path, name: str, version: str) -> Path:
    """A folder with one installed package, of one module."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text(f"{name}.py,,\n{info.name}/METADATA,,\n")
    (folder / f"{name}.py").write_text(
        f"import os\nV = {version!r}\ndef f(x): return V\ndef where(x): return os.getpid()\n"
    )
    return folder


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Here: parcels 1.9.0. Workers: `bare` has none, `old` has 1.7.2, `near` has 1.9.3, `same` has 1.9.0."""
    make = tmp_path_factory.mktemp
    with ExitStack() as stack:
        here = install(make("here"), "parcels", "1.9.0")
        stack.enter_context(pytest.MonkeyPatch.context()).syspath_prepend(str(here))
        paths = {"bare": "", "same": str(install(make("same"), "parcels", "1.9.0"))}
        paths |= {"old": str(install(make("old"), "parcels", "1.7.2"))}
        paths |= {"near": str(install(make("near"), "parcels", "1.9.3"))}
        workers = {
            name: WorkerProcess("--port", "0", "--slots", "2", "--name", name, env={"PYTHONPATH": path})
            for name, path in paths.items()
        }
        yield {"token": os.environ["DISTMAP_TOKEN_FILE"]} | {
            name: stack.enter_context(worker) for name, worker in workers.items()
        }


Call = Callable[..., Any]


@pytest.fixture
def pool(rig: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Call]:
    """`pool("bare", 1)` has these workers; a number is slots of this machine."""
    monkeypatch.setenv("DISTMAP_TOKEN_FILE", rig["token"])
    with ExitStack() as stack:

        def make(*members: str | int) -> distmap.Pool:
            made = distmap.Pool([rig[one].url if isinstance(one, str) else one for one in members])
            stack.enter_context(made)
            made.wait_for_workers(len(members), 40)
            return made

        yield make


def use(x: int) -> tuple[int, str]:
    import parcels  # type: ignore[import-not-found]

    return x, parcels.V


def held() -> Call:
    """A function that does not even load without the package."""
    import parcels

    return lambda x: (x, parcels.V, os.getpid())


HINT = (
    r"lacks parcels 1\.9 \(here: 1\.9\.0\); `python -m pip install parcels==1\.9\.0` there, or "
    r"`pool\.install\('parcels==1\.9\.0'\)`"
)


@pytest.mark.parametrize("needs", [lambda: use, held], ids=["as it runs", "as it loads"])
def test_a_worker_without_the_package_is_left_out(pool: Call, needs: Call) -> None:
    """The call runs on the others, in order; one warning says who lacks what and how to mend it."""
    here = pool("bare", 1)
    with pytest.warns(UserWarning, match=f"ran on the other workers only: bare {HINT}") as caught:
        results = here.map(needs(), range(40), chunksize=1)
    assert [result[:2] for result in results] == [(x, "1.9.0") for x in range(40)]
    (warning,) = caught
    assert warning.filename == __file__
    assert here.last.stats["failed"] == here.last.stats["requeued"] == here.last.stats["retried"] == 0
    assert {lane.name for lane in here.last.progress.lanes if lane.items} == {"local"}
    assert here.map(abs, range(40), chunksize=1) == list(range(40))


def test_a_worker_that_can_load_it_now_takes_part_in_the_next_call(pool: Call, tmp_path: Path) -> None:
    """However soon that is: that it could not load the function is not kept beyond the call."""
    import parcels

    mounted, there = tmp_path / "mounted", install(tmp_path / "there", "parcels", "1.9.0")
    text = (there / "parcels.py").read_text()
    (there / "parcels.py").write_text(f"{text}open({str(mounted)!r}).close()\n")
    with WorkerProcess("--port", "0", "--slots", "1", "--name", "late", env={"PYTHONPATH": str(there)}) as worker:
        with distmap.Pool([worker.url, 1]) as here:
            here.wait_for_workers(2, 40)

            def calls() -> None:
                here.map(parcels.f, range(40), chunksize=1)
                mounted.touch()
                here.map(parcels.f, range(40), chunksize=1)

            with pytest.warns(UserWarning, match="ran on the other workers only: late"):
                calls()
            assert {lane.name for lane in here.last.progress.lanes if lane.items} == {"local", "late"}


def test_every_kind_of_call_leaves_it_out(pool: Call) -> None:
    """Streams, folds and submitted items go elsewhere too."""
    here = pool("bare", 1)
    fn = held()
    with pytest.warns(UserWarning, match="bare lacks parcels"):
        assert [result[0] for result in here.imap(fn, range(20), chunksize=1)] == list(range(20))
    with pytest.warns(UserWarning, match="bare lacks parcels"):
        assert here.map_reduce(fn, range(20), lambda a, b: (*a, b[0]), initial=(), chunksize=1) == tuple(range(20))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        futures = [here.submit(fn, x) for x in range(20)]
        assert [future.result(15)[0] for future in futures] == list(range(20))


def test_if_no_worker_can_the_call_fails(pool: Call, rig: dict[str, WorkerProcess]) -> None:
    """The error is the one that the import raised; its notes name each worker with what it lacks."""
    alone = pool("bare")
    with pytest.raises(ModuleNotFoundError, match="No module named 'parcels'") as caught:
        alone.map(held(), range(4))
    notes = "\n".join(caught.value.__notes__)
    assert "could not be loaded on worker bare; no item was run there" in notes
    assert "bare lacks parcels 1.9 (here: 1.9.0); `python -m pip install parcels==1.9.0` there" in notes
    with pytest.raises(ModuleNotFoundError, match="parcels") as caught:
        alone.map(use, range(4))
    assert any(note.startswith("item ") for note in caught.value.__notes__)


def test_another_series_is_left_out_while_the_right_one_is_there(pool: Call) -> None:
    """A worker with 1.7 runs nothing beside one with 1.9; another patch release counts as the same, with a warning."""
    both = pool("old", "near")
    with pytest.warns(UserWarning, match="parcels") as caught:
        assert {version for _, version in both.map(use, range(40), chunksize=1)} == {"1.9.3"}
    said = sorted(str(warning.message) for warning in caught)
    assert said[0].startswith("parcels is 1.9.0 here and 1.9.3 on near")
    assert "only: old has parcels 1.7.2 (here: 1.9.0); `python -m pip install parcels==1.9.0` there" in said[1]
    assert len(said) == 2


def test_another_series_alone_is_taken(pool: Call) -> None:
    """Where no worker has the right version those with another one run the call, which warns as ever."""
    alone = pool("old", "bare")
    with pytest.warns(UserWarning, match="parcels") as caught:
        assert {version for _, version, _ in alone.map(held(), range(20), chunksize=1)} == {"1.7.2"}
    said = sorted(str(warning.message) for warning in caught)
    assert ["only: bare lacks" in said[0], "parcels is 1.9.0 here and 1.7.2 on old" in said[1]] == [True, True]


def test_a_worker_that_has_all_of_it(pool: Call) -> None:
    """Nothing is said, and it takes its share."""
    both = pool("same", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert {result[1] for result in both.map(held(), range(60), chunksize=1)} == {"1.9.0"}
    assert {lane.name for lane in both.last.progress.lanes if lane.items} == {"same", "local"}


def test_a_file_that_is_not_there(pool: Call) -> None:
    """A function that reads a file as it loads runs where the file is; the other worker is named with the error."""

    def read(parent: int) -> int:
        if os.getppid() != parent:
            raise FileNotFoundError(2, "No such file or directory", "/data/table")
        return 5

    class Table:
        def __reduce__(self) -> Any:
            return read, (os.getpid(),)

    table, both = Table(), pool("same", 1)
    with pytest.warns(UserWarning, match="same raised as it loaded the function: FileNotFoundError: .*table"):
        assert both.map(lambda x: x + int(table), range(20), chunksize=1) == list(range(5, 25))
