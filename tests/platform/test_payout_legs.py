"""Each leg of a payout has one effect, whatever happens to the call and its answer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from app.platform.earnings.models import Creator
from app.platform.gateways.stripe_answers import StripeRefused
from app.platform.payouts.engine import SERVER_ERROR_STANDS
from app.platform.payouts.retry import MAX_ATTEMPTS, SENDING_STALE
from app.switchyard.dispatch import dispatch
from tests.support.platform import MANUAL, Platform

TRIED = {"retried": 1, "left": {}}


@dataclass(frozen=True)
class Leg:
    """One of a payout's two calls, and how the payout stands while it is open or refused."""

    name: str
    path: str
    method: str
    key: str
    open: str
    refused: str
    may_pass: str
    gate: str
    gate_closed: str
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    def keys(self, *numbers: int) -> list[str]:
        """The keys of all calls, where this leg's attempts had these numbers."""
        return [*self.before, *(f"{self.key}-{n}" for n in numbers), *self.after]

    def tried(self, *outcomes: tuple[str, str | None]) -> list[tuple[str, str, str | None]]:
        return [(f"{self.key}-{n}", *outcome) for n, outcome in enumerate(outcomes, 1)]


T, B = "payout_123", "payout_123~bank"
LEGS = (
    Leg(
        *("transfer", "/v1/transfers", "create_transfer", T, "sending", "failed"),
        *("transfers_not_allowed", "transfers_active", "transfers_inactive"),
        after=(f"{B}-1",),
    ),
    Leg(
        *("bank", "/v1/payouts", "create_payout", B, "paying", "bank_failed"),
        *("payouts_not_allowed", "payouts_enabled", "payouts_disabled"),
        before=(f"{T}-1",),
    ),
)
LANDED, UNKNOWN = ("landed", None), ("unknown", None)
EXPIRED = ("refused", "key_expired")
each_leg = pytest.mark.parametrize("leg", LEGS, ids=lambda leg: leg.name)


def interrupted(platform: Platform, leg: Leg, kind: str) -> str:
    """A run whose call on this leg met a fault once, and which now waits; its id."""
    platform.creator()
    platform.fault(kind, path=leg.path)
    run = dispatch("process-single-payout", MANUAL)
    platform.work()
    return run.id


def refused(platform: Platform, leg: Leg) -> None:
    platform.creator()
    platform.fault("refuse", path=leg.path, code=leg.may_pass)
    done = platform.paid()
    assert (done["status"], done["reason"]) == (leg.refused, leg.may_pass)
    platform.check()


def paid_once(platform: Platform, leg: Leg, *outcomes: tuple[str, str | None]) -> None:
    """Assert that this leg had these attempts, and that everything happened once."""
    assert platform.attempts(leg.name) == leg.tried(*outcomes)
    assert platform.statuses() == ["in_transit"]
    assert len(platform.transfers()) == len(platform.banks()) == 1
    assert platform.owed() == 40_000
    platform.check()


@pytest.mark.parametrize("kind", ["timeout_after_effect", "drop_before", "409", "500_after", "429"])
@each_leg
def test_an_unknown_outcome_is_retried_with_the_same_key(
    platform: Platform, leg: Leg, kind: str
) -> None:
    interrupted(platform, leg, kind)
    assert platform.attempts(leg.name) == leg.tried(("sending", None) if kind == "429" else UNKNOWN)
    assert platform.statuses() == [leg.open]
    assert platform.books()["usd"].held == 10_000
    platform.drain()
    # A stored 500 is replayed for ever: Stripe's list shows the effect.
    paid_once(platform, leg, LANDED)


@each_leg
def test_a_stored_500_without_effect_is_left_after_ten_minutes_of_looking(
    platform: Platform, leg: Leg
) -> None:
    """It is replayed as long as its key lives, and Stripe's list says that nothing was done."""
    interrupted(platform, leg, "500_before")
    platform.later(SERVER_ERROR_STANDS - timedelta(seconds=1))
    platform.work()
    assert platform.attempts(leg.name) == leg.tried(UNKNOWN)
    platform.drain()
    paid_once(platform, leg, EXPIRED, LANDED)


@pytest.mark.parametrize("effect", [True, False])
@each_leg
def test_a_key_past_its_window_is_looked_up_and_never_sent_again(
    platform: Platform, leg: Leg, effect: bool
) -> None:
    interrupted(platform, leg, "timeout_after_effect" if effect else "drop_before")
    # Stripe has forgotten the key by then: sent again, it would pay again.
    platform.later(timedelta(hours=25))
    keys = platform.failing()
    platform.drain()
    sent = leg.keys() if effect else leg.keys(2)
    assert keys == sent[len(leg.before) :]
    paid_once(platform, leg, *([LANDED] if effect else [EXPIRED, LANDED]))


@each_leg
def test_a_refusal_is_not_believed_while_an_earlier_send_stands(
    platform: Platform, leg: Leg
) -> None:
    platform.creator()
    closed = StripeRefused("account_closed", "the account is gone")
    platform.failing((True, RuntimeError("died")), (False, closed), method=leg.method)
    assert platform.paid()["status"] == "in_transit"
    paid_once(platform, leg, LANDED)


# Tried again by the daily job


@each_leg
def test_what_may_pass_is_paid_by_a_new_attempt(platform: Platform, leg: Leg) -> None:
    refused(platform, leg)
    assert platform.again() == TRIED
    paid_once(platform, leg, ("refused", leg.may_pass), LANDED)
    assert platform.again() == {"retried": 0, "left": {}}


@each_leg
def test_it_waits_until_the_account_can_be_paid(platform: Platform, leg: Leg) -> None:
    refused(platform, leg)
    changes: list[tuple[dict[str, Any], str]] = [
        ({leg.gate: False}, leg.gate_closed),
        ({leg.gate: True, "stripe_account_id": "acct_other"}, "destination_changed"),
        ({"stripe_account_id": None}, "no_account"),
    ]
    for values, why in changes:
        with platform.db.begin() as tx:
            tx.execute(update(Creator).values(**values))
        assert platform.again() == {"retried": 0, "left": {why: 1}}
    assert platform.statuses() == [leg.refused]
    with platform.db.begin() as tx:
        tx.execute(update(Creator).values(stripe_account_id="acct_ana"))
    assert platform.again() == TRIED
    paid_once(platform, leg, ("refused", leg.may_pass), LANDED)


@each_leg
def test_after_five_attempts_it_is_left(platform: Platform, leg: Leg) -> None:
    refused(platform, leg)
    for _ in range(MAX_ATTEMPTS - 1):
        platform.fault("refuse", path=leg.path, code=leg.may_pass)
        assert platform.again() == TRIED
        assert platform.statuses() == [leg.refused]
    assert platform.again() == {"retried": 0, "left": {"attempts_used_up": 1}}
    assert platform.attempts(leg.name) == leg.tried(*[("refused", leg.may_pass)] * MAX_ATTEMPTS)
    platform.check()


@each_leg
def test_one_whose_outcome_stays_unknown_is_gone_on_with(platform: Platform, leg: Leg) -> None:
    # Every look is lost as well: nobody knows what became of the 500.
    platform.fault("drop_before", method="GET", path=leg.path, probability=1)
    run = interrupted(platform, leg, "500_before")
    platform.drain()
    assert platform.run(run).status == "failed"
    assert "StripeUnknownOutcome" in platform.run(run).error
    assert platform.attempts(leg.name) == leg.tried(UNKNOWN)
    platform.stand.forgive()
    # Fresh still: its run may be about to try again.
    assert platform.again() == {"retried": 0, "left": {}}
    assert platform.statuses() == [leg.open]
    assert platform.books()["usd"].held == 10_000
    platform.now += SENDING_STALE
    assert platform.again() == TRIED
    paid_once(platform, leg, EXPIRED, LANDED)
