"""The admin is notified how a pay day went; a notice that fails neither fails nor repeats it."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from app.platform.currencies import money
from app.platform.mail import admins
from app.platform.payouts import notify
from app.switchyard.context import Context
from app.switchyard.dispatch import dispatch
from app.switchyard.job import JobPayload, job
from tests.support.mailbox import DROP, Mailbox
from tests.support.receiver import Receiver, signature
from tests.support.site import START, Site

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


class Report(JobPayload):
    report: dict[str, Any]


@job("notify-test", event="test.notify", payload=Report, queue="tests", gaps=(1.0,), attempts=3)
def send(ctx: Context, payload: Report) -> dict[str, Any]:
    """As the pay day does it."""
    return notify.notify(ctx, payload.report | {"runId": ctx.run_id})


class Platform(Site):
    """That reports to its admin."""

    def send(self, report: dict[str, Any] = REPORT) -> Any:
        run = dispatch("notify-test", {"report": report})
        for _ in range(6):
            self.work()
            self.later(timedelta(seconds=30))
        ended = self.run(run.id)
        assert ended.status == "succeeded"
        return json.loads(ended.result)


@pytest.fixture
def platform(box: Mailbox, receiver: Receiver, tmp_path: Path) -> Platform:
    return Platform(
        f"sqlite:///{tmp_path / 'test.db'}",
        switchyard_jobs=__name__,
        smtp_url=SecretStr(f"smtp://127.0.0.1:{box.port}"),
        mail_from="pay@switchyard.example",
        admin_email="admin@example.com",
        admin_webhook_url=SecretStr(receiver.address),
        admin_webhook_secret=SecretStr(SECRET),
    )


def summary_mail(report: dict[str, Any]) -> tuple[str, str]:
    """Subject and text."""
    return notify.summary_mail(report, "Switchyard")[:2]


def body(mail: EmailMessage) -> str:
    text = mail.get_body(("plain",))
    assert text is not None
    return str(text.get_content()).replace("\r\n", "\n")


def test_both_ways_say_the_same(platform: Platform, box: Mailbox, receiver: Receiver) -> None:
    assert platform.send() == {"mail": {"sent": True}, "webhook": {"sent": True}}
    [mail] = box.mails
    [(_, headers, sent)] = receiver.got
    said = json.loads(sent)
    assert said == {
        "type": "payouts.reported",
        "timestamp": "2025-03-04T12:00:00.000Z",
        "data": REPORT | {"runId": said["data"]["runId"]},
    }
    assert (str(mail["Subject"]), body(mail)) == summary_mail(said["data"])
    assert (mail["From"], mail["To"]) == ("pay@switchyard.example", "admin@example.com")
    assert mail["Date"].datetime == START
    assert mail["Message-ID"] == f"<{headers['webhook-id']}@switchyard.example>"
    assert headers["webhook-id"].startswith(said["data"]["runId"])
    signed = f"{headers['webhook-id']}.{int(START.timestamp())}.".encode() + sent
    assert headers["webhook-signature"] == signature(KEY, signed)


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
        *(1, 3),
    ),
    "busy": ("RCPT", ["421 busy", "451 later"], 200, [], 1, 1),
}
"""What the mail server and the receiver answer; why either was not sent, and how often they were
called for it."""


@pytest.mark.parametrize("name", TROUBLES)
def test_a_notice_that_fails_is_a_result(
    platform: Platform, box: Mailbox, receiver: Receiver, caplog: Any, name: str
) -> None:
    verb, answers, receiver.status, whys, mails, hooks = TROUBLES[name]
    box.answer(verb, *answers)
    ways = platform.send().items()
    assert [name for name, way in ways if way["sent"]] == ([] if whys else ["mail", "webhook"])
    for why, (_, way) in zip(whys, ways, strict=False):
        assert way["why"].startswith(why)
    assert (len(box.taken), len(receiver.got)) == (mails, hooks)
    warned = [record.getMessage() for record in caplog.records if record.name == admins.__name__]
    assert [text.partition(" was not sent")[0] for text in warned] == (
        ["the admin's mail", "the admin's webhook"] if whys else []
    )


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
    off = {"sent": False, "why": "off"}
    platform = Platform(f"sqlite:///{tmp_path / 'test.db'}", switchyard_jobs=__name__)
    assert platform.send() == {"mail": off, "webhook": off}
