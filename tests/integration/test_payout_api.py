"""/api/payouts: what a creator may ask for, what is refused, and what they see."""

from __future__ import annotations

import json
import math
from collections import Counter
from datetime import date, datetime, timedelta
from typing import Any, cast

import pytest
from flask import Flask
from sqlalchemy import insert, update
from sqlalchemy.dialects import postgresql, sqlite

from app.platform.earnings.models import Creator
from app.platform.ledger.postings import balanced, hold_account, trial_balance
from app.platform.payouts import status
from app.platform.payouts.models import Payout
from app.switchyard import web
from app.switchyard.dispatch import dispatch
from app.switchyard.runs.models import RunRow
from app.switchyard.web.auth import creator_token
from tests.support.platform import Platform, platform
from tests.support.site import ANA, OWED, START, Site, refused, site

__all__ = ["platform", "site"]  # fixtures: used by their names


def test_a_payout_is_requested_with_its_money_and_its_run(site: Site) -> None:
    answer = site.ask({"amount": 10_000, "method": "instant"}, key="My_key-1")
    assert answer.status_code == 202
    (told,) = site.queue.queue
    assert answer.json == {
        "payoutId": "manual:ana:My_key-1",
        "status": "requested",
        "amount": 10_000,
        "currency": "usd",
        "method": "instant",
        "runId": told.run_id,
        "created": True,
    }
    assert json.loads(told.payload) == {
        "payoutId": "manual:ana:My_key-1",
        "creatorId": "ana",
        "amount": 10_000,
        "stripeAccountId": "acct_ana",
        "currency": "usd",
        "method": "instant",
    }
    assert site.queue.seen == [1], "the queue is told only of what is committed"
    assert site.owed() == OWED - 10_000
    assert site.owed(hold_account("manual:ana:My_key-1")) == 10_000
    with site.db.begin() as tx:
        assert balanced(trial_balance(tx))
    assert site.get("/manual:ana:My_key-1").json == {
        "payoutId": "manual:ana:My_key-1",
        "status": "requested",
        "amount": 10_000,
        "currency": "usd",
        "method": "instant",
        "reason": None,
        "payoutDate": None,
        "requestedAt": "2025-03-04T12:00:00.000Z",
        "settledAt": None,
    }


def test_its_run_pays_it_as_it_was_asked_for(platform: Platform) -> None:
    platform.creator(owed=OWED)
    app = Flask("app", static_folder=None)
    web.register(app, platform.made)
    token = creator_token(platform.made.settings, "ana")
    client, headers = app.test_client(), {"Authorization": f"Bearer {token}"}
    asked: Any = client.post(
        "/api/payouts",
        json={"amount": 10_000, "method": "instant"},
        headers={**headers, "Idempotency-Key": "k1"},
    )
    assert asked.status_code == 202, asked.text
    platform.drain()
    assert platform.run(asked.json["runId"]).status == "succeeded"
    (bank,) = platform.banks()
    assert bank.metadata["payout_id"] == "manual:ana:k1"
    stands: Any = client.get("/api/payouts/manual:ana:k1", headers=headers).json
    assert (stands["status"], stands["method"]) == ("in_transit", "instant")
    platform.check()


def test_the_same_again_is_the_same_payout_as_it_stands_by_then(site: Site) -> None:
    first = site.ask({"amount": 10_000}).json
    before = site.written()
    settled = {"status": "failed", "settled_at": START + timedelta(hours=1)}
    with site.db.begin() as tx:
        tx.execute(update(Payout).values(settled))
    for body in (
        {"amount": 10_000},
        {"amount": 10_000, "currency": "usd", "method": "standard"},
        {"amount": 10_000, "currency": None},
    ):
        again = site.ask(body)
        assert again.status_code == 200
        assert again.json == {**first, "status": "failed", "created": False}
    assert (site.written(), len(site.queue.queue)) == (before, 1)
    assert site.get("/manual:ana:k1").json["settledAt"] == "2025-03-04T13:00:00.000Z"


@pytest.mark.parametrize(
    "other",
    [
        {"amount": 10_001},
        {"amount": 10_000, "currency": "eur"},
        {"amount": 10_000, "method": "instant"},
    ],
)
def test_a_key_with_another_body_is_a_conflict(site: Site, other: Any) -> None:
    site.ask({"amount": 10_000})
    before = site.written()
    refused(site.ask(other), 409, "k1")
    assert site.written() == before


def test_keys_of_two_creators_do_not_meet(site: Site) -> None:
    ours, theirs = site.ask({"amount": 10_000}), site.ask({"amount": 20_000}, creator="bob")
    assert (ours.status_code, theirs.status_code) == (202, 202)
    assert theirs.json["payoutId"] == "manual:bob:k1"


@pytest.mark.parametrize("amount", [7_000, 10_000])
def test_a_run_that_someone_else_gave_the_payout_s_name(site: Site, amount: int) -> None:
    taken = {
        "payoutId": "manual:ana:k1",
        "creatorId": "ana",
        "amount": 7_000,
        "stripeAccountId": "acct_ana",
        "currency": "usd",
    }
    dispatch("process-single-payout", taken)
    before = site.written()
    refused(site.ask({"amount": amount}), 409)
    assert site.written() == before
    assert site.owed() == OWED


def test_another_creator_s_payout_of_that_name_is_a_conflict(site: Site) -> None:
    with site.db.begin() as tx:
        row = _row(1, "bob", START, amount=10_000, id="manual:ana:k1", payout_date=None)
        tx.execute(insert(Payout), [row])
    refused(site.ask({"amount": 10_000}), 409)
    assert site.owed() == OWED


def test_two_at_once_do_not_both_spend_one_balance(site: Site) -> None:
    body = {"amount": OWED * 3 // 5}
    answers = site.at_once([(body, f"k{n}") for n in range(4)])
    assert Counter(a.status_code for a in answers) == {202: 1, 422: 3}
    assert site.owed() == OWED - body["amount"]
    assert (site.count(Payout), site.count(RunRow)) == (1, 1)


def test_the_same_at_once_is_one_payout(site: Site) -> None:
    answers = site.at_once([({"amount": 10_000}, "k1")] * 6)
    assert Counter(a.status_code for a in answers) == {202: 1, 200: 5}
    assert len({(a.json["payoutId"], a.json["runId"]) for a in answers}) == 1
    assert site.owed() == OWED - 10_000
    assert (site.count(Payout), site.count(RunRow)) == (1, 1)


def test_at_most_so_many_in_any_hour(site: Site) -> None:
    for n in range(status.BY_HAND):
        assert site.ask({"amount": 5_000}, f"k{n}").status_code == 202
        site.now += timedelta(minutes=7)
    before = site.written()
    site.now += timedelta(milliseconds=1)
    answer = site.ask({"amount": 5_000}, "more")
    refused(answer, 429)
    wait = int(answer.headers["Retry-After"])
    assert wait == math.ceil((START + status.WINDOW - site.now).total_seconds())
    assert site.written() == before
    assert site.ask({"amount": 5_000}, "k0").status_code == 200, "a repeat is not a request"
    assert site.ask({"amount": 5_000}, "k0", creator="bob").status_code == 202

    site.now = START + status.WINDOW - timedelta(milliseconds=1)
    again = site.ask({"amount": 5_000}, "more")
    assert (again.status_code, again.headers["Retry-After"]) == (429, "1")
    site.now = START + status.WINDOW
    assert site.ask({"amount": 5_000}, "more").status_code == 202
    refused(site.ask({"amount": 5_000}, "more2"), 429)


def test_neither_refusals_nor_pay_days_count(site: Site) -> None:
    days = [_row(n, "ana", START) for n in range(status.BY_HAND)]
    with site.db.begin() as tx:
        tx.execute(insert(Payout), days)
    for n in range(status.BY_HAND):
        refused(site.ask({"amount": OWED + 1}, f"k{n}"), 422)
    assert site.ask({"amount": 5_000}).status_code == 202


def test_requests_at_once_do_not_slip_past_the_limit(site: Site) -> None:
    answers = site.at_once([({"amount": 5_000}, f"k{n}") for n in range(status.BY_HAND + 3)])
    assert Counter(a.status_code for a in answers) == {202: status.BY_HAND, 429: 3}
    assert site.count(Payout) == status.BY_HAND


BODIES: dict[str, tuple[Any, str]] = {
    "no amount": ({}, "amount"),
    "a float": ({"amount": 100.0}, "amount"),
    "a float that is no number": ({"amount": math.nan}, "amount"),
    "true": ({"amount": True}, "amount"),
    "text": ({"amount": "10000"}, "amount"),
    "null": ({"amount": None}, "amount"),
    "nothing": ({"amount": 0}, "amount"),
    "less than nothing": ({"amount": -10_000}, "amount"),
    "more than the balance": ({"amount": OWED + 1}, "payable"),
    "more than a database's integer": ({"amount": 10**30}, ""),
    "a list": ([10_000], "object"),
    "a null body": (None, "object"),
    "an unknown field": ({"amount": 10_000, "destination": "acct_bob"}, "destination"),
    "a currency in capitals": ({"amount": 10_000, "currency": "USD"}, "currency"),
    "a currency of no kind": ({"amount": 10_000, "currency": 840}, "currency"),
    "an odd text": ({"amount": 10_000, "currency": "\ud800\0a"}, "currency"),
    "a currency that is none": ({"amount": 10_000, "currency": "zzz"}, ""),
    "a currency nothing was earned in": ({"amount": 10_000, "currency": "eur"}, ""),
    "less than a currency's step": ({"amount": 10_050, "currency": "huf"}, "multiple of 100"),
    "an unknown method": ({"amount": 10_000, "method": "wire"}, "method"),
    "no method": ({"amount": 10_000, "method": None}, "method"),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_refused_writes_nothing(site: Site, name: str) -> None:
    body, says = BODIES[name]
    before = site.written()
    refused(site.ask(body), 422, says)
    assert (site.written(), len(site.queue.queue)) == (before, 0)


@pytest.mark.parametrize(
    "shut",
    [
        {"stripe_account_id": None},
        {"disabled_reason": "requirements.past_due"},
        {"transfers_active": False},
        {"payouts_enabled": False},
    ],
)
def test_an_account_that_stripe_would_not_pay_is_refused(site: Site, shut: Any) -> None:
    site.creator("eve", **shut)
    before = site.written()
    refused(site.ask({"amount": 10_000}, creator="eve"), 422)
    assert (site.written(), site.owed("creator:eve")) == (before, OWED)


def test_yen_have_no_smaller_unit(site: Site) -> None:
    site.creator("jun", currency="jpy")
    answer = site.ask({"amount": 10_000}, creator="jun")
    assert (answer.status_code, answer.json["currency"]) == (202, "jpy")


def test_what_is_no_request_at_all(site: Site) -> None:
    client, route = site.app.test_client(), "/api/payouts"
    headers = site.headers("ana", **{"Idempotency-Key": "k1"})
    before = site.written()
    for data, kind, code in (
        ("{", "application/json", 400),
        (b'{"amount": \xff}', "application/json", 400),
        ("[" * 4_000, "application/json", 400),
        ("amount=10000", "application/x-www-form-urlencoded", 415),
        ('{"amount": 10000}' + " " * 4_096, "application/json", 413),
    ):
        refused(client.post(route, data=data, content_type=kind, headers=headers), code)
    assert site.written() == before


@pytest.mark.parametrize("key", [None, "", "k" * 101, "a b", "a:b", "a/b", "ä", "a.b"])
def test_a_key_is_needed(site: Site, key: str | None) -> None:
    headers = site.headers("ana", **({} if key is None else {"Idempotency-Key": key}))
    before = site.written()
    answer = site.app.test_client().post("/api/payouts", json={"amount": 10_000}, headers=headers)
    refused(answer, 400, "Idempotency-Key")
    assert site.written() == before


def test_the_longest_names_fit(site: Site) -> None:
    longest = "c" * 64
    site.creator(longest, stripe_account_id="acct_long")
    answer = site.ask({"amount": 10_000}, "k" * 100, creator=longest)
    assert answer.status_code == 202
    assert site.get(f"/{answer.json['payoutId']}", creator=longest).status_code == 200


def _row(n: int, creator: str, at: datetime, **change: Any) -> dict[str, Any]:
    """A pay day's payout as it would be after its request."""
    return {
        "id": f"p-{creator}-{n:05}",
        "creator_id": creator,
        "currency": "usd",
        "amount": 100 + n,
        "destination": f"acct_{creator}",
        "status": "requested",
        "method": "standard",
        "payout_date": date(2000, 1, 1) + timedelta(days=n),
        "requested_at": at,
        "updated_at": at,
        **change,
    }


def test_pages_newest_first(site: Site) -> None:
    # Three requested at each moment, as a pay day in several currencies would.
    rows = [_row(n, "ana", START + timedelta(minutes=n // 3)) for n in range(25)]
    with site.db.begin() as tx:
        tx.execute(insert(Payout), [*rows, _row(99, "bob", START)])
    wanted = [row["id"] for row in reversed(rows)]
    assert [p["payoutId"] for p in site.get().json["payouts"]] == wanted[:20]
    for limit in (1, 7, 24, 25, 100):
        got: list[str] = []
        after: str | None = ""
        while after is not None:
            page = site.get(f"?limit={limit}" + (f"&after={after}" if after else "")).json
            got += [p["payoutId"] for p in page["payouts"]]
            assert len(page["payouts"]) <= limit
            after = page["after"]
        assert got == wanted
    assert site.get("/p-ana-00024").json["payoutDate"] == "2000-01-25"


@pytest.mark.parametrize("limit", ["0", "101", "-1", "1.0", "ten", "", "٣", "1e1", "00001"])
def test_a_limit_that_makes_no_sense(site: Site, limit: str) -> None:
    refused(site.get(f"?limit={limit}"), 422, "limit")


@pytest.mark.parametrize("name", ["manual:bob:k1", "manual:ana:none", "%00", "%ff", "x" * 300])
def test_what_is_not_the_creator_s_own_is_not_there(site: Site, name: str) -> None:
    site.ask({"amount": 10_000}, creator="bob")
    refused(site.get(f"/{name}"), 404)
    refused(site.get(f"?after={name}"), 404)


def test_the_index_of_creators_serves(site: Site) -> None:
    people = [{**ANA, "id": f"c{n:03}", "stripe_account_id": f"acct_c{n:03}"} for n in range(100)]
    rows = [
        _row(n, f"c{n % 100:03}", START + timedelta(minutes=n), payout_date=None)
        for n in range(20_000)
    ]
    with site.db.begin() as tx:
        tx.execute(insert(Creator), people)
        tx.execute(insert(Payout), rows)
    with site.db.autocommit() as connection:
        connection.exec_driver_sql("ANALYZE")
        last = status.show(connection, "c007", "p-c007-10007")
    now = START + timedelta(minutes=20_000)
    dialect: Any = sqlite.dialect() if site.db.is_sqlite else cast(Any, postgresql).dialect()
    explain = "EXPLAIN QUERY PLAN" if site.db.is_sqlite else "EXPLAIN"
    for query, ranged in (
        (status.newest("c007", 21, None), False),
        (status.newest("c007", 21, last), True),
        (status.in_the_way("c007", now), True),
    ):
        text = str(query.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
        with site.db.autocommit() as connection:
            plan = [str(row) for row in connection.exec_driver_sql(f"{explain} {text}")]
        served = "USING INDEX ix_payouts_creator" if site.db.is_sqlite else "Index Cond"
        bounds = " ".join(line for line in plan if served in line)
        assert "ix_payouts_creator" in " ".join(plan), plan
        assert "creator_id" in bounds, plan
        assert ("requested_at" in bounds) == ranged, plan
