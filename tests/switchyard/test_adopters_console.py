"""The console in an app that is not this repository's own."""

from __future__ import annotations

from pathlib import Path

from flask import Flask

from app.switchyard.config import Settings
from app.switchyard.extension import Switchyard
from tests.support.tables import create_all


def test_every_page_of_it_is_there_without_the_platform(tmp_path: Path) -> None:
    app = Flask("shop")
    Switchyard(app, settings=Settings(database_url=f"sqlite:///{tmp_path / 'shop.db'}"))
    runtime = app.extensions["switchyard"]
    create_all(runtime.db.engine)
    for page in ("", "/runs", "/history", "/jobs/canary"):
        answer = app.test_client().get(f"/switchyard/console{page}", follow_redirects=True)
        assert answer.status_code == 200, page
        assert b"/switchyard/console/static/" in answer.data
        assert b"/console/mail" not in answer.data
    assert app.test_client().get("/console").status_code == 404
    runtime.db.dispose()
