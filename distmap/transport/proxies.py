"""Which proxy a connection goes out through, by what the user says, the environment and the system's settings.

Owns the variables for it (`HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY` ...). It must not know how a proxy is spoken to.
"""

from __future__ import annotations

import re
import urllib.request
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

from distmap.transport.url import WorkerURL

#: The variables that count, the first that is set: `wss_proxy`, `https_proxy`, `all_proxy`, in capitals too. "socks"
#: is what the settings of macOS have.
_KINDS = {"wss": ("wss", "socks", "https", "all"), "ws": ("ws", "socks", "https", "http", "all")}

#: Where a proxy is whose URL names no port; of SOCKS it is 1080.
_PORTS = {"http": 80, "https": 443}


def proxy_for(url: WorkerURL, given: str | None = None) -> str | None:
    """The URL of the proxy for a URL; None: no proxy.

    Args:
        url: What is to be dialled.
        given: What the user said: it counts for every URL, also for this machine's own. "": no proxy. None: what the
            environment or the system says, which is not asked for this machine's own addresses.
    """
    if given is not None:
        return _with_scheme(given) if given else None
    if url.is_loopback or _is_excluded(url):
        return None
    found = urllib.request.getproxies()
    proxy = next((found[kind] for kind in _KINDS[url.scheme] if found.get(kind)), None)
    if proxy is not None and proxy == found.get("socks") and proxy.startswith("http://"):
        return "socks5h://" + proxy.removeprefix("http://")
    return proxy and _with_scheme(proxy)


def address_of(proxy: str) -> tuple[str, int]:
    """Host and port of a proxy.

    Raises:
        ValueError: It names none.
    """
    try:
        parts = urlsplit(proxy)
        port = parts.port
    except ValueError:  # it names what it took for a port, which may be of a password
        parts, port = urlsplit(""), None
    if not parts.hostname or (parts.scheme not in _PORTS and not parts.scheme.startswith("socks")):
        raise ValueError("its address is not like http://HOST:PORT")
    return parts.hostname, port or _PORTS.get(parts.scheme, 1080)


def has_password(proxy: str) -> bool:
    """Whether a proxy's URL holds a user name or password."""
    return "@" in proxy


def shown_proxy(proxy: str) -> str:
    """A proxy for people: without user name and password."""
    return "the proxy " + re.sub(r"^(\w+://)?.*@", r"\1", proxy, flags=re.DOTALL)


def _with_scheme(proxy: str) -> str:
    return proxy if "://" in proxy else f"http://{proxy}"  # as curl reads "host:3128"


def _is_excluded(url: WorkerURL) -> bool:
    """Whether `no_proxy` or the system's settings exclude the host: by name, by the end of it, or by network."""
    if urllib.request.proxy_bypass(f"{url.host}:{url.port}"):
        return True
    try:
        address = ip_address(url.host)
    except ValueError:
        return False
    # The standard library knows no networks, which clusters have there: 10.0.0.0/8.
    for entry in urllib.request.getproxies().get("no", "").split(","):
        try:
            if "/" in entry and address in ip_network(entry.strip(), strict=False):
                return True
        except ValueError:
            continue
    return False
