"""What WEBHOOK_SOURCES and WEBHOOK_TARGETS say: whose webhooks are taken, and who gets them."""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import urlsplit

from pydantic import SecretStr

STRIPE = "stripe"
"""The source with an endpoint of its own."""
EVERY = "*"
SOURCE_FORM = "NAME=standard:SECRET or NAME=hex|base64@HEADER[/ID-HEADER]:SECRET"
TARGET_FORM = "NAME=SOURCE[,SOURCE…]:SECRET:URL"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_HEADER = re.compile(r"[A-Za-z0-9-]{1,80}")
_LABELS = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?(\.[a-z0-9_-]{1,63})*")
_ENDS_IN_NUMBER = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)")
_HTTP, _HTTPS = 80, 443
_FIRST_FREE_PORT = 1024


class Scheme(StrEnum):
    """How a source signs."""

    STANDARD = "standard"
    """As Standard Webhooks has it: id, time and body."""
    HEX = "hex"
    """HMAC-SHA256 of the body, in hexadecimal; `sha256=` may precede it."""
    BASE64 = "base64"


@dataclass(frozen=True, slots=True)
class Source:
    """A provider whose webhooks are taken."""

    name: str
    scheme: Scheme
    key: bytes = field(repr=False)
    header: str = "webhook-signature"
    id_header: str | None = "webhook-id"
    """Where the provider names the event; None: it has no name but its body."""


@dataclass(frozen=True, slots=True)
class Target:
    """Who gets the webhooks of some sources, signed with a secret of its own."""

    name: str
    sources: frozenset[str]
    secret: SecretStr
    url: SecretStr

    def wants(self, source: str) -> bool:
        """Whether the webhooks of `source` go to it."""
        return source in self.sources or EVERY in self.sources


class Address(NamedTuple):
    """The parts of a URL that a call needs; nothing is left over that could be read otherwise."""

    tls: bool
    host: str
    port: int
    path: str
    """With its query."""

    @property
    def is_loopback(self) -> bool:
        """Whether the URL names this machine outright; a name that resolves to it does not."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def authority(self) -> str:
        """The Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (_HTTPS if self.tls else _HTTP) else f"{host}:{self.port}"


def sources(raw: str) -> dict[str, list[Source]]:
    """The sources by name; one named twice takes either secret, as during a rotation.

    Raises ValueError, which shows no secret.
    """
    found: dict[str, list[Source]] = {}
    for name, rest in _entries(raw, SOURCE_FORM):
        kind, colon, secret = rest.partition(":")
        scheme, _, headers = kind.partition("@")
        if name == STRIPE:
            raise ValueError("stripe has an endpoint of its own, and STRIPE_WEBHOOK_SECRET")
        if not colon or len(secret) < 8:
            raise ValueError(f"{name}: needs a secret of at least 8 characters: {SOURCE_FORM}")
        if scheme == Scheme.STANDARD and not headers:
            source = Source(name, Scheme.STANDARD, _key_of(name, secret))
        else:
            header, slash, id_header = headers.partition("/")
            named = [header, id_header] if slash else [header]
            if scheme not in (Scheme.HEX, Scheme.BASE64) or not all(map(_HEADER.fullmatch, named)):
                raise ValueError(f"{name}: must be {SOURCE_FORM}")
            source = Source(name, Scheme(scheme), secret.encode(), header, id_header or None)
        found.setdefault(name, []).append(source)
    return found


def targets(raw: str, known: frozenset[str], *, loopback: bool) -> dict[str, Target]:
    """The targets by name, for the sources `known`. Raises ValueError, which shows no secret."""
    found: dict[str, Target] = {}
    for name, rest in _entries(raw, TARGET_FORM):
        wanted, _, rest = rest.partition(":")
        secret, colon, url = rest.partition(":")
        if not colon:
            raise ValueError(f"{name}: must be {TARGET_FORM}")
        if name in found:
            raise ValueError(f"{name}: is there twice")
        chosen = frozenset(wanted.split(","))
        if not chosen <= known | {EVERY}:
            raise ValueError(f"{name}: must name sources of {', '.join(sorted(known))} or *")
        _key_of(name, secret)
        try:
            address(url, loopback=loopback)
        except ValueError as wrong:
            raise ValueError(f"{name}: {wrong}") from None
        found[name] = Target(name, chosen, SecretStr(secret), SecretStr(url))
    return found


def signing_key(secret: str) -> bytes:
    """The key that a Standard Webhooks secret stands for. Raises ValueError, showing nothing."""
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError:
        key = b""
    if not secret.startswith("whsec_") or not 24 <= len(key) <= 64:
        raise ValueError("must be whsec_ and the base64 of 24 to 64 bytes")
    return key


def _key_of(name: str, secret: str) -> bytes:
    try:
        return signing_key(secret)
    except ValueError as wrong:
        raise ValueError(f"{name}: its secret {wrong}") from None


def address(url: str, *, loopback: bool = False) -> Address:
    """What `url` says, where it can be read in one way only: https, or with `loopback` also http to
    this machine by name. Raises ValueError, which shows nothing of the URL."""
    if not url.isascii() or not url.isprintable() or set(url) & set(' \\"<>^`{|}'):
        raise ValueError("its URL must be printable ASCII, percent-encoded and in Punycode")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("its URL has no valid host and port") from None
    if "@" in parts.netloc or "#" in url:
        raise ValueError("its URL must have neither a user nor a fragment")
    host = parts.hostname or ""
    tls = parts.scheme == "https"
    if not tls and parts.scheme != "http":
        raise ValueError("its URL must start with https://")
    if not _is_host(host) or ("[" in parts.netloc) != (":" in host):
        raise ValueError("its URL must have a DNS name or an IP address in its usual form")
    port = (_HTTPS if tls else _HTTP) if port is None else port
    if port not in (_HTTP, _HTTPS) and port < _FIRST_FREE_PORT:
        raise ValueError(f"its URL's port must be 80, 443 or from {_FIRST_FREE_PORT}")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    read = Address(tls, host, port, path)
    if not tls and not (loopback and read.is_loopback):
        raise ValueError("its URL must start with https://")
    return read


def _is_host(host: str) -> bool:
    if ":" in host or _ENDS_IN_NUMBER.fullmatch(host):
        # What else a resolver takes for a number (decimal, octal, hex, short) has a usual form too.
        try:
            found = ipaddress.ip_address(host)
        except ValueError:
            return False
        # An IPv4 address in IPv6's clothes has two: Python's own changed with 3.13.
        mapped = getattr(found, "ipv4_mapped", None) is not None
        return str(found) == host and "%" not in host and not mapped
    return _LABELS.fullmatch(host) is not None


def _entries(raw: str, form: str) -> Iterator[tuple[str, str]]:
    for number, entry in enumerate(raw.split(), 1):
        name, equals, rest = entry.partition("=")
        if not equals or not _NAME.fullmatch(name):
            raise ValueError(f"entry {number} must be {form}, its name in a-z, 0-9 and -")
        yield name, rest
