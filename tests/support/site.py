"""The web app on a clock and a queue of its own, with creators who are owed money."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Flask
from sqlalchemy import insert, select
from sqlalchemy.orm import DeclarativeBase

from app.platform import wiring
from app.platform.config import Settings
from app.platform.earnings.models import Creator
from app.platform.ledger.postings import CASH, CREATOR, EntryKind, Posting, post
from app.switchyard.commands import register_commands
from app.switchyard.extension import register_pages
from app.switchyard.runs.memory import MemoryBackend
from app.switchyard.runs.models import RunRow
from app.switchyard.runs.relay import sweep
from app.switchyard.runtime import EXTENSION, Runtime
from tests.support.earnings import a_creator
from tests.support.sides import Fixed, decide_by
from tests.support.tables import create_all

START = datetime(2025, 3, 4, 12, tzinfo=UTC)
OWED = 50_000


def mount(app: Flask, runtime: Runtime) -> None:
    """Give `app` every page and command, the layer's and the platform's, as create_app does."""
    app.extensions[EXTENSION] = runtime
    register_commands(app)
    register_pages(app, runtime)
    wiring.mount(app, runtime)


class Site:
    """The web app on its own clock, with the creators who are there from the first."""

    now = START
    creators: tuple[str, ...] = ("ana", "bob")

    def __init__(self, url: str, **settings: Any) -> None:
        self.queue = MemoryBackend()
        self.queue.name = "rq"
        self.settings = Settings(database_url=url, **settings)
        self.runtime = wiring.make_runtime(
            self.settings, clock=lambda: self.now, backends=[self.queue]
        )
        self.engine, self.db = self.runtime.engine, self.runtime.db
        decide_by(Fixed("rq"))
        self.app = Flask("app", static_folder=None)
        mount(self.app, self.runtime)
        create_all(self.db.engine)
        for name in self.creators:
            self.creator(name)

    def creator(self, id_: str, /, owed: int = OWED, **change: Any) -> None:
        row = a_creator(id_, **change)
        account, at = CREATOR + id_, self.now - timedelta(days=90)
        earned = Posting(EntryKind.EARNING, f"e-{id_}", CASH, account, row["currency"], owed, at)
        with self.db.begin() as tx:
            tx.execute(insert(Creator), [row])
            post(tx, [earned])

    def work(self) -> list[Any]:
        return self.queue.work(self.engine)

    def later(self, wait: timedelta) -> None:
        """Let so long go by, and the relay look."""
        self.now += wait
        sweep(self.runtime.store)

    def run(self, run_id: str) -> Any:
        (row,) = self.db.rows(select(RunRow.__table__).where(RunRow.id == run_id))
        return row

    def count(self, table: type[DeclarativeBase], *which: Any) -> int:
        return len(self.db.rows(select(*table.__table__.primary_key).where(*which)))


def refused(answer: Any, code: int, says: str = "") -> None:
    assert (answer.status_code, answer.content_type) == (code, "application/problem+json")
    problem = answer.get_json(force=True)
    assert (set(problem), problem["status"]) == ({"type", "title", "status", "detail"}, code)
    assert says in problem["detail"], problem
