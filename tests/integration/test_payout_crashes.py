"""Kill -9 at every named point of a pay day, on both backends and databases: each is paid once.

The points are found in the source, so that a new one is covered without being listed.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.ledger.postings import balanced, trial_balance
from app.local.inngest.standin import InngestStandIn
from app.local.seeded import fill
from app.local.serving import serve_in_thread
from app.local.stripe.server import StripeStandIn
from app.payouts.models import Payout
from app.runtime import Runtime
from tests.integration.test_crashes import POINTS, wait_dead
from tests.support.sides import (
    PATIENCE_SECONDS,
    Side,
    environment,
    free_port,
    fresh,
    relaying,
    rq_worker,
    web,
)

CREATORS, PAYABLE = 10, 6
# A pay day fails no step and moves nowhere by itself: those points have their own tests.
PAY_DAY_POINTS = [
    point
    for point in POINTS
    if not point.startswith("dispatch.") and point not in ("run.moved", "step.failure-recorded")
]


@pytest.mark.parametrize("backend", ["rq", "inngest"])
@pytest.mark.parametrize("point", PAY_DAY_POINTS)
def test_a_process_dies_on_a_pay_day(
    point: str, backend: str, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        stripe = StripeStandIn()
        stack.callback(stripe.close)
        stripe_url = stack.enter_context(serve_in_thread(stripe))
        port = free_port()
        standin = InngestStandIn([f"http://127.0.0.1:{port}/api/inngest"], gap_scale=0.02)
        stack.enter_context(standin)
        environ = environment(
            database_url,
            redis_url,
            SWITCHYARD_JOBS="app.jobs.payouts",
            STRIPE_API_BASE=stripe_url,
            INNGEST_DEV=standin.url,
            LEASE_SECONDS="1",
            CHECK_SECONDS="0.3",
        )
        made = fresh(database_url, environ, None)
        stack.callback(made.db.dispose)
        fill(made.db, stripe_url, creators=CREATORS, payable=PAYABLE, now=datetime.now(UTC))
        stack.enter_context(relaying(made))
        on = Side(backend, made, environ, standin=standin)
        run = on.dispatch("process-payouts", {"payoutDate": "2025-01-15"})
        crashing = {**environ, "SWITCHYARD_CRASH_AT": point}
        log = tmp_path / "dying.log"
        if backend == "rq":
            with rq_worker(crashing, log) as worker:
                wait_dead(worker)
            stack.enter_context(rq_worker(environ, tmp_path / "worker.log"))
        else:
            with web(crashing, port, log):
                end = time.monotonic() + PATIENCE_SECONDS
                while b"SIGKILL" not in log.read_bytes():
                    assert time.monotonic() < end, "the process did not reach its crash point"
                    time.sleep(0.05)
            stack.enter_context(web(environ, port, tmp_path / "web.log"))
        (row,) = on.finish(run)
        assert row.status == "succeeded"
        check_paid_once(made)


def check_paid_once(made: Runtime) -> None:
    """Every payout once at Stripe, with its amount, and the books in balance."""
    engine = made.engine
    transfers = list(engine.gateways.stripe.list_transfers())
    with Session(made.db.engine) as session:
        payouts = list(session.scalars(select(Payout)))
        assert balanced(trial_balance(session))
    assert len(payouts) == PAYABLE
    assert {payout.status for payout in payouts} == {"paid"}
    at_stripe = sorted((t.transfer_group, t.amount_minor, t.currency) for t in transfers)
    assert at_stripe == sorted((p.id, p.amount, p.currency) for p in payouts)
