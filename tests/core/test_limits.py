"""What holds for every number that bounds something, of all four modules."""

from __future__ import annotations

import pytest

from distmap.core.launch_limits import LAUNCH
from distmap.core.limits import LIMITS
from distmap.core.relay_limits import RELAY
from distmap.core.ssh_limits import SSH_LIMITS

OF_ALL = [(limits, name) for limits in (LIMITS, RELAY, SSH_LIMITS, LAUNCH) for name in limits._fields]


@pytest.mark.parametrize(("limits", "name"), OF_ALL, ids=[f"{type(limits).__name__}.{name}" for limits, name in OF_ALL])
def test_a_limit_bounds_something(limits: tuple[object, ...], name: str) -> None:
    """Every limit is a number above nothing, or several."""
    value = getattr(limits, name)
    for number in value if isinstance(value, tuple) else (value,):
        assert number >= 0, name


@pytest.mark.parametrize("limits", [LIMITS, RELAY, SSH_LIMITS, LAUNCH])
def test_limits_stay_what_they_are(limits: tuple[object, ...]) -> None:
    """No code can change a limit for all pools of a process; whoever wants another one makes other limits."""
    name = limits._fields[0]  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        setattr(limits, name, 1)
    assert getattr(limits._replace(**{name: 7}), name) == 7  # type: ignore[attr-defined]
