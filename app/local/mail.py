"""A mail server on loopback that delivers nothing: each mail it accepts becomes a file.

`python -m app.local.mail --port 2525 --dir var/mail`
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import time
from itertools import count
from pathlib import Path

from aiosmtpd.smtp import SMTP, Envelope, Session

from app.local.lifetime import announce
from app.local.loopback import HOST
from app.platform.mail.taken import names

KEPT = 1000
"""The newest ones; older ones are deleted at the start."""
MAX_BYTES = 1024 * 1024


class Server(SMTP):
    """Hangs up on whoever speaks HTTP: no web page may have a browser hand in mail."""

    async def smtp_POST(self, _arg: str | None) -> None:
        """End the connection with all that came in it."""
        raise asyncio.CancelledError

    smtp_GET = smtp_HEAD = smtp_PUT = smtp_PATCH = smtp_DELETE = smtp_OPTIONS = smtp_POST


class Sink:
    """Accepts every mail, even the same again, and answers only once it is a file of its own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in names(folder)[KEPT:]:
            (folder / f"{name}.eml").unlink(missing_ok=True)
        self._folder = folder
        self._numbers = count()

    async def handle_DATA(self, _smtp: SMTP, _session: Session, envelope: Envelope) -> str:
        """Keep one mail."""
        assert isinstance(envelope.content, bytes)
        name = f"{time.time_ns():019d}-{next(self._numbers) % 1_000_000:06d}"
        fresh = self._folder / f"{name}.new"
        fresh.write_bytes(envelope.content)
        fresh.replace(self._folder / f"{name}.eml")
        return f"250 2.0.0 accepted as {name}"


async def serve(folder: Path, port: int) -> None:
    """Serve until SIGTERM or SIGINT; prints its URL once it answers. Raises OSError."""
    sink, loop, stopped = Sink(folder), asyncio.get_running_loop(), asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stopped.set)

    def connection() -> SMTP:
        return Server(sink, hostname="mail.local", loop=loop, data_size_limit=MAX_BYTES)

    server = await loop.create_server(connection, HOST, port)
    announce(f"smtp://{HOST}:{server.sockets[0].getsockname()[1]}")
    await stopped.wait()
    server.close()


def main() -> None:
    """Serve; the one line on standard output is the URL."""
    parser = argparse.ArgumentParser(prog="python -m app.local.mail", description=__doc__)
    parser.add_argument("--port", type=int, default=2525, help="0 picks a free one")
    parser.add_argument("--dir", type=Path, required=True, help="where the mails are kept")
    options = parser.parse_args()
    asyncio.run(serve(options.dir, options.port))


if __name__ == "__main__":
    main()
