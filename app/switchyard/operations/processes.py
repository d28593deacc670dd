"""The running processes. Each records a heartbeat every few seconds, with what it is doing."""

from __future__ import annotations

import atexit
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast

from flask import Flask, request, request_started
from sqlalchemy import String, Table, delete, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Mapped, mapped_column

from app.switchyard.db import INSERT, Base, Database
from app.switchyard.logs import logger_of
from app.switchyard.runs.engine import Leases
from app.switchyard.runtime import Runtime
from app.switchyard.text import reason

log = logger_of(__name__)

KINDS = {
    "web": "the web process of the Procfile",
    "worker": "flask switchyard worker",
    "relay": "flask switchyard relay",
    "clock": "flask switchyard clock",
}
"""The kinds of processes, each with what starts one."""
INTERVAL_SECONDS = 10.0
ALIVE = timedelta(seconds=35)
"""How long after its last heartbeat a process counts as alive: three may be lost."""
KEPT = timedelta(hours=1)
"""How long a process that did not end properly is shown."""
_PATIENCE_SECONDS = 2.0
_TRIES = 3
_SERVERLESS = ("VERCEL", "AWS_LAMBDA_FUNCTION_NAME")


class ProcessRow(Base):
    """A running process, or one that was running a moment ago."""

    __tablename__ = "switchyard_processes"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    host: Mapped[str] = mapped_column(String(255))
    pid: Mapped[int]
    version: Mapped[str] = mapped_column(String(100))
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime]
    doing: Mapped[str] = mapped_column(String(300))


P = ProcessRow
_processes = cast(Table, ProcessRow.__table__)


def listed(db: Database, now: datetime) -> list[dict[str, Any]]:
    """Each process with a heartbeat in the last hour, and whether it counts as alive."""
    columns = (P.kind, P.host, P.pid, P.version, P.started_at, P.seen_at, P.doing)
    chosen = select(*columns).where(P.seen_at > now - KEPT).order_by(P.kind, P.started_at)
    return [row._asdict() | {"alive": row.seen_at > now - ALIVE} for row in db.rows(chosen)]


class Heartbeat(AbstractContextManager["Heartbeat"]):
    """The heartbeat of this process. A beat that cannot be written is logged and skipped. Creating
    the heartbeat waits for no database, since a web process does that in a request."""

    def __init__(self, db: Database, kind: str) -> None:
        self._db = db
        self._row: dict[str, Any] = {"id": os.urandom(8).hex(), "kind": kind, "pid": os.getpid()}
        self._row |= {"host": socket.gethostname()[:255], "version": _version()}
        self._next = 0.0
        self.lost = 0
        """How many beats in a row could not be written."""
        self._over = threading.Event()
        self._writing = threading.Lock()

    def __exit__(self, *_: object) -> None:
        self.end()

    def beat(self, doing: str) -> None:
        """Record what the process is doing, unless the last beat was a moment ago."""
        with self._writing:
            if time.monotonic() >= self._next and not self._over.is_set():
                self._write(doing)

    def _write(self, doing: str) -> None:
        begins = self._next == 0.0
        self._next = time.monotonic() + INTERVAL_SECONDS
        try:
            now = self._db.clock()
            self._row.setdefault("started_at", now)
            said = {"seen_at": now, "doing": doing[:300]}
            insert = INSERT[self._db.engine.dialect.name](_processes)
            beat = insert.values(**self._row, **said)
            with self._db.autocommit(_PATIENCE_SECONDS) as connection:
                connection.execute(beat.on_conflict_do_update(index_elements=["id"], set_=said))
                if begins:
                    connection.execute(delete(P).where(P.seen_at < now - KEPT))
            self.lost = 0
        except SQLAlchemyError as failure:
            self.lost += 1
            if self.lost == 1:
                log.warning("heartbeat not written", extra={"reason": reason(failure)})

    def keep(self, doing: Callable[[], str]) -> None:
        """Start a thread that beats until `end`, or until several beats in a row are lost."""
        threading.Thread(target=self._keep, args=(doing,), name="heartbeat", daemon=True).start()

    def _keep(self, doing: Callable[[], str]) -> None:
        while self.lost < _TRIES:
            self.beat(doing())
            if self._over.wait(INTERVAL_SECONDS):
                return

    def end(self) -> None:
        """Take the process off the list, since it ends properly."""
        self._over.set()
        if self.lost or not self._next:
            return
        try:
            with self._writing, self._db.autocommit(_PATIENCE_SECONDS) as connection:
                connection.execute(delete(P).where(P.id == self._row["id"]))
        except SQLAlchemyError as failure:
            log.warning("end of the process not written", extra={"reason": reason(failure)})


def at_work(leases: Leases) -> str:
    """The runs that this process is working on, in words."""
    return ", ".join(sorted(leases.in_hand())) or "waits for work"


def beat_of_web(app: Flask, runtime: Runtime) -> object:
    """Start a web process's heartbeat with the next request that a server passes on, which is after
    any fork. If it is frozen between requests, as on Vercel, it continues with the next one.

    This works only as long as the returned object is kept.
    """
    db, leases = runtime.db, runtime.engine.leases
    begun: dict[int, Heartbeat] = {}

    def begin(app: Flask, **_: object) -> None:
        if (beating := begun.get(os.getpid())) is not None and beating.lost < _TRIES:
            return
        # A test client is not a server, and its database is often a thread's own and soon gone.
        served = "SERVER_SOFTWARE" in request.environ or any(map(os.environ.get, _SERVERLESS))
        if app.testing or db.is_shared or not served:
            return
        begun[os.getpid()] = beating = Heartbeat(db, "web")
        try:
            beating.keep(lambda: at_work(leases))
            atexit.register(beating.end)
        except RuntimeError as failure:
            log.warning("no thread for the heartbeat", extra={"reason": reason(failure)})

    request_started.connect(begin, app)
    return begin


def _version() -> str:
    try:
        return version(__name__.partition(".")[0])
    except PackageNotFoundError:
        return "from source"
