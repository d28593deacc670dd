"""A console to look at: its pages over a ledger with runs in every state, on an in-memory queue."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from jinja2 import StrictUndefined
from pydantic import SecretStr

from app.platform.config import Settings
from app.platform.wiring import make_runtime
from app.switchyard.audit import By
from app.switchyard.cutover import stages
from app.switchyard.dispatch import dispatch
from app.switchyard.errors import BackendUnavailable
from app.switchyard.job import SERVERLESS
from app.switchyard.runs import operate
from app.switchyard.runs.memory import MemoryBackend
from app.switchyard.runs.relay import sweep
from app.switchyard.runtime import install
from tests.support.sides import Fixed, decide_by
from tests.support.site import mount
from tests.support.tables import create_all

TOKEN = "0123456789abcdef-admin"
HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(2)>'
_CSRF = re.compile(r'name="csrf" value="([^"]+)"')


class Losable(MemoryBackend):
    """One that may be lost."""

    lost: set[str]

    def ping(self) -> None:
        """Raises BackendUnavailable once it is lost."""
        if self.name in self.lost:
            raise BackendUnavailable(f"{self.name}: nobody there")


class Site:
    """The pages, and what was done before anybody looks."""

    def __init__(self, database_url: str, **settings: Any) -> None:
        self.now = datetime.now(UTC)
        self.lost: set[str] = set()
        self.backends = [Losable("rq"), *map(Losable, SERVERLESS)]
        self.queue = self.backends[0]
        for one in self.backends:
            one.queue, one.lost = self.queue.queue, self.lost
        made = Settings(
            database_url=database_url,
            **{
                "redis_url": "unix:///nowhere.sock",
                "switchyard_jobs": "tests.support.jobs",
                **settings,
            },
        )
        self.runtime = make_runtime(made, clock=lambda: self.now, backends=[*self.backends])
        create_all(self.runtime.db.engine)
        self.app = Flask("console")
        mount(self.app, self.runtime)
        self.app.jinja_env.undefined = StrictUndefined  # as many a host has it

    def fill(self) -> dict[str, str]:
        """Runs that succeeded, failed, wait and were cancelled; their ids by what they are."""
        install(self.runtime)
        decide_by(Fixed("rq"))
        made = {
            "done": dispatch("five-steps", {"name": "done", "fail_at": 2, "failures": 1}),
            "failed": dispatch("hopeless", {"name": HOSTILE}, key="order-1042"),
            "parent": dispatch("parent", {"name": "p", "children": 4}),
        }
        for number in range(60):
            dispatch("noop", {"name": f"n{number}"}, key=f"noop-{number}")
        for _ in range(8):
            self.work()
        made["waiting"] = dispatch("child", {"name": "later"}, delay=3600)
        made["cancelled"] = dispatch("sleeper", {"name": "gone"}, delay=3600)
        operate.cancel(self.runtime.store, made["cancelled"].id)
        for stage, percent, why in (
            ("ramp", 10.0, "first tenth, the smallest creators"),
            ("ramp", 50.0, "a day without a difference"),
            ("live", None, HOSTILE),
        ):
            db, now = self.runtime.db, self.now
            stages.set_stage(db, "five-steps", stage, percent, By("ada", why), now)
        stages.set_stage(self.runtime.db, "parent", "ramp", 12.5, By("ada", "go"), self.now)
        return {name: run.id for name, run in made.items()}

    def lose(self, backend: str) -> None:
        """It does not answer any more."""
        self.lost.add(backend)

    def work(self) -> None:
        """Do what is sent and due, and let ten minutes go by."""
        self.queue.work(self.runtime.engine)
        self.now += timedelta(minutes=10)
        sweep(self.runtime.store)
        self.queue.work(self.runtime.engine)


def guarded(database_url: str, **settings: Any) -> Site:
    """Not in local mode: a credential of an outside service is set."""
    own = {
        "admin_token": SecretStr(TOKEN),
        "secret_key": SecretStr("signs-the-cookie"),
        "stripe_api_key": SecretStr("sk_live_x"),
    }
    return Site(database_url, **{**own, **settings})


def csrf(client: FlaskClient, path: str) -> str:
    """The form's token on that page."""
    found = _CSRF.search(client.get(path).text)
    assert found is not None, path
    return found[1]


def log_in(
    client: FlaskClient,
    token: str = TOKEN,
    name: str = "grace",
    headers: dict[str, str] | None = None,
    **more: str,
) -> Any:
    form = {"csrf": csrf(client, "/console/login"), "name": name, "token": token, **more}
    return client.post("/console/login", data=form, headers=headers)


def where(site: Site, job: str = "parent") -> list[str]:
    return [row.stage for row in stages.current_stages(site.runtime.db) if row.job == job]


def move(client: FlaskClient, stage: str = "live", **form: str) -> int:
    asked = {"stage": stage, "why": "a test", "csrf": csrf(client, "/console/jobs/parent"), **form}
    return client.post("/console/jobs/parent/stage", data=asked).status_code
