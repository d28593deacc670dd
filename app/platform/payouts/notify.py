"""The admins are sent how a pay day or a retry went, by mail and by a webhook."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from typing import Any

from sqlalchemy.orm import Session

from app.platform.currencies import money
from app.platform.mail import admins
from app.platform.mail.render import Letter, render
from app.switchyard.context import Context

Report = Mapping[str, Any]
"""`job` and `runId`, and whatever is known of: payoutDate, totals, failures, failureCount, leftOut,
waitingForFunds, reconciled, ledgerBalanced, and `stopped`, where a run got no further and why.
Amounts are minor units."""
Step = Callable[[Session, Context, Report], dict[str, Any]]
MAX_FAILURES = 50
"""Of those named in a mail; the others are counted."""
EVENT = "payouts.reported"
"""The webhook's type."""
_TITLES = {"process-payouts": "Pay day", "retry-failed-payouts": "Retry of failed payouts"}
_RETRY = "the daily retry (10:00 UTC)"


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
    day, stopped, run = report.get("payoutDate"), report.get("stopped"), report["runId"]
    job = str(report["job"])
    title = _TITLES.get(job, job)
    if day is not None:
        title += f" {day}" if job == "process-payouts" else f" of {day}"
    how = "is done." if stopped is None else f"has stopped: {_line(stopped)}"
    blocks = [{"heading": heading, "lines": list(lines)} for heading, lines in _blocks(report)]
    to_do = [f"- {step}" for step in _to_do(report)] or ["nothing"]
    data = {
        "title": f"{title}: {', '.join(_wrong(report)) or 'done'}",
        "lead": f"{title} (run {run}) {how}",
        "blocks": [*blocks, {"heading": "What to do", "lines": to_do}],
    }
    return render("admin-summary", data, platform=platform)


def _wrong(report: Report) -> Iterator[str]:
    """What is not as it should be, in the subject's words."""
    if report.get("stopped") is not None:
        yield "stopped"
    if report.get("ledgerBalanced") is False:
        yield "the books do not balance"
    if _differs(report):
        yield "Stripe and the books differ"
    if report.get("failureCount"):
        yield f"{report['failureCount']:,} failed"
    if _waiting(report):
        yield "waiting for funds"


def _to_do(report: Report) -> Iterator[str]:
    stopped, unbalanced = report.get("stopped"), report.get("ledgerBalanced") is False
    if stopped is not None:
        run = report["runId"]
        yield f"Put right what stopped it. How it stands: flask --app app runs show {run}"
    if unbalanced:
        yield "Pay nobody until the entry that is wrong is found and countered."
    if unbalanced or _differs(report):
        yield "Each difference, and what to do about it: flask --app app payouts reconcile"
    elif report.get("reconciled") is None and stopped is None:
        yield "Compare the books with Stripe: flask --app app payouts reconcile"
    if _waiting(report):
        yield f"Top up the platform's balance at Stripe by what waits; {_RETRY} then pays it."
    if report.get("failureCount"):
        again = f"T{_RETRY[1:]} tries again what may pass; the rest needs a person."
        yield f"What became of a payout: flask --app app payouts show ID. {again}"


def _blocks(report: Report) -> Iterator[tuple[str, Iterator[str] | list[str]]]:
    """Headings and lines of what is known."""
    if report.get("totals") is not None:
        yield "Payouts", _totals(report["totals"])
    if report.get("failures") is not None:
        yield "Failures", _failures(report)
    if report.get("leftOut") is not None:
        yield "Left out", _counts(report["leftOut"])
    if report.get("waitingForFunds") is not None:
        yield "Waiting for funds", _waiting(report)
    if (both := report.get("reconciled")) is not None:
        how = "agreed" if both["ok"] else "differences"
        line = f"{how}: {both['payouts']:,} in the books, {both['transfers']:,} at Stripe"
        yield "Reconciliation with Stripe", [line, *_counts(both["differences"])]
    if (balanced := report.get("ledgerBalanced")) is not None:
        yield "Books", ["balanced" if balanced else "NOT balanced"]


def _totals(totals: list[dict[str, Any]]) -> list[str]:
    rows = [
        (_words(one["status"]), f"{one['count']:,}", money(one["amount"], one["currency"]))
        for one in totals
    ]
    first, second, third = ([len(row[n]) for row in rows] for n in range(3))
    return [
        f"{status:<{max(first)}}  {count:>{max(second)}}  {amount:>{max(third)}}"
        for status, count, amount in rows
    ]


def _failures(report: Report) -> Iterator[str]:
    shown = report["failures"][:MAX_FAILURES]
    for one in shown:
        what = f"{_line(one['payoutId'])}, creator {_line(one['creatorId'])}"
        why = _line(one["reason"] or "no reason on record")
        yield f"{what}, {money(one['amount'], one['currency'])}: {why}"
    if (more := (report.get("failureCount") or 0) - len(shown)) > 0:
        yield f"and {more:,} more"


def _differs(report: Report) -> bool:
    return report.get("reconciled") is not None and not report["reconciled"]["ok"]


def _waiting(report: Report) -> list[str]:
    waiting: Mapping[str, int] = report.get("waitingForFunds") or {}
    return [money(amount, currency) for currency, amount in sorted(waiting.items()) if amount]


def _counts(counts: Mapping[str, int]) -> list[str]:
    return [f"{_words(name)}: {count:,}" for name, count in sorted(counts.items()) if count]


def _words(name: str) -> str:
    return _line(name.replace("_", " "))


def _line(text: str) -> str:
    """On one line: a name from outside must not look like a line of the mail."""
    return " ".join(text.split())
