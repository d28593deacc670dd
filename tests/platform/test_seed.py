"""The made-up platform: always the same, realistic, and with sound books."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from sqlalchemy import select

from app.local.seed import seed
from app.platform.currencies import MINIMUM
from app.platform.ledger.postings import trial_balance
from app.platform.payouts.eligibility import HOLDING, reserve, verdicts
from app.platform.payouts.models import Payout
from app.switchyard.db import Database

NOW = datetime(2025, 1, 15, 9, tzinfo=UTC)


@pytest.mark.parametrize(("creators", "payable"), [(70, 30), (60, 60), (12, 0), (1, 1)])
def test_exactly_so_many_are_payable_and_the_new_wait_their_time(
    db: Database, creators: int, payable: int
) -> None:
    seed(db, creators=creators, payable=payable, now=NOW)
    with db.begin() as tx:
        new = (creators - payable) // 7
        for later, waiting in ((timedelta(), new), (timedelta(hours=23), new), (HOLDING, 0)):
            rows = tx.execute(select(verdicts(NOW + later).subquery())).all()
            assert sum(row.reason == "holding_period" for row in rows) == waiting
        planned = reserve(tx, date(2025, 1, 15), NOW, "run")
        assert planned["requested"] == planned["new"] == payable
        paid = tx.execute(select(Payout.currency, Payout.amount)).all()
        assert all(amount >= MINIMUM[currency] for currency, amount in paid)
        assert sum(books.held for books in trial_balance(tx).values()) == sum(p[1] for p in paid)
