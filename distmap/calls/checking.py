"""`pool.check`: the way to a worker, to all of them, or back to the pool itself, hop by hop.

Owns which ways a pool checks, and what is shown of several checks. `transport/check.py` goes the way.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from distmap.calls.jupyter_server import own_headers
from distmap.calls.remote import address_of, is_ssh
from distmap.core.limits import LIMITS
from distmap.transport.check import check
from distmap.transport.first_hop import Headers, load_hop
from distmap.transport.hop_report import MARKS, HopReport, rate_words, time_words
from distmap.transport.room import parse_relay, worker_room
from distmap.transport.ssh_meeting import WorkerAtLogin
from distmap.transport.token import Secret, load_token
from distmap.transport.url import WorkerURL
from distmap.views.check_card import CheckFacts, check_html, checks_html
from distmap.views.words import counted

if TYPE_CHECKING:
    from distmap.calls.remote import Remote
    from distmap.driver.portal import Portal
    from distmap.engine.hub import HubEngine
    from distmap.transport.first_hop import FirstHop


@dataclass(frozen=True, repr=False)
class Check(HopReport):
    """What `pool.check(url)` has found: a line for each hop, with what to do at the first one that failed.

    Attributes:
        url: what was checked.
        hops: all hops in order, as `Hop`; `check["TLS"]` is one of them.
        summary: one sentence.
        peer: what the other side says of itself: `name`, `role`, `python`, `distmap`, and `slots` of a worker. Empty
            if it was not reached, or did not prove the token.
        serves: whom the worker serves now; empty if nobody, or if a pool was checked.
    """

    def _facts(self) -> CheckFacts:
        return CheckFacts(self.url, self.ok, self.summary, [(hop.name, hop.state, hop.words) for hop in self.hops])

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/plain": repr(self), "text/html": check_html(self._facts())}


class Checks(tuple[Check, ...]):
    """What `pool.check()` has found: a tuple of `Check`, one for each way. Shows itself as a table."""

    __slots__ = ()

    @property
    def ok(self) -> bool:
        """Whether no way has a hop that failed."""
        return all(one.ok for one in self)

    @property
    def summary(self) -> str:
        """One sentence."""
        if not self:
            return "All workers of this pool are on this machine: there is no way to check."
        failed = sum(not one.ok for one in self)
        return f"{counted(len(self), 'way')} checked, {f'{failed} failed' if failed else 'none failed'}."

    def __repr__(self) -> str:
        width = max((len(one.url) for one in self), default=0)
        lines = [f"{MARKS['ok' if one.ok else 'failed']:<3}{one.url:<{width}}  {_brief(one)}" for one in self]
        return "\n".join([*lines, self.summary])

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        facts = [one._facts()._replace(summary=_brief(one)) for one in self]
        return {"text/plain": repr(self), "text/html": checks_html(facts, self.summary)}


def _brief(one: Check) -> str:
    """A check in one line."""
    if (failed := one.failed) is not None:
        return f"{failed.name}: {failed.words}"
    rates = one["bandwidth"].facts
    far = time_words(one["round trip"].facts["seconds"])
    return f"{one.summary} {far}, {rate_words(rates['to'])} there, {rate_words(rates['back'])} back"


def checks(
    portal: Portal, remote: Remote, hub: HubEngine | None, url: str | None, own: str | None, timeout: float
) -> Checks:
    """Go one way or all of them, several at one time, on the loop of the pool; by a thread that may wait.

    Args:
        portal: Of the pool.
        remote: What the pool was told about workers elsewhere.
        hub: That of the pool; None: it has none.
        url: Where to go; None: to all workers that the pool dials, and to the pool itself.
        own: Where the pool is reached; None: it does not listen.
        timeout: Seconds for each way, without the measurements at its end.

    Raises:
        ConnectError: A URL, a file of headers or one of certificates cannot be used.
        TokenError: The token cannot be read.
    """
    token, hop = load_token(remote.token), load_hop(remote.headers, remote.ca, remote.proxy)
    known = {} if hub is None else portal.ask(hub.hops.copy)
    alone: FirstHop | None = None
    ways = [] if own is None else [_inwards(own, hop, remote, token, timeout)]
    if url is None:
        ways += [(address_of(key), hop) for key, hop in known.items()]
    elif url != own:
        address = address_of(url)
        if str(address) not in known:
            alone = remote.way(url)[1]
        ways = [(address, known.get(str(address), alone or hop))]
    used = [way for _, way in ways if way.closed is not None and way not in known.values()]  # for this check only
    tasks: list[asyncio.Task[Any]] = []

    async def one(url: WorkerURL, hop: FirstHop, room: asyncio.Semaphore, turn: asyncio.Lock) -> Check:
        async with room:
            found = await check(url, token=token, hop=hop, timeout=timeout, turn=turn)
            return Check(found.url, found.hops, found.summary, found.peer, found.serves)

    async def all_of_them() -> Checks:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        room, turn = asyncio.Semaphore(LIMITS.checks_at_once), asyncio.Lock()
        try:
            return Checks(await asyncio.gather(*[one(url, hop, room, turn) for url, hop in ways]))
        finally:
            await asyncio.gather(*[hop.closed() for hop in used if hop.closed is not None])

    try:
        return portal.run(all_of_them()).result()
    except BaseException:  # an interrupt: end the connections too
        portal.call(lambda: [task.cancel() for task in tasks])
        raise


def _inwards(own: str, hop: FirstHop, remote: Remote, token: Secret, timeout: float) -> tuple[WorkerURL, FirstHop]:
    """How a worker gets to this pool."""
    if remote.at_relay:
        url = parse_relay(own)
        return url, replace(hop, room=worker_room(token, url, timeout))
    if is_ssh(own):
        return address_of(own), WorkerAtLogin(own).hop
    if remote.server is not None and not hop.headers:
        # A Jupyter server on the way wants a token, which this kernel has.
        hop = replace(hop, headers=Headers(own_headers()))
    return address_of(own), hop
