"""A check of the way to a worker or pool, hop by hop: what happens on each, and which is the first that fails.

Owns how a check proceeds, and the words for what it finds. The hops are those of `dial.py`, which reports each one that
is passed: so what is checked is what happens. It must not know who asks. A check disturbs nobody: the other side is
told that it is one, answers its INFO and what `measure.py` asks, and goes on with what it does.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import ssl
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

from distmap.core.limits import LIMITS
from distmap.errors import ConnectError, DistmapError, ProtocolError, VersionMismatch
from distmap.transport.channel import Channel, ChannelClosed, Connection
from distmap.transport.dial import check_hop, prove
from distmap.transport.first_hop import FirstHop
from distmap.transport.hop_errors import first_line, header_of, without_hint
from distmap.transport.hop_report import HOPS, Hop, HopName, HopReport, HopState, rate_words, time_words
from distmap.transport.identity import PYTHON, check_info, described, me, refusal
from distmap.transport.measure import measure_rates, measure_round_trip
from distmap.transport.tls import read_certificate
from distmap.transport.token import Secret
from distmap.transport.url import WorkerURL
from distmap.wire import handshake


async def check(
    url: WorkerURL,
    *,
    token: Secret,
    hop: FirstHop = FirstHop(),  # noqa: B008 - frozen
    timeout: float = 10.0,
    turn: AbstractAsyncContextManager[object] | None = None,
) -> HopReport:
    """Go the way to a worker or a listening pool, whichever is there, and tell what was found.

    Args:
        url: Where to go.
        token: What the other side must hold too.
        hop: What a proxy on the way needs.
        timeout: Seconds for the way, without the measurements at its end.
        turn: Entered while the bandwidth is measured: several checks at once would share it.
    """
    way = _Way(url)
    try:
        check_hop(url, hop)
    except ConnectError as error:
        return way.failed(error, at="TLS")
    try:
        connection = await prove(
            url, token=token, role=None, info=way.info, timeout=timeout, hop=hop, on_hop=way.passed
        )  # fmt: skip
    except (DistmapError, OSError) as error:
        return way.failed(error)
    try:
        return await way.end(connection, nullcontext() if turn is None else turn)
    finally:
        await connection.channel.close()


class _Way:
    """The hops that were passed, in their order."""

    def __init__(self, url: WorkerURL) -> None:
        self._url = url
        self._clock = asyncio.get_running_loop().time
        self._hops: dict[HopName, Hop] = {}
        # Those of a first connection, whose certificate was not looked at.
        self._before: dict[HopName, Hop] = {}
        self._began = 0.0
        self._role: handshake.Role = "pool"

    def passed(self, name: HopName, /, **found: Any) -> None:
        """Called by `prove` for each hop that is passed."""
        if name == HOPS[0]:
            self._before, self._hops, self._began = self._hops, {}, self._clock()
        words: Callable[..., Hop] = getattr(self, f"_{name.lower().replace(' ', '_')}")
        self._hops[name] = words(**found)

    def info(self) -> Mapping[str, object]:
        """Our INFO, in the role that fits the other side."""
        return check_info(self._role)

    def failed(self, error: Exception, at: HopName | None = None) -> HopReport:
        """The report when the connection failed. `at`: where; None: at the first hop that was not passed."""
        if isinstance(error, VersionMismatch):
            at = "hello" if "hello" in self._hops else "Python"  # which a tunnel finds out by itself
            for later in HOPS[HOPS.index(at) :]:
                self._hops.pop(later, None)
        cause = error.__cause__
        if isinstance(cause, ValueError | ImportError) and not isinstance(cause, OSError):
            at = "proxy"  # its address is wrong, or a package for it is missing
        name = self._next() if at is None else at
        # The URL is the heading.
        words = re.sub(r"^\w+://\S+: ", "", without_hint(self._url, str(error)))
        facts: dict[str, object] = {}
        if name == "TLS" and (seen := self._before.get("TLS")) is not None:
            words, facts = f"{seen.words}; {words}", {**seen.facts, "trusted": False}
        if (response := getattr(cause, "response", None)) is not None:
            status, body = response.status_code, first_line(response)
            facts |= {"status": status, "body": body}
            if str(status) not in words:
                words = f"HTTP {status}{body and f', {body!r}'}: {words}"
        return self._stopped(name, words, facts)

    async def end(self, connection: Connection, turn: AbstractAsyncContextManager[object]) -> HopReport:
        """The report on a connection that is proved: versions, round trip, bandwidth."""
        theirs = connection.peer_info
        peer = described(theirs)
        ours = self.info()
        versions = {"here": PYTHON, "there": peer["python"]}
        problem = refusal(ours, {key: value for key, value in theirs.items() if key != "refused"})
        if problem is not None:
            return self._stopped("Python", str(problem), versions, peer)
        self._add("Python", "ok", f"{peer['python']} there, {PYTHON} here", versions)
        versions = {"here": ours["distmap"], "there": peer["distmap"]}
        self._add("distmap", "ok", f"{peer['distmap']} there, {ours['distmap']} here", versions)
        async with turn:
            broken = await self._measure(connection.channel)
        if broken:
            return self._stopped(self._next(), broken, {}, peer)
        reason = theirs.get("refused")
        serves = handshake.sanitized(str(theirs.get("by", ""))) if reason == "busy" else ""
        refuses = handshake.sanitized(str(reason)) if reason not in (None, "busy") else ""
        through = " through a proxy" if connection.through_hop else ""
        summary = f"Every hop is passed, end to end{through}. {_who(peer, serves, refuses)}"
        return self._report(summary, peer, serves)

    def _stopped(
        self, name: HopName, words: str, facts: Mapping[str, object], peer: Mapping[str, object] | None = None
    ) -> HopReport:
        self._add(name, "failed", words, facts)
        return self._report(f"Failed: {name}. What comes after it was not tried.", peer or {}, "")

    def _report(self, summary: str, peer: Mapping[str, object], serves: str) -> HopReport:
        hops = tuple(self._hops.get(name, Hop(name, "not tried")) for name in HOPS)
        return HopReport(str(self._url), hops, summary, peer, serves)

    def _add(self, name: HopName, state: HopState, words: str, facts: Mapping[str, object]) -> None:
        self._hops[name] = Hop(name, state, words, facts)

    def _next(self) -> HopName:
        """The first hop that is not passed."""
        return next(name for name in HOPS if name not in self._hops)

    async def _measure(self, channel: Channel) -> str:
        """Measure round trip and bandwidth; what is wrong if that fails."""
        try:
            seconds = await measure_round_trip(channel)
            self._add("round trip", "ok", time_words(seconds), {"seconds": seconds})
            to, back = await measure_rates(channel, seconds)
            words = f"{rate_words(to)} there, {rate_words(back)} back"
            self._add("bandwidth", "ok", words, {"to": to, "back": back})
        except TimeoutError:
            return f"what was sent did not all come through within {LIMITS.check_seconds:g} s: the way is very slow"
        except (ChannelClosed, ProtocolError) as error:
            return f"the connection did not last: {error}"
        return ""

    # --- the hops of `prove`: what was found at each -----------------------------------------------------------------

    def _name(self, host: str = "", addresses: tuple[str, ...] = ()) -> Hop:
        if not host:
            return Hop("name", "not needed", "a tunnel leads there")
        if addresses == (host,):
            return Hop("name", "not needed", f"{host} is an address", {"addresses": addresses})
        return Hop("name", "ok", f"{host} is {', '.join(addresses)}", {"addresses": addresses})

    def _tcp(self, port: int = 0) -> Hop:
        seconds = self._clock() - self._began
        if not port:
            return Hop("TCP", "not needed", "a tunnel leads there")
        return Hop("TCP", "ok", f"port {port}, in {time_words(seconds)}", {"port": port, "seconds": seconds})

    def _proxy(self, proxy: str = "") -> Hop:
        if not proxy:
            return Hop("proxy", "not needed", "none")
        words = f"{proxy} leads to {self._url.host} port {self._url.port}"
        return Hop("proxy", "ok", words, {"url": proxy.removeprefix("the proxy ")})

    def _tls(self, session: ssl.SSLObject | None, verified: bool) -> Hop:
        der = None if session is None else session.getpeercert(binary_form=True)
        if session is None or der is None:
            return Hop("TLS", "not needed", "none up to there (ws://); the two ends speak it inside")
        version = (session.version() or "TLS").replace("v", " ")
        try:
            shown = read_certificate(der)
        except ValueError as error:  # the other side's bytes
            words = f"{version}; its certificate cannot be read ({handshake.sanitized(str(error), 80)})"
            return Hop("TLS", "ok", words, {"version": version, "trusted": True if verified else None})
        by = "itself" if shown.self_signed else shown.issuer
        words = f"{version}; certificate of {shown.subject}, signed by {by}, until {shown.until:%Y-%m-%d}"
        facts = {
            "version": version,
            "subject": shown.subject,
            "issuer": shown.issuer,
            "until": shown.until,
            "sha256": hashlib.sha256(der).hexdigest(),
            "trusted": True if verified else None,
        }
        return Hop("TLS", "ok", f"{words}, trusted" if verified else words, facts)

    def _http_upgrade(self, response: Any) -> Hop:
        server = handshake.sanitized(header_of(response, "Server"), 40)
        words = f"HTTP {response.status_code}" + (f" from {server}" if server else "")
        return Hop("HTTP upgrade", "ok", words, {"status": response.status_code, "server": server})

    def _subprotocol(self, subprotocol: str) -> Hop:
        return Hop("subprotocol", "ok", subprotocol, {"subprotocol": subprotocol})

    def _relay(self, met: bool) -> Hop:
        if not met:
            return Hop("relay", "not needed", "none")
        return Hop("relay", "ok", "the other side is there too")

    def _hello(self, role: handshake.Role) -> Hop:
        self._role = "pool" if role == "worker" else "worker"
        return Hop("hello", "ok", f"a {role} of distmap is there", {"role": role})

    def _inner_tls(self, inside: bool) -> Hop:
        tls = self._hops["TLS"]
        if tls.state == "ok":
            where = "ends on the way" if inside else "ends at the other side, whose proof holds the certificate"
            self._add("TLS", "ok", f"{tls.words}; {where}", {**tls.facts, "direct": not inside})
        if inside:
            return Hop("inner TLS", "ok", "between the two ends, inside the messages", {"used": True})
        return Hop("inner TLS", "not needed", "no hop on the way ends TLS", {"used": False})

    def _token(self, kid: str) -> Hop:
        return Hop("token", "ok", f"both sides hold {kid}", {"kid": kid})


def _who(peer: Mapping[str, object], serves: str, refuses: str) -> str:
    """Who is there, and whether a pool can have it now."""
    name = f"{peer['role']} {peer['name']}"
    if peer["role"] == "pool":
        return "This pool itself answers." if peer["name"] == me() else f"The {name} answers."
    if serves:
        whom = "this pool" if serves == me() else serves
        return f"The {name} answers; it serves {whom}."
    return f"The {name} answers; it takes no pool now: {refuses}." if refuses else f"The {name} answers; it is free."
