"""The mailer sends to a real SMTP server, and each failure has its outcome."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from email.message import EmailMessage
from typing import Any

import pytest
import trustme
from pydantic import SecretStr

from app.platform.gateways.address import SmtpServer, Tls
from app.platform.gateways.smtp import Mailer, MailRefused, MailUnavailable, MailUnknown
from app.switchyard.errors import BadInput
from tests.support.mailbox import Mailbox, served

NOW = datetime(2025, 1, 15, 9, 30, tzinfo=UTC)
SENDER = "pay@switchyard.example"
TO = "admin@example.com"
ID = "<payouts.0123@switchyard.example>"
PASSWORD = "pässword-no".replace("ä", "a@:/")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def certified(authority: trustme.CA, name: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    return context


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def send(mailer: Mailer, subject: str = "Hello", text: str = "Hi.\n", to: str = TO) -> None:
    mailer.send(to=to, subject=subject, text=text, message_id=ID, now=NOW)


def mailer_for(box: Mailbox, context: ssl.SSLContext | None = None, **server: Any) -> Mailer:
    return Mailer(box.server(**server), SENDER, timeout_seconds=30.0, context=context)


def body(mail: EmailMessage) -> str:
    return str(mail.get_content()).replace("\r\n", "\n")


def test_a_mail_arrives_as_it_was_given(box: Mailbox) -> None:
    text = "Grüße, 日本語\n\n.a line with a dot\n..\n" + "x" * 2000 + "\nthe end"
    send(mailer_for(box), "Pay day: 2 failed – schön", text)
    [mail] = box.mails
    assert mail["From"] == SENDER
    assert mail["To"] == TO
    assert mail["Subject"] == "Pay day: 2 failed – schön"
    assert mail["Message-ID"] == ID
    assert mail["Date"].datetime == NOW
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail.get_content_type() == "text/plain"
    assert body(mail) == text + "\n"
    assert box.taken[0].isascii()
    assert max(map(len, box.taken[0].split(b"\r\n"))) <= 998


@pytest.mark.parametrize(
    ("part", "says", "value"),
    [
        *(("subject", "one line", f"a{c}b") for c in "\n\r\u2028\x85\x00\ud800"),
        *(("to", "receiver", to) for to in ("a@b\nBcc: c@d", "a b@c", "a@", "@b", "a@b,c@d")),
        *(("to", "receiver", to) for to in ("Ana <a@b>", "a@b>\r\nDATA", "é@b.c")),
        ("text", "text", "\ud800"),
    ],
)
def test_what_could_be_taken_for_another_line_is_refused(
    box: Mailbox, part: str, says: str, value: str
) -> None:
    given: dict[str, Any] = {"to": TO, "subject": "s", "text": "t", "message_id": ID}
    with pytest.raises(BadInput, match=says):
        mailer_for(box).send(**given | {part: value}, now=NOW)
    assert box.taken == []


@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize(
    ("answer", "raised"),
    [
        ("550 5.7.1 not here", MailRefused),
        ("421 4.3.2 busy", MailUnavailable),
        ("451 try later", MailUnavailable),
    ],
)
def test_each_answer_has_its_outcome(
    box: Mailbox, verb: str, answer: str, raised: type[Exception]
) -> None:
    box.answer(verb, answer)
    with pytest.raises(raised) as failed:
        send(mailer_for(box))
    assert type(failed.value) is raised
    assert str(failed.value) == f"127.0.0.1 answered {answer[:3]}: {answer[4:]}"
    assert box.taken == []
    send(mailer_for(box))
    assert len(box.taken) == 1


@contextmanager
def scripted(*lines: bytes) -> Iterator[SmtpServer]:
    """A server that says `lines`, one at the start and one per command; then it says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                connection, _ = listener.accept()
                with connection, connection.makefile("rb") as commands:
                    for line in lines:
                        connection.sendall(line + b"\r\n")
                        commands.readline()
                    commands.read()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield SmtpServer("127.0.0.1", listener.getsockname()[1])


@pytest.mark.parametrize(
    ("lines", "raised"),
    [
        ((), MailUnavailable),
        ((b"554 no service",), MailRefused),
        ((b"421 not now",), MailUnavailable),
        ((b"this is no SMTP",), MailUnavailable),
        ((b"220 hi", b"250 ok", b"250 ok", b"250 ok"), MailUnavailable),
        ((b"220 hi", b"250 ok", b"250 ok", b"250 ok", b"354 go"), MailUnknown),
        ((b"220 hi", b"250 ok", b"250 ok", b"250 ok", b"354 go", b"what?"), MailUnknown),
    ],
)
def test_silence_and_nonsense_have_their_outcomes(
    lines: tuple[bytes, ...], raised: type[Exception]
) -> None:
    with scripted(*lines) as server, pytest.raises(raised) as failed:
        send(Mailer(server, SENDER, timeout_seconds=0.5 if raised is MailUnavailable else 2.0))
    assert type(failed.value) is raised


@pytest.mark.parametrize("tls", [Tls.STARTTLS, Tls.IMPLICIT])
def test_a_certificate_is_checked(authority: trustme.CA, tls: Tls) -> None:
    with served(tls, certified(authority)) as secured:
        with pytest.raises(MailUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            send(mailer_for(secured, tls=tls))
        assert secured.taken == []
        send(mailer_for(secured, trusting(authority), tls=tls))
        assert len(secured.taken) == 1
        assert secured.encrypted == [True]
    with (
        served(tls, certified(authority, "mail.example")) as another,
        pytest.raises(MailUnavailable, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        send(mailer_for(another, trusting(authority), tls=tls))


def test_without_starttls_nothing_is_sent_in_the_clear(box: Mailbox) -> None:
    with pytest.raises(MailRefused, match="STARTTLS"):
        send(mailer_for(box, tls=Tls.STARTTLS, user="u", password=SecretStr(PASSWORD)))
    assert box.taken == []


def test_a_login_is_made_and_a_refused_one_keeps_the_password_to_itself(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    with served(login=True) as guarded:
        guarded.accepts = (b"pay", PASSWORD.encode())
        mailer = mailer_for(guarded, user="pay", password=SecretStr(PASSWORD))
        send(mailer)
        assert guarded.logins == [guarded.accepts]
        assert len(guarded.taken) == 1
        guarded.accepts = None
        with pytest.raises(MailRefused, match="answered 535: user and password") as refused:
            send(mailer)
        guarded.accepts = (b"pay", PASSWORD.encode())
        guarded.answer("RCPT", f"550 I know {PASSWORD}")
        with pytest.raises(MailRefused, match="I know …") as echoed:
            send(mailer)
    ours = "".join(r.getMessage() for r in caplog.records if not r.name.startswith("mail."))
    shown = [traceback.format_exception(failed.value) for failed in (refused, echoed)]
    for text in (ours, repr(mailer), *map("".join, shown)):
        assert PASSWORD not in text
