"""What `progress=` means."""

from __future__ import annotations

import subprocess
import sys
import types

import pytest

from distmap.core.progress import Snapshot
from distmap.views.base import Issue
from distmap.views.choose import CallbackView, choose_view, resolve_progress
from distmap.views.terminal import TerminalView

MOMENT = Snapshot("map", "running", 10, 5, 0, 1, 0, 0, 0, 0, 0, 1.0, 5.0, 1.0, ())


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if IPython had a shell with a kernel; a real kernel is started in test_notebook.py."""
    module = types.ModuleType("IPython")
    module.get_ipython = lambda: types.SimpleNamespace(kernel=object())  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", module)


@pytest.fixture
def no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)


@pytest.mark.usefixtures("no_kernel")
def test_a_script_shows_nothing_unless_asked() -> None:
    """Outside a notebook the default is silence, and True is a bar in the terminal."""
    assert choose_view(None, "t") is None
    assert choose_view(False, "t") is None
    assert isinstance(choose_view(True, "t"), TerminalView)
    assert [resolve_progress(p, None) for p in (None, False, True, print)] == [False, False, True, print]


@pytest.mark.usefixtures("kernel")
def test_a_notebook_shows_a_view() -> None:
    """In a kernel the default is a view; False still means silence there."""
    assert choose_view(False, "t") is None
    assert [resolve_progress(p, None) for p in (None, False, True, print)] == [True, False, True, print]


#: What the call says, what its pool says, DISTMAP_PROGRESS -> what is shown in a notebook.
SAID = {
    "nobody": ((None, None, ""), True),
    "the environment": ((None, None, "0"), False),
    "the environment, something else": ((None, None, "yes"), True),
    "the pool": ((None, False, ""), False),
    "the pool before the environment": ((None, True, "0"), True),
    "the call before the pool": ((True, False, "0"), True),
    "the call, quiet": ((False, True, "1"), False),
    "the pool, a callable": ((None, print, "0"), print),
}


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("who", SAID)
def test_the_nearest_word_counts(monkeypatch: pytest.MonkeyPatch, who: str) -> None:
    """What a call says itself, then its pool, then DISTMAP_PROGRESS."""
    (call, pool, environment), shown = SAID[who]
    monkeypatch.setenv("DISTMAP_PROGRESS", environment)
    assert resolve_progress(call, pool) is shown  # type: ignore[arg-type]


def test_a_callable_gets_every_snapshot() -> None:
    """A callable is given each snapshot, the last one too, and nothing after it."""
    seen: list[Snapshot] = []
    view = choose_view(seen.append, "t")
    assert isinstance(view, CallbackView)
    view.update(MOMENT)
    view.add_issue(Issue("failed", 1, "w", 1, "a line"))
    view.close(MOMENT)
    view.close(MOMENT)
    view.update(MOMENT)
    assert seen == [MOMENT, MOMENT]


def test_anything_else_is_refused_by_name() -> None:
    """A wrong value is named in the error."""
    with pytest.raises(TypeError, match=r"progress= takes True, False, None or a callable.*not str"):
        choose_view("yes", "t")  # type: ignore[arg-type]


def test_choosing_nothing_imports_nothing() -> None:
    """Without a view neither tqdm nor IPython is loaded."""
    code = (
        "import sys; from distmap.views.choose import choose_view; choose_view(None, 't');"
        "assert not {'tqdm', 'IPython', 'ipywidgets'} & set(sys.modules), 'loaded'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=15)
