"""The addresses of this machine that no other one reaches."""

from __future__ import annotations

import ipaddress
import random
import socket
from typing import Any

import requests

HOST = "127.0.0.1"
_PORTS = range(15_000, 30_000)
"""Below the ports the kernel gives to clients: none of those then takes one that is restarting."""


def is_loopback(host: str | None) -> bool:
    """Whether a URL with this host stays on this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of loopback now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port of loopback nobody listens on now."""
    for port in random.SystemRandom().sample(_PORTS, 200):
        if is_free(port):
            return port
    raise OSError("no free port on loopback")


def call(method: str, url: str, body: Any = None, timeout: float = 30.0) -> Any:
    """The JSON that a server on this machine answers. Raises requests.RequestException."""
    with requests.Session() as session:
        session.trust_env = False  # no proxy is asked
        answer = session.request(method, url, json=body, timeout=timeout)
        answer.raise_for_status()
        return answer.json()
