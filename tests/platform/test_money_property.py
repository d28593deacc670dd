"""Any order of sales, take-backs, pay days, faults and banks' moods: nobody is paid what is not
theirs, and nobody twice; once the faults are over, all that is owed and due is at a bank."""

from __future__ import annotations

import tempfile
from collections import Counter
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from app.platform.earnings.models import EarningKind
from app.platform.ledger.postings import CASH, FEES, EntryKind, Posting, balanced, post
from app.platform.payouts.models import PayoutAttempt, PayoutStatus
from app.platform.payouts.retry import MAX_ATTEMPTS
from app.switchyard.dispatch import dispatch
from tests.support.earnings import (
    Change,
    Sale,
    record_change,
    record_sale,
)
from tests.support.platform import AT_THE_BANK, Platform

CAPITAL = 10_000
"""What the platform itself put in: refunds come out of it where sales are paid out already."""
OWED = 4_000
"""To each creator from the first."""
CREATORS = {"ana": ("usd", True), "bea": ("usd", True), "cem": ("eur", True), "dov": ("usd", False)}
"""Each one's currency, and whether the bank payouts are ours to make."""
ACCOUNTS = [f"acct_{name}" for name in CREATORS]
CAME_BACK = ("failed", "canceled")
NOT_SENT = (PayoutStatus.FAILED, PayoutStatus.REVERSED)
HOURS = (0.2, 26, 50)
TRANSFERS, BANKS = "/v1/transfers", "/v1/payouts"
LOST = ("timeout_after_effect", "drop_before", "409", "429", "500_after", "500_before")
REFUSALS = ("balance_insufficient", "transfers_not_allowed", "account_invalid")
BANK_REFUSALS = ("payouts_not_allowed", "account_closed")
Trouble = dict[str, Any] | None
"""A fault that the next calls to creators' accounts meet."""
ON_PURPOSE: list[Trouble] = [
    *({"kind": kind, "path": path} for kind in LOST for path in (TRANSFERS, BANKS)),
    *({"kind": "refuse", "path": TRANSFERS, "code": code} for code in REFUSALS),
    *({"kind": "refuse", "path": BANKS, "code": code} for code in BANK_REFUSALS),
    *({"kind": kind, "path": BANKS} for kind in ("bank_fails", "bank_turns")),
]
# What is done and not said, or undone after all, is the worst: it comes more often.
WORST = ("timeout_after_effect", "bank_turns")
worst = [one for one in ON_PURPOSE if one and one["kind"] in WORST]
trouble = st.none() | st.sampled_from(ON_PURPOSE) | st.sampled_from(worst)
whose = st.sampled_from(sorted(CREATORS))
which = st.integers(0, 1_000)


class Money(RuleBasedStateMachine):
    """A platform, and beside it what its creators must have, in plain numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        folder = self.stack.enter_context(tempfile.TemporaryDirectory())
        self.platform = Platform(f"sqlite:///{folder}/test.db")
        self.stack.callback(self.platform.close)
        self.net: Counter[str] = Counter()
        """Shares earned less what was taken back, by creator."""
        self.sent: Counter[str] = Counter()
        """All payouts that did not fail and were not reversed, by creator."""
        self.sales: list[Sale] = []
        self.lost: Counter[str] = Counter()
        """What is in dispute of a sale, gross."""
        self.taken: Counter[str] = Counter()
        self.runtime = 0
        for name, (currency, manual) in CREATORS.items():
            self.platform.creator(name, OWED, currency=currency, manual_payouts=manual)
            self.net[name] = OWED
            # Earned elsewhere: their Stripe account has enough for a second bank payout.
            self.platform.stand.top_up(1_000_000, currency, account=f"acct_{name}")
        self.capital(CAPITAL)

    def capital(self, amount: int) -> None:
        for currency in ("usd", "eur"):
            entry = Posting(
                *(EntryKind.FEE, self.name("capital"), CASH, FEES, currency, amount),
                self.platform.now,
            )
            with self.platform.db.begin() as tx:
                post(tx, [entry])
            self.platform.stand.top_up(amount, currency)

    def name(self, kind: str) -> str:
        self.runtime += 1
        return f"{kind}{self.runtime}"

    # Earning

    @rule(
        creator=whose,
        gross=st.integers(1_000, 20_000),
        days=st.sampled_from((0, 6, 8)),
        pending=st.booleans(),
    )
    def earn(self, creator: str, gross: int, days: int, pending: bool) -> None:
        currency = CREATORS[creator][0]
        when = self.platform.now - timedelta(days=days)
        sale = Sale(self.name("s"), creator, "tips", currency, gross, gross // 5, when)
        with self.platform.db.begin() as tx:
            record_sale(tx, sale)
        seconds = 2 * 24 * 3600 if pending else 0
        self.platform.stand.top_up(gross, currency, pending_seconds=seconds)
        self.sales.append(sale)
        self.net[creator] += sale.gross - sale.fee

    @rule(nth=which, dispute=st.booleans(), half=st.booleans())
    def take_back(self, nth: int, dispute: bool, half: bool) -> None:
        if not self.sales:
            return
        sale = self.sales[nth % len(self.sales)]
        gross = sale.gross - self.taken[sale.id]
        gross = gross // 2 if half else gross
        funds = self.platform.stand.store.balance("")
        if not 0 < gross <= funds.get(sale.currency, 0):
            return
        change = Change(self.name("c"), sale.id, sale.currency, gross, 0, self.platform.now)
        with self.platform.db.begin() as tx:
            record_change(tx, change, EarningKind.DISPUTE if dispute else EarningKind.REFUND)
        # Out of the platform's balance, as Stripe takes it.
        self.platform.call("payouts", amount=gross, currency=sale.currency)
        self.taken[sale.id] += gross
        self.lost[sale.id] += gross if dispute else 0
        self.net[sale.creator_id] -= gross

    @rule(nth=which)
    def win_a_dispute(self, nth: int) -> None:
        lost = [sale for sale in self.sales if self.lost[sale.id]]
        if not lost:
            return
        sale = lost[nth % len(lost)]
        gross = self.lost.pop(sale.id)
        change = Change(self.name("w"), sale.id, sale.currency, gross, 0, self.platform.now)
        with self.platform.db.begin() as tx:
            record_change(tx, change, EarningKind.DISPUTE_WON)
        self.platform.stand.top_up(gross, sale.currency)
        self.taken[sale.id] -= gross
        self.net[sale.creator_id] += gross

    # Paying

    def do(
        self,
        job: str,
        payload: dict[str, Any],
        key: str | None = None,
        trouble: Trouble = None,
        times: int = 1,
    ) -> None:
        if trouble is not None:
            self.platform.fault(**trouble, next=times, destinations=ACCOUNTS)
        dispatch(job, payload, key=key)
        self.platform.work()

    @rule(trouble=trouble, times=st.integers(1, 4))
    def pay_day(self, trouble: Trouble, times: int) -> None:
        day = {"payoutDate": self.platform.now.date().isoformat()}
        self.do("process-payouts", day, trouble=trouble, times=times)

    @rule(creator=whose, amount=st.integers(500, 15_000), trouble=trouble)
    def pay_one(self, creator: str, amount: int, trouble: Trouble) -> None:
        order = {"payoutId": self.name("p"), "creatorId": creator, "amount": amount}
        order |= {"stripeAccountId": f"acct_{creator}"}
        self.do("process-single-payout", order, trouble=trouble)

    @rule(nth=which)
    def pay_one_again(self, nth: int) -> None:
        payouts = self.platform.payouts()
        if not payouts:
            return
        payout = payouts[nth % len(payouts)]
        order = {"payoutId": payout.id, "creatorId": payout.creator_id, "amount": payout.amount}
        order |= {"stripeAccountId": payout.destination, "currency": payout.currency}
        self.do("process-single-payout", order, key=self.name("again"))

    @rule(trouble=trouble)
    def retry(self, trouble: Trouble) -> None:
        self.do("retry-failed-payouts", {}, trouble=trouble)

    @rule()
    def reconcile(self) -> None:
        self.do("reconcile-payouts", {})

    # What happens to it

    @rule(hours=st.sampled_from(HOURS))
    def time_passes(self, hours: float) -> None:
        self.platform.later(timedelta(hours=hours))
        self.platform.work()

    @rule(path=st.sampled_from(("/v1/balance", TRANSFERS, BANKS)))
    def lose_a_look(self, path: str) -> None:
        self.platform.fault("drop_before", method="GET", path=path, next=2)

    @rule(nth=which, kind=st.sampled_from(("payout.paid", "payout.failed")))
    def a_webhook_comes(self, nth: int, kind: str) -> None:
        banks = [one for one in self.platform.stand.all("payout") if our(one)]
        if not banks:
            return
        bank = banks[nth % len(banks)]
        owner = next(p for p in self.platform.payouts() if p.id == our(bank))
        self.runtime += 1
        self.platform.event(kind, bank["id"], owner.destination, self.runtime)
        self.platform.work()

    @rule(nth=which)
    def a_transfer_is_reversed(self, nth: int) -> None:
        there = [p for p in self.platform.payouts() if p.status == PayoutStatus.BANK_FAILED]
        if not there:
            return
        payout = there[nth % len(there)]
        self.platform.reverse(payout.transfer_id, payout.amount)
        self.runtime += 1
        self.platform.event("transfer.reversed", payout.transfer_id, None, self.runtime)
        # Its webhook is not lost here: that is for a person, by reconciliation.
        self.platform.stand.forgive()
        self.platform.work()

    # What always holds

    @invariant()
    def the_books_balance(self) -> None:
        assert balanced(self.platform.books())

    @invariant()
    def nobody_is_sent_what_is_not_theirs(self) -> None:
        payouts = self.platform.payouts()
        sent = Counter[str]()
        for payout in payouts:
            if payout.status not in NOT_SENT:
                sent[payout.creator_id] += payout.amount
        there = Counter[str]()
        for one in self.platform.transfers():
            there[one["destination"]] += one["amount"] - one["amount_reversed"]
        for name, (currency, _) in CREATORS.items():
            # What is taken back later does not stop what was set aside before.
            assert sent[name] <= max(self.net[name], self.sent[name]), name
            assert there[f"acct_{name}"] <= sent[name], name
            assert self.platform.owed(name, currency) == self.net[name] - sent[name], name
        self.sent = sent

    @invariant()
    def nobody_is_paid_twice(self) -> None:
        known = {payout.id: payout for payout in self.platform.payouts()}
        live = [one for one in self.platform.transfers() if one["amount_reversed"] < one["amount"]]
        banks = [one for one in self.platform.stand.all("payout") if our(one)]
        banks = [one for one in banks if one["status"] not in CAME_BACK]
        for ids, objects in (
            ([one["transfer_group"] for one in live], live),
            ([our(one) for one in banks], banks),
        ):
            assert len(set(ids)) == len(ids), Counter(ids).most_common(1)
            for id_, one in zip(ids, objects, strict=True):
                payout = known[id_]
                there = (one["amount"], one["currency"])
                assert there == (payout.amount, payout.currency)
        assert {one["destination"] for one in live} <= set(ACCOUNTS)

    def teardown(self) -> None:
        try:
            self.all_ends_well()
        finally:
            self.stack.close()

    def all_ends_well(self) -> None:
        """Without faults, and with money enough, everything comes to its end."""
        platform = self.platform
        platform.stand.forgive()
        self.capital(1_000_000)
        platform.drain()
        # As often as a bank payout may be tried; each may come back once it was paid, too.
        for _ in range(2 * MAX_ATTEMPTS):
            before = platform.payouts()
            platform.now += AT_THE_BANK
            platform.result("reconcile-payouts")
            platform.result("retry-failed-payouts")
            if platform.payouts() == before:
                break
        platform.now += AT_THE_BANK
        assert platform.result("reconcile-payouts")["ok"] is True
        self.nobody_is_sent_what_is_not_theirs()
        self.nobody_is_paid_twice()
        for payout in platform.payouts():
            if payout.status == PayoutStatus.BANK_FAILED:
                assert self.tries(payout.id) >= MAX_ATTEMPTS
            else:
                assert payout.status in (PayoutStatus.PAID, *NOT_SENT), payout.id
        platform.check()

    def tries(self, payout_id: str) -> int:
        A = PayoutAttempt
        return self.platform.count(A, A.payout_id == payout_id, A.leg == "bank")


def our(bank: dict[str, Any]) -> str:
    """The payout that a bank payout is made for; empty for the platform's own."""
    return str(bank["metadata"].get("payout_id", ""))


pytestmark = pytest.mark.minutes
TestMoney = Money.TestCase
TestMoney.settings = settings(
    max_examples=20,
    stateful_step_count=20,
    deadline=None,
    derandomize=True,
    # Shrinking takes minutes: add Phase.shrink by hand to understand a failure.
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
