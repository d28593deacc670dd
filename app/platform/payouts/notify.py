"""Reports on a pay day or a retry: for its result, and for the admins by mail and webhook."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, cast, func, select
from sqlalchemy.orm import Session

from app.platform.currencies import money
from app.platform.ledger.postings import balanced, trial_balance
from app.platform.mail import admins
from app.platform.mail.render import Letter, line, render
from app.platform.payouts.models import Payout as P
from app.platform.payouts.models import PayoutStatus
from app.switchyard.context import Context

Report = Mapping[str, Any]
"""`job` and `runId`, and what is known of payoutDate, totals, failures, failureCount, leftOut,
waitingForFunds, reconciled, ledgerBalanced and `stopped`, the reason why a run got no further.
Amounts are in minor units."""
FAILURES_SHOWN = 100
"""How many failures are listed. The others are only counted."""
EVENT = "payouts.reported"
"""The webhook's type."""
_FAILED = (PayoutStatus.FAILED, PayoutStatus.BANK_FAILED, PayoutStatus.REVERSED)
_TITLES = {"process-payouts": "Pay day", "retry-failed-payouts": "Retry of failed payouts"}


def standing(tx: Session, which: ColumnElement[bool]) -> dict[str, Any]:
    """The totals by status and currency, in minor units, the first failures, and the books."""
    by, total = (P.status, P.currency), cast(func.sum(P.amount), BigInteger)
    columns = (*by, func.count().label("count"), total.label("amount"))
    rows = tx.execute(select(*columns).where(which).group_by(*by).order_by(*by)).all()
    ids = (P.id.label("payoutId"), P.creator_id.label("creatorId"))
    failed = select(*ids, P.currency, P.amount, P.reason).where(which, P.status.in_(_FAILED))
    failed = failed.order_by(P.id)
    waiting = [row for row in rows if row.status == PayoutStatus.REQUESTED]
    return {
        "totals": [dict(row._mapping) for row in rows],
        "failures": [dict(row._mapping) for row in tx.execute(failed.limit(FAILURES_SHOWN))],
        "failureCount": sum(row._mapping["count"] for row in rows if row.status in _FAILED),
        "waitingForFunds": {row.currency: row.amount for row in waiting},
        "ledgerBalanced": balanced(trial_balance(tx)),
    }


def notify(ctx: Context, known: Report) -> dict[str, Any]:
    """Send the report to the admins; see app.platform.mail.admins."""
    report = {"job": ctx.job, "runId": ctx.run_id, **known}

    def letter() -> dict[str, str]:
        return summary_mail(report, ctx.gateways.platform)._asdict()

    return admins.notify(ctx, _name(report), letter, EVENT, report)


def _name(report: Report) -> str:
    """A name that depends on the content: a run may send a report midway and one at its end."""
    text = json.dumps(report, sort_keys=True, separators=(",", ":"))
    return f"{report['runId']}_{sha256(text.encode()).hexdigest()[:12]}"


def summary_mail(report: Report, platform: str) -> Letter:
    """The mail for an admin, whose subject shows whether there is anything to do."""
    stopped = report.get("stopped")
    title = f"{_TITLES[report['job']]} {report.get('payoutDate', '')}".strip()
    how = "is done." if stopped is None else f"has stopped: {line(stopped)}"
    problems = list(_problems(report))
    blocks = [{"heading": heading, "lines": list(lines)} for heading, lines in _blocks(report)]
    data = {
        "title": f"{title}: {', '.join(problems) or 'done'}",
        "lead": f"{title} (run {report['runId']}) {how}",
        "blocks": blocks,
    }
    return render("admin-summary", data, platform=platform)


def _problems(report: Report) -> Iterator[str]:
    """The problems, worded for the subject."""
    if report.get("stopped") is not None:
        yield "stopped"
    if report.get("ledgerBalanced") is False:
        yield "the books do not balance"
    if not report.get("reconciled", {"ok": True})["ok"]:
        yield "Stripe and the books differ"
    if failed := report.get("failureCount"):
        yield f"{failed:,} failed"
    if _waiting(report):
        yield "waiting for funds"


def _blocks(report: Report) -> Iterator[tuple[str, Iterable[str]]]:
    """The headings and lines of the report."""
    if "totals" in report:
        yield "Payouts", map(_total, report["totals"])
    if "failures" in report:
        yield "Failures", _failures(report)
    if "leftOut" in report:
        yield "Left out", _counts(report["leftOut"])
    if "waitingForFunds" in report:
        yield "Waiting for funds", _waiting(report)
    if "reconciled" in report:
        both = report["reconciled"]
        how = "agreed" if both["ok"] else "differences"
        both_ways = f"{how}: {both['payouts']:,} in the books, {both['transfers']:,} at Stripe"
        yield "Reconciliation with Stripe", [both_ways, *_counts(both["differences"])]
    if "ledgerBalanced" in report:
        yield "Books", ["balanced" if report["ledgerBalanced"] else "NOT balanced"]


def _total(one: Mapping[str, Any]) -> str:
    amount = money(one["amount"], one["currency"])
    return f"{_words(one['status']):<12} {one['count']:>7,} {amount:>20}"


def _failures(report: Report) -> Iterator[str]:
    for one in report["failures"]:
        what = f"{line(one['payoutId'])}, creator {line(one['creatorId'])}"
        why = line(one["reason"] or "no reason on record")
        yield f"{what}, {money(one['amount'], one['currency'])}: {why}"
    if (more := (report.get("failureCount") or 0) - len(report["failures"])) > 0:
        yield f"and {more:,} more"


def _waiting(report: Report) -> list[str]:
    waiting: Mapping[str, int] = report.get("waitingForFunds") or {}
    return [money(amount, currency) for currency, amount in sorted(waiting.items()) if amount]


def _counts(counts: Mapping[str, int]) -> list[str]:
    return [f"{_words(name)}: {count:,}" for name, count in sorted(counts.items()) if count]


def _words(name: str) -> str:
    return line(name.replace("_", " "))
