"""Copies the state of creators' Stripe accounts into the creators' rows."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.platform.earnings.models import Creator
from app.platform.gateways.stripe import StripeGateway
from app.platform.gateways.stripe_answers import Gates, StripeRefused
from app.switchyard.context import Context
from app.switchyard.errors import NonRetriable, RetryAfter

NOT_AT_STRIPE = "not_at_stripe"
"""The disabled_reason of an account that Stripe does not have, or no longer has."""
GONE = Gates(False, False, NOT_AT_STRIPE, True)


def sync(tx: Session, ctx: Context) -> dict[str, int]:
    """Update every creator's account, as a step.

    Stripe's list is read to its end before `tx` writes, and a row that a webhook has changed since
    is left alone. An account that is not listed may be new, so it is looked up by id before it is
    marked as gone. Returns the counts `accounts`, `changed` and `gone`. Raises NonRetriable where
    Stripe lists none of several accounts: the key is then probably another platform's.
    """
    stripe = ctx.gateways.stripe
    with ctx.transaction() as own:
        known = _known(own)
    there = {account.id: account.gates for account in stripe.list_accounts()}
    unsure = [id_ for id_, was in known.items() if id_ not in there and was != GONE]
    if len(unsure) > 1 and not known.keys() & there.keys():
        raise NonRetriable(
            f"Stripe lists none of the {len(known)} accounts: is STRIPE_API_KEY this platform's?"
        )
    there |= dict(zip(unsure, stripe.each(partial(_asked, stripe), unsure), strict=True))
    now = {id_: there.get(id_, GONE) for id_ in known}
    return {
        "accounts": len(known),
        "changed": sum(_write(tx, id_, was, now[id_]) for id_, was in known.items()),
        "gone": sum(gates == GONE for gates in now.values()),
    }


def refresh(tx: Session, ctx: Context, account_id: str) -> dict[str, Any]:
    """Update one account, as a step. Returns how many `creators` have it, and its gates.

    Raises RetryAfter where the row changed during the call: Stripe's answer may be older.
    """
    with ctx.transaction() as own:
        known = _known(own, account_id)
    gates = _asked(ctx.gateways.stripe, account_id)
    was = known.get(account_id, gates)
    if was != gates and not _write(tx, account_id, was, gates):
        raise RetryAfter(f"{account_id}: it changed during the call", timedelta(seconds=1))
    return {"creators": len(known), **gates._asdict()}


def _known(own: Session, account_id: str | None = None) -> dict[str, Gates]:
    columns = [getattr(Creator, name) for name in Gates._fields]
    known = Creator.stripe_account_id
    one = known.is_not(None) if account_id is None else known == account_id
    rows = own.execute(select(known, *columns).where(one))
    return {str(row[0]): Gates(*row[1:]) for row in rows}


def _asked(stripe: StripeGateway, account_id: str) -> Gates:
    if not account_id.isidentifier():  # in a URL it could be another path
        return GONE
    try:
        return stripe.retrieve_account(account_id).gates
    except StripeRefused as no:
        if no.code not in ("account_invalid", "resource_missing"):
            raise
        return GONE


def _write(tx: Session, account_id: str, was: Gates, gates: Gates) -> bool:
    """Whether the row was updated. It is left alone where it no longer matches `was`."""
    if was == gates:
        return False
    still = [
        getattr(Creator, name).is_not_distinct_from(one) for name, one in was._asdict().items()
    ]
    mine = (Creator.stripe_account_id == account_id, *still)
    change = update(Creator).where(*mine).values(**gates._asdict())
    return tx.connection().execute(change).rowcount == 1
