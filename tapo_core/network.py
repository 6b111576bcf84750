"""Which requests go through a proxy. What HTTP_PROXY, ALL_PROXY and the like name is for other machines, never for loopback.

Prefect's client and its server, Ray and our own pages are reached on loopback by several libraries (httpx, websockets, requests,
urllib, gRPC). All of them read NO_PROXY, so one change of the environment reaches them, in this process and in those it starts.
"""

import ipaddress
import os
import urllib.request
from urllib.parse import urlsplit

from tapo_core.errors import UserError
from tapo_core.text import one_line

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_LOWER, _UPPER = "no_proxy", "NO_PROXY"
_EVERYTHING = "*"


def keep_loopback_direct() -> None:
    """Add loopback to NO_PROXY in both spellings. Call it before a client is made; a second call changes nothing.

    httpx refuses to make any client while a variable names a proxy that it cannot use, such as socks5:// without the package
    socksio, also for hosts in NO_PROXY. Then ``*`` is added too: among other entries, it makes httpx ignore all proxies, and
    urllib, requests, websockets and curl ignore it. A server on another machine is then an error: see `check_proxy_for`.
    """
    added = [*LOOPBACK, *([_EVERYTHING] if unusable_proxy() else [])]
    lower, upper = os.environ.get(_LOWER), os.environ.get(_UPPER)
    # Libraries prefer the lower case, so a new one must have what the other has.
    for name, value in ((_LOWER, upper if lower is None else lower), (_UPPER, lower if upper is None else upper)):
        entries = [entry.strip() for entry in (value or "").split(",") if entry.strip()]
        if entries != [_EVERYTHING]:  # alone it already means every host, to every library
            os.environ[name] = ",".join([*entries, *(entry for entry in added if entry not in entries)])


def unusable_proxy() -> str | None:
    """The variable that names a proxy which httpx cannot use, and why, in one line; None when there is none."""
    named = urllib.request.getproxies()
    for kind in ("http", "https", "all"):
        if not (proxy := named.get(kind)):
            continue
        import httpx  # only here: most machines have no proxy, and this takes a while

        try:
            # It is asked nothing, and certificates take long to load.
            httpx.Client(proxy=proxy if "://" in proxy else f"http://{proxy}", trust_env=False, verify=False).close()  # noqa: S501
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            scheme = proxy.partition("://")[0] if "://" in proxy else "http"  # the rest may hold a password
            return f"{kind.upper()}_PROXY ({scheme}://...): {one_line(error).rstrip('.')}"
    return None


def is_loopback(url: str) -> bool:
    """Whether a URL's host is this machine by a loopback name or address."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def check_proxy_for(url: str) -> None:
    """Make sure that a URL that the user named can be asked through his proxy.

    Raises:
        UserError: httpx cannot use that proxy, and would pass it by.
    """
    if is_loopback(url) or (reason := unusable_proxy()) is None or urllib.request.proxy_bypass(_host_of(url)):
        return
    raise UserError(
        f"{_host_of(url)} cannot be asked through the proxy that is set: {reason}. Install what is missing, unset the variable, "
        "or add the host to NO_PROXY"
    )


def _host_of(url: str) -> str:
    return urlsplit(url).hostname or url
