"""`payouts reconcile|show`: the payouts, and the ledger against Stripe."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import click
from sqlalchemy import select

from app.platform.payouts.models import Payout as P
from app.platform.payouts.models import PayoutAttempt as A
from app.platform.payouts.models import PayoutStatus
from app.platform.payouts.reconcile import WINDOW, reconcile
from app.switchyard.clock import iso
from app.switchyard.commands.output import (
    DID_NOT_HOLD,
    Commands,
    details,
    document,
    json_option,
    listing,
    parts,
    say,
    table,
)
from app.switchyard.errors import BadInput

_COLUMNS = (
    *(P.id, P.creator_id.label("creator"), P.amount, P.currency, P.destination, P.status),
    *(P.reason, P.method, P.payout_date, P.run_id.label("run"), P.transfer_id, P.bank_payout_id),
    *(P.requested_at, P.updated_at, P.settled_at),
)
_ATTEMPT = (
    *(A.key, A.leg, A.n, A.outcome, A.code, A.message, A.object_id, A.first_sent_at),
    A.updated_at,
)

group = Commands("payouts", help="Payouts, and the ledger against Stripe.")


@group.command("reconcile")
@click.option(
    "--since",
    type=click.IntRange(1, 36_500),
    default=WINDOW.days,
    show_default=True,
    metavar="DAYS",
    help="How far back payouts and transfers are compared.",
)
@json_option
def reconcile_payouts(since: int, as_json: bool) -> None:
    """Compare the ledger with Stripe's own list, both ways; 1 where they differ."""
    made = parts()
    now = made.store.clock()
    stripe = made.engine.gateways.stripe
    found = reconcile(made.db.session, stripe, now, now - timedelta(days=since))
    if as_json:
        document(found.document())
    else:
        table(
            ("kind", "payout", "transfer", "detail", "what to do"),
            ((d.kind, d.payout_id, d.transfer_id, d.detail, d.fix) for d in found.differences),
        )
        say(
            f"{found.payouts} payouts and {found.transfers} transfers compared,"
            f" {len(found.differences)} differences"
        )
    if not found.ok:
        raise click.exceptions.Exit(DID_NOT_HOLD)


@group.command("show")
@click.argument("payout_id", metavar="[ID]", required=False)
@click.option("--status", type=click.Choice([str(status) for status in PayoutStatus]))
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
@json_option
def show(payout_id: str | None, status: str | None, limit: int, as_json: bool) -> None:
    """One payout with its attempts, or the newest payouts (of a status)."""
    if payout_id is not None and status is not None:
        raise BadInput("give an ID or --status, not both")
    if payout_id is not None:
        _show_one(payout_id, as_json)
        return
    chosen = select(*_COLUMNS).order_by(P.requested_at.desc(), P.id).limit(limit)
    if status is not None:
        chosen = chosen.where(P.status == status)
    with parts().db.autocommit() as connection:
        rows = [_as_json(row._asdict()) for row in connection.execute(chosen)]
    shown = ("id", "status", "amount", "currency", "reason", "transfer_id", "requested_at")
    listing(rows, shown, as_json, one_line=True)


def _show_one(payout_id: str, as_json: bool) -> None:
    with parts().db.autocommit() as connection:
        row = connection.execute(select(*_COLUMNS).where(P.id == payout_id)).one_or_none()
        if row is None:
            raise BadInput(f"no payout {payout_id!r}")
        tries = connection.execute(
            select(*_ATTEMPT).where(A.payout_id == payout_id).order_by(A.first_sent_at, A.n)
        )
        attempts = [_as_json(attempt._asdict()) for attempt in tries]
    payout = _as_json(row._asdict())
    if as_json:
        document(payout | {"attempts": attempts})
        return
    details(payout.items())
    if attempts:
        table(list(attempts[0]), (list(attempt.values()) for attempt in attempts))


def _as_json(row: Mapping[str, Any]) -> dict[str, Any]:
    times = {name: iso(value) for name, value in row.items() if name.endswith("_at")}
    day = row.get("payout_date")
    dates = {} if day is None else {"payout_date": day.isoformat()}
    return {**row, **times, **dates}
