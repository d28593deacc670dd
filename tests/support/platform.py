"""A platform to pay from: a runtime on an in-memory queue, Stripe's stand-in, and one clock."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from copy import copy
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import requests
from pydantic import SecretStr
from sqlalchemy import func, select

from app.local.seed import fill, stripe_accounts
from app.local.stripe.store import SETTLE_SECONDS
from app.local.stripe.webhooks import signature
from app.platform.gateways import Gateways
from app.platform.gateways.stripe import StripeGateway
from app.platform.gateways.stripe_answers import BankPayout
from app.platform.ledger.models import Entry
from app.platform.ledger.postings import Totals, balanced, trial_balance
from app.platform.payouts.eligibility import verdicts
from app.platform.payouts.models import Payout, PayoutAttempt, PayoutStatus
from app.platform.payouts.reconcile import reconcile
from app.platform.wiring import LOCAL_STRIPE_KEY
from app.switchyard.dispatch import dispatch
from app.switchyard.runs.models import RunRow
from tests.support.earnings import balance
from tests.support.site import Site
from tests.support.standins import StripeStandIn
from tests.support.waiting import PATIENCE_SECONDS

ON_ITS_WAY = frozenset(
    {
        *(PayoutStatus.REQUESTED, PayoutStatus.SENDING, PayoutStatus.TRANSFERRED),
        *(PayoutStatus.PAYING, PayoutStatus.IN_TRANSIT, PayoutStatus.BANK_FAILED),
    }
)
Failure = tuple[bool, Exception]
"""Whether the call reached Stripe before, and what is raised."""
AT_THE_BANK = timedelta(seconds=SETTLE_SECONDS)
"""How long the stand-in's bank takes."""
SECRET = "whsec_0123456789abcdefghij"
"""Of the webhook."""
HOOK = "/api/webhooks/stripe"
START = datetime(2025, 1, 15, 9, tzinfo=UTC)
EVER = datetime(2000, 1, 1, tzinfo=UTC)
DAY = date(2025, 1, 15)
MANUAL = {
    "payoutId": "payout_123",
    "creatorId": "ana",
    "amount": 10_000,
    "stripeAccountId": "acct_ana",
}


class Platform(Site):
    """A runtime on an in-memory queue, the stand-in, and one clock for both."""

    now = START
    creators = ()

    def __init__(self, url: str, **settings: Any) -> None:
        self.stand = StripeStandIn(clock=lambda: self.now)
        settings |= {"stripe_webhook_secret": SecretStr(SECRET)}
        super().__init__(url, stripe_api_base=self.stand.start(), **settings)

    def close(self) -> None:
        self.stand.stop()
        self.db.dispose()

    def fault(self, kind: str, **rule: object) -> None:
        self.stand.fault(kind, **rule)

    def event(self, kind: str, object_id: str, account: str | None = None, n: int = 1) -> Any:
        """Stripe's event number `n`, as it comes to the webhook: signed, of type `kind`."""
        event = {"id": f"evt_{n}", "object": "event", "type": kind, "account": account}
        made = int(self.now.timestamp())
        body = json.dumps(event | {"created": made, "data": {"object": {"id": object_id}}})
        signed = {"Stripe-Signature": signature(body, SECRET, made)}
        answer = self.app.test_client().post(HOOK, data=body, headers=signed)
        assert answer.status_code == 200, answer.text
        return answer.json

    def call(self, path: str, account: str | None = None, **fields: object) -> None:
        """POST to Stripe's API as somebody does it in the dashboard."""
        headers = {"Authorization": f"Bearer {LOCAL_STRIPE_KEY}", "Stripe-Account": account}
        url = f"{self.stand.url}/v1/{path}"
        requests.post(url, fields, headers=headers, timeout=PATIENCE_SECONDS).raise_for_status()

    def reverse(self, transfer_id: str, amount: int) -> None:
        self.call(f"transfers/{transfer_id}/reversals", amount=amount)

    def transfers(self) -> list[Any]:
        return self.stand.transfers()

    def use(self, stripe: StripeGateway) -> None:
        self.engine = replace(self.engine, gateways=Gateways(stripe=stripe))

    def failing(self, *failures: Failure, method: str = "create_transfer") -> list[str]:
        """Lose the answers of the first calls to `method`, each in its own way; the keys of all
        calls that create something, as they come."""
        stripe = cast(StripeGateway, self.runtime.engine.gateways.stripe)
        keys, left, failing = list[str](), list(failures), copy(stripe)

        def sent(name: str, *given: Any) -> object:
            keys.append(given[-1])
            reached, failure = left.pop(0) if name == method and left else (True, None)
            result = getattr(stripe, name)(*given) if reached else None
            if failure is not None:
                raise failure
            return result

        for name in ("create_transfer", "create_payout"):
            setattr(failing, name, partial(sent, name))
        self.use(failing)
        return keys

    def creator(
        self, id_: str = "ana", /, owed: int = 50_000, *, funded: bool = True, **change: Any
    ) -> None:
        """Someone to whom `owed` is owed; `funded`: and Stripe has the money."""
        super().creator(id_, owed, **change)
        with self.db.begin() as tx:
            self.stand.set_accounts(*stripe_accounts(tx))
        if funded:
            self.stand.top_up(owed, change.get("currency", "usd"))

    def seed(self, creators: int, payable: int) -> dict[str, int]:
        """So many creators; what the payable are to be paid, by currency."""
        fill(self.db, self.stand.url, creators=creators, payable=payable, now=self.now)
        v = verdicts(self.now).subquery().c
        owed = select(v.currency, func.sum(v.amount)).where(v.reason.is_(None))
        rows = self.db.rows(owed.group_by(v.currency))
        return {currency: int(amount) for currency, amount in rows}

    def work_at_once(self, runs: int) -> None:
        """One slice of each of `runs` queued runs, all at the same time."""
        with ThreadPoolExecutor(runs) as pool:
            slices = [pool.submit(self.queue.work, self.engine, 1) for _ in range(runs)]
            for done in slices:
                done.result()

    def drain(self, step: timedelta = timedelta(seconds=30), limit: int = 60) -> None:
        """Work, and let time pass and the relay look, until every run is done with.

        Time goes on by `step`, or to where there is something to do again.
        """
        for _ in range(limit):
            self.work()
            open_runs = select(func.min(RunRow.check_at)).where(RunRow.check_at.is_not(None))
            due = self.db.value(open_runs)
            if due is None:
                return
            self.later(max(step, due - self.now))
        raise AssertionError("runs are left open")

    def single(self, **change: object) -> Any:
        """Dispatch a single payout and drain; its run."""
        run = dispatch("process-single-payout", {**MANUAL, **change})
        self.drain()
        return self.run(run.id)

    def paid(self, **change: object) -> dict[str, Any]:
        run = self.single(**change)
        assert run.status == "succeeded", run.error
        return dict(json.loads(run.result))

    def result(self, job: str, payload: Any = None, key: str | None = None) -> dict[str, Any]:
        """Dispatch a job of its own and drain; its result."""
        run = dispatch(job, payload or {}, key=key)
        assert run.created
        self.drain()
        ended = self.run(run.id)
        assert ended.status == "succeeded", ended.error
        return dict(json.loads(ended.result))

    def pay_day(self, day: str = "2025-01-15") -> dict[str, Any]:
        return self.result("process-payouts", {"payoutDate": day})

    def again(self) -> dict[str, Any]:
        """Run retry-failed-payouts, a minute later: how many it took, and how many it left.

        What it says of those it took is as they then stand.
        """
        self.now += timedelta(minutes=1)
        before = {payout.id: payout.run_id for payout in self.payouts()}
        result = self.result("retry-failed-payouts")
        taken = Counter(p.status for p in self.payouts() if p.run_id != before[p.id])
        said: Counter[str] = Counter()
        for row in result.get("totals", []):
            said[row["status"]] += row["count"]
        assert said == taken
        assert taken.total() == result["retried"]
        if taken:
            assert (result["ledgerBalanced"], result["reconciled"]["ok"]) == (True, True)
        return {name: result[name] for name in ("retried", "left")}

    def settle(self) -> dict[str, Any]:
        """The banks have had their time, and the books have what they did."""
        self.now += AT_THE_BANK
        return self.result("reconcile-payouts")

    def payouts(self) -> list[Any]:
        return self.db.rows(select(Payout.__table__).order_by(Payout.id))

    def statuses(self) -> list[str]:
        return [payout.status for payout in self.payouts()]

    def attempts(self, leg: str | None = None) -> list[tuple[str, str, str | None]]:
        """Key, outcome and code of each; a payout's transfers come before its bank payouts."""
        A = PayoutAttempt
        chosen = select(A.key, A.outcome, A.code).order_by(A.payout_id, A.leg.desc(), A.n)
        if leg is not None:
            chosen = chosen.where(A.leg == leg)
        return [(row.key, row.outcome, row.code) for row in self.db.rows(chosen)]

    def books(self) -> dict[str, Totals]:
        with self.db.begin() as tx:
            return trial_balance(tx)

    def entries(self, payout_id: str = "payout_123") -> list[tuple[str, int]]:
        """Kind and amount of all that was booked on the payout, in its order."""
        mine = (f"hold:{payout_id}", f"connected:{payout_id}")
        chosen = select(Entry.kind, Entry.amount).order_by(Entry.id)
        found = self.db.rows(chosen.where(Entry.debit.in_(mine) | Entry.credit.in_(mine)))
        return [(row.kind, row.amount) for row in found]

    def owed(self, creator_id: str = "ana", currency: str = "usd") -> int:
        with self.db.begin() as tx:
            return balance(tx, f"creator:{creator_id}", currency)

    def banks(self) -> list[BankPayout]:
        """Every bank payout at Stripe that did not come back."""
        stripe = self.runtime.engine.gateways.stripe
        accounts = {payout.destination for payout in self.payouts()}
        made = [bank for account in accounts for bank in stripe.list_payouts(account)]
        return [bank for bank in made if not bank.came_back]

    def reconciled(self) -> list[Any]:
        """What the ledger and Stripe do not agree on."""
        stripe = self.runtime.engine.gateways.stripe
        return reconcile(self.db.session, stripe, self.now, EVER).differences

    def check_books(self) -> None:
        """What needs no list of each account's bank payouts."""
        books = self.books()
        assert balanced(books)
        payouts = self.payouts()
        for currency, totals in books.items():
            mine = [p for p in payouts if p.currency == currency]
            assert totals.held == sum(p.amount for p in mine if p.status in ON_ITS_WAY)
            on_account = [p.amount for p in mine if p.status in ON_ITS_WAY and p.transfer_id]
            assert totals.connected == sum(on_account)
        available = self.runtime.engine.gateways.stripe.platform_balance().total
        assert available == {currency: totals.cash for currency, totals in books.items()}
        groups = [transfer["transfer_group"] for transfer in self.transfers()]
        assert sorted(groups) == sorted(p.id for p in payouts if p.transfer_id)

    def check(self) -> None:
        """The books hold, only what is on its way is on hold, and Stripe has the same."""
        self.check_books()
        payouts = self.payouts()
        has_bank = [p for p in payouts if p.status in ("in_transit", "paid") and p.bank_payout_id]
        live = {bank.id: bank for bank in self.banks()}
        assert live.keys() == {p.bank_payout_id for p in has_bank}
        for payout in has_bank:
            bank = live[payout.bank_payout_id]
            there = (bank.metadata["payout_id"], bank.amount, bank.currency)
            ours = (payout.id, payout.amount, payout.currency)
            assert there == ours
        assert self.reconciled() == []


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    """On SQLite: that money moves alike on either database, test_payout_crashes shows."""
    with closing(Platform(f"sqlite:///{tmp_path / 'test.db'}")) as made:
        yield made


@pytest.fixture
def anywhere(database_url: str) -> Iterator[Platform]:
    """On each database, for what its locks or its plans decide."""
    with closing(Platform(database_url)) as made:
        yield made
