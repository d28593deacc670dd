"""A made-up platform, the same for the same seed: creators, their earnings, and the books."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from random import Random
from string import ascii_letters, digits
from typing import Any

from sqlalchemy import func, insert, select

from app.platform.currencies import MINIMUM
from app.platform.earnings.models import Creator, Earning, EarningKind
from app.platform.earnings.posting import post_earnings
from app.platform.ledger.postings import Tx, connection_of, trial_balance
from app.platform.payouts.eligibility import HOLDING, verdicts
from app.switchyard.db import Database
from app.switchyard.errors import BadInput

SOURCES = {"subscriptions": 45, "tips": 30, "media": 12, "calls": 8, "referrals": 5}
"""With their weights."""
HOMES = {"US usd": 60, "DE eur": 11, "FR eur": 9, "GB gbp": 12, "JP jpy": 8}
"""Countries and currencies, with their weights."""
FEE_PERCENT = 20
DISABLED_PERCENT, BELOW_PERCENT, NEW_PERCENT = 4, 8, 2
REFUND_SHARE = 0.03
EARNING_DAYS = 30
_OLD = (HOLDING.days, HOLDING.days + EARNING_DAYS)
_OTHERS = DISABLED_PERCENT + BELOW_PERCENT + NEW_PERCENT
_FIRST = "Ada Ben Chloe Dara Emil Fay Gus Hana Ines Jun Kai Lena Milo Nora Omar Pia Quinn Rosa Sam"
_LAST = "Adler Brook Costa Doyle Evans Frost Gupta Hart Ito Jansen Kim Lopez Moreau Novak Okafor"
_SHUT: tuple[tuple[str | None, bool, bool], ...] = (
    ("requirements.past_due", True, False),
    ("rejected.fraud", False, False),
    ("under_review", False, False),
    ("requirements.pending_verification", False, True),
    (None, False, True),
    (None, True, False),
)
"""disabled_reason, transfers_active, payouts_enabled of accounts that cannot be paid."""


class _Role(StrEnum):
    PAYABLE = "payable"
    BELOW = "below"
    NEW = "new"
    """Sells since a few days only."""
    SHUT = "shut"


@dataclass(frozen=True, slots=True)
class SeedSummary:
    """What was made; amounts in minor units by currency."""

    payable: int
    left_out: dict[str, int]
    """Creators not payable, by reason."""
    payable_amounts: dict[str, int]
    top_ups: dict[str, int]
    """What the platform's Stripe balance needs to agree with the ledger's cash."""


def seed(
    db: Database, *, creators: int, seed: int, now: datetime, payable: int | None = None
) -> SeedSummary:
    """Write `creators` creators with 30 days' earnings, all older than the holding period at `now`,
    in one commit.

    Exactly `payable` of them can be paid; by default all but 4 % whose account is disabled, 8 %
    below the minimum (both as in a usual marketplace) and 2 % whose earnings are all too young,
    which share the rest 4:8:2. Raises BadInput where `payable` does not fit, and
    sqlalchemy.exc.IntegrityError on a database that holds a seed already.
    """
    if payable is None:
        payable = creators - round(creators * _OTHERS / 100)
    if creators < 1 or not 0 <= payable <= creators:
        raise BadInput(f"payable must be 0 to {creators}, the number of creators, not {payable}")
    rng = Random(seed)
    roles = _roles(rng, creators, payable)
    people = [_creator(rng, number, role, now) for number, role in enumerate(roles, 1)]
    made = zip(people, roles, strict=True)
    sales = [sale for person, role in made for sale in _sales(rng, person, role, now)]
    with db.begin() as tx:
        tx.execute(insert(Creator), people)
        tx.execute(insert(Earning), sales)
        post_earnings(tx)
        return _summary(tx, now)


def stripe_accounts(tx: Tx) -> list[dict[str, Any]]:
    """Every creator's Stripe account, as the stand-in's `POST /_standin/accounts` takes them."""
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


def _roles(rng: Random, creators: int, payable: int) -> list[_Role]:
    others = creators - payable
    shut, new = round(others * DISABLED_PERCENT / _OTHERS), others * NEW_PERCENT // _OTHERS
    roles = [_Role.PAYABLE] * payable + [_Role.SHUT] * shut + [_Role.NEW] * new
    roles += [_Role.BELOW] * (creators - len(roles))
    rng.shuffle(roles)
    return roles


def _chosen(rng: Random, weights: dict[str, int]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


def _creator(rng: Random, number: int, role: _Role, now: datetime) -> dict[str, Any]:
    country, currency = _chosen(rng, HOMES).split()
    name = f"{rng.choice(_FIRST.split())} {rng.choice(_LAST.split())}"
    reason, transfers, payouts = rng.choice(_SHUT) if role == _Role.SHUT else (None, True, True)
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


def _sales(rng: Random, person: dict[str, Any], role: _Role, now: datetime) -> list[dict[str, Any]]:
    """A creator's earnings, and refunds of additional ones: those leave the balance alone."""
    minimum = MINIMUM[person["currency"]]
    if role == _Role.BELOW:
        count, net = rng.randint(1, 4), minimum * rng.uniform(0.05, 0.9)
    else:
        # Pareto: a few creators earn most of the money, and sell most often.
        count = min(400, int(8 * rng.paretovariate(1.6)))
        net = minimum * min(2_000.0, 1.05 * rng.paretovariate(1.1))
    refunded = sum(rng.random() < REFUND_SHARE for _ in range(count))
    weights = [rng.lognormvariate(0.0, 0.8) for _ in range(count)]
    scale = net * 100 / (100 - FEE_PERCENT) / sum(weights)
    # A day short of the period: for that long, the young stay too young.
    first, last = (0, HOLDING.days - 1) if role == _Role.NEW else _OLD
    rows = []
    for number, weight in enumerate(weights[:refunded] + weights):
        gross, days = int(weight * scale) + 1, rng.uniform(first, last)
        sale = {
            "id": f"earning_{person['id']}_{number}",
            "creator_id": person["id"],
            "source": _chosen(rng, SOURCES),
            "kind": EarningKind.EARNING,
            "currency": person["currency"],
            "gross": gross,
            "fee": gross * FEE_PERCENT // 100,
            "refund_of": None,
            "occurred_at": _whole_ms(now - timedelta(days=days)),
        }
        rows.append(sale)
        if number < refunded:
            back = {"id": f"refund_{person['id']}_{number}", "kind": EarningKind.REFUND}
            at = _whole_ms(now - timedelta(days=days * rng.uniform(0.0, 1.0)))
            rows.append({**sale, **back, "refund_of": sale["id"], "occurred_at": at})
    return rows


def _whole_ms(moment: datetime) -> datetime:
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def _summary(tx: Tx, now: datetime) -> SeedSummary:
    verdict = verdicts(now).subquery().c
    by = (verdict.reason, verdict.currency)
    counts = select(*by, func.count(), func.sum(verdict.amount)).group_by(*by)
    left_out: Counter[str] = Counter()
    payable, amounts = 0, dict[str, int]()
    for reason, currency, count, amount in connection_of(tx).execute(counts):
        if reason is not None:
            left_out[reason] += count
        else:
            payable += count
            amounts[currency] = int(amount)
    top_ups = {currency: books.cash for currency, books in trial_balance(tx).items()}
    return SeedSummary(payable, dict(left_out), amounts, top_ups)
