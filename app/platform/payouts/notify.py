"""Telling the admin how a pay day or a retry went, by mail and by a webhook."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

from sqlalchemy.orm import Session

from app.platform.currencies import money
from app.platform.mail import admins
from app.platform.mail.render import Letter, render
from app.switchyard.context import Context

Report = Mapping[str, Any]
Step = Callable[[Session, Context, Report], dict[str, Any]]
"""`job` and `runId`, and whatever is known of: payoutDate, totals, failures, failureCount, leftOut,
waitingForFunds, reconciled, ledgerBalanced, and `stopped`, where a run got no further and why.
Amounts are minor units."""
_UNKNOWN = dict.fromkeys(
    [
        *("payoutDate", "totals", "failures", "failureCount", "leftOut", "waitingForFunds"),
        *("reconciled", "ledgerBalanced", "stopped"),
    ]
)
MAX_FAILURES = 50
"""Of those named in a mail; the others are counted."""
EVENT = "payouts.reported"
"""The webhook's type."""
_TITLES: Mapping[str, str] = {
    "process-payouts": "Pay day",
    "retry-failed-payouts": "Retry of failed payouts",
}


def ways(ctx: Context) -> list[tuple[str, Step]]:
    """The ways that are set up, each as a step of its own: one that is not costs no step."""
    given = ctx.gateways
    mailed = given.mailer is not None and given.admin.email is not None
    steps: list[tuple[str, Step]] = [("notify-mail", mail)] if mailed else []
    return [*steps, ("notify-hook", hook)] if given.admin.hook is not None else steps


def mail(_tx: Session, ctx: Context, report: Report) -> dict[str, Any]:
    """Mail the summary to the admin, as a step; see app.platform.mail.admins."""
    letter = summary_mail(report, ctx.gateways.platform)
    return admins.mail(ctx, _name(report), **letter._asdict())


def hook(_tx: Session, ctx: Context, report: Report) -> dict[str, Any]:
    """Post the report to the admin's webhook, as a step; see app.platform.mail.admins."""
    return admins.post(ctx, _name(report), EVENT, report)


def _name(report: Report) -> str:
    """The same for the same report: a run may have one on its way and one at its end."""
    text = json.dumps(report, sort_keys=True, separators=(",", ":"))
    return f"{report['runId']}_{sha256(text.encode()).hexdigest()[:12]}"


def summary_mail(report: Report, platform: str) -> Letter:
    """The mail for a person who has to know whether anything is to be done."""
    known: Report = {**_UNKNOWN, **report}
    title = _title(known)
    how = "is done." if known["stopped"] is None else f"has stopped: {_line(known['stopped'])}"
    blocks = [
        {"heading": heading, "lines": lines(known)}
        for name, heading, lines in _BLOCKS
        if known[name] is not None
    ]
    to_do = [f"- {step}" for step in _to_do(known)] or ["nothing"]
    data = {
        "title": f"{title}: {', '.join(_findings(known)) or 'done'}",
        "lead": f"{title} (run {known['runId']}) {how}",
        "blocks": [*blocks, {"heading": "What to do", "lines": to_do}],
    }
    return render("admin-summary", data, platform=platform)


def _title(known: Report) -> str:
    title, day = _TITLES.get(known["job"], known["job"]), known["payoutDate"]
    if day is None:
        return title
    return f"{title} {day}" if known["job"] == "process-payouts" else f"{title} of {day}"


def _findings(known: Report) -> Iterator[str]:
    """What is not as it should be, in the subject's words."""
    if known["stopped"] is not None:
        yield "stopped"
    if known["ledgerBalanced"] is False:
        yield "the books do not balance"
    if _differs(known):
        yield "Stripe and the books differ"
    if known["failureCount"]:
        yield f"{known['failureCount']:,} failed"
    if _amounts(known):
        yield "waiting for funds"


def _to_do(known: Report) -> Iterator[str]:
    if known["stopped"] is not None:
        run = known["runId"]
        yield f"Put right what stopped it. How it stands: flask --app app runs show {run}"
    if known["ledgerBalanced"] is False:
        yield "Pay nobody until the entry that is wrong is found and countered."
    if known["ledgerBalanced"] is False or _differs(known):
        yield "Each difference, and what to do about it: flask --app app payouts reconcile"
    elif known["reconciled"] is None and known["stopped"] is None:
        yield "Compare the books with Stripe: flask --app app payouts reconcile"
    if _amounts(known):
        yield (
            "Top up the platform's balance at Stripe by what waits;"
            " the daily retry (10:00 UTC) then pays it."
        )
    if known["failureCount"]:
        yield (
            "What became of a payout: flask --app app payouts show ID. The daily retry (10:00 UTC)"
            " tries again what may pass; the rest needs a person."
        )


def _differs(known: Report) -> bool:
    return known["reconciled"] is not None and not known["reconciled"]["ok"]


def _totals(known: Report) -> list[str]:
    rows = [
        (_words(one["status"]), f"{one['count']:,}", money(one["amount"], one["currency"]))
        for one in known["totals"]
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        f"{status:<{widths[0]}}  {count:>{widths[1]}}  {amount:>{widths[2]}}"
        for status, count, amount in rows
    ]


def _failures(known: Report) -> list[str]:
    shown = known["failures"][:MAX_FAILURES]
    lines = [
        f"{_line(one['payoutId'])}, creator {_line(one['creatorId'])},"
        f" {money(one['amount'], one['currency'])}: {_line(one['reason'] or 'no reason on record')}"
        for one in shown
    ]
    more = (known["failureCount"] or 0) - len(shown)
    return [*lines, f"and {more:,} more"] if more > 0 else lines


def _left_out(known: Report) -> list[str]:
    return _counts(known["leftOut"])


def _amounts(known: Report) -> list[str]:
    waiting: Mapping[str, int] = known["waitingForFunds"] or {}
    return [money(amount, currency) for currency, amount in sorted(waiting.items()) if amount]


def _reconciled(known: Report) -> list[str]:
    found = known["reconciled"]
    compared = f"{found['payouts']:,} in the books, {found['transfers']:,} at Stripe"
    if found["ok"]:
        return [f"agreed: {compared}"]
    return [f"differences: {compared}", *_counts(found["differences"])]


def _books(known: Report) -> list[str]:
    return ["balanced" if known["ledgerBalanced"] else "NOT balanced"]


_BLOCKS: Sequence[tuple[str, str, Callable[[Report], Sequence[str]]]] = (
    ("totals", "Payouts", _totals),
    ("failures", "Failures", _failures),
    ("leftOut", "Left out", _left_out),
    ("waitingForFunds", "Waiting for funds", _amounts),
    ("reconciled", "Reconciliation with Stripe", _reconciled),
    ("ledgerBalanced", "Books", _books),
)


def _counts(counts: Mapping[str, int]) -> list[str]:
    return [f"{_words(name)}: {count:,}" for name, count in sorted(counts.items()) if count]


def _words(name: str) -> str:
    return _line(name.replace("_", " "))


def _line(text: str) -> str:
    """On one line: a name from outside must not look like a line of the mail."""
    return " ".join(text.split())
