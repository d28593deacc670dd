"""The local mail server over real SMTP, its pages, and the commands about mail."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from app.platform.config import ROOT, load
from app.platform.gateways.address import smtp_server
from app.platform.gateways.smtp import Mailer
from app.platform.mail import taken
from app.switchyard import runtime
from tests.platform.test_letters import HOSTILE
from tests.support.sides import Fixed, build, decide_by, environment, fresh
from tests.support.waiting import PATIENCE_SECONDS


@contextmanager
def sink(folder: Path) -> Iterator[str]:
    """The server's process; its URL."""
    command = [sys.executable, "-m", "app.local", "mail", "--port", "0", "--data", str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.terminate()
        assert process.wait(PATIENCE_SECONDS) == 0
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    url = f"sqlite:///{tmp_path / 'test.db'}"
    jobs = {"SWITCHYARD_JOBS": "app.platform.mail.jobs", "MAIL_FOLDER": str(tmp_path / "mail")}
    made = environment(url, "redis://127.0.0.1:1/0", **jobs)
    fresh(url, made, None).db.dispose()
    return made


@pytest.fixture
def client(environ: dict[str, str]) -> Iterator[FlaskClient]:
    app = build(load(environ))
    decide_by(Fixed("rq"))
    yield app.test_client()
    runtime.current().db.dispose()


def test_what_was_taken_is_shown_and_cannot_act(client: FlaskClient, tmp_path: Path) -> None:
    with sink(tmp_path / "mail") as url:
        assert "None yet" in client.get("/console/mail").text
        # The same mail twice is shown twice: nothing is hidden from who looks for doubles.
        for _ in range(2):
            Mailer(smtp_server(url), "hello@fanhouse.test").send(
                to="ana@example.com",
                subject="<b>Hello</b>",
                text=HOSTILE,
                html="<script>parent.document.title = 1</script>",
                message_id="<one@fanhouse.test>",
                now=runtime.current().store.clock(),
            )
    names = taken.names(tmp_path / "mail")
    assert len(names) == 2
    listed = client.get("/console/mail")
    assert listed.text.count("&lt;b&gt;Hello&lt;/b&gt;") == 2
    assert "<b>Hello" not in listed.text
    one = client.get(f"/console/mail/{names[0]}")
    assert "&lt;script&gt;alert(1)" in one.text
    assert "<script" not in one.text
    for answer in (listed, one):
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_what_is_no_mail_is_not_found(client: FlaskClient, tmp_path: Path) -> None:
    (tmp_path / "mail").mkdir()
    (tmp_path / "mail" / "secret.eml").write_text("Subject: s\n\ns")
    for path in ("secret", "..%2Fmail%2Fsecret", "%00", "0" * 19 + "-000000"):
        answer = client.get(f"/console/mail/{path}")
        assert (answer.status_code, answer.content_type) == (404, "application/problem+json")


def test_only_this_machine_is_served_and_only_in_local_mode(
    client: FlaskClient, environ: dict[str, str]
) -> None:
    far = client.get("/console/mail", environ_base={"REMOTE_ADDR": "10.0.0.9"})
    rebound = client.get("/console/mail", headers={"Host": "evil.test"})
    proxied = client.get("/console/mail", headers={"X-Forwarded-For": "127.0.0.1"})
    assert [a.status_code for a in (far, rebound, proxied)] == [401] * 3
    live = build(load(environ | {"STRIPE_API_KEY": "sk_live_x"})).test_client()
    assert live.get("/console/mail").status_code == 404
    runtime.current().db.dispose()
