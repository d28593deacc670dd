"""Creators are mailed a link that opens one statement, in the transaction in which it is made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from itsdangerous import URLSafeTimedSerializer
from itsdangerous.timed import TimestampSigner
from pydantic import SecretStr
from sqlalchemy import select

from app.platform.gateways.address import SmtpServer
from app.platform.gateways.smtp import Mailer
from app.platform.statements import links
from app.switchyard import runtime
from app.switchyard.dispatch import dispatch
from app.switchyard.runs.models import RunRow
from tests.support.mailbox import Mailbox, served
from tests.support.site import Site, refused

SECRET = "0123456789abcdef-secret"


@pytest.fixture
def box() -> Iterator[Mailbox]:
    with served() as made:
        yield made


def mailing(made: runtime.Runtime, server: SmtpServer) -> runtime.Runtime:
    """The same with a mail server, installed."""
    gateways = replace(made.engine.gateways, mailer=Mailer(server, "hello@fanhouse.test"))
    changed = replace(made, engine=replace(made.engine, gateways=gateways))
    runtime.install(changed)
    return changed


def mail_runs(made: Any) -> list[Any]:
    with made.db.autocommit() as connection:
        chosen = select(RunRow.__table__).where(RunRow.job == "send-email")
        return list(connection.execute(chosen.order_by(RunRow.id)))


# Statements


@pytest.fixture
def site(database_url: str, tmp_path: Path, box: Mailbox) -> Iterator[Site]:
    made = Site(
        database_url,
        secret_key=SecretStr(SECRET),
        admin_token=SecretStr("an-admin-token-of-32-characters!"),
        storage_url=(tmp_path / "storage").as_uri(),
        backend_url="https://fanhouse.test/",
    )
    made.made = mailing(made.made, box.server())
    yield made
    made.db.dispose()


def monthly(site: Site, key: str) -> None:
    run = runtime.current()
    dispatch("monthly-earnings-rollup", {"targetMonth": "2025-02"}, key=key)
    for _ in range(20):
        site.queue.work(run.engine)


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
    none = links.link(site.settings, "ana:2025-01") or ""
    refused(client.get(none.removeprefix("https://fanhouse.test")), 401, "opens nothing")


def test_without_a_secret_key_links_are_for_this_machine_or_not_made(
    database_url: str, tmp_path: Path, box: Mailbox
) -> None:
    same: dict[str, Any] = {
        "storage_url": (tmp_path / "storage").as_uri(),
        "backend_url": "https://fanhouse.test/",
    }
    here = Site(database_url, **same)
    mailing(here.made, box.server())
    monthly(here, "first")
    url, client = linked(box), here.app.test_client()
    assert client.get(url).status_code == 200
    refused(client.get(url, environ_base={"REMOTE_ADDR": "203.0.113.9"}), 401, "SECRET_KEY")
    here.db.dispose()
    live = Site(f"sqlite:///{tmp_path / 'live.db'}", stripe_api_key=SecretStr("sk_test_x"), **same)
    mailing(live.made, box.server())
    monthly(live, "first")
    assert mail_runs(live) == []
    live.db.dispose()
