"""A real pgbouncer in transaction mode before a database."""

from __future__ import annotations

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

from tests.support.sides import free_port
from tests.support.waiting import PATIENCE_SECONDS, until

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/sbin")


@contextmanager
def pgbouncer(database_url: str, connections: int) -> Iterator[str]:
    """The URL of the same database through a pooler with so many connections to it."""
    if PROGRAM is None:
        pytest.skip("pgbouncer is not installed (Debian: apt-get install pgbouncer)")
    behind, port = make_url(database_url), free_port()
    socket = Path(str(behind.query["host"]))
    with tempfile.TemporaryDirectory(prefix="swy-pgb-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        settings = Path(folder) / "pgbouncer.ini"
        settings.write_text(
            f"[databases]\n{behind.database} = host={socket}"
            f" user={behind.username}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            "auth_type = any\npool_mode = transaction\nmax_client_conn = 500\n"
            f"default_pool_size = {connections}\nserver_login_retry = 1\n"
            # It refuses to be root, and must reach the server's socket.
            + (f"user = {socket.owner()}\n" if os.geteuid() == 0 else "")
        )
        process = subprocess.Popen([PROGRAM, "-q", str(settings)], stderr=subprocess.DEVNULL)
        url = f"postgresql://{behind.username}@127.0.0.1:{port}/{behind.database}"
        try:
            until(lambda: _answers(url))
            yield url
        finally:
            process.terminate()
            process.wait(PATIENCE_SECONDS)


def _answers(url: str) -> bool:
    with suppress(psycopg.OperationalError), psycopg.connect(url):
        return True
    return False
