"""Reconciliation finds each kind of difference made on purpose, and none where there is none."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, cast

from flask import Flask
from sqlalchemy import insert, update

from app.cli import register_commands
from app.dispatch import dispatch
from app.gateways.stripe import StripeGateway, Transfer
from app.ledger.postings import CASH, EntryKind, Posting, post
from app.payouts.differences import Reconciliation
from app.payouts.models import Payout, PayoutStatus
from app.payouts.reconcile import IN_FLIGHT, WINDOW, reconcile
from app.wiring import LOCAL_STRIPE_KEY
from tests.integration import test_payout_engine as base
from tests.integration.test_payout_engine import DAY, MANUAL, START, Platform

platform = base.platform
ID = str(MANUAL["payoutId"])


def look(platform: Platform, since: timedelta | None = WINDOW) -> Reconciliation:
    begin = None if since is None else platform.now - since
    return reconcile(platform.db.session, platform.made.engine.gateways.stripe, platform.now, begin)


def kinds(found: Reconciliation) -> list[tuple[str, str | None]]:
    assert all(one.detail and one.fix for one in found.differences)
    return sorted((one.kind.value, one.payout_id) for one in found.differences)


def by_hand(platform: Platform, group: str, amount: int = 10_000, key: str = "by-hand") -> Transfer:
    return platform.made.engine.gateways.stripe.create_transfer(
        amount_minor=amount,
        currency="usd",
        destination="acct_ana",
        transfer_group=group,
        idempotency_key=key,
        metadata={},
    )


def reverse(platform: Platform, transfer_id: str, amount: int) -> None:
    url = f"{platform.stand_url}/v1/transfers/{transfer_id}/reversals"
    data = urllib.parse.urlencode({"amount": amount}).encode()
    request = urllib.request.Request(
        url, data, headers={"Authorization": f"Bearer {LOCAL_STRIPE_KEY}"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert answer.status == 200


def set_payout(platform: Platform, **values: Any) -> None:
    with platform.db.begin() as tx:
        tx.execute(update(Payout).where(Payout.id == ID).values(**values))


def test_both_sides_agree_after_a_pay_day(platform: Platform) -> None:
    platform.seed(8, 6)
    platform.fault("timeout_after_effect")
    platform.fault("refuse", code="account_invalid")
    run = dispatch("process-payouts", {"payoutDate": DAY.isoformat()})
    platform.drain()
    for since in (WINDOW, None):
        found = look(platform, since)
        assert (found.payouts, found.transfers, found.differences) == (5, 5, [])
    told = json.loads(platform.run(run.id).result)["reconciled"]
    assert told == {"ok": True, "payouts": 5, "transfers": 5, "differences": {}}
    assert look(platform, timedelta(0)).ok


def test_paid_in_the_ledger_and_unknown_to_stripe(platform: Platform) -> None:
    platform.creator()
    row = {
        "id": ID,
        "creator_id": "ana",
        "currency": "usd",
        "amount": 700,
        "destination": "acct_ana",
        "status": PayoutStatus.PAID,
        "transfer_id": "tr_ghost",
        "requested_at": START,
        "settled_at": START,
    }
    with platform.db.begin() as tx:
        tx.execute(insert(Payout), [row])
        kind = EntryKind.SETTLE
        post(tx, [Posting(kind, "ghost", "creator:ana", CASH, "usd", 700, START)])
    found = look(platform)
    assert kinds(found) == [("cash_differs", None), ("missing_at_stripe", ID)]
    assert (found.payouts, found.transfers) == (1, 0)


def test_a_transfer_of_no_payout(platform: Platform) -> None:
    platform.creator()
    made = by_hand(platform, "nobody's")
    found = look(platform)
    assert kinds(found) == [("cash_differs", None), ("not_paid_in_ledger", None)]
    assert [one.transfer_id for one in found.differences] == [made.id, None]
    assert found.differences[0].detail == '10000 usd to acct_ana, and no payout "nobody\'s"'
    assert "50000 usd, Stripe's 40000" in found.differences[1].detail


def test_a_transfer_whose_payout_is_still_sending(platform: Platform) -> None:
    platform.creator()
    platform.fault("timeout_after_effect")
    dispatch("process-single-payout", MANUAL)
    platform.work()
    assert look(platform).ok  # it may be recorded any moment
    platform.now += IN_FLIGHT
    assert kinds(look(platform)) == [("not_paid_in_ledger", ID)]
    platform.drain()
    assert look(platform).ok


def test_a_transfer_whose_payout_failed(platform: Platform) -> None:
    platform.creator()
    platform.fault("refuse")
    platform.paid()
    assert look(platform).ok
    by_hand(platform, ID)
    by_hand(platform, ID, key="twice")
    assert kinds(look(platform)) == [
        ("cash_differs", None),
        ("not_paid_in_ledger", ID),
        ("paid_twice", ID),
    ]
    for transfer in platform.transfers():
        reverse(platform, transfer["id"], 10_000)
    assert look(platform).ok


def test_what_was_paid_differs(platform: Platform) -> None:
    platform.creator()
    own = platform.paid()["transferId"]
    right = {"amount": 10_000, "currency": "usd", "destination": "acct_ana", "transfer_id": own}
    wrong: dict[str, tuple[object, str]] = {
        "amount": (9_999, "amount 9999 in the ledger, 10000 at Stripe"),
        "currency": ("eur", "currency eur in the ledger, usd at Stripe"),
        "destination": ("acct_eve", "destination acct_eve in the ledger, acct_ana at Stripe"),
        "transfer_id": ("tr_other", "the ledger has tr_other, which Stripe has not"),
    }
    for column, (value, detail) in wrong.items():
        set_payout(platform, **(right | {column: value}))
        (one,) = look(platform).differences
        assert (one.kind, one.payout_id, one.transfer_id) == ("differs", ID, own)
        assert detail in one.detail
    set_payout(platform, **right)
    assert look(platform).ok


def test_a_reversed_transfer(platform: Platform) -> None:
    platform.creator()
    transfer_id = platform.paid()["transferId"]
    reverse(platform, transfer_id, 400)
    found = look(platform)
    assert kinds(found) == [("cash_differs", None), ("reversed", ID)]
    assert found.differences[0].detail == "400 of 10000 usd"
    reverse(platform, transfer_id, 9_600)
    assert kinds(look(platform)) == [("cash_differs", None), ("reversed", ID)]


def test_two_transfers_of_one_payout_and_one_taken_back(platform: Platform) -> None:
    platform.creator()
    own = platform.paid()["transferId"]
    second = by_hand(platform, ID)
    found = look(platform)
    assert kinds(found) == [("cash_differs", None), ("paid_twice", ID)]
    assert found.differences[0].transfer_id == second.id
    assert own in found.differences[0].detail
    reverse(platform, second.id, 10_000)
    assert look(platform).ok


def test_the_books_do_not_balance_and_nobody_is_paid(platform: Platform) -> None:
    platform.creator()
    odd = Posting(EntryKind.EARNING, "odd", "platform:odd", "creator:ana", "usd", 5, START)
    with platform.db.begin() as tx:
        post(tx, [odd])
    (one,) = look(platform).differences
    assert one.kind == "books_unbalanced"
    assert one.detail == "usd: owed 50005 + held 0 + fees 0 is not cash 50000"
    run = dispatch("process-payouts", {"payoutDate": DAY.isoformat()})
    platform.drain()
    ended = platform.run(run.id)
    assert ended.status == "failed"
    assert "nobody is paid, the books do not balance: usd: owed 50005" in ended.error
    assert platform.payouts() == platform.transfers() == []


def test_an_overdrawn_hold_stops_a_pay_day(platform: Platform) -> None:
    platform.creator()
    with platform.db.begin() as tx:
        entry = Posting(EntryKind.RELEASE, "odd", "hold:odd", "creator:ana", "usd", 5, START)
        post(tx, [entry])
    run = dispatch("process-payouts", {"payoutDate": DAY.isoformat()})
    platform.drain()
    assert "usd: 1 payouts took more than was set aside" in platform.run(run.id).error
    assert platform.payouts() == []


def test_cash_that_only_stripe_has(platform: Platform) -> None:
    platform.creator()
    platform.admin("POST", "topup", {"amount": 1, "currency": "eur"})
    (one,) = look(platform).differences
    assert (one.kind, one.detail) == ("cash_differs", "the ledger's cash is 0 eur, Stripe's 1")


def test_a_transfer_older_than_the_window_is_looked_up(platform: Platform) -> None:
    platform.creator()
    platform.fault("timeout_after_effect")
    dispatch("process-single-payout", MANUAL)
    platform.work()
    platform.now += 2 * WINDOW
    platform.drain()
    found = look(platform)
    assert (found.payouts, found.transfers, found.differences) == (1, 0, [])
    platform.now += 2 * WINDOW
    found = look(platform)
    assert (found.payouts, found.transfers, found.differences) == (0, 0, [])
    assert look(platform, None).payouts == 1


def test_what_is_paid_meanwhile_is_no_difference(platform: Platform) -> None:
    platform.creator()
    inner = platform.made.engine.gateways.stripe

    class Slow:
        """Each call takes so long that a payout is made in it."""

        def __init__(self) -> None:
            self.calls = 0

        def pay(self) -> None:
            self.calls += 1
            platform.paid(payoutId=f"p{self.calls}", amount=100)

        def list_transfers(self, **given: Any) -> Iterator[Transfer]:
            self.pay()
            yield from inner.list_transfers(**given)

        def platform_balance(self) -> dict[str, int]:
            if self.calls == 1:
                self.pay()
            return inner.platform_balance()

    slow = cast(StripeGateway, Slow())
    found = reconcile(platform.db.session, slow, platform.now, START)
    assert found.differences == []
    assert len(platform.transfers()) == 2


def test_the_job_and_the_command_give_one_document(platform: Platform) -> None:
    platform.creator()
    platform.paid()
    app = Flask("commands")
    app.extensions["switchyard"] = platform.made
    register_commands(app)
    runner = app.test_cli_runner()

    def command(*args: str, code: int = 0) -> Any:
        done = runner.invoke(args=["payouts", *args, "--json"])
        assert done.exit_code == code, done.output
        return json.loads(done.stdout) if done.stdout else done.stderr

    def job(key: str) -> Any:
        run = dispatch("reconcile-payouts", {}, key=key)
        platform.drain()
        assert platform.run(run.id).status == "succeeded"
        return json.loads(platform.run(run.id).result)

    good = {"ok": True, "payouts": 1, "transfers": 1, "differences": []}
    assert command("reconcile") == job("good") == good
    second = by_hand(platform, ID)
    bad = command("reconcile", "--since", "1", code=1)
    assert bad == job("bad")
    assert bad["ok"] is False
    assert set(bad["differences"][0]) == {"kind", "payout_id", "transfer_id", "detail", "fix"}
    assert second.id in runner.invoke(args=["payouts", "reconcile"]).stdout

    shown = command("show", ID)
    assert (shown["status"], shown["amount"], shown["payout_date"]) == ("paid", 10_000, None)
    assert shown["requested_at"] == "2025-01-15T09:00:00.000Z"
    assert [one["key"] for one in shown["attempts"]] == [f"{ID}-1"]
    (listed,) = command("show")
    assert listed == {name: value for name, value in shown.items() if name != "attempts"}
    assert command("show", "--status", "failed") == []
    assert "no payout 'eve'" in command("show", "eve", code=2)
    assert "not both" in command("show", ID, "--status", "paid", code=2)
    for args in (["show"], ["show", ID]):
        assert ID in runner.invoke(args=["payouts", *args]).stdout
