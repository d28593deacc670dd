"""The admin is notified how a pay day went; a notice that fails neither fails nor repeats it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import closing
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from app.platform.currencies import money
from app.platform.ledger.postings import EntryKind, Posting, post
from app.platform.mail import admins
from app.platform.payouts import notify
from app.switchyard.dispatch import dispatch
from app.switchyard.runs.models import StepRow
from tests.support.mailbox import DROP, Mailbox
from tests.support.platform import START, Platform
from tests.support.receiver import Receiver, signature

KEY = bytes(range(32))
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"
FAILED: dict[str, Any] = {
    "payoutId": "2025-01-15:ana:jpy",
    "creatorId": "ana",
    "currency": "jpy",
    "amount": 3_000,
    "reason": "account_closed",
}
TWICE = {"ok": False, "payouts": 2, "transfers": 3, "differences": {"paid_twice": 1}}
REPORT: dict[str, Any] = {
    "job": "process-payouts",
    "runId": "0123abcd",
    "payoutDate": "2025-01-15",
    "totals": [
        {"status": "in_transit", "currency": "usd", "count": 1_200, "amount": 123_456_789},
        {"status": "bank_failed", "currency": "jpy", "count": 1, "amount": 3_000},
    ],
    "failures": [FAILED],
    "failureCount": 1,
    "leftOut": {"no_account": 2, "below_minimum": 3},
    "waitingForFunds": {"kwd": 5_120, "usd": 0},
    "reconciled": {"ok": True, "payouts": 1_201, "transfers": 1_201, "differences": {}},
    "stopped": None,
    "ledgerBalanced": True,
}
WELL = REPORT | {"failures": [], "failureCount": 0, "leftOut": {}, "waitingForFunds": {}}


def reporting(folder: Path, **settings: Any) -> Platform:
    """A platform that notifies its admin where the settings name one."""
    made = Platform(f"sqlite:///{folder / 'test.db'}", **settings)
    made.creator()
    return made


@pytest.fixture
def platform(box: Mailbox, receiver: Receiver, tmp_path: Path) -> Iterator[Platform]:
    made = reporting(
        tmp_path,
        smtp_url=SecretStr(f"smtp://127.0.0.1:{box.port}"),
        mail_from="pay@switchyard.example",
        admin_email="admin@example.com",
        admin_webhook_url=SecretStr(receiver.address),
        admin_webhook_secret=SecretStr(SECRET),
    )
    with closing(made):
        yield made


def to_admin(box: Mailbox) -> list[EmailMessage]:
    return [mail for mail in box.mails if mail["To"] == "admin@example.com"]


def summary_mail(report: dict[str, Any]) -> tuple[str, str]:
    """Subject and text."""
    return notify.summary_mail(report, "Switchyard")[:2]


def body(mail: EmailMessage) -> str:
    text = mail.get_body(("plain",))
    assert text is not None
    return str(text.get_content()).replace("\r\n", "\n")


def test_both_ways_say_the_same(platform: Platform, box: Mailbox, receiver: Receiver) -> None:
    platform.pay_day()
    [mail] = to_admin(box)
    [(_, headers, sent)] = receiver.got
    said = json.loads(sent)
    assert (said["type"], said["timestamp"]) == ("payouts.reported", "2025-01-15T09:00:00.000Z")
    total = {"status": "in_transit", "currency": "usd", "count": 1, "amount": 50_000}
    assert said["data"].keys() >= REPORT.keys() - {"stopped"}
    assert (said["data"]["totals"], said["data"]["reconciled"]["ok"]) == ([total], True)
    assert (str(mail["Subject"]), body(mail)) == summary_mail(said["data"])
    assert mail["From"] == "pay@switchyard.example"
    assert mail["Date"].datetime == START
    assert mail["Message-ID"] == f"<{headers['webhook-id']}@switchyard.example>"
    assert headers["webhook-id"].startswith(said["data"]["runId"])
    signed = f"{headers['webhook-id']}.{int(START.timestamp())}.".encode() + sent
    assert headers["webhook-signature"] == signature(KEY, signed)


def test_a_pay_day_that_stops_or_waits_or_is_retried_says_so(
    platform: Platform, box: Mailbox
) -> None:
    platform.creator("bob", funded=False)
    dispatch("process-payouts", {"payoutDate": "2025-01-15"})
    platform.work()
    platform.stand.top_up(50_000)
    platform.fault("refuse", code="transfers_not_allowed")
    platform.drain()
    platform.again()
    with platform.db.begin() as tx:
        post(tx, [Posting(EntryKind.EARNING, "x", "platform:x", "creator:ana", "usd", 5, START)])
    dispatch("process-payouts", {"payoutDate": "2025-02-01"})
    platform.drain()
    assert [mail["Subject"] for mail in to_admin(box)] == [
        "Pay day 2025-01-15: stopped",
        "Pay day 2025-01-15: 1 failed",
        "Retry of failed payouts: done",
        "Pay day 2025-02-01: stopped",
    ]
    whys = [body(mail).partition("stopped: ")[2].partition(":")[0] for mail in to_admin(box)]
    assert whys == ["the platform's balance is too low", "", "", "step plan"]


AT = "127.0.0.1"
TROUBLES: dict[str, tuple[str, list[str], int, list[str], int, int]] = {
    "refused": (
        *("RCPT", ["550 unknown user"], 410),
        [f"refused: {AT} answered 550: unknown user", f"refused: {AT} answered 410"],
        *(0, 1),
    ),
    "unknown": (
        *("DATA", [DROP], 503),
        [f"unknown, not sent again: {AT}: the co", f"HookUnavailable: {AT} answered 503"],
        *(1, 5),
    ),
    "busy": ("RCPT", ["421 busy", "451 later"], 200, [], 1, 1),
}
"""What the mail server and the receiver answer; why either was not sent, and how often they were
called for it."""


@pytest.mark.parametrize("name", TROUBLES)
def test_a_notice_that_fails_neither_fails_nor_repeats_the_pay_day(
    platform: Platform, box: Mailbox, receiver: Receiver, caplog: Any, name: str
) -> None:
    verb, answers, receiver.status, whys, mails, hooks = TROUBLES[name]
    box.answer(verb, *answers)
    platform.pay_day()
    assert (len(to_admin(box)), len(receiver.got)) == (mails, hooks)
    warned = [record.getMessage() for record in caplog.records if record.name == admins.__name__]
    for way, why, said in zip(("mail", "webhook"), whys, warned, strict=False):
        assert said.startswith(f"the admin's {way} was not sent: {why}")
    assert len(warned) == len(whys)
    platform.check()


@pytest.mark.parametrize(
    ("amount", "currency", "written"),
    [
        (123_456_789, "usd", "1,234,567.89 USD"),
        (5, "eur", "0.05 EUR"),
        (0, "usd", "0.00 USD"),
        (-250, "usd", "-2.50 USD"),
        (3_000, "jpy", "3,000 JPY"),
        (1, "krw", "1 KRW"),
        (5_120, "kwd", "5.120 KWD"),
        (10, "BHD", "0.010 BHD"),
        (500, "ugx", "5.00 UGX"),
        (9_007_199_254_740_993, "usd", "90,071,992,547,409.93 USD"),
    ],
)
def test_money_is_written_in_major_units(amount: int, currency: str, written: str) -> None:
    assert money(amount, currency) == written


def test_the_summary_says_it_all() -> None:
    subject, text = summary_mail(REPORT)
    assert subject == "Pay day 2025-01-15: 1 failed, waiting for funds"
    assert text == (
        "Pay day 2025-01-15 (run 0123abcd) is done.\n\n"
        "Payouts\n"
        "  in transit     1,200     1,234,567.89 USD\n"
        "  bank failed        1            3,000 JPY\n\n"
        "Failures\n"
        "  2025-01-15:ana:jpy, creator ana, 3,000 JPY: account_closed\n\n"
        "Left out\n"
        "  below minimum: 3\n"
        "  no account: 2\n\n"
        "Waiting for funds\n"
        "  5.120 KWD\n\n"
        "Reconciliation with Stripe\n"
        "  agreed: 1,201 in the books, 1,201 at Stripe\n\n"
        "Books\n"
        "  balanced\n"
    )


@pytest.mark.parametrize(
    ("change", "subject", "says"),
    [
        (
            {"reconciled": TWICE},
            "Stripe and the books differ",
            "  differences: 2 in the books, 3 at Stripe\n  paid twice: 1\n",
        ),
        ({"ledgerBalanced": False}, "the books do not balance", "Books\n  NOT balanced\n"),
        ({"stopped": "no\nfunds"}, "stopped", "(run 0123abcd) has stopped: no funds\n"),
    ],
)
def test_what_is_wrong_comes_first(change: dict[str, Any], subject: str, says: str) -> None:
    title, text = summary_mail(WELL | change)
    assert title == f"Pay day 2025-01-15: {subject}"
    assert says in text


def test_a_name_from_outside_cannot_add_a_line() -> None:
    forged = FAILED | {"creatorId": "ana\n\nBooks\n  balanced\u2028x"}
    _, text = summary_mail(REPORT | {"failures": [forged], "ledgerBalanced": False})
    assert "creator ana Books balanced x, 3,000 JPY" in text
    assert text.count("balanced\n") == 1


def test_another_report_of_a_run_is_another_message() -> None:
    stopped = REPORT | {"stopped": "no funds"}
    assert notify._name(REPORT) == notify._name(json.loads(json.dumps(REPORT)))
    assert notify._name(REPORT) != notify._name(stopped)


def test_without_settings_nobody_is_notified(tmp_path: Path) -> None:
    with closing(reporting(tmp_path)) as platform:
        platform.pay_day()
        assert platform.count(StepRow, StepRow.name.like("notify-%")) == 0
