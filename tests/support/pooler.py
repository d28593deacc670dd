"""A real pgbouncer before a database, as docs/deploy.md sets it up."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from tests.support.pages import blocks
from tests.support.sides import free_port
from tests.support.waiting import PATIENCE_SECONDS, until

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/sbin")
PASSWORD = "of-the-pooler"
"""A process hides it in all it says, as it does with every password: so it is no common word."""


class Pooler:
    """With so many connections to the database at most; `url` is the same database through it."""

    def __init__(self, database_url: str, connections: int, folder: Path) -> None:
        behind, port = make_url(database_url), free_port()
        socket = Path(str(behind.query["host"]))
        folder.chmod(0o755)
        users = folder / "userlist.txt"
        users.write_text(f'"{behind.username}" "{PASSWORD}"\n')
        page = configparser.ConfigParser()
        page.read_string(next(b.text for b in blocks("deploy.md", "ini") if "[pgb" in b.text))
        page["databases"] = {str(behind.database): f"host={socket} dbname={behind.database}"}
        page["pgbouncer"].update(
            {
                "listen_port": str(port),
                "unix_socket_dir": "",
                "auth_file": str(users),
                "default_pool_size": str(connections),
                "server_login_retry": "1",
                # It refuses to be root, and must reach the server's socket.
                **({"user": socket.owner()} if os.geteuid() == 0 else {}),
            }
        )
        self.settings = folder / "pgbouncer.ini"
        with self.settings.open("w") as file:
            page.write(file)
        self.url = f"postgresql://{behind.username}:{PASSWORD}@127.0.0.1:{port}/{behind.database}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [str(PROGRAM), "-q", str(self.settings)]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        until(self._answers)

    def kill(self) -> None:
        """As a machine that goes away."""
        self.process.kill()
        self.process.wait(PATIENCE_SECONDS)

    def _answers(self) -> bool:
        with suppress(psycopg.OperationalError), psycopg.connect(self.url):
            return True
        return False


@contextmanager
def pgbouncer(database_url: str, connections: int) -> Iterator[str]:
    """The URL of the same database through a pooler with so many connections to it."""
    if PROGRAM is None:
        pytest.skip("pgbouncer is not installed (Debian: apt-get install pgbouncer)")
    with tempfile.TemporaryDirectory(prefix="swy-pgb-", dir="/tmp") as folder:
        pooler = Pooler(database_url, connections, Path(folder))
        pooler.start()
        try:
            yield pooler.url
        finally:
            pooler.kill()
