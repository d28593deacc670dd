"""Kill -9 at every point of every step of the payout jobs, on both backends and both databases.

A process is killed once at each point it comes to, so the points find themselves: a new step, or a
new point in one, is covered without being listed. Each creator is paid exactly once.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.local.seed import fill
from app.platform.earnings.models import Creator
from app.platform.gateways.stripe_answers import BankPayout
from app.platform.ledger.postings import balanced, trial_balance
from app.platform.payouts.eligibility import verdicts
from app.platform.payouts.models import Payout
from app.platform.payouts.reconcile import reconcile
from app.switchyard.dispatch import dispatch
from app.switchyard.job import load
from app.switchyard.runs.memory import Inline
from app.switchyard.runtime import Runtime
from tests.conftest import new_database
from tests.proof.test_crashes import POINTS
from tests.support.dying import PLACES, deaths, dying, mortal
from tests.support.standins import StripeStandIn

CREATORS, PAYABLE = 12, 6
DAY = "2025-01-15"
JOBS = [spec.name for spec in load("app.platform.payouts.jobs").values() if spec.queue == "payouts"]
"""All that deal with Stripe."""
EVER = datetime(2000, 1, 1, tzinfo=UTC)
IN_TRANSIT, PAID = {"in_transit": PAYABLE}, {"paid": PAYABLE}


class Scene:
    """A platform with one job about to run on it."""

    def __init__(self, runtime: Runtime, stand: StripeStandIn) -> None:
        self.runtime = runtime
        self.stand = stand

    def done(self, job: str, payload: dict[str, Any]) -> None:
        """The job here and now, in this process."""
        inline = Inline(self.runtime.engine, threading.Event())
        run = dispatch(job, payload)
        assert all(list(inline.slices(run.id)))

    def a_pay_day(self) -> tuple[dict[str, Any], dict[str, int]]:
        return {"payoutDate": DAY}, IN_TRANSIT

    def a_payout(self) -> tuple[dict[str, Any], dict[str, int]]:
        v = verdicts(self.runtime.store.clock()).subquery().c
        with self.runtime.db.autocommit() as connection:
            chosen = select(v.creator_id, v.destination, v.amount).where(v.reason.is_(None))
            creator, destination, amount = connection.execute(chosen).first() or ("", "", 0)
        order = {"payoutId": "p1", "creatorId": creator, "amount": amount}
        return {**order, "stripeAccountId": destination}, {"in_transit": 1}

    def failures(self) -> tuple[dict[str, Any], dict[str, int]]:
        """Two refused transfers, two refused bank payouts, two that came back from the bank."""
        for path in ("/v1/transfers", "/v1/payouts"):
            self.stand.fault("refuse", code="payouts_not_allowed", path=path, next=2)
        self.stand.fault("bank_fails", next=4)
        self.done("process-payouts", {"payoutDate": DAY})
        self.stand.ahead += timedelta(days=3)
        self.done("reconcile-payouts", {})
        return {}, {"in_transit": PAYABLE}

    def changed_accounts(self) -> tuple[dict[str, Any], dict[str, int]]:
        ids = [one for (one,) in self.runtime.db.rows(select(Creator.stripe_account_id).limit(5))]
        self.stand.set_accounts(*({"id": one, "transfers": "inactive"} for one in ids))
        return {}, {}

    def bank_news(self) -> tuple[dict[str, Any], dict[str, int]]:
        self.done("process-payouts", {"payoutDate": DAY})
        self.stand.ahead += timedelta(days=3)
        return {}, PAID

    def an_event(self) -> tuple[dict[str, Any], dict[str, int]]:
        self.bank_news()
        with self.runtime.db.session() as tx:
            payout = tx.scalars(select(Payout)).first()
            assert payout is not None
        event = {"eventId": "evt_1", "type": "payout.paid"}
        about = {"account": payout.destination, "objectId": payout.bank_payout_id}
        return event | about, {"in_transit": PAYABLE - 1, "paid": 1}

    def check(self, expected: dict[str, int]) -> None:
        """Each payout once at Stripe and at the bank, the books in balance, nothing differing."""
        runtime = self.runtime
        stripe = runtime.engine.gateways.stripe
        transfers = list(stripe.list_transfers())
        with Session(runtime.db.engine) as session:
            payouts = list(session.scalars(select(Payout)))
            assert balanced(trial_balance(session))
        assert Counter(payout.status for payout in payouts) == expected
        at_stripe = sorted((t.transfer_group, t.amount, t.currency) for t in transfers)
        assert at_stripe == sorted((p.id, p.amount, p.currency) for p in payouts)
        accounts = {payout.destination for payout in payouts}
        banks: list[BankPayout] = [b for a in accounts for b in stripe.list_payouts(a)]
        live = sorted(b.id for b in banks if not b.came_back)
        assert live == sorted(str(p.bank_payout_id) for p in payouts)
        found = reconcile(runtime.db.session, stripe, runtime.store.clock(), EVER)
        assert found.differences == []


SCENES: dict[str, Callable[[Scene], tuple[dict[str, Any], dict[str, int]]]] = {
    "process-payouts": Scene.a_pay_day,
    "process-single-payout": Scene.a_payout,
    "retry-failed-payouts": Scene.failures,
    "update-account-statuses": Scene.changed_accounts,
    "reconcile-payouts": Scene.bank_news,
    "handle-stripe-event": Scene.an_event,
}


def places() -> list[tuple[str, str, str]]:
    """A pay day in every place; each other job on both backends and on both databases."""
    chosen = [("process-payouts", *place) for place in PLACES]
    others = [job for job in JOBS if job != "process-payouts"]
    for number, job in enumerate(others):
        chosen += [(job, *place) for place in (PLACES[:2] if number % 2 else PLACES[2:])]
    return chosen


@pytest.mark.minutes
@pytest.mark.parametrize(("job", "backend", "database"), places())
def test_it_dies_everywhere_and_pays_once(
    job: str,
    backend: str,
    database: str,
    request: pytest.FixtureRequest,
    redis_url: str,
    tmp_path: Path,
) -> None:
    with ExitStack() as stack:
        database_url = stack.enter_context(new_database(database, tmp_path, request))
        stand = stack.enter_context(StripeStandIn())
        more = {"SWITCHYARD_JOBS": "app.platform.payouts.jobs", "STRIPE_API_BASE": stand.url}
        on = stack.enter_context(mortal(backend, database_url, redis_url, tmp_path, **more))
        runtime = on.runtime
        fill(runtime.db, stand.url, creators=CREATORS, payable=PAYABLE, now=datetime.now(UTC))
        scene = Scene(runtime, stand)
        payload, expected = SCENES[job](scene)
        stack.enter_context(dying(on, tmp_path / "dying.log"))
        run = on.dispatch(job, payload)
        (row,) = on.finish(run, patience_seconds=250.0)
        assert row.status == "succeeded", row.error
        scene.check(expected)
        died = deaths(on)
        # Nothing of it was left out: it died at each step, before and after it was on record.
        steps = [name for name, step in on.steps(run.id).items() if step.result is not None]
        assert steps
        for step in steps:
            assert {f"step.uncommitted@{step}", f"step.recorded@{step}"} <= died
        assert {"run.claimed@", "run.body-done@", "run.ended@"} <= died
        if job in ("process-payouts", "process-single-payout", "retry-failed-payouts"):
            points = {mark.partition("@")[0] for mark in died}
            assert points >= {point for point in POINTS if point.startswith("payout.")}


def test_every_job_has_its_scene() -> None:
    assert set(JOBS) == set(SCENES)
