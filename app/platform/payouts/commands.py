"""The commands `payouts reconcile` and `payouts show`."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import click
from sqlalchemy import String, cast, select

from app.platform.payouts.models import Payout as P
from app.platform.payouts.models import PayoutAttempt as A
from app.platform.payouts.models import PayoutStatus
from app.platform.payouts.reconcile import WINDOW, reconcile
from app.switchyard.commands import output
from app.switchyard.db import Database
from app.switchyard.errors import BadInput
from app.switchyard.words import plural

_DAY = cast(P.payout_date, String).label("payout_date")
_COLUMNS = (
    *(P.id, P.creator_id.label("creator"), P.amount, P.currency, P.destination, P.status),
    *(P.reason, P.method, _DAY, P.run_id.label("run"), P.transfer_id, P.bank_payout_id),
    *(P.requested_at, P.updated_at, P.settled_at),
)
_ATTEMPT = (
    *(A.key, A.leg, A.n, A.outcome, A.code, A.message, A.object_id, A.first_sent_at),
    A.updated_at,
)

group = output.Commands("payouts", help="Show payouts, and compare the ledger with Stripe.")


@group.command("reconcile")
@click.option(
    "--since",
    type=click.IntRange(1, 36_500),
    default=WINDOW.days,
    show_default=True,
    metavar="DAYS",
    help="How far back payouts and transfers are compared.",
)
def reconcile_payouts(since: int) -> None:
    """Compare the ledger with Stripe's own lists, both ways.

    Exits with 1 if they differ.
    """
    runtime = output.parts()
    now, stripe = runtime.store.clock(), runtime.engine.gateways.stripe
    both = reconcile(runtime.db.session, stripe, now, now - timedelta(days=since))
    if not output.answered(both.document()):
        output.table(
            ("kind", "payout", "transfer", "detail", "what to do"),
            ((d.kind, d.payout_id, d.transfer_id, d.detail, d.fix) for d in both.differences),
        )
        seen = f"{plural(both.payouts, 'payout')} and {plural(both.transfers, 'transfer')} compared"
        output.say(f"{seen}, {plural(len(both.differences), 'difference')}")
    if not both.ok:
        raise click.exceptions.Exit(output.DID_NOT_HOLD)


@group.command("show")
@click.argument("payout_id", metavar="[ID]", required=False)
@click.option(
    "--status", type=click.Choice([*map(str, PayoutStatus)]), help="Only payouts in this status."
)
@click.option(
    "--limit",
    type=click.IntRange(1, 100_000),
    default=50,
    show_default=True,
    help="The most payouts to show.",
)
def show(payout_id: str | None, status: str | None, limit: int) -> None:
    """Show one payout with its attempts, or the newest payouts."""
    if payout_id is not None and status is not None:
        raise BadInput("give an ID or --status, not both")
    db = output.parts().db
    if payout_id is None:
        shown = ("id", "status", "amount", "currency", "reason", "transfer_id", "requested_at")
        output.listing(newest(db, status, limit), shown, one_line=True)
        return
    chosen = select(*_COLUMNS).where(P.id == payout_id)
    tries = select(*_ATTEMPT).where(A.payout_id == payout_id).order_by(A.first_sent_at, A.n)
    rows, attempts = ([row._asdict() for row in db.rows(read)] for read in (chosen, tries))
    if not rows:
        raise BadInput(f"no payout {payout_id!r}")
    if not output.answered(rows[0] | {"attempts": attempts}):
        output.details(rows[0])
        output.table([column.key for column in _ATTEMPT], ([*one.values()] for one in attempts))


def newest(db: Database, status: str | None, limit: int) -> list[dict[str, Any]]:
    """The newest payouts, or the newest of those in `status`."""
    chosen = select(*_COLUMNS).order_by(P.requested_at.desc(), P.id.desc()).limit(limit)
    if status is not None:
        chosen = chosen.where(P.status == status)
    return [row._asdict() for row in db.rows(chosen)]
