"""The mail server (SMTP_URL), mail addresses, and texts in headers."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from unicodedata import category
from urllib.parse import unquote, urlsplit

import idna
from pydantic import SecretStr

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ADDRESS = re.compile(rf"(?=.{{1,64}}@){_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})*")
_HOST = re.compile(r"[A-Za-z0-9._:-]+")


class Tls(StrEnum):
    """How a connection to a mail server is encrypted."""

    NONE = "none"
    STARTTLS = "starttls"
    """Requested on a plain connection, and required."""
    IMPLICIT = "implicit"
    """From the first byte on."""


_SMTP = {"smtp": (Tls.NONE, 25), "smtps": (Tls.IMPLICIT, 465), "smtp+starttls": (Tls.STARTTLS, 587)}
_ENDS = "must end in a valid host and port; in a password, / ? # @ : % must be percent-encoded"


@dataclass(frozen=True, slots=True)
class SmtpServer:
    """The mail server, and the login for it."""

    host: str
    port: int
    tls: Tls = Tls.NONE
    user: str | None = None
    password: SecretStr | None = None


def smtp_server(url: str) -> SmtpServer:
    """Parse an SMTP URL. Raises ValueError, whose message shows nothing of the URL."""
    scheme, where, _ = url.partition("://")
    if scheme not in _SMTP or not where:
        raise ValueError(f"must start with {' or '.join(f'{s}://' for s in _SMTP)}")
    tls, port = _SMTP[scheme]
    try:
        parts = urlsplit(url)
        port = parts.port if parts.port is not None else port
    except ValueError:
        raise ValueError(_ENDS) from None
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    login, rest = f"{user}{password}", f"{parts.query}{parts.fragment}{parts.path.strip('/')}"
    host = parts.hostname or ""
    # Python's SMTP client can only send logins in ASCII.
    if not (login.isascii() and login.isprintable()) or bool(user) != bool(password):
        raise ValueError("needs a user and a password in printable ASCII, or neither")
    if rest or not (_HOST.fullmatch(host) and port > 0 and url.isprintable()):
        raise ValueError(_ENDS)
    return SmtpServer(host, port, tls, user or None, SecretStr(password) if password else None)


def one_line(value: str) -> str:
    """A text that may be in a mail's header. Raises ValueError for any other."""
    if any(category(char) in ("Cc", "Cs", "Zl", "Zp") for char in value):
        raise ValueError("must be one line without control characters")
    return value


def mail_address(value: str) -> str:
    """A mail address without a name, its domain in ASCII (xn--…). Raises ValueError for an invalid
    one, and for other letters before the @, which few servers accept."""
    local, at, domain = value.rpartition("@")
    with suppress(idna.IDNAError):
        if not domain.isascii():
            value = f"{local}{at}{idna.encode(domain, uts46=True).decode()}"
    if len(value) > 254 or not _ADDRESS.fullmatch(value):
        raise ValueError("must be a mail address such as pay@example.com")
    return value
