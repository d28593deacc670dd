"""Creators get one mail for what happened, and a link that opens one statement."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from itsdangerous import URLSafeTimedSerializer
from itsdangerous.timed import TimestampSigner
from pydantic import SecretStr

from app.platform.statements import links
from app.switchyard.dispatch import dispatch
from app.switchyard.runs.models import RunRow
from tests.support.mailbox import Mailbox
from tests.support.platform import Platform
from tests.support.site import Site, refused

SECRET = "0123456789abcdef-secret"


def mailing(box: Mailbox) -> dict[str, Any]:
    """The settings that name a mail server."""
    server = SecretStr(f"smtp://127.0.0.1:{box.port}")
    return {"smtp_url": server, "mail_from": "hello@fanhouse.test"}


@pytest.fixture
def mailed(tmp_path: Path, box: Mailbox) -> Iterator[Platform]:
    with closing(Platform(f"sqlite:///{tmp_path / 'test.db'}", **mailing(box))) as made:
        yield made


def test_a_creator_is_notified_once_of_each_refusal_and_once_paid(
    mailed: Platform, box: Mailbox
) -> None:
    mailed.creator()
    for _ in range(2):
        mailed.fault("refuse", path="/v1/payouts", code="payouts_not_allowed")
        mailed.paid() if not mailed.payouts() else mailed.result("retry-failed-payouts")
        mailed.drain()
        mailed.now += timedelta(minutes=1)
    (mail,) = box.mails
    assert mail["Subject"] == "Your payout of 100.00 USD did not go through"
    assert "payouts_not_allowed" in mail.get_body(("plain",)).get_content()  # type: ignore[union-attr]
    mailed.result("retry-failed-payouts")
    mailed.drain()
    assert len(box.taken) == 1, "it is not at the bank yet"
    for _ in range(2):
        mailed.settle()
        mailed.drain()
    _, paid = box.mails
    assert paid["To"] == "ana@example.com"
    assert paid["Subject"] == "Your payout of 100.00 USD was paid"
    mailed.check()


@pytest.mark.parametrize("change", [{"email": "nobody"}, {"name": "Ana\nBcc: x@y.z"}])
def test_who_cannot_be_notified_is_paid_all_the_same(
    mailed: Platform, box: Mailbox, change: dict[str, Any]
) -> None:
    mailed.creator(**change)
    mailed.paid()
    mailed.settle()
    assert mailed.statuses() == ["paid"]
    assert mailed.count(RunRow, RunRow.job == "send-email") == 0
    assert box.taken == []


# Statements


@pytest.fixture
def site(tmp_path: Path, box: Mailbox) -> Iterator[Site]:
    made = Site(
        f"sqlite:///{tmp_path / 'test.db'}",
        secret_key=SecretStr(SECRET),
        admin_token=SecretStr("an-admin-token-of-32-characters!"),
        storage_url=(tmp_path / "storage").as_uri(),
        backend_url="https://fanhouse.test/",
        **mailing(box),
    )
    yield made
    made.db.dispose()


def monthly(site: Site, key: str) -> None:
    dispatch("monthly-earnings-rollup", {"targetMonth": "2025-02"}, key=key)
    for _ in range(20):
        site.work()


def linked(box: Mailbox, number: int = 0) -> str:
    text = box.mails[number].get_body(("plain",)).get_content()  # type: ignore[union-attr]
    (url,) = [line for line in text.split() if line.startswith("https://fanhouse.test/statements/")]
    return str(url).removeprefix("https://fanhouse.test")


def test_statements_are_mailed_by_a_link_that_opens_one(site: Site, box: Mailbox) -> None:
    monthly(site, "first")
    assert sorted(str(mail["To"]) for mail in box.mails) == ["ana@example.com"] * 2
    urls = [linked(box, number) for number in (0, 1)]
    client = site.app.test_client()
    opened = [client.get(url) for url in urls]
    assert [(one.status_code, one.data[:5]) for one in opened] == [(200, b"%PDF-")] * 2
    assert {one.headers["Content-Disposition"] for one in opened} == {
        f'attachment; filename="statement-{name}-2025-02.pdf"' for name in ("ana", "bob")
    }
    assert opened[0].headers["Cache-Control"] == "private, no-store"
    token = urls[0].removeprefix("/statements/")
    console = URLSafeTimedSerializer(SECRET, salt="console").dumps("ana:2025-02")
    for wrong in ("x", "ana:2025-02", token[:-1], token + "A", console):
        refused(client.get(f"/statements/{wrong}"), 401, "opens nothing")
    stamp = TimestampSigner.get_timestamp
    for seconds, status in ((-60, 200), (60, 401)):
        later = lambda self, by=seconds: stamp(self) + links.LINK_SECONDS + by  # noqa: E731
        with patch.object(TimestampSigner, "get_timestamp", later):
            assert client.get(urls[0]).status_code == status
    none = URLSafeTimedSerializer(SECRET, salt="statement-link").dumps("ana:2025-01")
    refused(client.get(f"/statements/{none}"), 401, "opens nothing")


def test_without_a_secret_key_links_are_for_this_machine_or_not_made(
    tmp_path: Path, box: Mailbox
) -> None:
    same: dict[str, Any] = {
        "storage_url": (tmp_path / "storage").as_uri(),
        "backend_url": "https://fanhouse.test/",
        **mailing(box),
    }
    here = Site(f"sqlite:///{tmp_path / 'here.db'}", **same)
    monthly(here, "first")
    url, client = linked(box), here.app.test_client()
    assert client.get(url).status_code == 200
    refused(client.get(url, environ_base={"REMOTE_ADDR": "203.0.113.9"}), 401, "SECRET_KEY")
    here.db.dispose()
    live = Site(f"sqlite:///{tmp_path / 'live.db'}", stripe_api_key=SecretStr("sk_test_x"), **same)
    monthly(live, "first")
    assert live.count(RunRow, RunRow.job == "send-email") == 0
    live.db.dispose()
