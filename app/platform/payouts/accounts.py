"""What Stripe says of the creators' accounts, brought into the creators' rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.platform.earnings.models import Creator
from app.platform.gateways.stripe import Account, StripeGateway, StripeRefused
from app.platform.ledger.postings import Tx, connection_of
from app.switchyard.context import Context
from app.switchyard.errors import NonRetriable

NOT_AT_STRIPE = "not_at_stripe"
"""The disabled_reason of an account that Stripe does not know (any more)."""
MAX_ASKED = 100
"""How many unlisted accounts one run asks Stripe about; the next run goes on."""
_CHUNK = 500
_REASON_LENGTH = 100


class State(NamedTuple):
    """The creator's columns that decide whether they can be paid."""

    payouts_enabled: bool
    transfers_active: bool
    disabled_reason: str | None
    manual_payouts: bool


Move = tuple[State, State]
"""From which state to which."""
GONE = State(False, False, NOT_AT_STRIPE, True)


def sync(tx: Session, ctx: Context) -> dict[str, int]:
    """Bring every creator's account up to date, as a step: one UPDATE per change of state.

    Stripe is read to the end before `tx` writes; a row that a webhook changed since is left as it
    is. An account that is not on the list is asked for by id before it is marked: it may have been
    made meanwhile. Returns counts: `accounts`, `changed`, `gone` (unknown to Stripe) and `unasked`.
    Raises NonRetriable where Stripe lists none of them: then it is the key that is another
    platform's; and what the gateway raises.
    """
    with ctx.transaction() as own:
        known = _known(own)
    unlisted = dict(known)
    changed: dict[Move, list[str]] = defaultdict(list)
    for account in ctx.gateways.stripe.list_accounts():
        was = unlisted.pop(account.id, None)
        if was is not None and was != state_of(account):
            changed[was, state_of(account)].append(account.id)
    unsure = [account_id for account_id, was in unlisted.items() if was != GONE]
    if len(unsure) > 1 and len(unlisted) == len(known):
        raise NonRetriable(
            f"Stripe lists none of the {len(known)} accounts: is STRIPE_API_KEY this platform's?"
        )
    gone = len(unlisted) - len(unsure)
    for account_id in unsure[:MAX_ASKED]:
        state = asked(ctx.gateways.stripe, account_id)
        gone += state == GONE
        if state != unlisted[account_id]:
            changed[unlisted[account_id], state].append(account_id)
    return {
        "accounts": len(known),
        "changed": _write(tx, changed),
        "gone": gone,
        "unasked": len(unsure[MAX_ASKED:]),
    }


def _known(tx: Tx) -> dict[str, State]:
    C = Creator
    columns = [getattr(C, name) for name in State._fields]
    chosen = select(C.stripe_account_id, *columns).where(C.stripe_account_id.is_not(None))
    return {str(row[0]): State(*row[1:]) for row in connection_of(tx).execute(chosen)}


def asked(stripe: StripeGateway, account_id: str) -> State:
    """What Stripe says of one account. Raises what the gateway raises."""
    try:
        return state_of(stripe.retrieve_account(account_id))
    except StripeRefused as no:
        if no.code != "account_invalid":
            raise
        return GONE


def state_of(account: Account) -> State:
    """The account as a creator's row has it."""
    reason = account.disabled_reason
    return State(
        account.payouts_enabled,
        account.transfers == "active",
        None if reason is None else reason[:_REASON_LENGTH],
        account.manual_payouts,
    )


def _write(tx: Tx, changed: Mapping[Move, Sequence[str]]) -> int:
    """How many creators were changed."""
    written = 0
    for (was, state), ids in changed.items():
        unchanged = [
            getattr(Creator, name).is_not_distinct_from(value)
            for name, value in was._asdict().items()
        ]
        for start in range(0, len(ids), _CHUNK):
            chosen = Creator.stripe_account_id.in_(ids[start : start + _CHUNK])
            change = update(Creator).where(chosen, *unchanged).values(**state._asdict())
            written += connection_of(tx).execute(change).rowcount
    return written
