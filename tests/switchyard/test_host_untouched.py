"""A host app before and after Switchyard(app): the same, but for what is named here."""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response, session
from flask.json.provider import DefaultJSONProvider
from flask.sessions import SecureCookieSessionInterface
from flask_sqlalchemy import SQLAlchemy

from app.switchyard import Switchyard
from app.switchyard.schema import LAYER
from tests.support import jobs, old_jobs

OWN = "switchyard"


class Sessions(SecureCookieSessionInterface):
    """The host's own."""


class Numbers(DefaultJSONProvider):
    """The host's own."""


def host(folder: Path) -> tuple[Flask, SQLAlchemy]:
    """An app with something of its own wherever a library might lay hands on it."""
    app, db = Flask("shop"), SQLAlchemy()
    app.secret_key = "the host's own secret"
    app.config.update(
        SESSION_COOKIE_NAME="shop", SQLALCHEMY_DATABASE_URI=f"sqlite:///{folder}/s.db"
    )
    app.session_interface, app.json = Sessions(), Numbers(app)
    db.init_app(app)

    class Order(db.Model):  # type: ignore[name-defined, misc]
        id = db.Column(db.Integer, primary_key=True)

    @app.get("/healthz")
    def healthz() -> str:
        session["seen"] = True
        return "the host is well"

    @app.get("/broken")
    def broken() -> str:
        raise RuntimeError("on purpose")

    @app.cli.command("db")
    def own_db() -> None:
        """The host's own."""
        print("the host's own db")  # noqa: T201

    @app.after_request
    def mark(answer: Response) -> Response:
        answer.headers["Shop"] = "1"
        return answer

    app.before_request(lambda: None)
    app.teardown_request(lambda _: None)
    app.teardown_appcontext(lambda _: None)
    app.context_processor(lambda: {"shop": 1})
    app.shell_context_processor(lambda: {"shop": 1})
    app.template_filter("cents")(str)
    app.template_global("shop_name")(lambda: "shop")
    app.template_test("paid")(bool)
    app.errorhandler(404)(lambda _: ("the host's own 404", 404))
    app.errorhandler(RuntimeError)(lambda _: ("the host's own 500", 500))
    return app, db


def functions(by_blueprint: Any) -> Any:
    """What is registered for the app itself and others' blueprints: by name, as two apps differ."""
    return {
        name: [getattr(function, "__qualname__", repr(function)) for function in some]
        for name, some in by_blueprint.items()
        if not str(name).startswith(OWN)
    }


def of_process() -> dict[str, Any]:
    loggers = [logging.getLogger(), *map(logging.getLogger, ("werkzeug", "flask", "rq", "shop"))]
    return {
        "loggers": [(one.name, one.level, list(one.handlers), one.propagate) for one in loggers],
        "log records": (logging.getLoggerClass(), logging.getLogRecordFactory()),
        "warnings": list(warnings.filters),
        "signals": [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)],
        "hooks": (sys.excepthook, sys.unraisablehook),
        "path": list(sys.path),
        "environment": dict(os.environ),
    }


HOOKS = ["before_request_funcs", "after_request_funcs", "teardown_request_funcs"]
HOOKS += ["template_context_processors"]
HOOKS_OF_NO_BLUEPRINT = ("teardown_appcontext_funcs", "shell_context_processors")
OF_TEMPLATES = ("filters", "globals", "tests", "extensions")


def of_app(app: Flask, db: SQLAlchemy) -> dict[str, Any]:
    with app.app_context():
        pool = db.engine.pool
    rules = {(str(rule), rule.endpoint) for rule in app.url_map.iter_rules()}
    return {
        **{name: functions(getattr(app, name)) for name in HOOKS},
        **{name: functions({"": getattr(app, name)}) for name in HOOKS_OF_NO_BLUEPRINT},
        **{f"templates' {name}": sorted(getattr(app.jinja_env, name)) for name in OF_TEMPLATES},
        "config": {
            name: app.config[name] for name in app.config if not name.startswith("SWITCHYARD_")
        },
        "session": (type(app.session_interface), app.secret_key),
        "json": type(app.json),
        "logger": (app.logger.level, len(app.logger.handlers)),
        "error handlers": {
            code: sorted(kind.__name__ for kind in kinds)
            for code, kinds in app.error_handler_spec[None].items()
        },
        "commands": sorted(set(app.cli.commands) - {OWN}),
        "rules": sorted(rule for rule in rules if not rule[1].startswith(f"{OWN}_")),
        "blueprints": [name for name in app.blueprints if not name.startswith(f"{OWN}_")],
        "extensions": sorted(set(app.extensions) - {OWN}),
        "tables": sorted(db.metadata.tables),
        "engine": (type(pool), pool.dispatch.__class__.__name__),
    }


@pytest.fixture
def both(tmp_path: Path) -> Iterator[tuple[Flask, Flask, dict[str, Any], dict[str, Any]]]:
    plain, adopting = host(tmp_path), host(tmp_path)
    of_app(*plain), of_app(*adopting)  # Flask makes some of it at its first use
    before = of_process()
    Switchyard(adopting[0], db=adopting[1], jobs=[jobs, old_jobs])
    yield plain[0], adopting[0], before | of_app(*plain), of_process() | of_app(*adopting)
    adopting[0].extensions[OWN].db.dispose()
    for app, db in (plain, adopting):
        with app.app_context():
            db.engine.dispose()


def test_nothing_of_the_hosts_is_another(both: Any) -> None:
    *_, before, after = both
    assert set(before) == set(after)
    for what, was in before.items():
        assert after[what] == was, what


def test_what_is_added_is_named(both: Any) -> None:
    plain, adopting, *_ = both
    rules = {str(r) for r in adopting.url_map.iter_rules()} - {
        str(r) for r in plain.url_map.iter_rules()
    }
    called = {rule for rule in rules if not rule.startswith("/switchyard/")}
    of_qstash = {"/api/qstash/deliver", "/api/qstash/failed"}
    assert called == {"/api/inngest", "/api/inngest/trigger"} | of_qstash
    assert set(adopting.cli.commands) - set(plain.cli.commands) == {OWN}
    assert all(name.startswith("switchyard_") for name in LAYER.metadata.tables)


def test_the_host_answers_as_it_did(both: Any) -> None:
    answers = []
    for app in both[:2]:
        app.config["PROPAGATE_EXCEPTIONS"] = False
        client = app.test_client()
        pages = [client.get(path) for path in ("/healthz", "/nowhere", "/broken")]
        said = [(page.status_code, page.text, sorted(page.headers.keys())) for page in pages]
        cookie = client.get_cookie("shop")
        db = app.test_cli_runner().invoke(args=["db"]).output
        answers.append((said, cookie and cookie.path, db))
    assert answers[0] == answers[1]
    said, _, db = answers[1]
    own = ["the host is well", "the host's own 404", "the host's own 500"]
    assert ([text for _, text, _ in said], db) == (own, "the host's own db\n")
