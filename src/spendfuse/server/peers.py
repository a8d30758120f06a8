"""The address a call comes from, as the `ip` label counts it."""

import ipaddress
from collections.abc import Mapping, Sequence

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
IPV6_PREFIX_BITS = 64
"""One customer commonly owns a whole /64, so that single IPv6 addresses tell nobody apart."""


class Peers:
    """Works out client addresses: the connection's peer, or what trusted proxies say of it."""

    def __init__(self, trusted_proxies: Sequence[Network]) -> None:
        self._trusted = tuple(trusted_proxies)

    def ip_of(self, peer: str, headers: Mapping[bytes, bytes]) -> str:
        """The `ip` label: the peer, or the last address in `X-Forwarded-For` that no trusted proxy put there itself.

        An IPv6 address counts as its /64 network. A chain that can't be read ends at the proxy that sent it.
        """
        address = _parsed(peer)
        if address is None:
            return "unknown"
        hops = headers.get(b"x-forwarded-for", b"").decode("latin-1").split(",")
        while self._is_trusted(address) and hops:
            before = _parsed(hops.pop().strip())
            if before is None:
                break
            address = before
        return _label(address)

    def _is_trusted(self, address: Address) -> bool:
        return any(address in network for network in self._trusted if network.version == address.version)


def _parsed(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _label(address: Address) -> str:
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(ipaddress.ip_network((int(address), IPV6_PREFIX_BITS), strict=False))
