"""What Stripe says of the creators' accounts, brought into the creators' rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.platform.earnings.models import Creator
from app.platform.gateways.stripe import StripeGateway
from app.platform.gateways.stripe_errors import StripeRefused
from app.platform.gateways.stripe_objects import Gates
from app.switchyard.context import Context
from app.switchyard.errors import NonRetriable, RetryAfter

NOT_AT_STRIPE = "not_at_stripe"
"""The disabled_reason of an account that Stripe does not know (any more)."""
_CHUNK = 500
GONE = Gates(False, False, NOT_AT_STRIPE, True)


def sync(tx: Session, ctx: Context) -> dict[str, int]:
    """Bring every creator's account up to date, as a step: one UPDATE per change of state.

    Stripe is read to the end before `tx` writes; a row that a webhook changed since is left as it
    is. An account that is not on the list is asked for by id before it is marked: it may have been
    made meanwhile. Returns counts: `accounts`, `changed` and `gone` (unknown to Stripe). Raises
    NonRetriable where Stripe lists none of them: then it is the key that is another platform's.
    """
    stripe = ctx.gateways.stripe
    with ctx.transaction() as own:
        known = _known(own)
    unlisted = dict(known)
    changed = defaultdict[tuple[Gates, Gates], list[str]](list)
    for account in stripe.list_accounts():
        was = unlisted.pop(account.id, None)
        if was is not None and was != account.gates:
            changed[was, account.gates].append(account.id)
    unsure = [account_id for account_id, was in unlisted.items() if was != GONE]
    if len(unsure) > 1 and len(unlisted) == len(known):
        raise NonRetriable(
            f"Stripe lists none of the {len(known)} accounts: is STRIPE_API_KEY this platform's?"
        )
    answers = stripe.each(partial(_asked, stripe), unsure)
    for account_id, gates in zip(unsure, answers, strict=True):
        if gates != unlisted[account_id]:
            changed[unlisted[account_id], gates].append(account_id)
    gone = len(unlisted) - len(unsure) + answers.count(GONE)
    return {"accounts": len(known), "changed": _write(tx, changed), "gone": gone}


def refresh(tx: Session, ctx: Context, account_id: str) -> dict[str, Any]:
    """Bring one account up to date, as a step: how many `creators` have it, and its gates.

    Raises RetryAfter where the row was changed while Stripe was asked: the answer may be older.
    """
    with ctx.transaction() as own:
        known = _known(own, account_id)
    gates = _asked(ctx.gateways.stripe, account_id)
    was = known.get(account_id, gates)
    if was != gates and not _write(tx, {(was, gates): [account_id]}):
        raise RetryAfter(f"{account_id}: changed meanwhile", timedelta(seconds=1))
    return {"creators": len(known), **gates._asdict()}


def _known(own: Session, account_id: str | None = None) -> dict[str, Gates]:
    columns = [getattr(Creator, name) for name in Gates._fields]
    chosen = select(Creator.stripe_account_id, *columns)
    if account_id is None:
        chosen = chosen.where(Creator.stripe_account_id.is_not(None))
    else:
        chosen = chosen.where(Creator.stripe_account_id == account_id)
    rows = own.execute(chosen)
    return {str(row[0]): Gates(*row[1:]) for row in rows}


def _asked(stripe: StripeGateway, account_id: str) -> Gates:
    try:
        return stripe.retrieve_account(account_id).gates
    except StripeRefused as no:
        if no.code != "account_invalid":
            raise
        return GONE


def _write(tx: Session, changed: Mapping[tuple[Gates, Gates], Sequence[str]]) -> int:
    """How many creators were changed."""
    written = 0
    for (was, gates), ids in changed.items():
        unchanged = [
            getattr(Creator, name).is_not_distinct_from(value)
            for name, value in was._asdict().items()
        ]
        for start in range(0, len(ids), _CHUNK):
            chosen = Creator.stripe_account_id.in_(ids[start : start + _CHUNK])
            change = update(Creator).where(chosen, *unchanged).values(**gates._asdict())
            written += tx.connection().execute(change).rowcount
    return written
