"""A made-up platform, always the same: creators, their earnings, the ledger, and Stripe's side."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import cycle, islice
from random import Random
from string import ascii_letters, digits
from typing import Any

from sqlalchemy import insert, select

from app.local.environment import Local
from app.local.loopback import call
from app.platform.config import load
from app.platform.currencies import MINIMUM
from app.platform.db import Tx, connection_of
from app.platform.earnings.models import Creator, Earning, EarningKind
from app.platform.earnings.posting import post_earnings
from app.platform.ledger.postings import trial_balance
from app.platform.payouts.eligibility import HOLDING
from app.switchyard.db import Database

SEED = 2025
SOURCES = {"subscriptions": 45, "tips": 30, "media": 12, "calls": 8, "referrals": 5}
"""Sources of earnings with their weights."""
HOMES = {"US usd": 60, "DE eur": 11, "FR eur": 9, "GB gbp": 12, "JP jpy": 8}
"""Countries and currencies, with their weights."""
LEFT_OUT = ("shut", "below", "below", "shut", "below", "below", "new")
"""Why creators are not paid: a disabled account, too little money, or only recent sales."""
FEE_PERCENT = 20
REFUND_SHARE = 0.03
EARNING_DAYS = 30
_FIRST = "Ada Ben Chloe Dara Emil Fay Gus Hana Ines Jun Kai Lena Milo Nora Omar Pia Quinn Rosa Sam"
_LAST = "Adler Brook Costa Doyle Evans Frost Gupta Hart Ito Jansen Kim Lopez Moreau Novak Okafor"
_SHUT: tuple[tuple[str | None, bool, bool], ...] = (
    ("requirements.past_due", True, False),
    ("rejected.fraud", False, False),
    (None, False, True),
    (None, True, False),
)
"""disabled_reason, transfers_active, payouts_enabled of accounts that cannot be paid."""


def fill_fresh(local: Local, *, creators: int, payable: int, now: datetime) -> None:
    """Fill a stack's own database, unless it has creators already, and its own Stripe."""
    if not local.own_database or "stripe" not in local.ports:
        return
    db = Database(load(local.process_env).sqlalchemy_url, pool_size=2)
    try:
        with db.autocommit() as connection:
            fresh = connection.execute(select(Creator.id).limit(1)).first() is None
        if fresh:
            url = local.process_env["STRIPE_API_BASE"]
            fill(db, url, creators=creators, payable=payable, now=now)
    finally:
        db.dispose()


def fill(db: Database, stripe_url: str, *, creators: int, payable: int, now: datetime) -> None:
    """Write the platform as of `now`, and its accounts and money to the Stripe stand-in.

    If it is interrupted between the two, the stand-in does not know the creators: it refuses to pay
    them, and their money stays theirs. Raises requests.RequestException.
    """
    seed(db, creators=creators, payable=payable, now=now)
    with db.begin() as tx:
        sent: list[tuple[str, Any]] = [("accounts", {"accounts": stripe_accounts(tx)})]
        for currency, books in trial_balance(tx).items():
            sent.append(("topup", {"amount": books.cash, "currency": currency}))
    for route, body in sent:
        call("POST", f"{stripe_url}/_standin/{route}", body)


def seed(db: Database, *, creators: int, payable: int, now: datetime) -> None:
    """Write creators with 30 days of earnings, all older than the holding period at `now`, in one
    commit.

    Exactly `payable` of them can be paid; the others are LEFT_OUT. Raises
    sqlalchemy.exc.IntegrityError on a database that was seeded before.
    """
    rng = Random(SEED)
    roles = ["payable"] * payable + [*islice(cycle(LEFT_OUT), creators - payable)]
    rng.shuffle(roles)
    people = [_creator(rng, number, role, now) for number, role in enumerate(roles, 1)]
    made = zip(people, roles, strict=True)
    sales = [sale for person, role in made for sale in _sales(rng, person, role, now)]
    with db.begin() as tx:
        tx.execute(insert(Creator), people)
        tx.execute(insert(Earning), sales)
        post_earnings(tx)


def stripe_accounts(tx: Tx) -> list[dict[str, Any]]:
    """Every creator's Stripe account, in the form of the stand-in's `POST /_standin/accounts`."""
    C = Creator
    chosen = select(C).where(C.stripe_account_id.is_not(None)).order_by(C.id)
    return [
        {
            "id": row.stripe_account_id,
            "country": row.country,
            "default_currency": row.currency,
            "transfers": "active" if row.transfers_active else "inactive",
            "payouts_enabled": row.payouts_enabled,
            "charges_enabled": row.disabled_reason is None,
            "disabled_reason": row.disabled_reason,
        }
        for row in connection_of(tx).execute(chosen)
    ]


def _creator(rng: Random, number: int, role: str, now: datetime) -> dict[str, Any]:
    country, currency = rng.choices(list(HOMES), list(HOMES.values()))[0].split()
    name = f"{rng.choice(_FIRST.split())} {rng.choice(_LAST.split())}"
    reason, transfers, payouts = rng.choice(_SHUT) if role == "shut" else (None, True, True)
    return {
        "id": f"creator_{number:05d}",
        "name": name,
        "email": f"{name.lower().replace(' ', '.')}.{number}@example.com",
        "country": country,
        "currency": currency,
        "stripe_account_id": "acct_" + "".join(rng.choices(ascii_letters + digits, k=16)),
        "payouts_enabled": payouts,
        "transfers_active": transfers,
        "disabled_reason": reason,
        "created_at": now - HOLDING - timedelta(days=rng.randrange(EARNING_DAYS + 1, 900)),
    }


def _sales(rng: Random, person: dict[str, Any], role: str, now: datetime) -> list[dict[str, Any]]:
    """A creator's earnings, and refunds of additional ones, which leave the balance unchanged."""
    minimum, held = MINIMUM[person["currency"]], HOLDING.days
    # A day short of the period, so that the recent ones stay too recent for that long.
    first, last = (0, held - 1) if role == "new" else (held, held + EARNING_DAYS)
    if role == "below":
        count, net = rng.randint(1, 4), minimum * rng.uniform(0.05, 0.9)
    else:
        # Pareto: a few creators earn most of the money, and sell most often.
        count = min(400, int(8 * rng.paretovariate(1.6)))
        net = minimum * min(2_000.0, 1.05 * rng.paretovariate(1.1))
    weights = [rng.lognormvariate(0.0, 0.8) for _ in range(count)]
    scale = net * 100 / (100 - FEE_PERCENT) / sum(weights)
    rows = []
    for number, weight in enumerate(weights):
        gross, days = int(weight * scale) + 1, rng.uniform(first, last)
        sale = {
            "id": f"earning_{person['id']}_{number}",
            "creator_id": person["id"],
            "source": rng.choices(list(SOURCES), list(SOURCES.values()))[0],
            "kind": EarningKind.EARNING,
            "currency": person["currency"],
            "gross": gross,
            "fee": gross * FEE_PERCENT // 100,
            "refund_of": None,
            "occurred_at": now - timedelta(days=days),
        }
        rows.append(sale)
        if rng.random() < REFUND_SHARE:
            more, later = sale | {"id": f"{sale['id']}_more"}, days * rng.uniform(0.0, 1.0)
            back = {"id": f"{sale['id']}_back", "refund_of": more["id"], "kind": EarningKind.REFUND}
            rows += [more, more | back | {"occurred_at": now - timedelta(days=later)}]
    return rows
