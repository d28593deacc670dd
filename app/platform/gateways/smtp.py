"""Sends mail through an SMTP server. Nothing else connects to one."""

from __future__ import annotations

import re
import smtplib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from email.header import Header
from email.message import EmailMessage
from email.policy import SMTP
from typing import Any

from app.platform.gateways.address import SmtpServer, Tls, mail_address, one_line
from app.switchyard import effects
from app.switchyard.errors import BadInput, SwitchyardError

REPLY_LENGTH = 200
SHORT_SUBJECT = 60
# 7bit needs no extension of the server.
_POLICY = SMTP.clone(cte_type="7bit")


class MailRefused(SwitchyardError, status=422, title="Mail refused"):
    """The server definitely refused the mail. Resending it would get the same answer."""


class MailUnavailable(SwitchyardError, status=503, title="Mail server unavailable"):
    """The server did not accept the mail. It may be retried."""


class MailUnknown(SwitchyardError, status=502, title="Mail outcome unknown"):
    """The connection broke after the mail was handed over. It may have been sent."""


@dataclass(frozen=True, slots=True)
class Mailer:
    """Sends mail from `sender` through a server, with a connection for each mail.

    `timeout_seconds` limits connecting and each answer. The server's certificate is checked against
    `context`, by default the system's authorities. Safe in threads and after a fork.
    """

    server: SmtpServer
    sender: str
    timeout_seconds: float = 10.0
    context: ssl.SSLContext | None = None

    @property
    def domain(self) -> str:
        """The sender's domain, for the right side of a Message-ID."""
        return self.sender.rpartition("@")[2]

    def send(
        self,
        *,
        to: str,
        subject: str,
        text: str,
        message_id: str,
        now: datetime,
        html: str | None = None,
    ) -> None:
        """Send a text, and optionally the same as `html`, to an address once, dated `now` (UTC).

        `message_id` (`<…@…>`) should be derived from the mail's subject matter, so that a mail sent
        twice is recognized. Raises BadInput where an argument cannot be in a mail, MailRefused,
        MailUnavailable, MailUnknown.
        """
        effects.allow("sending mail")
        try:
            to, subject = mail_address(to), one_line(subject)
        except ValueError as wrong:
            raise BadInput(f"a mail's receiver or subject {wrong}") from None
        data = self._message(to, subject, text, message_id, now, html)
        with self._connected() as client:
            with self._until_taken():
                self._expect(2, client.mail(self.sender))
                self._expect(2, client.rcpt(to))
                self._expect(3, client.docmd("DATA"))
            self._hand_over(client, data)

    def check(self) -> None:
        """Log in without sending anything. Raises as `send` does."""
        with self._connected() as client, self._until_taken():
            self._expect(2, client.noop())

    def _message(
        self, to: str, subject: str, text: str, message_id: str, now: datetime, html: str | None
    ) -> bytes:
        message = EmailMessage(policy=_POLICY)
        message["From"] = self.sender
        message["To"] = to
        message["Date"] = now
        message["Message-ID"] = message_id
        message["Auto-Submitted"] = "auto-generated"
        try:
            message.set_content(text)
            if html is not None:
                message.add_alternative(html, subtype="html")
        except UnicodeEncodeError:
            raise BadInput("a mail's text has an invalid character") from None
        return f"Subject: {_folded(subject)}\r\n".encode() + message.as_bytes()

    @contextmanager
    def _connected(self) -> Iterator[smtplib.SMTP]:
        """A connection that is logged in. It is closed at the end, even where QUIT fails."""
        server, trust = self.server, self.context
        if server.tls is not Tls.NONE and trust is None:
            # The library's default would check no certificate.
            trust = ssl.create_default_context()
        # Without `local_hostname`, the library would wait for the resolver to find its own name.
        given: Any = {"local_hostname": self.domain, "timeout": self.timeout_seconds}
        password = server.password
        with self._until_taken():
            if server.tls is Tls.IMPLICIT:
                given["context"] = trust
            kind = smtplib.SMTP_SSL if server.tls is Tls.IMPLICIT else smtplib.SMTP
            client = kind(server.host, server.port, **given)
        try:
            with self._until_taken():
                if server.tls is Tls.STARTTLS:
                    client.starttls(context=trust)
                if server.user is not None and password is not None:
                    client.login(server.user, password.get_secret_value())
                client.ehlo_or_helo_if_needed()
            yield client
            with suppress(OSError):
                client.quit()
        finally:
            client.close()

    def _hand_over(self, client: smtplib.SMTP, data: bytes) -> None:
        stuffed = re.sub(rb"(?m)^\.", b"..", data)
        try:
            client.send(stuffed + b".\r\n")
            answer = client.getreply()
        except OSError as broken:
            raise MailUnknown(
                f"{self.server.host}: the connection broke while the mail was handed over"
                f" ({type(broken).__name__})"
            ) from None
        if answer[0] // 100 not in (2, 4, 5):
            raise MailUnknown(f"{self.server.host}: an invalid answer to the whole mail")
        self._expect(2, answer)

    @contextmanager
    def _until_taken(self) -> Iterator[None]:
        """Translate the library's errors from before the server has the mail."""
        host = self.server.host
        try:
            yield
        except smtplib.SMTPAuthenticationError as refused:
            raise self._judged(refused.smtp_code, "user and password were not accepted") from None
        except smtplib.SMTPResponseException as refused:
            raise self._judged(refused.smtp_code, refused.smtp_error) from None
        except smtplib.SMTPNotSupportedError as lacking:
            raise MailRefused(f"{host}: {lacking}") from None
        except OSError as broken:
            raise MailUnavailable(f"{host}: {type(broken).__name__}: {broken}") from None
        except ValueError as unfit:
            raise MailUnavailable(f"{host}: {type(unfit).__name__}") from None

    def _expect(self, kind: int, answer: tuple[int, bytes]) -> None:
        if answer[0] // 100 != kind:
            raise self._judged(*answer)

    def _judged(self, code: int, reply: bytes | str) -> MailRefused | MailUnavailable:
        text = reply.decode(errors="replace") if isinstance(reply, bytes) else reply
        if (password := self.server.password) is not None:
            text = text.replace(password.get_secret_value(), "…")
        kind = MailRefused if 500 <= code < 600 else MailUnavailable
        return kind(f"{self.server.host} answered {code}: {' '.join(text.split())[:REPLY_LENGTH]}")


def _folded(subject: str) -> str:
    """A subject as the value of its header. EmailMessage would lose spaces when folding it."""
    if subject.isascii() and len(subject) <= SHORT_SUBJECT and "=?" not in subject:
        return subject
    return Header(subject, "utf-8", header_name="Subject").encode(linesep="\r\n")
