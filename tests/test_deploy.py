"""docs/deploy.md: what it describes is started as it stands, on this machine, and serves."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme
import yaml
from requests.adapters import HTTPAdapter
from urllib3 import Retry
from werkzeug.test import Client

from app.local.loopback import free_port
from app.local.parts import read_procfile
from app.platform.config import ROOT, load
from app.switchyard.clock import utcnow
from app.switchyard.db import Database
from app.switchyard.operations import processes
from queues.backend import connect
from tests.conftest import new_database, new_postgres
from tests.support.forks import Forked, forked
from tests.support.fresh import FreshProcesses
from tests.support.pages import blocks, prose
from tests.support.pooler import pgbouncer
from tests.support.serving import serve_in_thread
from tests.support.sides import CURRENT_KEY, environment
from tests.support.standins import InngestStandIn, QStashStandIn, StripeStandIn
from tests.support.waiting import PATIENCE_SECONDS, until
from tests.switchyard.test_signed_calls import a_call, mac

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/sbin")
DEFAULT = re.compile(r"\$\{\w+:-([^}]+)\}")
BIN = "/srv/switchyard/.venv/bin/"
MODULES = {"gunicorn": "gunicorn", "rq": "rq.cli", "flask": "flask"}


def only(kind: str) -> str:
    """The page's one block of a kind."""
    [block] = blocks("deploy.md", kind)
    return block.text


def of_env() -> dict[str, str]:
    return dict(line.split("=", 1) for line in only("env").splitlines())


def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(only("yaml"))["services"]
    return found


def units() -> dict[str, str]:
    """The files of systemd, each by its name."""
    texts = [block.text for block in blocks("deploy.md", "ini") if "[Service]" in block.text]
    return {re.findall(r"system/([^:\s]+)", text)[0]: text for text in texts}


def of_systemd() -> dict[str, str]:
    """What systemd runs, by process."""
    commands = {}
    for name, text in units().items():
        unit = configparser.ConfigParser(interpolation=None)
        unit.read_string(text)
        commands[re.findall(r"-(\w+)", name)[0]] = unit["Service"]["ExecStart"].removeprefix(BIN)
    [relay] = re.findall(rf"`ExecStart={BIN}([^`]+ relay)` and `… clock`", prose("deploy.md"))
    return commands | {"relay": relay, "clock": relay.replace("relay", "clock")}


def of_compose() -> dict[str, str]:
    return {kind: services()[kind]["command"] for kind in processes.KINDS}


def test_heroku_is_given_what_a_process_needs() -> None:
    [block] = [block for block in blocks("deploy.md", "sh") if block.heading == "Heroku"]
    set_, scaled = (
        dict(word.split("=", 1) for word in line.split() if "=" in word)
        for line in block.text.splitlines()
        if "config:set" in line or "ps:scale" in line
    )
    of_page = {name: of_env()[name] if "…" in value else value for name, value in set_.items()}
    [query] = re.findall(r"`rediss://…(\?[^`]+)`", prose("deploy.md"))
    of_heroku = {"DATABASE_URL": "postgres://u:p@db/x", "REDIS_URL": f"rediss://:p@r:6380{query}"}
    assert load(of_page | of_heroku).qstash_lacks is None
    assert set(scaled) | {"release"} == set(read_procfile())


def test_all_run_what_the_procfile_runs() -> None:
    procfile = {name: DEFAULT.sub(r"\1", line) for name, line in read_procfile().items()}
    assert {**of_compose(), "release": services()["release"]["command"]} == procfile
    behind_a_proxy = {name: line.replace("0.0.0.0", "127.0.0.1") for name, line in procfile.items()}
    assert {**of_systemd(), "release": procfile["release"]} == behind_a_proxy


def test_the_image_is_made_of_what_is_here() -> None:
    lines = services()["web"]["build"]["dockerfile_inline"].splitlines()
    assert {line.split()[0] for line in lines} == {"FROM", "WORKDIR", "COPY", "RUN"}
    copied = [line.split()[1] for line in lines if line.startswith("COPY")]
    assert all((ROOT / name).exists() for name in copied)
    [installed] = [line.split()[-1] for line in lines if line.startswith("RUN")]
    assert installed in copied


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    if (program := shutil.which("systemd-analyze")) is None:
        pytest.skip("systemd-analyze is not installed")
    (tmp_path / "env").write_text(only("env"))
    for name, text in units().items():
        here = text.replace(BIN, f"{shlex.quote(str(tmp_path))}/").replace("/srv/switchyard", "/")
        here = here.replace("/etc/switchyard.env", str(tmp_path / "env"))
        (tmp_path / name).write_text(here.replace("User=switchyard", "User=root"))
        for command in MODULES:
            (tmp_path / command).touch(0o755)
    files = [str(tmp_path / name) for name in units()]
    done = subprocess.run([program, "verify", "--man=no", *files], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@contextmanager
def started(commands: dict[str, str], environ: dict[str, str]) -> Iterator[None]:
    """Each process at work; at the end it ends at SIGTERM."""
    running = {}
    try:
        for line in commands.values():
            program, *words = line.split()
            running[line] = Forked(["-m", MODULES[program], *words], env=environ)
        yield
        for process in running.values():
            process.terminate()
        assert {line: process.wait(PATIENCE_SECONDS) for line, process in running.items()} == (
            dict.fromkeys(running, 0)
        )
    finally:
        for process in running.values():
            process.kill()


@contextmanager
def nginx(behind: str, folder: Path) -> Iterator[tuple[requests.Session, str]]:
    """The page's proxy before a server: who trusts it, and its URL."""
    authority, port = trustme.CA(), free_port()
    certificate = authority.issue_cert("jobs.example.com", "localhost")
    certificate.private_key_pem.write_to_path(folder / "jobs.key")
    certificate.cert_chain_pems[0].write_to_path(folder / "jobs.pem")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    server = only("nginx").replace("443", str(port)).replace("/etc/ssl/", f"{folder}/")
    server = server.replace("http://127.0.0.1:3005", behind)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    own = "".join(f"{kind}_temp_path {folder}/{kind}; " for kind in kinds)
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log stderr; events {{}}"
        f" http {{ access_log off; {own} {server} }}"
    )
    command = [str(NGINX), "-p", str(folder), "-c", str(folder / "nginx.conf")]
    with subprocess.Popen(command) as process, requests.Session() as session:
        session.trust_env = False  # which may name authorities of its own
        session.verify = str(folder / "ca.pem")
        session.headers["Host"] = "jobs.example.com"
        session.mount("https://", HTTPAdapter(max_retries=Retry(connect=20, backoff_factor=0.1)))
        try:
            yield session, f"https://localhost:{port}"
        finally:
            process.kill()


@pytest.mark.parametrize("where", ["systemd", "compose"])
def test_everything_comes_up_and_both_sides_run(
    where: str, postgres_server: str, redis_url: str, tmp_path: Path
) -> None:
    page = of_env() if where == "systemd" else dict(services()["web"]["environment"])
    event, signing = page["INNGEST_EVENT_KEY"], page["INNGEST_SIGNING_KEY"].rpartition("-")[2]
    at = f"{page['BACKEND_URL']}/api/inngest"
    if where == "compose":
        started_with = f"--event-key {event} --signing-key {signing} --sdk-url {at}"
        assert services()["inngest"]["command"] == f"inngest start {started_with}"
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with ExitStack() as stack:
        database = stack.enter_context(new_postgres(postgres_server))
        if where == "systemd":
            database = stack.enter_context(pgbouncer(database, 20))
        connect(redis_url).flushall()  # no worker or job of another test is there
        inngest = InngestStandIn([f"{url}/api/inngest"], event, signing)
        qstash = QStashStandIn(page["QSTASH_TOKEN"], CURRENT_KEY)
        for one in (inngest, qstash):
            stack.enter_context(one)
        environ = environment(database, redis_url) | page | {"BACKEND_URL": url}
        environ |= {"DATABASE_URL": database, "REDIS_URL": redis_url}
        environ |= {"INNGEST_BASE_URL": inngest.url, "QSTASH_URL": qstash.url}
        environ["STRIPE_API_BASE"] = stack.enter_context(serve_in_thread(StripeStandIn()))
        del environ["SWITCHYARD_JOBS"]
        released = forked(["-m", *read_procfile()["release"].split()], environ)
        assert released.returncode == 0, released.stderr
        commands = of_systemd() if where == "systemd" else of_compose()
        commands["web"] = re.sub(r"[\d.]+:3005", f"127.0.0.1:{port}", commands["web"])
        with started(commands, environ):
            until(lambda: not any(inngest.sync().values()))
            db = Database(load(environ).sqlalchemy_url)
            until(
                lambda: (
                    {row["kind"] for row in processes.listed(db, utcnow())} >= set(processes.KINDS)
                )
            )
            after = re.findall(r"`flask (--app app [^`…]+)`", prose("deploy.md"))[:2]
            sync, verify = (["-m", "flask", *line.split(), "--json"] for line in after)
            assert forked(sync, environ).returncode == 0

            def amiss() -> set[str]:
                answers = json.loads(forked(verify, environ).stdout)
                return {answer["check"] for answer in answers if not answer["ok"]}

            # Its patience is 15 s a check, and the machine may be busy.
            until(lambda: amiss() == {"stripe-key", "stripe-webhooks", "mail"}, amiss)
            if where == "systemd" and NGINX is not None:
                session, front = stack.enter_context(nginx(url, tmp_path))
                path, headers, body = signed_by_inngest(signing)
                assert session.post(front + path, body, headers=headers).status_code == 200
        assert processes.listed(db, utcnow()) == [], "one has ended and does not say so"
        db.dispose()


def signed_by_inngest(key: str) -> tuple[str, dict[str, str], bytes]:
    """A call of a function: where to, headers, body."""
    body, at = a_call("runs.relay", {}), int(time.time())
    headers = {"x-inngest-signature": f"t={at}&s={mac(body, at, key)}"}
    return "/api/inngest?fnId=switchyard-relay-sweep&stepId=step", headers, body


def test_vercel_s_function_answers_in_a_fresh_process_that_can_write_no_file(
    redis_url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    vercel = json.loads(only("json"))
    assert list(vercel["functions"]) == ["app/server.py"]
    assert (ROOT / vercel["installCommand"].split()[-1]).is_file()
    page = of_env()
    with new_database("postgres", tmp_path, request) as url:
        environ = environment(url, redis_url) | page
        environ |= {"DATABASE_URL": url, "REDIS_URL": redis_url, "DATABASE_POOL_SIZE": "2"}
        del environ["SWITCHYARD_JOBS"]
        client = Client(FreshProcesses(environ))
        path, headers, call = signed_by_inngest(page["INNGEST_SIGNING_KEY"].rpartition("-")[2])
        assert client.post(path, headers=headers, data=call).status_code == 200
        [body] = re.findall(r"`/api/inngest/trigger` with `([^`]+)`", prose("deploy.md"))
        bearer = {"Authorization": f"Bearer {page['ADMIN_TOKEN']}"}
        asked = client.post("/api/inngest/trigger", json=json.loads(body), headers=bearer)
        assert asked.status_code == 202
