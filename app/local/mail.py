"""A mail server on loopback that delivers nothing: each mail it accepts becomes a file."""

from __future__ import annotations

import asyncio
import time
from itertools import count
from pathlib import Path

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from app.local.loopback import HOST, free_port

KEPT = 1000
"""How many mails are kept. Older ones are deleted at the start."""
MAX_BYTES = 1024 * 1024


class Protocol(SMTP):
    """Hangs up on HTTP clients, so that no web page can make a browser submit mail."""

    async def smtp_POST(self, _arg: str | None) -> None:
        """End the connection and drop everything it sent."""
        raise asyncio.CancelledError

    smtp_GET = smtp_HEAD = smtp_PUT = smtp_PATCH = smtp_DELETE = smtp_OPTIONS = smtp_POST


class _Controller(Controller):
    def factory(self) -> Protocol:
        return Protocol(self.handler, **self.SMTP_kwargs)


class MailSink:
    """Accepts every mail, even a repeated one, and answers only once it is in a file."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.glob("*.eml"), reverse=True)[KEPT:]:
            path.unlink(missing_ok=True)
        self._folder = folder
        self._numbers = count()

    def start(self, port: int) -> str:
        """Serve from a thread, on a free port for 0; returns the URL."""
        port = port or free_port()
        self._controller = _Controller(
            self, HOST, port, server_hostname="mail.local", data_size_limit=MAX_BYTES
        )
        self._controller.start()
        return f"smtp://{HOST}:{port}"

    def stop(self) -> None:
        """Stop serving."""
        self._controller.stop()

    async def handle_DATA(self, _smtp: SMTP, _session: Session, envelope: Envelope) -> str:
        """Keep one mail."""
        assert isinstance(envelope.content, bytes)
        name = f"{time.time_ns():019d}-{next(self._numbers) % 1_000_000:06d}"
        fresh = self._folder / f"{name}.new"
        fresh.write_bytes(envelope.content)
        fresh.replace(self._folder / f"{name}.eml")
        return f"250 2.0.0 accepted as {name}"
