"""A made-up platform for a fresh local database, and the money and accounts for it at Stripe."""

from __future__ import annotations

from collections.abc import Iterator
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
    """Write the platform as of `now`, and to the Stripe stand-in its accounts and its money.

    Cut short between the two, it leaves creators whom the stand-in does not know: it refuses to pay
    them, and their money stays theirs. Raises requests.RequestException.
    """
    summary = seed(db, creators=creators, seed=SEED, now=now, payable=payable)
    with db.autocommit() as connection:
        sent: list[tuple[str, Any]] = [("accounts", {"accounts": stripe_accounts(connection)})]
    for currency, amount in summary.top_ups.items():
        if amount > 0:
            sent.append(("topup", {"amount": amount, "currency": currency}))
    with requests.Session() as session:
        session.trust_env = False
        for route, body in sent:
            answer = session.post(f"{stripe_url}/_standin/{route}", json=body, timeout=POST_SECONDS)
            answer.raise_for_status()
    return summary
