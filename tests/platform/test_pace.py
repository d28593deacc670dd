"""All processes of both backends together stay under Stripe's rate limit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests
from sqlalchemy import select

from app.local.seeded import fill
from app.local.serving import serve_in_thread
from app.platform.config import load
from app.platform.gateways import pace
from app.platform.payouts.eligibility import verdicts
from app.platform.payouts.models import Payout
from app.platform.payouts.request import Order, request
from app.switchyard import runtime
from app.switchyard.db import Database
from app.switchyard.dispatch import Item
from tests.support.sides import Side, build, environment, free_port, fresh, relaying, rq_worker
from tests.support.standins import InngestStandIn, StripeStandIn
from tests.support.tables import create_all
from tests.support.waiting import until

NOW = datetime(2025, 1, 15, 9, tzinfo=UTC)
PAYABLE, BY_HAND = 60, 24


def opened(url: str) -> Database:
    db = Database(url.replace("postgresql://", "postgresql+psycopg://"))
    create_all(db.engine)
    return db


def next_place(db: Database, calls: int, per_second: float, now: datetime) -> float:
    """How far ahead of `now` the first of the places is, seconds."""
    with db.session() as tx:
        before = tx.scalar(select(pace.Pace.next_us)) or 0
        pace.take(tx, "stripe", calls, per_second, now)
        after = tx.scalar(select(pace.Pace.next_us)) or 0
        assert after != before
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return after / 1e6 - calls / per_second - (now - epoch).total_seconds()


def test_places_follow_each_other(database_url: str) -> None:
    db = opened(database_url)
    assert next_place(db, 10, 20, NOW) == pytest.approx(0)
    assert next_place(db, 1, 20, NOW) == pytest.approx(0.5)
    # What nobody took is not made up for.
    later = NOW + timedelta(seconds=30)
    assert next_place(db, 1, 20, later) == pytest.approx(0)
    # A clock that stepped back does not stop the calls until it is where it was.
    assert next_place(db, 1, 20, NOW - timedelta(hours=1)) == pytest.approx(0)
    db.dispose()


def test_nobody_gets_a_place_twice(database_url: str) -> None:
    db = opened(database_url)

    def take(_: int) -> float:
        with db.session() as tx:
            return round(pace.take(tx, "stripe", 5, 10, NOW).first, 1)

    with ThreadPoolExecutor(8) as pool:
        first = sorted(pool.map(take, range(40)))
    assert len({round((one - first[0]) / 0.5) for one in first}) == 40
    db.dispose()


@pytest.mark.parametrize(
    ("rate", "limit", "refused"),
    [
        # A machine that stands still for a while sends what was due meanwhile all at once.
        ("20", 60, False),
        # Without a pace a quick one sends more than a hundred in a second, and any one so many.
        ("1000", 30, True),
    ],
)
def test_both_backends_at_once_stay_under_the_limit(
    rate: str, limit: int, refused: bool, redis_url: str, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        stripe_url = stack.enter_context(StripeStandIn()).url
        port = free_port()
        standin = InngestStandIn([f"http://127.0.0.1:{port}/api/inngest"], gap_scale=0.02)
        stack.enter_context(standin)
        environ = environment(
            f"sqlite:///{tmp_path / 'test.db'}",
            redis_url,
            SWITCHYARD_JOBS="app.platform.payouts.jobs",
            STRIPE_API_BASE=stripe_url,
            STRIPE_RATE=rate,
            INNGEST_DEV=standin.url,
            LEASE_SECONDS="60",  # nobody dies here
        )
        fresh(environ["DATABASE_URL"], environ, None).db.dispose()
        app = build(load(environ))
        made = runtime.current()
        stack.callback(made.db.dispose)
        people = PAYABLE + BY_HAND
        fill(made.db, stripe_url, creators=people, payable=people, now=datetime.now(UTC))
        v = verdicts(made.store.clock()).subquery().c
        with made.db.autocommit() as connection:
            chosen = select(v.creator_id, v.destination, v.amount).where(v.reason.is_(None))
            owed = connection.execute(chosen.order_by(v.creator_id).limit(BY_HAND)).all()
        stack.enter_context(serve_in_thread(app, port))
        standin.sync()
        for name in ("one", "two"):
            stack.enter_context(rq_worker(environ, tmp_path / f"{name}.log"))
        stack.enter_context(relaying(made))
        body = {"per_second": limit}
        requests.post(f"{stripe_url}/_standin/rate", json=body, timeout=30).raise_for_status()

        def refusals() -> int:
            told = requests.get(f"{stripe_url}/_standin/rate", timeout=30).json()
            return int(told["refused"])

        on = Side("rq", made, environ, standin=standin)
        orders = [
            {"payoutId": f"p{n}", "creatorId": c, "amount": amount, "stripeAccountId": account}
            for n, (c, account, amount) in enumerate(owed)
        ]
        # Requested first: the pay day would take the money, and the orders be refused.
        with made.db.session() as tx:
            for n, (creator, account, amount) in enumerate(owed):
                request(tx, Order(f"p{n}", creator, amount, account), made.store.clock())
        runs = on.dispatch_many("process-single-payout", [Item(order) for order in orders])
        on.backend = "inngest"
        runs.append(on.dispatch("process-payouts", {"payoutDate": "2025-01-15"}))
        if not refused:
            rows = on.finish(*runs, patience_seconds=200.0)
            assert {row.status for row in rows} == {"succeeded"}
            with made.db.autocommit() as connection:
                statuses = list(connection.scalars(select(Payout.status)))
            assert statuses == ["in_transit"] * people
            # Inngest was called once for each step, and once for the end.
            (listed,) = [r for r in standin.runs() if r["function"].endswith("process-payouts")]
            assert listed["calls"] <= len(on.steps(runs[-1].id)) + 1
            assert refusals() == 0
        else:
            until(refusals)
