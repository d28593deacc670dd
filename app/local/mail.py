"""A mail server on loopback that delivers nothing: each mail it takes is a file to be looked at.

`python -m app.local.mail --port 2525 --dir var/mail`
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from aiosmtpd.smtp import SMTP, Envelope, Session

from app.local.serving import announce, require_loopback
from app.platform.mail.taken import names

KEPT = 1000
"""The newest ones; older ones are deleted at the start."""
MAX_BYTES = 1024 * 1024


class Sink:
    """Takes every mail, and answers only once it is a file: a name for each, even for the same."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in names(folder)[KEPT:]:
            (folder / f"{name}.eml").unlink(missing_ok=True)
        self._folder = folder
        self._numbers: Iterator[int] = count()

    async def handle_DATA(self, _smtp: SMTP, _session: Session, envelope: Envelope) -> str:
        """Keep one mail."""
        assert isinstance(envelope.content, bytes)
        name = f"{time.time_ns():019d}-{next(self._numbers) % 1_000_000:06d}"
        fresh = self._folder / f"{name}.new"
        fresh.write_bytes(envelope.content)
        fresh.replace(self._folder / f"{name}.eml")
        return f"250 2.0.0 taken as {name}"


async def serve(folder: Path, port: int, host: str = "127.0.0.1") -> None:
    """Serve until SIGTERM or SIGINT; says its URL once it answers. Raises ValueError, OSError."""
    sink, loop, told = Sink(folder), asyncio.get_running_loop(), asyncio.Event()
    for told_by in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(told_by, told.set)

    def connection() -> SMTP:
        return SMTP(sink, hostname="mail.local", loop=loop, data_size_limit=MAX_BYTES)

    server = await loop.create_server(connection, require_loopback(host), port)
    announce(f"smtp://{host}:{server.sockets[0].getsockname()[1]}")
    await told.wait()
    server.close()


def main() -> None:
    """Serve; the one line on standard output is the URL."""
    parser = argparse.ArgumentParser(prog="python -m app.local.mail", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address")
    parser.add_argument("--port", type=int, default=2525, help="0 picks a free one")
    parser.add_argument("--dir", type=Path, required=True, help="where the mails are kept")
    args = parser.parse_args()
    try:
        asyncio.run(serve(args.dir, args.port, args.host))
    except ValueError as refused:
        parser.error(str(refused))


if __name__ == "__main__":
    main()
