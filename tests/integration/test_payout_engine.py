"""Payouts from the plan to the books, with Stripe's real client against the stand-in."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, cast

import pytest
from sqlalchemy import delete, func, insert, select, update

from app.config import Settings
from app.db import Base, Database
from app.dispatch import dispatch
from app.earnings.models import Creator
from app.earnings.seed import SeedSummary, seed, stripe_accounts
from app.errors import KeyConflict, PayloadInvalid
from app.gateways import Gateways
from app.gateways.stripe import (
    StripeGateway,
    StripeKeyReused,
    StripeRefused,
    StripeUnknownOutcome,
    Transfer,
)
from app.ledger.models import Entry
from app.ledger.postings import (
    CASH,
    EntryKind,
    Posting,
    Totals,
    balance,
    balanced,
    post,
    trial_balance,
)
from app.local.serving import serve_in_thread
from app.local.stripe import StripeStandIn
from app.payouts.attempts import PayoutMoved, move
from app.payouts.eligibility import reserve
from app.payouts.engine import KEY_WINDOW
from app.payouts.models import MOVES, Payout, PayoutAttempt, PayoutStatus
from app.runs.engine import Engine
from app.runs.memory import MemoryBackend
from app.runs.models import RunRow, StepRow
from app.runs.relay import sweep
from app.runtime import Runtime
from app.wiring import make_runtime

START = datetime(2025, 1, 15, 9, tzinfo=UTC)
DAY = date(2025, 1, 15)
ANA = {
    "id": "ana",
    "name": "Ana",
    "email": "ana@example.com",
    "country": "US",
    "currency": "usd",
    "stripe_account_id": "acct_ana",
    "payouts_enabled": True,
    "transfers_active": True,
    "disabled_reason": None,
    "created_at": START,
}
MANUAL = {
    "payoutId": "payout_123",
    "creatorId": "ana",
    "amount": 10_000,
    "stripeAccountId": "acct_ana",
}


class Time:
    """The one clock of the platform and of Stripe."""

    now = START


class Platform:
    """A runtime on an in-memory queue, the stand-in, and one clock for both."""

    def __init__(self, url: str, stand_url: str, time: Time) -> None:
        self.time = time
        self.stand_url = stand_url
        self.queue = MemoryBackend()
        self.queue.name = "rq"
        settings = Settings(database_url=url, stripe_api_base=stand_url)
        self.made: Runtime = make_runtime(settings, clock=lambda: time.now, backends=[self.queue])
        self.engine: Engine = self.made.engine
        self.db: Database = self.made.db
        Base.metadata.create_all(self.db.engine)

    @property
    def now(self) -> datetime:
        return self.time.now

    @now.setter
    def now(self, moment: datetime) -> None:
        self.time.now = moment

    def admin(self, method: str, route: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.stand_url}/_standin/{route}", data, method=method)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    def fault(self, kind: str, **rule: object) -> None:
        rule = {"kind": kind, **({} if "probability" in rule else {"next": 1}), **rule}
        self.admin("POST", "faults", {"rules": [rule]})

    def transfers(self) -> list[Any]:
        return list(self.admin("GET", "transfers")["transfers"])

    def use(self, stripe: StripeGateway) -> None:
        self.engine = replace(self.engine, gateways=Gateways(stripe=stripe))

    def failing(self, *failures: tuple[bool, Exception]) -> Failing:
        made = Failing(self.made.engine.gateways.stripe, *failures)
        self.use(cast(StripeGateway, made))
        return made

    def creator(self, owed: int = 50_000, **change: Any) -> None:
        row = {**ANA, **change}
        earned = Posting(
            EntryKind.EARNING,
            f"e-{row['id']}",
            CASH,
            f"creator:{row['id']}",
            row["currency"],
            owed,
            START,
        )
        with self.db.begin() as tx:
            tx.execute(insert(Creator), [row])
            post(tx, [earned])
            accounts = stripe_accounts(tx)
        self.admin("POST", "accounts", {"accounts": accounts})
        self.admin("POST", "topup", {"amount": owed, "currency": row["currency"]})

    def seed(self, creators: int, payable: int) -> SeedSummary:
        made = seed(self.db, creators=creators, seed=4, now=self.now, payable=payable)
        with self.db.autocommit() as connection:
            accounts = stripe_accounts(connection)
        self.admin("POST", "accounts", {"accounts": accounts})
        for currency, amount in made.top_ups.items():
            self.admin("POST", "topup", {"amount": amount, "currency": currency})
        return made

    def work(self) -> list[Any]:
        return self.queue.work(self.engine)

    def work_at_once(self, runs: int) -> None:
        """One slice of each of `runs` queued runs, all at the same time."""
        with ThreadPoolExecutor(runs) as pool:
            slices = [pool.submit(self.queue.work, self.engine, 1) for _ in range(runs)]
            for done in slices:
                done.result()

    def drain(self, step: timedelta = timedelta(seconds=30), limit: int = 60) -> None:
        """Work, and let time pass and the relay look, until every run is done with."""
        for _ in range(limit):
            self.work()
            with self.db.autocommit() as connection:
                open_runs = select(func.count()).where(RunRow.check_at.is_not(None))
                if not connection.scalar(open_runs):
                    return
            self.now += step
            sweep(self.made.store)
        raise AssertionError("runs are left open")

    def run(self, run_id: str) -> Any:
        with self.db.autocommit() as connection:
            columns = (RunRow.status, RunRow.result, RunRow.error)
            return connection.execute(select(*columns).where(RunRow.id == run_id)).one()

    def single(self, **change: object) -> Any:
        """Dispatch a single payout and drain; its run."""
        run = dispatch("process-single-payout", {**MANUAL, **change})
        self.drain()
        return self.run(run.id)

    def paid(self, **change: object) -> dict[str, Any]:
        run = self.single(**change)
        assert run.status == "succeeded", run.error
        return dict(json.loads(run.result))

    def payouts(self) -> list[Any]:
        with self.db.autocommit() as connection:
            return list(connection.execute(select(Payout).order_by(Payout.id)))

    def attempts(self) -> list[tuple[str, str, str | None]]:
        A = PayoutAttempt
        with self.db.autocommit() as connection:
            rows = connection.execute(select(A.key, A.outcome, A.code).order_by(A.payout_id, A.n))
            return [(row.key, row.outcome, row.code) for row in rows]

    def books(self) -> dict[str, Totals]:
        with self.db.begin() as tx:
            return trial_balance(tx)

    def owed(self, creator_id: str = "ana", currency: str = "usd") -> int:
        with self.db.begin() as tx:
            return balance(tx, f"creator:{creator_id}", currency)

    def check(self) -> None:
        """The books hold, nothing is left on hold, and cash is what Stripe has."""
        books = self.books()
        assert balanced(books)
        assert all(totals.held == 0 for totals in books.values())
        available = self.made.engine.gateways.stripe.platform_balance()
        assert available == {currency: totals.cash for currency, totals in books.items()}
        groups = [transfer["transfer_group"] for transfer in self.transfers()]
        paid = [p.id for p in self.payouts() if p.status == PayoutStatus.PAID]
        assert sorted(groups) == sorted(paid)


@pytest.fixture
def platform(database_url: str) -> Iterator[Platform]:
    time = Time()
    stand = StripeStandIn(clock=lambda: time.now)
    with serve_in_thread(stand) as stand_url:
        made = Platform(database_url, stand_url, time)
        yield made
        made.admin("DELETE", "faults")
        made.db.dispose()
    stand.close()


# One payout


def test_a_manual_payout_is_requested_and_paid(platform: Platform) -> None:
    platform.creator()
    done = platform.paid()
    (transfer,) = platform.transfers()
    assert done == {"payoutId": "payout_123", "status": "paid", "transferId": transfer["id"]}
    assert (transfer["amount"], transfer["currency"]) == (10_000, "usd")
    assert transfer["metadata"] == {"payout_id": "payout_123", "creator_id": "ana"}
    (payout,) = platform.payouts()
    assert (payout.status, payout.transfer_id, payout.settled_at, payout.payout_date) == (
        *("paid", transfer["id"], START, None),
    )
    assert platform.attempts() == [("payout_123-1", "paid", None)]
    assert platform.owed() == 40_000
    platform.check()
    again = dispatch("process-single-payout", MANUAL)
    assert not again.created
    platform.drain()
    platform.check()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"creatorId": "eve"}, "no creator 'eve'"),
        ({"stripeAccountId": "acct_eve"}, "'acct_eve' is not creator ana's account"),
        ({"amount": 50_001}, "50001 usd wanted but 50000 owed"),
        ({"currency": "eur"}, "10000 eur wanted but 0 owed"),
        ({"creatorId": "bob", "stripeAccountId": "acct_bob"}, "left out: account_disabled"),
    ],
)
def test_a_manual_payout_that_does_not_fit_writes_nothing(
    platform: Platform, change: dict[str, Any], error: str
) -> None:
    platform.creator()
    platform.creator(id="bob", stripe_account_id="acct_bob", disabled_reason="under_review")
    run = platform.single(**change)
    assert run.status == "failed"
    assert error in run.error
    assert platform.payouts() == platform.attempts() == platform.transfers() == []
    assert platform.owed() == 50_000
    with platform.db.autocommit() as connection:
        tries = connection.scalars(select(StepRow.attempts)).all()
    assert tries == [1]


@pytest.mark.parametrize(
    "change",
    [
        {"amount": 10_001},
        {"creatorId": "bob"},
        {"stripeAccountId": "acct_bob"},
        {"currency": "eur"},
    ],
)
def test_an_order_must_match_the_known_payout(platform: Platform, change: dict[str, Any]) -> None:
    platform.creator()
    platform.creator(id="bob", stripe_account_id="acct_bob")
    platform.paid()
    with pytest.raises(KeyConflict):
        dispatch("process-single-payout", {**MANUAL, **change})
    run = dispatch("process-single-payout", {**MANUAL, **change}, key="by hand")
    platform.drain()
    ended = platform.run(run.id)
    assert ended.status == "failed"
    assert "payout_123 has" in ended.error
    platform.check()


@pytest.mark.parametrize(
    "change",
    [
        {"amount": 0},
        {"amount": -1},
        {"amount": 1.5},
        {"amount": "100"},
        {"amount": True},
        {"amount": 10**12},
        {"payoutId": ""},
        {"payoutId": "ü"},
        {"payoutId": "p" * 241},
        {"currency": "USD"},
        {"speed": "instant"},
    ],
)
def test_payloads_that_cannot_be_paid_are_refused_at_the_door(
    platform: Platform, change: dict[str, Any]
) -> None:
    with pytest.raises(PayloadInvalid):
        dispatch("process-single-payout", {**MANUAL, **change})


def test_a_refusal_gives_the_money_back_and_is_a_result(platform: Platform) -> None:
    platform.creator()
    platform.fault("refuse", code="account_invalid")
    done = platform.paid()
    assert done == {"payoutId": "payout_123", "status": "failed", "reason": "account_invalid"}
    (payout,) = platform.payouts()
    assert (payout.status, payout.reason, payout.settled_at) == ("failed", "account_invalid", START)
    assert platform.attempts() == [("payout_123-1", "refused", "account_invalid")]
    assert platform.owed() == 50_000
    platform.check()


def test_a_failed_payout_can_be_tried_anew_under_a_new_key(platform: Platform) -> None:
    platform.creator()
    platform.fault("refuse")
    platform.paid()
    with platform.db.session() as tx:
        move(tx, "payout_123", PayoutStatus.FAILED, PayoutStatus.REQUESTED)
        again = Posting(
            *(EntryKind.HOLD, "payout_123-2", "creator:ana", "hold:payout_123"),
            *("usd", 10_000, platform.now),
        )
        post(tx, [again])
    run = dispatch("process-single-payout", MANUAL, key="again")
    platform.drain()
    assert json.loads(platform.run(run.id).result)["status"] == "paid"
    keys = [(key, outcome) for key, outcome, _ in platform.attempts()]
    assert keys == [("payout_123-1", "refused"), ("payout_123-2", "paid")]
    platform.check()


@pytest.mark.parametrize("kind", ["timeout_after_effect", "drop_before", "409", "500_after"])
def test_an_unknown_outcome_is_retried_with_the_same_key(platform: Platform, kind: str) -> None:
    platform.creator()
    platform.fault(kind)
    dispatch("process-single-payout", MANUAL)
    platform.work()
    assert platform.attempts() == [("payout_123-1", "unknown", None)]
    (payout,) = platform.payouts()
    assert payout.status == "sending"
    assert platform.books()["usd"].held == 10_000
    platform.drain()
    # A stored 500 is replayed for ever: it is Stripe's list that tells.
    assert platform.attempts() == [("payout_123-1", "paid", None)]
    assert len(platform.transfers()) == 1
    platform.check()


def test_an_outcome_that_stays_unknown_leaves_the_payout_open(platform: Platform) -> None:
    platform.creator()
    platform.fault("500_before")
    run = platform.single()
    assert run.status == "failed"
    assert "StripeUnknownOutcome" in run.error
    assert platform.attempts() == [("payout_123-1", "unknown", None)]
    assert platform.books()["usd"].held == 10_000
    # The key is spent; past its window the next run looks, finds nothing, and takes a new one.
    platform.now += KEY_WINDOW
    dispatch("process-single-payout", MANUAL, key="again")
    platform.drain()
    assert platform.attempts() == [
        ("payout_123-1", "refused", "key_expired"),
        ("payout_123-2", "paid", None),
    ]
    platform.check()


def test_a_rate_limit_waits_as_long_as_stripe_asks(platform: Platform) -> None:
    platform.creator()
    platform.fault("429", retry_after=77)
    platform.fault("429")
    run = dispatch("process-single-payout", MANUAL)
    (first,) = platform.work()
    assert (first.end, first.due_at) == ("retry", START + timedelta(seconds=77))
    assert platform.attempts() == [("payout_123-1", "sending", None)]
    platform.now = first.due_at
    sweep(platform.made.store)
    (second,) = platform.work()
    assert 5 <= (second.due_at - platform.now).total_seconds() < 15
    platform.drain()
    assert platform.run(run.id).status == "succeeded"
    assert platform.attempts() == [("payout_123-1", "paid", None)]
    platform.check()


def test_a_wrong_api_key_is_nobodys_refusal(platform: Platform) -> None:
    platform.creator()
    platform.use(StripeGateway("rk_live_wrong", platform.stand_url))
    run = platform.single()
    assert run.status == "failed"
    assert "StripeMisconfigured" in run.error
    assert platform.attempts() == [("payout_123-1", "sending", None)]
    platform.engine = platform.made.engine
    dispatch("process-single-payout", MANUAL, key="again")
    platform.drain()
    platform.check()


class Failing:
    """A gateway that loses the answers of its first calls, each in its own way."""

    def __init__(self, inner: StripeGateway, *failures: tuple[bool, Exception]) -> None:
        self.inner = inner
        self.failures = list(failures)
        """Whether the call reached Stripe before, and what is raised."""
        self.keys: list[str] = []

    def create_transfer(self, **given: Any) -> Transfer:
        self.keys.append(given["idempotency_key"])
        reached, failure = self.failures.pop(0) if self.failures else (True, None)
        made = self.inner.create_transfer(**given) if reached else None
        if failure is not None:
            raise failure
        assert made is not None
        return made

    def list_transfers(self, **given: Any) -> Iterator[Transfer]:
        return self.inner.list_transfers(**given)


@pytest.mark.parametrize(
    "failure", [RuntimeError("died"), StripeUnknownOutcome("lost"), StripeKeyReused("other")]
)
def test_a_crash_between_the_call_and_its_record_pays_once(
    platform: Platform, failure: Exception
) -> None:
    platform.creator()
    gateway = platform.failing((True, failure))
    assert platform.paid()["status"] == "paid"
    looked_up = isinstance(failure, StripeKeyReused)
    assert gateway.keys == ["payout_123-1"] * (1 if looked_up else 2)
    assert len(platform.transfers()) == 1
    platform.check()


def test_a_refusal_is_not_believed_while_an_earlier_send_stands(platform: Platform) -> None:
    platform.creator()
    closed = StripeRefused("account_invalid", "the account is gone")
    platform.failing((True, RuntimeError("died")), (False, closed))
    assert platform.paid()["status"] == "paid"
    assert len(platform.transfers()) == 1
    platform.check()


@pytest.mark.parametrize("effect", [True, False])
def test_a_key_past_its_window_is_looked_up_and_never_sent_again(
    platform: Platform, effect: bool
) -> None:
    platform.creator()
    platform.fault("timeout_after_effect" if effect else "drop_before")
    dispatch("process-single-payout", MANUAL)
    platform.work()
    assert len(platform.transfers()) == effect
    # Stripe has forgotten the key by then: sent again, it would pay again.
    platform.now += timedelta(hours=25)
    sweep(platform.made.store)
    gateway = platform.failing()
    platform.drain()
    assert gateway.keys == ([] if effect else ["payout_123-2"])
    assert len(platform.transfers()) == 1
    platform.check()


def test_a_strange_transfer_in_the_group_stops_for_a_person(platform: Platform) -> None:
    platform.creator()
    platform.fault("drop_before")
    dispatch("process-single-payout", MANUAL)
    platform.work()
    platform.made.engine.gateways.stripe.create_transfer(
        amount_minor=1,
        currency="usd",
        destination="acct_ana",
        transfer_group="payout_123",
        idempotency_key="by-hand",
        metadata={},
    )
    platform.now += timedelta(hours=25)
    sweep(platform.made.store)
    platform.drain()
    (payout,) = platform.payouts()
    assert payout.status == "sending"
    assert platform.books()["usd"].held == 10_000
    assert len(platform.transfers()) == 1


def test_a_second_run_of_a_settled_payout_finds_it_settled(platform: Platform) -> None:
    platform.creator()
    first = platform.paid()
    run = dispatch("process-single-payout", MANUAL, key="again")
    platform.drain()
    assert json.loads(platform.run(run.id).result) == first
    platform.check()


def test_runs_of_one_payout_at_once_pay_it_once(platform: Platform) -> None:
    platform.creator()
    runs = [dispatch("process-single-payout", MANUAL, key=f"k{n}") for n in range(4)]
    platform.work_at_once(4)
    platform.drain()
    ended = [platform.run(run.id) for run in runs]
    assert {run.status for run in ended} == {"succeeded"}
    assert len({run.result for run in ended}) == 1
    assert platform.attempts() == [("payout_123-1", "paid", None)]
    platform.check()


def test_payouts_requested_at_once_cannot_spend_one_balance(platform: Platform) -> None:
    platform.creator()
    for n in range(4):
        dispatch("process-single-payout", {**MANUAL, "payoutId": f"p{n}", "amount": 30_000})
    dispatch("process-payouts", {"payoutDate": "2025-01-15"})
    platform.work_at_once(5)
    platform.drain()
    assert platform.owed() == 50_000 - sum(payout.amount for payout in platform.payouts())
    assert platform.owed() >= 0
    assert {payout.status for payout in platform.payouts()} == {"paid"}
    platform.check()


def test_payouts_move_only_as_allowed(platform: Platform) -> None:
    platform.creator()
    platform.paid()
    with platform.db.session() as tx, pytest.raises(PayoutMoved):
        move(tx, "payout_123", PayoutStatus.SENDING, PayoutStatus.FAILED)
    for old in PayoutStatus:
        for new in set(PayoutStatus) - MOVES[old]:
            with platform.db.session() as tx, pytest.raises(ValueError, match="does not go"):
                move(tx, "payout_123", old, new)


# The pay day


def test_a_pay_day_pays_everyone_eligible_once(platform: Platform) -> None:
    made = platform.seed(70, 60)
    run = dispatch("process-payouts", {"payoutDate": "2025-01-15", "dayOfMonth": 15})
    platform.drain()
    ended = platform.run(run.id)
    assert ended.status == "succeeded", ended.error
    result = json.loads(ended.result)
    assert result["requested"] == result["new"] == 60
    assert result["leftOut"] == made.left_out
    assert result["runs"] == {"succeeded": 60}
    assert result["ledgerBalanced"] is True
    amounts = {row["currency"]: row["amount"] for row in result["totals"]}
    assert {row["status"] for row in result["totals"]} == {"paid"}
    assert amounts == made.payable_amounts
    assert len(platform.transfers()) == 60
    platform.check()
    with platform.db.autocommit() as connection:
        steps = select(StepRow.result).where(StepRow.run_id == run.id, StepRow.name.like("pay-%"))
        pages = [
            json.loads(result or "[]")
            for result in connection.scalars(steps.order_by(StepRow.name))
        ]
    assert [len(page) for page in pages] == [50, 10]
    assert len({child for page in pages for child in page}) == 60


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"owed": 2_500}, None),
        ({"owed": 2_499}, "below_minimum"),
        ({"owed": 3_000, "currency": "jpy"}, None),
        ({"owed": 2_999, "currency": "jpy"}, "below_minimum"),
        ({"owed": 1_000_000, "currency": "chf"}, "currency_unsupported"),
        ({"stripe_account_id": None}, "no_account"),
        ({"disabled_reason": "under_review", "payouts_enabled": False}, "account_disabled"),
        ({"transfers_active": False}, "transfers_inactive"),
        ({"payouts_enabled": False}, "payouts_disabled"),
    ],
)
def test_who_is_left_out_is_counted_by_reason(
    platform: Platform, change: dict[str, Any], reason: str | None
) -> None:
    platform.creator(**change)
    with platform.db.begin() as tx:
        planned = reserve(tx, DAY, START)
    assert planned == {
        "requested": int(reason is None),
        "new": int(reason is None),
        "leftOut": {} if reason is None else {reason: 1},
    }


def test_a_second_event_for_the_date_is_the_same_run(platform: Platform) -> None:
    platform.seed(6, 6)
    spec = platform.made.catalogue["process-payouts"]
    assert spec.tick is not None
    first = dispatch("process-payouts", spec.tick(START))
    platform.drain()
    for payload in ({"payoutDate": "2025-01-15"}, {"payout_date": DAY, "dayOfMonth": 15}):
        again = dispatch("process-payouts", payload)
        assert (again.id, again.created) == (first.id, False)
    with pytest.raises(KeyConflict):
        dispatch("process-payouts", {"payoutDate": "2025-01-15", "dayOfMonth": 16})
    # Another run for the date, by hand, pays nobody twice, whatever they earned since.
    paid = platform.payouts()
    with platform.db.begin() as tx:
        late = Posting(
            *(EntryKind.EARNING, "late", CASH, f"creator:{paid[0].creator_id}"),
            *(paid[0].currency, 90_000, platform.now),
        )
        post(tx, [late])
    platform.admin("POST", "topup", {"amount": 90_000, "currency": paid[0].currency})
    other = dispatch("process-payouts", {"payoutDate": "2025-01-15"}, key="by hand")
    platform.drain()
    result = json.loads(platform.run(other.id).result)
    assert (result["requested"], result["new"]) == (6, 0)
    assert platform.payouts() == paid
    assert platform.owed(paid[0].creator_id, paid[0].currency) == 90_000
    platform.check()


def test_another_date_is_another_pay_day(platform: Platform) -> None:
    platform.creator()
    dispatch("process-payouts", {"payoutDate": "2025-01-15"})
    platform.drain()
    with platform.db.begin() as tx:
        post(
            tx,
            [Posting(EntryKind.EARNING, "e-2", CASH, "creator:ana", "usd", 50_000, platform.now)],
        )
    platform.admin("POST", "topup", {"amount": 50_000})
    dispatch("process-payouts", {"payoutDate": "2025-02-01"})
    platform.drain()
    assert [p.amount for p in platform.payouts()] == [50_000, 50_000]
    platform.check()


@pytest.mark.parametrize("value", ["2025-13-01", "tomorrow", 1736899200, "1736899200", None, True])
def test_a_pay_day_is_a_date(platform: Platform, value: object) -> None:
    with pytest.raises(PayloadInvalid):
        dispatch("process-payouts", {"payoutDate": value})


@pytest.mark.parametrize("day", [0, 32])
def test_a_day_of_the_month_is_one(platform: Platform, day: int) -> None:
    with pytest.raises(PayloadInvalid):
        dispatch("process-payouts", {"payoutDate": "2025-01-15", "dayOfMonth": day})


def test_a_pay_day_under_faults_pays_each_once_or_not_at_all(platform: Platform) -> None:
    platform.seed(130, 120)
    for kind in ("timeout_after_effect", "drop_before", "409", "429", "500_after"):
        platform.fault(kind, probability=0.06, path="/v1/transfers")
    platform.fault("refuse", probability=0.05, code="account_invalid")
    run = dispatch("process-payouts", {"payoutDate": "2025-01-15"})
    platform.drain()
    result = json.loads(platform.run(run.id).result)
    counts: dict[str, int] = {}
    for row in result["totals"]:
        counts[row["status"]] = counts.get(row["status"], 0) + row["count"]
    assert set(counts) == {"paid", "failed"}
    assert counts["paid"] + counts["failed"] == 120
    assert len(platform.transfers()) == counts["paid"]
    assert result["ledgerBalanced"] is True
    platform.check()


def test_a_plan_that_is_repeated_after_a_crash_reserves_once(platform: Platform) -> None:
    platform.seed(60, 55)
    run = dispatch("process-payouts", {"payoutDate": "2025-01-15"})
    platform.queue.work(platform.engine, limit=1)
    # As if the record of the step had been lost with the effects standing.
    with platform.db.begin() as tx:
        tx.execute(delete(StepRow).where(StepRow.run_id == run.id, StepRow.name == "plan"))
        due = {"due_at": platform.now, "check_at": platform.now}
        tx.execute(update(RunRow).where(RunRow.id == run.id).values(**due))
    platform.drain()
    result = json.loads(platform.run(run.id).result)
    assert (result["requested"], result["new"]) == (55, 0)
    with platform.db.autocommit() as connection:
        holds = select(func.count()).where(Entry.kind == EntryKind.HOLD)
        assert connection.scalar(holds) == 55
    assert len(platform.transfers()) == 55
    platform.check()
