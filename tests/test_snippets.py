"""README, CONTRIBUTING and docs/: each command and each snippet is run, in one world for all.

What is not run here is below, by who runs it or why nobody does; a new block is run or named.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from string import Template
from types import SimpleNamespace
from typing import Any

import pytest
import requests
import yaml
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from flask import Flask
from opentelemetry.sdk import environment_variables
from sqlalchemy import MetaData, insert, select

from app import create_app
from app.local.parts import read_procfile
from app.platform.config import ROOT, Settings, load
from app.switchyard import JobPayload, include_object
from app.switchyard.clock import utcnow
from app.switchyard.cutover.shadow import Parity
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runtime import Runtime
from queues.backend import connect
from tests.support.pages import PAGES, Block, blocks, prose
from tests.support.rows import run_row
from tests.support.serving import serve_in_thread
from tests.support.sides import environment, parts
from tests.support.standins import StripeStandIn
from tests.support.waiting import PATIENCE_SECONDS
from tests.test_pages import commands, is_whole

pytestmark = pytest.mark.timeout(600)

ELSEWHERE = {
    "README.md": (8, "tests/test_tour.py", "tests/test_pages.py"),
    "adopt.md": (16, "tests/adopter/test_shop.py"),
    "api.md": (7, "tests/test_api_page.py"),
    "deploy.md": (7, "tests/test_deploy.py"),
}
"""How many blocks of a page others run, and who does."""
NOT_RUN = {
    "git clone …": "what the reader has done already; the tour starts from a clone",
    "npx inngest-cli": "a server that is downloaded; test_local_stack has a stand-in in its place",
    "make check": "this suite itself; test_pages looks for the targets and files",
    "heroku create": "it needs an account; test_deploy loads its variables",
    "HTTP trigger": "a picture",
}
"""Blocks that nobody runs, by how they begin."""
each_page = pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name != "adopt.md"], ids=lambda page: page.name
)
PROCESSES = {*read_procfile().values(), "flask switchyard worker"}
"""Started in test_deploy, test_procfile and test_worker_command."""
NAMES = {"worker", "relay", "clock", "runs retry", "runs cancel"}
"""Named in a sentence; run where they stand in a block."""
HOLDS_OR_NOT = "cutover verify"
"""What may end with 1: something is wrong in this world."""
OURS = "from app.switchyard"
JOB, RUN, PARITY = "send-email", "f" * 26, 17


@dataclass(frozen=True)
class World:
    """Everything at work; a run has failed, and a shadow differs."""

    app: Flask
    runtime: Runtime
    environ: dict[str, str]

    def do(self, line: str) -> None:
        """Do what a line of a shell says; a command of the app's own in this process."""
        line = line.replace("http://localhost:3005", self.environ["BACKEND_URL"])
        own = re.match(r"flask (?:--app app )?", line)
        if own:
            words = shlex.split(Template(line[own.end() :]).substitute(self.environ), comments=True)
            done = self.app.test_cli_runner().invoke(args=words)
            code, said = done.exit_code, f"{done.output}{done.exception!r}"
            assert done.exception is None or isinstance(done.exception, SystemExit), (line, said)
        else:
            shell = ["bash", "-e", "-c", line]
            ran = subprocess.run(
                shell, cwd=ROOT, env=self.environ, stdout=-1, stderr=-2, text=True, check=False
            )
            code, said = ran.returncode, ran.stdout
        assert code in ((0, 1) if HOLDS_OR_NOT in line else (0,)), (line, code, said)


@pytest.fixture(scope="module")
def world(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    environ = environment(f"sqlite:///{folder / 'x.db'}", redis_url, JOB=JOB, RUN=RUN)
    environ["PATH"] = f"{Path(sys.executable).parent}:{environ['PATH']}"
    environ |= {"STORAGE_URL": f"file://{folder}", "LEASE_SECONDS": "60"}
    del environ["SWITCHYARD_JOBS"]
    connect(redis_url).flushall()
    with ExitStack() as stack:
        environ["STRIPE_API_BASE"] = stack.enter_context(serve_in_thread(StripeStandIn()))
        app = create_app(load(environ))
        assert app.test_cli_runner().invoke(args=["db", "upgrade"]).exit_code == 0
        side = stack.enter_context(parts(environ, folder, "rq", "inngest", "qstash"))
        now = utcnow()
        failed = run_row(RUN, JOB, now, status="failed", started_at=now, ended_at=now)
        shadow = {"id": PARITY, "job": "daily-earnings-rollup", "run_id": RUN}
        shadow |= {"kind": "different", "planned_at": now, "differing": 1}
        with side.runtime.db.begin() as connection:
            connection.execute(insert(R), failed)
            connection.execute(insert(Parity), shadow)
        app = create_app(load(side.environ))
        yield World(app, side.runtime, side.environ)
        app.extensions["switchyard"].db.dispose()


def to_run(page: Path, kind: str | None = None) -> list[Block]:
    """What of a page nobody else runs."""
    if page.name in ELSEWHERE:
        return []
    return [one for one in blocks(page.name, kind) if not one.text.startswith(tuple(NOT_RUN))]


def test_each_block_is_run_or_named() -> None:
    every = {page.name: blocks(page.name) for page in PAGES}
    firsts = [block.text for found in every.values() for block in found]
    assert all(any(text.startswith(name) for text in firsts) for name in NOT_RUN)
    for page, (many, *who) in ELSEWHERE.items():
        theirs = [one for one in every[page] if not one.text.startswith(tuple(NOT_RUN))]
        assert len(theirs) == many, f"{page}: is each of its blocks run by {who}?"
    kinds = {one.kind.partition(" ")[0] for page in PAGES for one in to_run(page)}
    assert kinds <= {"sh", "python", "env", "yaml"}, "no test here runs such a block"


def test_the_example_of_settings_is_loaded_as_it_says(tmp_path: Path) -> None:
    text = (ROOT / ".env.example").read_text()
    (tmp_path / ".env").write_text(text)
    [loading] = re.findall(r"^#   (.+)$", text, re.M)
    check = "sh -c 'test \"$PORT\" = 3005'"  # another process has it
    subprocess.run(["sh", "-e", "-c", f"{loading}; {check}"], cwd=tmp_path, check=True)


@each_page
def test_each_command(world: World, page: Path) -> None:
    for block in to_run(page, "sh"):
        for line in block.text.replace("\\\n", " ").splitlines():
            if "process" in block.kind:
                assert line.split("  #")[0] in PROCESSES
            else:
                world.do(line)
    for line in sorted(commands(prose(page.name))):
        if line not in NAMES and is_whole(world.app, line):
            world.do(f"flask {line}")


def within_repository(text: str) -> str:
    """A snippet for somebody's app, as it stands in this one."""
    return re.sub(r"from switchyard(\.queues)?", lambda m: "from queues" if m[1] else OURS, text)


def given(page: str, world: World, folder: Path) -> dict[str, Any]:
    """What the reader of a page has before its snippets."""
    match page:
        case "cache.md":
            kept: list[object] = []
            names: dict[str, Any] = {"kept": kept, "send": kept.append, "query": lambda db: [1]}
            names |= {"month": "2025-01", "user": "u1", "report": "r"}
            names |= {"store": lambda report, fence: kept.append(fence)}
        case "cutover.md" | "old-call-sites.md":
            names = dict.fromkeys(("Invoice", "Pay", "Ship"), type("Any", (JobPayload,), {}))
            names |= dict.fromkeys(("plan", "left_behind", "to_payload"), lambda *_: {})
            names |= {"app": Flask("shop")}
            (folder / "shop").mkdir()
            functions = "".join(f"def {name}(): ...\n" for name in ("pay", "send_receipt"))
            (folder / "shop" / "tasks.py").write_text(functions)
        case "migrating.md":
            app = create_app(load({**world.environ, "DATABASE_URL": "sqlite://"}))
            connection = app.extensions["switchyard"].db.engine.connect()
            context = EnvironmentContext(Config(), None)  # type: ignore[arg-type]
            names = {"app": app, "connection": connection, "context": context}
            names |= {"metadata": MetaData()}
        case _:
            names = {}
    return {"cache": world.runtime.cache, "db": world.runtime.db, "now": utcnow(), **names}


@each_page
def test_each_snippet_of_python(
    page: Path, world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("DATABASE_URL", "sqlite:///x.db")
    user = SimpleNamespace(is_authenticated=True, is_admin=False, email="ada@example.com")
    monkeypatch.setitem(sys.modules, "flask_login", SimpleNamespace(current_user=user))
    made = given(page.name, world, tmp_path)
    for block in to_run(page, "python"):
        with world.app.test_request_context():
            exec(within_repository(block.text), made)
    match page.name:
        case "cache.md":
            assert (made["top"], made["kept"]) == ([1], [made["lock"].fence, "u1"])
        case "console.md":
            assert made["who"]() == ("read_only", user.email)
        case "mail.md":
            with world.runtime.db.begin() as tx:
                [mail] = tx.execute(select(R).where(R.job == "send-email", R.id != RUN))
            assert mail.due_at - mail.created_at == timedelta(minutes=5)
        case "migrating.md":
            [branch] = made["app"].extensions["switchyard"].branches[-1:]
            assert (branch, branch.name) == (made["shop"], "shop")
            assert made["context"].get_context().opts["include_object"] is include_object
            made["connection"].close()


@each_page
def test_each_block_of_settings(page: Path, world: World) -> None:
    for block in to_run(page, "env"):
        named = block.text.replace("…", b64encode(bytes(24)).decode())
        values = dict(one.split("=", 1) for one in shlex.split(named))
        if any(name.startswith("OTEL_") for name in values):
            assert values.keys() <= vars(environment_variables).keys()
            continue
        assert {name.lower() for name in values} <= Settings.model_fields.keys()
        load(world.environ | values)
    for block in to_run(page, "yaml"):
        [scraped] = yaml.safe_load(block.text)["scrape_configs"]
        assert scraped["honor_labels"]
        assert list(scraped["authorization"]) == ["credentials_file"]
        assert requests.get(f"{world.environ['BACKEND_URL']}/metrics", timeout=PATIENCE_SECONDS).ok
