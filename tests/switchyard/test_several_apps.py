"""Several apps in one process: each has a runtime, flags and a ledger of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import select
from sqlalchemy.orm import Session

import flags
from app.switchyard import runtime
from app.switchyard.config import Settings
from app.switchyard.dispatch import dispatch
from app.switchyard.errors import SwitchyardError
from app.switchyard.extension import Switchyard
from app.switchyard.runs.models import RunRow
from app.switchyard.runs.store import RunStore
from app.switchyard.runtime import process_runtime
from tests.support.sides import Fixed
from tests.support.tables import create_all

JOBS = "tests.support.jobs"
NOWHERE = "redis://127.0.0.1:1/0"


def app_of(name: str, folder: Path) -> Flask:
    app = Flask(name)
    settings = Settings(database_url=f"sqlite:///{folder / f'{name}.db'}", redis_url=NOWHERE)
    Switchyard(app, jobs=[JOBS], settings=settings)
    create_all(runtime_of(app).db.engine)
    return app


def runtime_of(app: Flask) -> runtime.Runtime:
    own: runtime.Runtime = app.extensions["switchyard"]
    return own


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Flask]:
    app = app_of("shop", tmp_path)
    yield app
    runtime_of(app).db.dispose()


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Flask]:
    app = app_of("bank", tmp_path)
    yield app
    runtime_of(app).db.dispose()


def keys(app: Flask) -> list[str]:
    return [one for (one,) in runtime_of(app).db.rows(select(RunRow.key).order_by(RunRow.key))]


def test_the_only_app_needs_no_context(shop: Flask) -> None:
    assert runtime.current() is process_runtime() is runtime_of(shop)
    assert dispatch("noop", {"name": "a"}, key="a").backend == "rq"
    assert keys(shop) == ["a"]


def test_of_two_the_one_at_work_is_meant(shop: Flask, bank: Flask) -> None:
    runtime_of(bank).flags = Fixed("inngest")
    for app, backend in ((shop, "rq"), (bank, "inngest"), (shop, "rq")):
        with app.app_context():
            assert process_runtime() is runtime_of(app)
            assert flags.decide("noop", "k").backend == backend
            assert dispatch("noop", {"name": "a"}, key=app.name).backend == backend
    assert (keys(shop), keys(bank)) == (["shop"], ["bank"])
    with bank.app_context(), runtime.using(runtime_of(shop)):
        assert flags.decide("noop", "k").backend == "rq"


def test_of_two_and_none_at_work_nobody_guesses(shop: Flask, bank: Flask) -> None:
    for ask in (runtime.current, process_runtime, lambda: dispatch("noop", {"name": "a"})):
        with pytest.raises(SwitchyardError, match=r"2 apps .*push an application context"):
            ask()
    runtime.install(runtime_of(bank))
    try:
        assert runtime.current() is runtime_of(bank)
    finally:
        runtime._own = None


def test_an_app_that_is_gone_does_not_count(tmp_path: Path) -> None:
    for name in ("first", "second", "last"):
        runtime_of(app_of(name, tmp_path)).db.dispose()
    assert runtime.current().db.engine.url.database == str(tmp_path / "last.db")


def test_what_joined_a_transaction_is_sent_by_who_wrote_it(
    shop: Flask, bank: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever app is at work at the commit."""
    sent: list[tuple[RunStore, Sequence[str]]] = []
    monkeypatch.setattr(RunStore, "send", lambda store, ids: sent.append((store, ids)))
    with Session(runtime_of(shop).db.engine) as session:
        with shop.app_context():
            run = dispatch("noop", {"name": "a"}, session=session)
        assert sent == []
        with bank.app_context():
            session.commit()
    assert sent == [(runtime_of(shop).store, [run.id])]


def test_an_app_is_set_up_once(shop: Flask) -> None:
    with pytest.raises(SwitchyardError, match="'shop' has been set up already"):
        Switchyard(shop)
