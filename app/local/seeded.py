"""A made-up platform for a fresh local database, and the money and accounts for it at Stripe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import requests
from sqlalchemy import select

from app.local.earnings import SeedSummary, seed, stripe_accounts
from app.platform.earnings.models import Creator
from app.switchyard.db import Database

SEED = 2025
POST_SECONDS = 30.0
_ACCOUNTS_PER_CALL = 500


@contextmanager
def opened(url: str) -> Iterator[Database]:
    """A database for the length of a `with` block."""
    db = Database(url, pool_size=2)
    try:
        yield db
    finally:
        db.dispose()


def is_empty(db: Database) -> bool:
    """Whether there is no creator at all."""
    with db.autocommit() as connection:
        return connection.execute(select(Creator.id).limit(1)).first() is None


def fill(
    db: Database, stripe_url: str, *, creators: int, now: datetime, payable: int | None = None
) -> SeedSummary:
    """Write the platform as of `now` and tell the Stripe stand-in of its accounts and its money.

    Cut short between the two, it leaves creators whom the stand-in does not know: it refuses to pay
    them, and their money stays theirs. Raises requests.RequestException.
    """
    made = seed(db, creators=creators, seed=SEED, now=now, payable=payable)
    with db.autocommit() as connection:
        accounts = stripe_accounts(connection)
    admin = f"{stripe_url}/_standin"
    with requests.Session() as session:
        session.trust_env = False
        for chunk in _chunks(accounts):
            _post(session, f"{admin}/accounts", {"accounts": chunk})
        for currency, amount in made.top_ups.items():
            if amount > 0:
                _post(session, f"{admin}/topup", {"amount": amount, "currency": currency})
    return made


def _chunks(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), _ACCOUNTS_PER_CALL):
        yield items[start : start + _ACCOUNTS_PER_CALL]


def _post(session: requests.Session, url: str, body: dict[str, Any]) -> None:
    session.post(url, json=body, timeout=POST_SECONDS).raise_for_status()
