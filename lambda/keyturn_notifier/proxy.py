"""Proxy rules. This module decides which hosts the functions call through an HTTP proxy. It is pure."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class InvalidProxy(ValueError):
    """The URL of the proxy is invalid, or the list of hosts that are called without the proxy has an invalid entry.

    The text says what to write instead.
    """


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy that tunnels TLS (CONNECT), and the hosts that are called without it.

    ``domains`` are host names that are called without the proxy. Each name also covers its subdomains, and ``*`` covers
    all hosts. The addresses in ``networks`` are called without the proxy, too. Networks apply only to URLs that contain
    an IP address, because host names are not resolved here. Loopback is never called through the proxy.
    """

    url: str
    domains: tuple[str, ...] = ()
    networks: tuple[Network, ...] = ()

    def serves(self, url: str) -> bool:
        """Return whether the proxy is used for this URL."""
        host = (urlsplit(url).hostname or "").rstrip(".")
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            names = ("localhost", *self.domains)
            return not any(name == "*" or host == name or host.endswith(f".{name}") for name in names)
        bypassed = address.is_loopback or any(address in network for network in self.networks)
        return "*" not in self.domains and not bypassed


def parse_proxy(url: str, no_proxy: Sequence[str]) -> Proxy:
    """Parse the proxy ``http://HOST:PORT``, and the hosts, domains and networks that are called without it. Raises
    InvalidProxy."""
    try:
        parts = urlsplit(url)
        is_complete = bool(parts.hostname and parts.port)
    except ValueError:
        is_complete = False
    if not is_complete or parts.path.strip("/") or parts.query or parts.fragment:
        raise InvalidProxy("the proxy must be http://HOST:PORT")
    if parts.username is not None or parts.password is not None:
        raise InvalidProxy("the proxy's URL must hold no user or password: admit the functions by their security group")
    if parts.scheme != "http":
        raise InvalidProxy("the proxy's URL must start with http://; what the functions send through it is encrypted")
    networks: list[Network] = []
    domains: list[str] = []
    for entry in no_proxy:
        if network := _network(entry):
            networks.append(network)
        else:
            domains.append(entry.lower().removeprefix("*.").strip("."))
    return Proxy(url.rstrip("/"), tuple(domains), tuple(networks))


def _network(entry: str) -> Network | None:
    """Return the network that an entry names, or None if the entry is a host name."""
    try:
        return ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        if "/" in entry or ":" in entry:
            raise InvalidProxy(f"{entry} must be a name, an address, or a network such as 10.0.0.0/8") from None
        return None
