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

THOUSAND = 1_000
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
def test_under_every_fault_each_is_paid_once_or_refused_with_a_reason(platform: Platform) -> None:
    platform.seed(THOUSAND + THOUSAND // 10, THOUSAND)
    for fault in FAULTS:
        platform.fault(**fault)
    run = dispatch("process-payouts", {"payoutDate": "2025-01-15"})
    platform.drain(step=timedelta(minutes=10))
    ended = platform.run(run.id)
    assert ended.status == "succeeded", ended.error
    assert all(rule.hits > 5 for rule in platform.stand.rules)
    platform.stand.forgive()
    result = json.loads(ended.result)
    counts: Counter[str] = Counter()
    for row in result["totals"]:
        counts[row["status"]] += row["count"]
    assert counts.total() == THOUSAND
    assert set(counts) == {"in_transit", "failed", "bank_failed"}
    assert result["failureCount"] == counts["failed"] + counts["bank_failed"] > 0
    assert {failure["reason"] for failure in result["failures"]} == {REFUSED}
    assert result["reconciled"]["ok"] is True
    assert platform.count(StepRow, StepRow.run_id == run.id) <= MOST_STEPS
    # The next day's retry pays those whose bank said no, and the bank has it all in the end.
    platform.now += timedelta(days=1)
    dispatch("retry-failed-payouts", {})
    platform.drain()
    platform.now += timedelta(days=3)
    found = platform.result("reconcile-payouts")
    assert (found["ok"], found["differences"]) == (True, [])
    after = Counter(payout.status for payout in platform.payouts())
    assert after == {"paid": THOUSAND - counts["failed"], "failed": counts["failed"]}
    # Nobody twice, and all that could be: the job compared both of Stripe's lists, both ways.
    platform.check_books()
