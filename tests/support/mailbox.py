"""A real SMTP server on loopback that keeps what it takes and refuses on demand."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from types import SimpleNamespace
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from app.local.loopback import HOST, free_port
from app.platform.gateways.address import SmtpServer, Tls
from tests.support.waiting import PATIENCE_SECONDS

DROP = "drop"
"""An answer that is none: the connection is cut instead."""


class Mailbox:
    """What was taken, and what is answered to the next commands, by verb."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.answers: dict[str, list[str]] = {}
        self.logins: list[tuple[bytes, bytes]] = []
        self.encrypted: list[bool] = []
        """Of each mail begun, whether its connection was."""
        self.accepts: tuple[bytes, bytes] | None = None
        """The user and password that may log in."""
        self.port = 0

    @property
    def mails(self) -> list[EmailMessage]:
        """As a reader's program sees them."""
        read = [message_from_bytes(taken, policy=default) for taken in self.taken]
        return [mail for mail in read if isinstance(mail, EmailMessage)]

    def server(self, tls: Tls = Tls.NONE, **change: Any) -> SmtpServer:
        """As a setting would name it."""
        return SmtpServer(**{"host": "127.0.0.1", "port": self.port, "tls": tls, **change})

    def answer(self, verb: str, *answers: str) -> None:
        """To the next commands of this verb."""
        self.answers.setdefault(verb, []).extend(answers)

    def _next(self, verb: str, smtp: SMTP, otherwise: str) -> str:
        waiting = self.answers.get(verb)
        said = waiting.pop(0) if waiting else otherwise
        if said == DROP:
            assert isinstance(smtp.transport, asyncio.WriteTransport)
            smtp.transport.abort()
        return said

    async def handle_MAIL(
        self, smtp: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        envelope.mail_from = address
        assert smtp.transport is not None
        self.encrypted.append(smtp.transport.get_extra_info("ssl_object") is not None)
        return self._next("MAIL", smtp, "250 OK")

    async def handle_RCPT(
        self, smtp: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        envelope.rcpt_tos.append(address)
        return self._next("RCPT", smtp, "250 OK")

    async def handle_DATA(self, smtp: SMTP, _session: Session, envelope: Envelope) -> str:
        said = self._next("DATA", smtp, "250 taken")
        if said.startswith("2") or said == DROP:
            assert isinstance(envelope.content, bytes)
            self.taken.append(envelope.content)
        return said

    def authenticate(
        self,
        _server: SMTP,
        _session: Session,
        _envelope: Envelope,
        _mechanism: str,
        data: LoginPassword,
    ) -> AuthResult:
        self.logins.append((data.login, data.password))
        right = self.accepts == (data.login, data.password)
        return AuthResult(success=right, handled=False)


@contextmanager
def served(
    tls: Tls = Tls.NONE, certificate: ssl.SSLContext | None = None, *, login: bool = False
) -> Iterator[Mailbox]:
    """A mailbox on a free port of loopback, served from a thread."""
    box = Mailbox()
    # Not the box itself: for each connection the library reads all that its handler has, and so
    # would parse every mail taken.
    handles = (box.handle_MAIL, box.handle_RCPT, box.handle_DATA)
    handler = SimpleNamespace(**{handle.__name__: handle for handle in handles})
    controller = Controller(
        handler,
        HOST,
        free_port(),
        ready_timeout=PATIENCE_SECONDS,
        server_hostname="mail.test",
        ssl_context=certificate if tls is Tls.IMPLICIT else None,
        tls_context=certificate if tls is Tls.STARTTLS else None,
        authenticator=box.authenticate if login else None,
        auth_require_tls=False,
        enable_SMTPUTF8=False,
    )
    controller.start()
    box.port = controller.port
    try:
        yield box
    finally:
        controller.stop()
