"""The web app on a clock and a queue of its own, with creators who are owed money."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Flask
from sqlalchemy import func, insert, select
from sqlalchemy.orm import DeclarativeBase

from app.platform.config import Settings
from app.platform.earnings.models import Creator
from app.platform.ledger.postings import CASH, CREATOR, EntryKind, Posting, post
from app.platform.wiring import make_runtime
from app.switchyard.runs.memory import MemoryBackend
from tests.support.earnings import a_creator
from tests.support.mounted import mount
from tests.support.sides import Fixed, decide_by
from tests.support.tables import create_all

START = datetime(2025, 3, 4, 12, tzinfo=UTC)
OWED = 50_000


class Site:
    """The web app on its own clock, with the creators who are there from the first."""

    now = START
    creators: tuple[str, ...] = ("ana", "bob")

    def __init__(self, url: str, **settings: Any) -> None:
        self.queue = MemoryBackend()
        self.queue.name = "rq"
        self.settings = Settings(database_url=url, **settings)
        self.runtime = make_runtime(self.settings, clock=lambda: self.now, backends=[self.queue])
        self.db = self.runtime.db
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

    def count(self, table: type[DeclarativeBase]) -> int:
        with self.db.autocommit() as connection:
            return connection.scalar(select(func.count()).select_from(table)) or 0


def refused(answer: Any, code: int, says: str = "") -> None:
    assert (answer.status_code, answer.content_type) == (code, "application/problem+json")
    problem = answer.get_json(force=True)
    assert (set(problem), problem["status"]) == ({"type", "title", "status", "detail"}, code)
    assert says in problem["detail"], problem
