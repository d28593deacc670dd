"""`send-email` sends a mail at most once. A refusal and an unknown outcome are on record."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.platform.mail import send_email_delayed
from app.switchyard.errors import PayloadInvalid
from app.switchyard.runs import operate
from app.switchyard.runs.store import Run
from app.switchyard.runtime import install
from tests.support.mailbox import DROP, Mailbox
from tests.support.sides import Fixed, Side, decide_by, in_memory

JOBS = "app.platform.mail.jobs,tests.support.jobs"
DATA = {"name": "Ana"}


@pytest.fixture
def on(box: Mailbox, tmp_path: Path) -> Iterator[Side]:
    more = {"SWITCHYARD_JOBS": JOBS, "MAIL_FROM": "hello@fanhouse.test"}
    more["SMTP_URL"] = f"smtp://127.0.0.1:{box.port}"
    url = f"sqlite:///{tmp_path / 'test.db'}"
    with in_memory(url, **more) as one:
        install(one.runtime)
        decide_by(Fixed("memory"))
        yield one


def welcome(to: str = "ana@example.com", **options: Any) -> Run:
    return send_email_delayed(to, "welcome", DATA, **options)


def test_a_delay_is_kept_however_it_is_asked_for(on: Side) -> None:
    payload = {"to": "b@example.com", "template": "welcome", "data": DATA, "delayMinutes": 0.02}
    runs = [welcome(delay_minutes=0.02), on.dispatch("send-email", payload, delay=1)]
    rows = [on.row(run.id) for run in runs]
    assert [(row.due_at - row.created_at).total_seconds() for row in rows] == [1.2, 2.2]


def test_a_mail_is_sent_to_a_domain_in_any_script(on: Side, box: Mailbox) -> None:
    run = welcome("Ana@Bücher.example", key="k")
    assert welcome("Ana@xn--bcher-kva.example", key="k").id == run.id, "the same intent"
    (row,) = on.finish(run)
    [mail] = box.mails
    assert mail["To"] == "Ana@xn--bcher-kva.example"
    assert mail["Message-ID"] == f"<{run.id}@fanhouse.test>"
    assert mail.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in mail.iter_parts()] == ["text/plain", "text/html"]
    assert "Hello Ana," in mail.get_body(("plain",)).get_content()  # type: ignore[union-attr]
    assert "Hello Ana," in mail.get_body(("html",)).get_content()  # type: ignore[union-attr]
    assert json.loads(row.result) == {"outcome": "sent", "messageId": f"<{run.id}@fanhouse.test>"}
    for wrong in ("Änne@b.example", "a@ü..example", "a@b\u00fc c.example", "a@-ü.example"):
        with pytest.raises(PayloadInvalid, match="must be a mail address"):
            welcome(wrong)


def test_an_unknown_outcome_is_listed_and_never_repeated(on: Side, box: Mailbox) -> None:
    box.answer("DATA", DROP)
    run = welcome()
    for _ in range(2):
        (row,) = on.finish(run)
        assert row.status == "failed"
        assert "step send: outcome unknown: 127.0.0.1: the connection broke" in row.error
        assert on.steps(run.id)["send"].status == "unknown"
        assert len(box.taken) == 1
        operate.retry(on.runtime.store, run.id)


def test_a_refusal_is_not_tried_again_and_marks_nobody(on: Side, box: Mailbox) -> None:
    """The server may refuse a good address for reasons of its own: the next mail to it is sent."""
    box.answer("RCPT", "550 SPF: a.example is not allowed to send mail from b.example")
    run = welcome()
    (row,) = on.finish(run)
    assert row.status == "failed"
    assert "550: SPF: a.example is not allowed to send mail from b.example" in row.error
    assert on.steps(run.id)["send"].attempts == 1
    operate.retry(on.runtime.store, run.id)
    rows = on.finish(run, welcome())
    assert [row.status for row in rows] == ["succeeded"] * 2
    assert len(box.taken) == 2


def test_without_a_server_it_fails_clearly(on: Side) -> None:
    engine = replace(on.runtime.engine, gateways=replace(on.runtime.engine.gateways, mailer=None))
    on.runtime.engine = engine
    (row,) = on.finish(welcome())
    assert row.status == "failed"
    assert "SMTP_URL is not set" in row.error
