"""Reconciliation finds each kind of difference made on purpose, and none where there is none."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any, cast

import pytest
from sqlalchemy import insert, update

from app.platform.gateways.stripe import StripeGateway
from app.platform.gateways.stripe_answers import BankPayout, Transfer
from app.platform.ledger.postings import CASH, EntryKind, Posting, post
from app.platform.payouts.differences import Reconciliation
from app.platform.payouts.models import Payout
from app.platform.payouts.reconcile import IN_FLIGHT, WINDOW, reconcile
from app.switchyard.dispatch import dispatch
from tests.support.platform import AT_THE_BANK, DAY, EVER, MANUAL, START, Platform
from tests.support.stripe_stand import pay

ID = str(MANUAL["payoutId"])


def look(platform: Platform, since: timedelta = WINDOW) -> Reconciliation:
    begin = platform.now - since
    return reconcile(
        platform.db.session, platform.runtime.engine.gateways.stripe, platform.now, begin
    )


def kinds(found: Reconciliation) -> list[tuple[str, str | None]]:
    assert all(one.detail and one.fix for one in found.differences)
    return sorted((one.kind.value, one.payout_id) for one in found.differences)


def by_hand(platform: Platform, group: str, amount: int = 10_000, key: str = "by-hand") -> Transfer:
    stripe = platform.runtime.engine.gateways.stripe
    return pay(stripe, key, amount=amount, destination="acct_ana", transfer_group=group)


def set_payout(platform: Platform, **values: Any) -> None:
    with platform.db.begin() as tx:
        tx.execute(update(Payout).where(Payout.id == ID).values(**values))


def test_paid_in_the_ledger_and_unknown_to_stripe(platform: Platform) -> None:
    platform.creator()
    row: dict[str, Any] = {"id": ID, "creator_id": "ana", "currency": "usd", "amount": 700}
    row |= {"status": "paid", "destination": "acct_ana", "transfer_id": "tr_ghost"}
    row |= dict.fromkeys(("requested_at", "updated_at", "settled_at"), START)
    with platform.db.begin() as tx:
        tx.execute(insert(Payout), [row])
        there, rest = f"connected:{ID}", ("usd", 700, START)
        sent = Posting(EntryKind.TRANSFER, "ghost", there, CASH, *rest)
        post(tx, [sent, Posting(EntryKind.SETTLE, "ghost", "creator:ana", there, *rest)])
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
    platform.fault("refuse", code="account_invalid")
    assert platform.paid()["status"] == "failed"
    assert look(platform).ok
    by_hand(platform, ID)
    by_hand(platform, ID, key="twice")
    assert kinds(look(platform)) == [
        ("cash_differs", None),
        ("not_paid_in_ledger", ID),
        ("paid_twice", ID),
    ]
    for transfer in platform.transfers():
        platform.reverse(transfer["id"], 10_000)
    assert look(platform).ok


def test_what_was_paid_differs(platform: Platform) -> None:
    platform.creator()
    done = platform.paid()
    own, bank = done["transferId"], done["bankPayoutId"]
    with platform.db.begin() as tx:  # the database itself refuses such changes
        tx.exec_driver_sql("DROP TRIGGER payouts_pinned")
    right = {"amount": 10_000, "currency": "usd", "destination": "acct_ana"}
    right |= {"transfer_id": own, "bank_payout_id": bank}
    of_transfer, of_bank = ("differs", ID, own), ("bank_differs", ID, bank)
    amount = "amount 9999 in the ledger, 10000 at Stripe"
    currency = "currency eur in the ledger, usd at Stripe"
    destination = "destination acct_eve in the ledger, acct_ana at Stripe"
    other, lost = "the ledger has {}, which Stripe has not", ("bank_missing", ID, bank)
    wrong: dict[str, tuple[object, dict[tuple[str, str, str], str]]] = {
        "amount": (9_999, dict.fromkeys((of_transfer, of_bank), amount)),
        "currency": ("eur", dict.fromkeys((of_transfer, of_bank), currency)),
        "destination": (
            "acct_eve",
            {of_transfer: destination, lost: "10000 usd from acct_eve, but"},
        ),
        "transfer_id": ("tr_other", {of_transfer: other.format("tr_other")}),
        "bank_payout_id": ("po_other", {of_bank: other.format("po_other")}),
    }
    for column, (value, expected) in wrong.items():
        set_payout(platform, **(right | {column: value}))
        differences = look(platform).differences
        found: dict[Any, str] = {
            (one.kind, one.payout_id, one.transfer_id): one.detail for one in differences
        }
        assert (len(differences), found.keys()) == (len(expected), expected.keys())
        assert all(detail in found[which] for which, detail in expected.items()), found
    set_payout(platform, **right)
    assert look(platform).ok


def bank_by_hand(platform: Platform, payout_id: str | None, key: str = "by-hand") -> BankPayout:
    """Another bank payout out of the same account, which has the money for it."""
    platform.stand.top_up(10_000, account="acct_ana")
    named = {} if payout_id is None else {"payout_id": payout_id}
    stripe = cast(StripeGateway, platform.runtime.engine.gateways.stripe)
    given: Any = {"amount": 10_000, "currency": "usd", "metadata": named}
    return stripe.create_payout("acct_ana", given, key)


def test_a_second_bank_payout_is_paid_twice(platform: Platform) -> None:
    platform.creator()
    done = platform.paid()
    second = bank_by_hand(platform, ID)
    (one,) = look(platform).differences
    assert (one.kind, one.payout_id) == ("paid_twice", ID)
    both = {second.id, done["bankPayoutId"]}
    assert one.transfer_id in both
    assert (both - {one.transfer_id}).pop() in one.detail


def test_a_creators_own_bank_payouts_are_not_compared(platform: Platform) -> None:
    platform.creator()
    platform.paid()
    bank_by_hand(platform, None)
    bank_by_hand(platform, "another platform's", key="other")
    assert look(platform).ok
    # Paid by now, and not heard of yet.
    platform.now += AT_THE_BANK
    assert platform.statuses() == ["in_transit"]
    assert look(platform).ok


def test_a_bank_payout_of_one_that_has_none(platform: Platform) -> None:
    platform.creator()
    platform.fault("refuse", path="/v1/payouts", code="account_closed")
    assert platform.paid()["status"] == "bank_failed"
    assert look(platform).ok
    made = bank_by_hand(platform, ID)
    (one,) = look(platform).differences
    assert (one.kind, one.payout_id, one.transfer_id) == ("bank_not_in_ledger", ID, made.id)
    assert one.detail == "10000 usd, and the payout is bank_failed"


def test_a_bank_payout_that_came_back_unheard_differs_until_it_is_followed(
    platform: Platform,
) -> None:
    platform.creator()
    platform.fault("bank_fails", path="/v1/payouts")
    bank_id = platform.paid()["bankPayoutId"]
    platform.now += AT_THE_BANK
    (one,) = look(platform).differences
    assert (one.kind, one.payout_id, one.transfer_id) == ("bank_differs", ID, bank_id)
    assert one.detail == "in_transit in the ledger, failed at Stripe"
    # The pay days' own look leaves the banks to the daily one.
    stripe = platform.runtime.engine.gateways.stripe
    assert reconcile(platform.db.session, stripe, platform.now, EVER, banks=False).ok
    result = platform.result("reconcile-payouts")
    assert (result["moved"], result["ok"]) == (1, True)
    assert look(platform).ok


def test_a_reversed_transfer(platform: Platform) -> None:
    platform.creator()
    transfer_id = platform.paid()["transferId"]
    platform.stand.top_up(10_000, account="acct_ana")
    platform.reverse(transfer_id, 400)
    found = look(platform)
    assert kinds(found) == [("cash_differs", None), ("reversed", ID)]
    assert found.differences[0].detail == "400 of 10000 usd"
    platform.reverse(transfer_id, 9_600)
    assert kinds(look(platform)) == [("cash_differs", None), ("reversed", ID)]


def test_two_transfers_of_one_payout_and_one_taken_back(platform: Platform) -> None:
    platform.creator()
    own = platform.paid()["transferId"]
    second = by_hand(platform, ID)
    found = look(platform)
    assert kinds(found) == [("cash_differs", None), ("paid_twice", ID)]
    assert found.differences[0].transfer_id == second.id
    assert own in found.differences[0].detail
    platform.reverse(second.id, 10_000)
    assert look(platform).ok


@pytest.mark.parametrize(
    ("kind", "debit", "says"),
    [
        (EntryKind.EARNING, "platform:odd", "do not balance: usd: owed 50005"),
        (EntryKind.RELEASE, "hold:odd", "usd: 1 payout took more than was set aside"),
    ],
)
def test_the_books_do_not_balance_and_nobody_is_paid(
    platform: Platform, kind: EntryKind, debit: str, says: str
) -> None:
    platform.creator()
    with platform.db.begin() as tx:
        post(tx, [Posting(kind, "odd", debit, "creator:ana", "usd", 5, START)])
    if kind == EntryKind.EARNING:
        (one,) = look(platform).differences
        assert one.kind == "books_unbalanced"
        there = "cash 50000 + on creators' Stripe accounts 0"
        assert one.detail == f"usd: owed 50005 + held 0 + fees 0 is not {there}"
    run = dispatch("process-payouts", {"payoutDate": DAY.isoformat()})
    platform.drain()
    ended = platform.run(run.id)
    assert ended.status == "failed"
    assert "nobody is paid, the books" in ended.error
    assert says in ended.error
    assert platform.payouts() == platform.transfers() == []


def test_what_is_paid_meanwhile_is_no_difference(platform: Platform) -> None:
    platform.creator()
    inner = platform.runtime.engine.gateways.stripe

    class Slow:
        """A gateway whose first call of each kind takes so long that a payout is made meanwhile."""

        def __init__(self) -> None:
            self.met: list[str] = []

        def __getattr__(self, name: str) -> Any:
            found = getattr(inner, name)
            if name not in ("each", *self.met):
                self.met.append(name)
                platform.paid(payoutId=f"p{len(self.met)}", amount=100)
            return found

    slow = Slow()
    platform.paid(amount=100)
    found = reconcile(platform.db.session, cast(StripeGateway, slow), platform.now, START)
    assert slow.met == ["list_transfers", "list_payouts", "platform_balance"]
    assert found.differences == []
    assert len(platform.transfers()) == len(platform.banks()) == 4


def test_the_job_and_the_command_give_one_document(platform: Platform) -> None:
    platform.creator()
    platform.paid()
    invoke = platform.app.test_cli_runner().invoke

    def command(*args: str, code: int = 0) -> Any:
        done = invoke(args=["payouts", *args, "--json"])
        assert done.exit_code == code, done.output
        return json.loads(done.stdout) if done.stdout else done.stderr

    good = {"ok": True, "payouts": 1, "transfers": 1, "differences": []}
    assert command("reconcile") == good
    assert platform.result("reconcile-payouts", key="good") == good | {"moved": 0}
    second = by_hand(platform, ID)
    bad = command("reconcile", "--since", "1", code=1)
    assert bad | {"moved": 0} == platform.result("reconcile-payouts", key="bad")
    assert bad["ok"] is False
    assert set(bad["differences"][0]) == {"kind", "payout_id", "transfer_id", "detail", "fix"}
    assert second.id in invoke(args=["payouts", "reconcile"]).stdout

    shown = command("show", ID)
    parts = (shown["status"], shown["amount"], shown["payout_date"])
    assert parts == ("in_transit", 10_000, None)
    assert shown["requested_at"] == "2025-01-15T09:00:00.000Z"
    attempts = sorted((one["leg"], one["key"], one["outcome"]) for one in shown["attempts"])
    assert attempts == [("bank", f"{ID}~bank-1", "landed"), ("transfer", f"{ID}-1", "landed")]
    (listed,) = command("show")
    assert listed == {name: value for name, value in shown.items() if name != "attempts"}
    assert command("show", "--status", "failed") == []
    assert "no payout 'eve'" in command("show", "eve", code=2)
    assert "not both" in command("show", ID, "--status", "paid", code=2)
    for args in (["show"], ["show", ID]):
        assert ID in invoke(args=["payouts", *args]).stdout
