"""Proxies from the environment (HTTPS_PROXY, HTTP_PROXY, NO_PROXY).

In NO_PROXY, Python accepts only names and single addresses. Programs written in Go also accept address ranges
(``10.0.0.0/8``) and wildcards (``*.example.com``), and most programs in a cluster are written in Go. This module
accepts these forms, too. The rules of Go: https://pkg.go.dev/golang.org/x/net/http/httpproxy#Config
"""

import ipaddress
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Prefixes of the names of environment variables that can hold URLs. This process calls these URLs through libraries
# that match NO_PROXY as Python does. So ``normalize_no_proxy`` has to know these URLs.
_ENDPOINTS = ("AWS_ENDPOINT_URL", "OTEL_EXPORTER_OTLP_")

_log = logging.getLogger(__name__)


def proxy_for(url: str) -> str | None:
    """Return the proxy for a URL. Return None if the environment names no proxy, or exempts the host."""
    host = urlsplit(url).hostname or ""
    return None if proxy_bypass(host) or _in_range(host, _entries()) else getproxies().get(urlsplit(url).scheme)


def normalize_no_proxy() -> None:
    """Rewrite NO_PROXY into forms that Python itself can match, because the SDKs use Python's matching.

    A wildcard becomes a suffix. An address range stays, and each address in the range that this process calls is added.
    If an entry contains a slash but is not a valid range, a warning is logged.
    """
    entries = _entries()
    if not entries:
        return
    hosts = {urlsplit(url).hostname or "" for name, url in os.environ.items() if name.startswith(_ENDPOINTS)}
    covered = [form for host in sorted(hosts) if _in_range(host, entries) for form in _forms(host)]
    for entry in entries:
        if "/" in entry and _network(entry) is None:
            shown = entry.rpartition("@")[2]  # if the entry is a URL, its credentials are not logged
            _log.warning("NO_PROXY: %r is no address range, and has no effect: write it as in 10.0.0.0/8", shown)
    text = "*" if "*" in entries else ",".join([*(entry.removeprefix("*") for entry in entries), *covered])
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = text


def _entries() -> Sequence[str]:
    text = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    return [entry for entry in map(str.strip, text.split(",")) if entry]


def _in_range(host: str, entries: Sequence[str]) -> bool:
    with suppress(ValueError):  # a host name is in no range
        address = ipaddress.ip_address(host)
        return any(address in network for network in _networks(entries))
    return False


def _networks(entries: Sequence[str]) -> Iterator[Network]:
    yield from filter(None, map(_network, entries))


def _network(entry: str) -> Network | None:
    if "/" not in entry:
        return None
    try:
        return ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return None


def _forms(host: str) -> Sequence[str]:
    # Some callers pass an IPv6 address with its brackets.
    return [host, f"[{host}]"] if ":" in host else [host]
