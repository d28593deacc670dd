"""Calls to addresses on the public internet only: the one that was checked is the one called."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import certifi
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, Timeout
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from app.platform.webhooks.config import Address, address
from app.switchyard.errors import SwitchyardError

_V4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
        *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24"),
        *("192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15"),
        *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        "168.63.129.16/32",  # Azure's own, seen from inside only
    )
)
"""Not for everyone: IANA's registry of special addresses, multicast and reserved ones.
https://www.iana.org/assignments/iana-ipv4-special-registry"""
_V6_UNICAST = ipaddress.IPv6Network("2000::/3")
"""All that is routed. Outside it: mapped, compatible and NAT64 forms of IPv4, and all local."""
_V6 = tuple(
    ipaddress.IPv6Network(network)
    for network in (*("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20"),)
)
"""Within it, not for everyone or with an IPv4 address inside (Teredo, 6to4)."""

Resolve = Callable[..., list[tuple[Any, ...]]]


class AddressRefused(SwitchyardError):
    """The URL is not one of a host on the public internet; nothing was sent."""

    status = 502
    title = "Address refused"


def is_public(text: str) -> bool:
    """Whether an IP address is a host's that the whole internet can reach."""
    found = ipaddress.ip_address(text)
    if isinstance(found, ipaddress.IPv4Address):
        return not any(found in network for network in _V4)
    return found in _V6_UNICAST and not any(found in network for network in _V6)


class Guard:
    """Posts to public addresses. Safe in threads and after a fork.

    A name is resolved once, all its addresses are checked, and the connection goes to one of
    those: an answer that changes between check and use changes nothing. TLS verifies the name. No
    redirect is followed, and no proxy asked. With `loopback`, a URL that names this machine
    outright is let through.
    """

    def __init__(
        self,
        *,
        loopback: bool = False,
        resolve: Resolve = socket.getaddrinfo,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._loopback = loopback
        self._resolve = resolve
        self._given_tls = tls

    def __call__(
        self, url: str, data: bytes, headers: Mapping[str, str], timeout_seconds: float
    ) -> int:
        """POST `data`; the status that was answered, whose body is not read.

        Raises AddressRefused, and what urllib3 and the resolver raise.
        """
        end = time.monotonic() + timeout_seconds
        try:
            to = address(url, loopback=self._loopback)
        except ValueError as wrong:
            raise AddressRefused(str(wrong)) from None
        failure: Exception = OSError("no address")
        for found in self._checked(to):
            try:
                return self._post(to, found, data, headers, end - time.monotonic())
            except (NewConnectionError, ConnectTimeoutError) as unreached:
                failure = unreached
            if time.monotonic() >= end:
                break
        raise failure

    def _checked(self, to: Address) -> list[str]:
        infos = self._resolve(to.host, to.port, type=socket.SOCK_STREAM)
        found = list(dict.fromkeys(str(info[4][0]) for info in infos))
        for one in found:
            here = self._loopback and to.is_loopback and ipaddress.ip_address(one).is_loopback
            if not here and not is_public(one):
                raise AddressRefused(f"{to.host} is not, or not only, on the public internet")
        return found

    def _post(
        self, to: Address, ip: str, data: bytes, headers: Mapping[str, str], seconds: float
    ) -> int:
        options: dict[str, Any] = {"timeout": Timeout(total=max(seconds, 0.01)), "retries": False}
        pool = (
            HTTPSConnectionPool(
                *(ip, to.port),
                **options,
                ssl_context=self._tls,
                server_hostname=to.host,
                assert_hostname=to.host,
            )
            if to.tls
            else HTTPConnectionPool(ip, to.port, **options)
        )
        with pool:
            answer = pool.urlopen(
                *("POST", to.path, data, {**headers, "Host": to.authority}),
                redirect=False,
                preload_content=False,
            )
            answer.close()
            return answer.status

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        given = self._given_tls
        return ssl.create_default_context(cafile=certifi.where()) if given is None else given
