"""The Stripe stand-in, driven over loopback by Stripe's own client library."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests
import stripe

from app.local.serving import serve_in_thread
from app.local.stripe import StripeStandIn

KEY = "sk_test_standin0123456789"
START = datetime(2025, 1, 1, 9, tzinfo=UTC)
DAY = 24 * 3600
ROOT = Path(__file__).resolve().parents[2]


class Stand:
    """A served stand-in: its client and its admin routes."""

    def __init__(self, url: str, key: str = KEY) -> None:
        self.url = url
        self.client = stripe.StripeClient(
            key,
            base_addresses={"api": url},
            max_network_retries=0,
            http_client=stripe.RequestsClient(timeout=20),
        )

    def admin(self, method: str, route: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/_standin/{route}", data, method=method)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    def fault(self, kind: str, **rule: object) -> None:
        self.admin("POST", "faults", {"rules": [{"kind": kind, "next": 1, **rule}]})

    def account(self, **state: object) -> str:
        (id_,) = self.admin("POST", "accounts", {"accounts": [state]})["ids"]
        return str(id_)

    def pay(self, to: str, key: str, amount: Any = 500, **params: Any) -> stripe.Transfer:
        given: Any = {"amount": amount, "currency": "usd", "destination": to, **params}
        return self.client.v1.transfers.create(given, {"idempotency_key": key})

    def transfers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.admin("GET", "transfers")["transfers"]
        return found


@pytest.fixture
def stand() -> Iterator[Stand]:
    app = StripeStandIn(clock=lambda: START)
    with serve_in_thread(app) as url:
        served = Stand(url)
        served.admin("POST", "topup", {"amount": 100_000})
        yield served
    app.close()


def error_of(failure: stripe.StripeError) -> dict[str, Any]:
    body: Any = failure.json_body
    return dict(body["error"])


# Accounts


def test_an_account_of_another_platform_is_403_account_invalid(stand: Stand) -> None:
    with pytest.raises(stripe.PermissionError) as refused:
        stand.client.v1.accounts.retrieve("acct_elsewhere")
    assert error_of(refused.value)["code"] == "account_invalid"
    with pytest.raises(stripe.PermissionError):
        stand.client.v1.balance.retrieve({}, {"stripe_account": "acct_elsewhere"})
    assert KEY not in str(refused.value)


def test_thousands_of_accounts_at_once(stand: Stand) -> None:
    given = [{"id": f"acct_{n}", "metadata": {"n": str(n)}} for n in range(2000)]
    made = stand.admin("POST", "accounts", {"accounts": given, "count": 1000})["ids"]
    assert made[:2000] == [account["id"] for account in given]
    assert len(set(made)) == 3000


# Transfers, reversals, payouts


def test_a_transfer_moves_money_from_the_platform_to_the_account(stand: Stand) -> None:
    to = stand.account()
    made = stand.pay(to, "k", 700, transfer_group="run-1", metadata={"payout": "9"})
    assert made.id.startswith("tr_")
    assert made.created == int(START.timestamp())
    assert (made.amount, made.currency, made.transfer_group) == (700, "usd", "run-1")
    assert made.metadata is not None
    assert made.metadata["payout"] == "9"
    balance = stand.client.v1.balance
    assert balance.retrieve().available[0].amount == 99_300
    assert balance.retrieve({}, {"stripe_account": to}).available[0].amount == 700
    assert stand.client.v1.transfers.retrieve(made.id).to_dict() == made.to_dict()


def test_transfers_refuse_what_stripe_refuses(stand: Stand) -> None:
    to = stand.account()
    for key, amount, currency, destination, code in (
        ("a", 100_001, "usd", to, "balance_insufficient"),
        ("b", 1, "eur", to, "balance_insufficient"),
        ("c", 1, "usd", "acct_unknown", "resource_missing"),
        ("d", 1, "usd", stand.account(transfers="inactive"), None),
    ):
        with pytest.raises(stripe.InvalidRequestError) as refused:
            stand.pay(destination, key, amount, currency=currency)
        assert refused.value.http_status == 400
        assert refused.value.code == (code or "insufficient_capabilities_for_transfer")
    with pytest.raises(stripe.InvalidRequestError) as unknown:
        stand.client.v1.transfers.retrieve("tr_unknown")
    assert (unknown.value.http_status, unknown.value.code) == (404, "resource_missing")
    assert stand.transfers() == []


def test_a_transfer_is_reversed_in_parts_and_never_beyond_itself(stand: Stand) -> None:
    made = stand.pay(stand.account(), "k", 500)
    reversals = stand.client.v1.transfers.reversals
    assert reversals.create(made.id, {"amount": 200}).amount == 200
    with pytest.raises(stripe.InvalidRequestError) as refused:
        reversals.create(made.id, {"amount": 301})
    assert refused.value.param == "amount"
    assert reversals.create(made.id).amount == 300
    found = stand.client.v1.transfers.retrieve(made.id)
    assert (found.reversed, found.amount_reversed, len(found.reversals.data)) == (True, 500, 2)
    assert stand.client.v1.balance.retrieve().available[0].amount == 100_000


def test_a_payout_leaves_the_account_for_its_bank(stand: Stand) -> None:
    to = stand.account()
    stand.pay(to, "k", 500)
    payouts = stand.client.v1.payouts
    made = payouts.create({"amount": 400, "currency": "usd"}, {"stripe_account": to})
    assert (made.status, made.amount) == ("pending", 400)
    assert payouts.retrieve(made.id, {}, {"stripe_account": to}).id == made.id
    listed = payouts.list({"status": "pending"}, {"stripe_account": to}).data
    assert [payout.id for payout in listed] == [made.id]
    assert payouts.list({"status": "paid"}, {"stripe_account": to}).data == []
    with pytest.raises(stripe.InvalidRequestError) as refused:
        payouts.create({"amount": 101, "currency": "usd"}, {"stripe_account": to})
    assert refused.value.code == "balance_insufficient"
    stand.account(id=to, payouts_enabled=False)
    with pytest.raises(stripe.InvalidRequestError) as refused:
        payouts.create({"amount": 1, "currency": "usd"}, {"stripe_account": to})
    assert refused.value.code == "payouts_not_allowed"


def test_the_audit_balances(stand: Stand) -> None:
    to = stand.account()
    made = stand.pay(to, "k", 500)
    stand.client.v1.transfers.reversals.create(made.id, {"amount": 100})
    stand.client.v1.payouts.create({"amount": 50, "currency": "usd"}, {"stripe_account": to})
    audit = stand.admin("GET", "transfers")
    held = sum(amounts["usd"] for amounts in audit["balances"].values())
    paid = sum(payout["amount"] for payout in audit["payouts"])
    assert held + paid == sum(topup["amount"] for topup in audit["topups"])
    assert [(t["id"], t["amount_reversed"]) for t in audit["transfers"]] == [(made.id, 100)]


# Parameters


@pytest.mark.parametrize(
    ("change", "code", "param", "message"),
    [
        ({"colour": "red"}, "parameter_unknown", "colour", "Received unknown parameter: colour"),
        ({"amount": None}, "parameter_missing", "amount", "Missing required param: amount."),
        ({"currency": None}, "parameter_missing", "currency", "Missing required param: currency."),
        ({"amount": "1.5"}, "parameter_invalid_integer", "amount", "Invalid integer: 1.5"),
        ({"amount": "1_000"}, "parameter_invalid_integer", "amount", "Invalid integer: 1_000"),
        ({"amount": ""}, "parameter_invalid_empty", "amount", "You passed an empty string"),
        ({"amount": 0}, "parameter_invalid_integer", "amount", "This value must be greater than"),
        ({"amount": -5}, "parameter_invalid_integer", "amount", "This value must be greater than"),
        ({"amount": 100_000_000}, "amount_too_large", "amount", "Amount must be no more than"),
        ({"currency": "zzz"}, None, "currency", "Invalid currency: zzz. Stripe currently"),
        ({"source_type": "gold"}, None, "source_type", "Invalid source_type: must be one of"),
        ({"metadata": "x"}, None, "metadata", "Invalid object: x"),
        ({"destination": {"a": 1}}, None, "destination", "Invalid string"),
        ({"expand": ["destination"]}, None, "expand", "This property cannot be expanded"),
    ],
)
def test_parameters_are_checked_strictly(
    stand: Stand, change: dict[str, Any], code: str | None, param: str, message: str
) -> None:
    to = stand.account()
    given = {"amount": 5, "currency": "usd", "destination": to, **change}
    given = {name: value for name, value in given.items() if value is not None}
    with pytest.raises(stripe.InvalidRequestError) as refused:
        stand.client.v1.transfers.create(given, {"idempotency_key": "k"})  # type: ignore[arg-type]
    error = error_of(refused.value)
    assert (error.get("code"), error["param"]) == (code, param)
    assert error["message"].startswith(message)
    # A validation failure is not stored: the key is free for other parameters.
    assert stand.pay(to, "k").amount == 500


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 101}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"created": {"gte": "noon"}}, "created[gte]"),
        ({"created": {"since": 1}}, "created[since]"),
        ({"created": "noon"}, "created"),
        ({"starting_after": "tr_unknown"}, "starting_after"),
        ({"ending_before": "tr_unknown"}, "ending_before"),
        ({"status": "paid"}, "status"),
    ],
)
def test_list_parameters_are_checked_strictly(
    stand: Stand, query: dict[str, Any], param: str
) -> None:
    with pytest.raises(stripe.InvalidRequestError) as refused:
        stand.client.v1.transfers.list(query)  # type: ignore[arg-type]
    assert refused.value.param == param


# Lists


def test_lists_page_newest_first(stand: Stand) -> None:
    to, other = stand.account(), stand.account()
    made = [stand.pay(to, f"k{n}", 1 + n, transfer_group=f"g{n % 2}").id for n in range(7)]
    made.reverse()
    listed = stand.client.v1.transfers.list
    assert [t.id for t in listed({"limit": 2}).auto_paging_iter()] == made
    page = listed({"limit": 3, "starting_after": made[1]})
    assert ([t.id for t in page.data], page.has_more) == (made[2:5], True)
    page = listed({"limit": 3, "starting_after": made[3]})
    assert ([t.id for t in page.data], page.has_more) == (made[4:], False)
    assert [t.id for t in listed({"transfer_group": "g1"}).data] == made[1::2]
    assert listed({"destination": other}).data == []


def test_lists_filter_by_creation(stand: Stand) -> None:
    to = stand.account()
    first = stand.pay(to, "k1")
    stand.admin("POST", "clock", {"advance_seconds": 60})
    second = stand.pay(to, "k2")
    listed = stand.client.v1.transfers.list
    assert second.created == first.created + 60
    cases: list[tuple[Any, list[str]]] = [
        ({"gte": second.created}, [second.id]),
        ({"gt": first.created}, [second.id]),
        ({"lt": second.created}, [first.id]),
        ({"gte": first.created, "lte": second.created}, [second.id, first.id]),
    ]
    for bounds, expected in cases:
        assert [t.id for t in listed({"created": bounds}).data] == expected
    assert [t.id for t in listed({"created": first.created}).data] == [first.id]


# Idempotency


def raw(stand: Stand, key: str, account: str = "", **params: Any) -> requests.Response:
    headers = {"Authorization": f"Bearer {KEY}", "Idempotency-Key": key}
    if account:
        headers["Stripe-Account"] = account
    path = "payouts" if account else "transfers"
    return requests.post(f"{stand.url}/v1/{path}", params, headers=headers, timeout=20)


def test_a_result_is_replayed_for_24_hours_and_then_executed_again(stand: Stand) -> None:
    given: dict[str, Any] = {"amount": 500, "currency": "usd", "destination": stand.account()}
    first = raw(stand, "k", **given)
    assert "Idempotent-Replayed" not in first.headers
    stand.admin("POST", "clock", {"advance_seconds": DAY - 1})
    again = raw(stand, "k", **given)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.headers["Original-Request"] == first.headers["Request-Id"]
    assert again.headers["Request-Id"] != first.headers["Request-Id"]
    assert again.content == first.content
    stand.admin("POST", "clock", {"advance_seconds": 1})
    assert raw(stand, "k", **given).json()["id"] != first.json()["id"]
    assert len(stand.transfers()) == 2


def test_a_stored_refusal_is_replayed_even_once_its_cause_is_gone(stand: Stand) -> None:
    to = stand.account()
    for key in ("k", "k"):
        with pytest.raises(stripe.InvalidRequestError) as refused:
            stand.pay(to, key, 100_001)
        assert refused.value.code == "balance_insufficient"
        stand.admin("POST", "topup", {"amount": 100_000})
    assert stand.pay(to, "another", 100_001).amount == 100_001


def test_a_key_with_other_parameters_is_an_idempotency_error(stand: Stand) -> None:
    to = stand.account()
    stand.pay(to, "k", 500)
    with pytest.raises(stripe.IdempotencyError) as refused:
        stand.pay(to, "k", 501)
    assert refused.value.http_status == 400
    assert error_of(refused.value)["type"] == "idempotency_error"
    assert len(stand.transfers()) == 1


def test_keys_are_scoped_to_the_account(stand: Stand) -> None:
    to = stand.account()
    stand.pay(to, "k", 500)
    paid = raw(stand, "k", to, amount=10, currency="usd")
    assert paid.json()["object"] == "payout"
    assert len(stand.transfers()) == 1


def test_a_key_is_at_most_255_characters(stand: Stand) -> None:
    to = stand.account()
    assert stand.pay(to, "k" * 255).id
    with pytest.raises(stripe.InvalidRequestError):
        stand.pay(to, "k" * 256)


def test_a_key_in_flight_is_a_conflict_and_is_not_stored(stand: Stand) -> None:
    to = stand.account()
    stand.fault("slow", seconds=60)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(stand.pay, to, "k")
        while not stand.admin("GET", "faults")["rules"][0]["hits"]:
            time.sleep(0.005)
        with pytest.raises(stripe.APIError) as conflict:
            stand.pay(to, "k")
        assert conflict.value.http_status == 409
        assert error_of(conflict.value)["code"] == "idempotency_key_in_use"
        stand.admin("DELETE", "faults")
        assert stand.pay(to, "other").id != first.result().id
    assert stand.pay(to, "k").id == first.result().id
    assert len(stand.transfers()) == 2


def test_one_key_from_many_threads_moves_money_once(stand: Stand) -> None:
    to = stand.account()
    start = threading.Barrier(8)

    def pay(_: int) -> str:
        start.wait()
        while (
            answer := raw(stand, "k", amount=5, currency="usd", destination=to)
        ).status_code == 409:
            pass
        return str(answer.json()["id"])

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(pay, range(8)))) == 1
    assert len(stand.transfers()) == 1


# Faults


@pytest.mark.parametrize(
    ("rule", "raised", "status", "effect", "stored"),
    [
        ({"kind": "drop_before"}, stripe.APIConnectionError, None, False, False),
        ({"kind": "timeout_after_effect"}, stripe.APIConnectionError, None, True, True),
        ({"kind": "409"}, stripe.APIError, 409, False, False),
        ({"kind": "429", "retry_after": 3}, stripe.RateLimitError, 429, False, False),
        ({"kind": "500_before"}, stripe.APIError, 500, False, True),
        ({"kind": "500_after"}, stripe.APIError, 500, True, True),
        ({"kind": "refuse"}, stripe.InvalidRequestError, 400, False, True),
        (
            {"kind": "refuse", "code": "account_invalid", "status": 402},
            stripe.CardError,
            402,
            False,
            True,
        ),
    ],
)
def test_faults_fail_as_they_say(
    stand: Stand,
    rule: dict[str, Any],
    raised: type[stripe.StripeError],
    status: int | None,
    effect: bool,
    stored: bool,
) -> None:
    to = stand.account()
    stand.fault(**rule)
    with pytest.raises(raised) as failure:
        stand.pay(to, "k")
    assert failure.value.http_status == status
    assert bool(stand.transfers()) is effect
    if "retry_after" in rule:
        assert (failure.value.headers or {})["Retry-After"] == "3"
    again = raw(stand, "k", amount=500, currency="usd", destination=to)
    assert ("Idempotent-Replayed" in again.headers) is stored
    assert again.status_code == (status if stored and status else 200)
    assert len(stand.transfers()) == (1 if effect or not stored else 0)


def test_rules_strike_only_what_they_name(stand: Stand) -> None:
    bad, good = stand.account(), stand.account()
    rules = [
        {"kind": "refuse", "probability": 1, "destinations": [bad], "code": "account_invalid"},
        {"kind": "429", "probability": 1, "method": "GET", "path": "/v1/accounts*"},
    ]
    stand.admin("POST", "faults", {"rules": rules})
    with pytest.raises(stripe.InvalidRequestError) as refused:
        stand.pay(bad, "k1")
    assert refused.value.code == "account_invalid"
    assert stand.pay(good, "k2").id
    with pytest.raises(stripe.RateLimitError):
        stand.client.v1.accounts.list()
    assert [r["hits"] for r in stand.admin("GET", "faults")["rules"]] == [1, 1]
    stand.admin("DELETE", "faults")
    assert len(stand.client.v1.accounts.list().data) == 2


def test_chance_follows_the_seed_and_the_key_not_the_order(stand: Stand) -> None:
    to = stand.account()

    def struck(keys: list[str]) -> set[str]:
        stand.admin("DELETE", "faults")
        rule = {"kind": "409", "probability": 0.5}
        stand.admin("POST", "faults", {"rules": [rule], "seed": 7})
        return {
            key
            for key in keys
            if raw(stand, key, amount=1, currency="usd", destination=to).status_code == 409
        }

    keys = [f"k{n}" for n in range(20)]
    first = struck(keys)
    assert 0 < len(first) < 20
    assert struck(keys[::-1]) == first


@pytest.mark.parametrize(
    ("method", "route", "body", "status"),
    [
        ("POST", "faults", {"rules": [{"kind": "meteor", "next": 1}]}, 400),
        ("POST", "faults", {"rules": [{"kind": "409"}]}, 400),
        ("POST", "topup", {"amount": -1}, 400),
        ("POST", "clock", {"advance_seconds": -1}, 400),
        ("GET", "nothing", None, 404),
    ],
)
def test_admin_routes_refuse_nonsense(
    stand: Stand, method: str, route: str, body: object, status: int
) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        stand.admin(method, route, body)
    refused.value.close()
    assert refused.value.code == status


# Keys, versions, URLs


def test_only_the_configured_key_is_let_in_and_messages_mask_it() -> None:
    app = StripeStandIn(api_key=KEY)
    with serve_in_thread(app) as url:
        assert Stand(url).client.v1.balance.retrieve().object == "balance"
        other = "sk_test_0123456789abcdef"
        with pytest.raises(stripe.AuthenticationError) as refused:
            Stand(url, other).client.v1.balance.retrieve()
        assert refused.value.http_status == 401
        assert other not in str(refused.value)
        assert str(refused.value).endswith("cdef")
    app.close()


def test_live_keys_and_missing_keys_are_refused(stand: Stand) -> None:
    with pytest.raises(stripe.AuthenticationError):
        Stand(stand.url, "sk_live_0123456789").client.v1.balance.retrieve()
    assert requests.get(f"{stand.url}/v1/balance", timeout=20).status_code == 401


def test_every_answer_names_its_request_and_unknown_urls_are_404(stand: Stand) -> None:
    headers = {"Authorization": f"Bearer {KEY}", "Stripe-Version": "2025-01-01"}
    found = requests.get(f"{stand.url}/v1/balance", headers=headers, timeout=20)
    assert found.headers["Request-Id"].startswith("req_")
    assert found.headers["Stripe-Version"] == "2025-01-01"
    lost = requests.get(f"{stand.url}/v1/unicorns", headers=headers, timeout=20)
    assert lost.status_code == 404
    assert lost.json()["error"]["message"].startswith("Unrecognized request URL (GET: /v1/unicorns")


# The process


def started(*options: str) -> tuple["subprocess.Popen[str]", str]:
    command = [sys.executable, "-m", "app.local.stripe", "--port", "0", *options]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def ended(process: "subprocess.Popen[str]", signum: int) -> int:
    process.send_signal(signum)
    with process:
        return process.wait(timeout=20)


def test_state_survives_kill_9(tmp_path: Path) -> None:
    data = str(tmp_path / "stripe.sqlite")
    process, url = started("--data", data, "--seed", "3")
    stand = Stand(url)
    stand.admin("POST", "topup", {"amount": 1_000})
    stand.admin("POST", "clock", {"advance_seconds": 90})
    to = stand.account()
    made = stand.pay(to, "k")
    with pytest.raises(stripe.InvalidRequestError):
        stand.pay(to, "refused", 501)
    ended(process, signal.SIGKILL)

    process, url = started("--data", data, "--seed", "3")
    stand = Stand(url)
    assert stand.pay(to, "k").id == made.id
    with pytest.raises(stripe.InvalidRequestError):
        stand.pay(to, "refused", 501)
    assert stand.client.v1.balance.retrieve().available[0].amount == 500
    assert stand.pay(to, "k2").id != made.id
    assert stand.admin("GET", "clock")["now"] >= made.created
    assert ended(process, signal.SIGTERM) == 0


def test_it_binds_loopback_only() -> None:
    command = [sys.executable, "-m", "app.local.stripe", "--port", "0", "--host", "0.0.0.0"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=20, env={**os.environ}
    )
    assert done.returncode == 2
    assert "loopback only" in done.stderr
    assert done.stdout == ""
