"""A thousand payouts against a Stripe that fails in every way it can, and the steps it takes."""

from __future__ import annotations

import json
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from app.switchyard.dispatch import dispatch
from app.switchyard.runs.models import StepRow
from tests.support.platform import Platform

THOUSAND, FEWER = 1_000, 400
MOST_STEPS = 60
REFUSED = "account_closed"
FAULTS: list[dict[str, Any]] = [
    {"kind": "timeout_after_effect", "probability": 0.10},
    {"kind": "500_after", "probability": 0.025},
    {"kind": "500_before", "probability": 0.025},
    {"kind": "409", "probability": 0.05},
    {"kind": "429", "probability": 0.05},
    {"kind": "refuse", "probability": 0.02, "code": REFUSED},
]


@pytest.mark.minutes
def test_under_every_fault_each_is_paid_once_or_refused_with_a_reason(anywhere: Platform) -> None:
    # All of them on one kind of database; on the other one as many as each fault needs.
    count = THOUSAND if anywhere.db.engine.dialect.name == "sqlite" else FEWER
    anywhere.seed(count + count // 10, count)
    for fault in FAULTS:
        anywhere.fault(**fault)
    run = dispatch("process-payouts", {"payoutDate": "2025-01-15"})
    anywhere.drain(step=timedelta(minutes=10))
    ended = anywhere.run(run.id)
    assert ended.status == "succeeded", ended.error
    assert all(rule.hits > 5 for rule in anywhere.stand.rules)
    anywhere.stand.forgive()
    result = json.loads(ended.result)
    counts: Counter[str] = Counter()
    for row in result["totals"]:
        counts[row["status"]] += row["count"]
    assert counts.total() == count
    assert set(counts) == {"in_transit", "failed", "bank_failed"}
    assert result["failureCount"] == counts["failed"] + counts["bank_failed"] > 0
    assert {failure["reason"] for failure in result["failures"]} == {REFUSED}
    assert result["reconciled"]["ok"] is True
    assert anywhere.count(StepRow, StepRow.run_id == run.id) <= MOST_STEPS
    # The next day's retry pays those whose bank said no, and the bank has it all in the end.
    anywhere.now += timedelta(days=1)
    dispatch("retry-failed-payouts", {})
    anywhere.drain()
    anywhere.now += timedelta(days=3)
    found = anywhere.result("reconcile-payouts")
    assert (found["ok"], found["differences"]) == (True, [])
    after = Counter(payout.status for payout in anywhere.payouts())
    assert after == {"paid": count - counts["failed"], "failed": counts["failed"]}
    # Nobody twice, and all that could be: the job compared both of Stripe's lists, both ways.
    anywhere.check_books()
