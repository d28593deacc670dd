"""Creators with months behind them: sales and what became of them, payouts and what became of
those, posted as the product posts them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

from sqlalchemy import insert
from sqlalchemy.orm import Session

from app.platform.earnings.models import Creator, EarningKind
from app.platform.gateways import Gateways
from app.platform.gateways.storage import Storage
from app.platform.gateways.stripe import StripeGateway
from app.platform.ledger.postings import (
    CASH,
    CONNECTED,
    CREATOR,
    HOLD,
    EntryKind,
    Posting,
    post,
)
from app.platform.statements.jobs import make_page
from app.switchyard.db import Database
from tests.support.earnings import (
    Change,
    Sale,
    a_creator,
    record_change,
    record_sale,
)
from tests.support.tables import create_all

START = datetime(2025, 1, 1, tzinfo=UTC)
SOURCES = ("tips", "subscriptions", "calls")
CURRENCIES = ("usd", "eur", "jpy", "kwd")


def at(text: str) -> datetime:
    """A time given as `2025-01-31` or with a time of day."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


class Months:
    """A database of creators, and what a statement is made with."""

    def __init__(self, url: str, folder: Path) -> None:
        self.db = Database(url)
        create_all(self.db.engine)
        self.clock = at("2025-06-01T03:00")
        self.gateways = Gateways(
            stripe=StripeGateway("sk_test", "http://127.0.0.1:1", calls_per_second=1.0),
            storage=Storage(folder.as_uri()),
            platform="Fanhouse",
        )

    def now(self) -> datetime:
        return self.clock

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        with self.db.session() as session:
            yield session

    def make_page(self, month: date, after: str = "") -> dict[str, Any]:
        """A page of statements, with this as the run's context."""
        ctx: Any = self
        with self.transaction() as tx:
            return make_page(tx, ctx, month, after)

    def creator(self, *ids: str, name: str = "Ana", currency: str = "usd") -> None:
        with self.db.begin() as tx:
            same = {"name": name, "currency": currency, "created_at": START}
            rows = [a_creator(one, stripe_account_id=None, **same) for one in ids]
            tx.execute(insert(Creator), rows)

    def sale(
        self, name: str, gross: int, when: str, fee: int = 0, source: str = "tips", **more: str
    ) -> None:
        creator, currency = more.get("creator", "ana"), more.get("currency", "usd")
        with self.db.begin() as tx:
            record_sale(tx, Sale(name, creator, source, currency, gross, fee, at(when)))

    def change(self, kind: EarningKind, sale: str, gross: int, when: str, fee: int = 0) -> None:
        change = Change(f"{kind}-{sale}-{when}", sale, "usd", gross, fee, at(when))
        with self.db.begin() as tx:
            record_change(tx, change, kind)

    def book(self, *postings: Posting) -> None:
        with self.db.begin() as tx:
            post(tx, postings)

    def pay(self, payout: Payout) -> None:
        self.book(*payout.booked())


@dataclass
class Payout:
    """What is booked on a payout, from its request on; see `fate`."""

    id: str
    amount: int
    when: datetime
    fate: str = "paid"
    """paid, failed, retried, returned, reversed."""
    creator: str = "ana"
    currency: str = "usd"
    step: timedelta = timedelta(hours=6)

    def booked(self) -> Iterator[Posting]:
        mine, hold = CREATOR + self.creator, HOLD + self.id
        there, now = CONNECTED + self.id, self.when
        K = EntryKind
        yield self.entry(K.HOLD, f"{self.id}-1", mine, hold, now)
        if self.fate in ("failed", "retried"):
            yield self.entry(K.RELEASE, f"{self.id}-1", hold, mine, now + self.step)
        if self.fate == "failed":
            return
        if self.fate == "retried":
            now += 2 * self.step
            yield self.entry(K.HOLD, f"{self.id}-2", mine, hold, now)
        yield self.entry(K.TRANSFER, f"tr_{self.id}", there, CASH, now)
        if self.fate != "reversed":
            yield self.entry(K.SETTLE, f"po_{self.id}", hold, there, now + self.step)
        if self.fate == "returned":
            yield self.entry(K.RETURN, f"po_{self.id}", there, hold, now + 2 * self.step)
        if self.fate in ("returned", "reversed"):
            end = now + 3 * self.step
            yield self.entry(K.REVERSAL, f"trr_{self.id}", CASH, there, end)
            yield self.entry(K.RELEASE, f"tr_{self.id}", hold, mine, end)

    def entry(self, kind: EntryKind, ref: str, debit: str, credit: str, now: datetime) -> Posting:
        return Posting(kind, ref, debit, credit, self.currency, self.amount, now)


def in_short(one: Mapping[str, Any]) -> tuple[int, int, int, int, int]:
    """A currency of a statement: opening balance, earned, paid out, came back, closing balance."""
    return one["opening"], one["earned"]["net"], one["paid_out"], one["returned"], one["closing"]


def history(months: Months, seed: int, creators: list[str], sales: int = 60) -> None:
    """Half a year of everything, in several currencies; the same for the same seed."""
    random, K = Random(seed), EarningKind
    fates = ("paid", "paid", "failed", "retried", "returned", "reversed")
    with months.db.begin() as tx:
        for number in range(sales):
            who, code = random.choice(creators), random.choice(CURRENCIES)
            gross = random.randint(1, 50_000)
            fee = random.choice((0, gross // 5, gross))
            when = START + timedelta(milliseconds=random.randrange(180 * 86_400_000))
            if number % 9 == 0:
                when = when.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
            name, source = f"s{seed}-{number}", random.choice(SOURCES)
            record_sale(tx, Sale(name, who, source, code, gross, fee, when))
            later = when + timedelta(days=random.choice((0, 3, 40)))
            takes = random.choice((None, None, K.REFUND, K.DISPUTE, K.DISPUTE))
            if takes is None:
                continue
            part = random.randint(1, gross)
            share = min(fee, part) if fee == gross else random.choice((0, min(fee, part)))
            record_change(tx, Change(f"t{name}", name, code, part, share, later), takes)
            if takes is K.DISPUTE and random.random() < 0.5:
                won = Change(f"w{name}", name, code, part, share, later + timedelta(days=20))
                record_change(tx, won, K.DISPUTE_WON)
        for number in range(sales // 3):
            when = START + timedelta(minutes=random.randrange(180 * 1_440))
            step = timedelta(hours=random.choice((1, 30, 400)))
            who, code = random.choice(creators), random.choice(("usd", "eur", "jpy"))
            payout = Payout(
                *(f"p{seed}-{number}", random.randint(1, 9_000), when, random.choice(fates)),
                *(who, code, step),
            )
            post(tx, payout.booked())
