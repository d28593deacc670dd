"""Creators' tokens: who gets through with which, and the command that makes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from itsdangerous import TimestampSigner, URLSafeTimedSerializer
from pydantic import SecretStr

from app.switchyard.web.auth import CREATOR_TOKEN_SECONDS
from tests.support.site import Site, lite, refused

__all__ = ["lite"]  # a fixture: used by its name
SECRET = "0123456789abcdef-secret"


class Old(TimestampSigner):
    """Signs as of a token's whole life and a second ago."""

    def get_timestamp(self) -> int:
        return super().get_timestamp() - CREATOR_TOKEN_SECONDS - 1


def tokens(secret: str, salt: str = "creator", **more: Any) -> str:
    return str(URLSafeTimedSerializer(secret, salt=salt, **more).dumps("ana"))


GIVEN: dict[str, tuple[str | None, str]] = {
    "nothing": (None, "send Authorization"),
    "an empty header": ("", "send Authorization"),
    "another scheme": (f"Basic {tokens(SECRET)}", "send Authorization"),
    "no token": ("Bearer", "not a creator's"),
    "only the id": ("Bearer ana", "not a creator's"),
    "letters of no token": ("Bearer ÄÖ.ß.x", "not a creator's"),
    "another key": (f"Bearer {tokens('another-secret-of-16')}", "not a creator's"),
    "another use": (f"Bearer {tokens(SECRET, salt='console')}", "not a creator's"),
    "the local key": (f"Bearer {tokens('switchyard-local')}", "not a creator's"),
    "a cut one": (f"Bearer {tokens(SECRET)[:-2]}", "not a creator's"),
    "an old one": (f"Bearer {tokens(SECRET, signer=Old)}", "expired"),
}


@pytest.mark.parametrize("name", GIVEN)
def test_a_token_that_does_not_hold(lite: Callable[..., Site], name: str) -> None:
    given, says = GIVEN[name]
    site = lite(secret_key=SecretStr(SECRET))
    client = site.app.test_client()
    headers = {} if given is None else {"Authorization": given}
    before = site.written()
    asked = {**headers, "Idempotency-Key": "k1"}
    refused(client.post("/api/payouts", json={"amount": 10_000}, headers=asked), 401, says)
    refused(client.get("/api/payouts", headers=headers), 401, says)
    refused(client.get("/api/payouts/manual:ana:k1", headers=headers), 401, says)
    assert site.written() == before


def test_a_token_of_a_creator_who_is_not_known(lite: Callable[..., Site]) -> None:
    site = lite()
    before = site.written()
    refused(site.ask({"amount": 10_000}, creator="zoe"), 401)
    assert site.written() == before


def test_with_a_secret_key_any_machine_may_call(lite: Callable[..., Site]) -> None:
    site = lite(secret_key=SecretStr(SECRET), stripe_api_key=SecretStr("sk_live_x"))
    far: dict[str, Any] = {"environ_base": {"REMOTE_ADDR": "203.0.113.7"}}
    assert site.ask({"amount": 10_000}, **far).status_code == 202


@pytest.mark.parametrize(
    "options",
    [
        {"environ_base": {"REMOTE_ADDR": "203.0.113.7"}},
        {"base_url": "http://evil.example"},
        {"environ_overrides": {"HTTP_X_FORWARDED_FOR": "203.0.113.7"}},
    ],
)
def test_the_local_key_serves_this_machine_only(
    lite: Callable[..., Site], options: dict[str, Any]
) -> None:
    site = lite()
    refused(site.ask({"amount": 10_000}, **options), 401, "SECRET_KEY")
    assert site.ask({"amount": 10_000}).status_code == 202


def test_without_a_secret_key_creators_are_not_served(lite: Callable[..., Site]) -> None:
    site = lite(stripe_api_key=SecretStr("sk_live_x"))
    headers = {"Authorization": f"Bearer {tokens('switchyard-local')}", "Idempotency-Key": "k1"}
    client, before = site.app.test_client(), site.written()
    answer = client.post("/api/payouts", json={"amount": 10_000}, headers=headers)
    refused(answer, 503, "SECRET_KEY is not set")
    refused(client.get("/api/payouts", headers=headers), 503, "SECRET_KEY is not set")
    assert site.written() == before


def test_the_command_makes_tokens(lite: Callable[..., Site]) -> None:
    site = lite(secret_key=SecretStr(SECRET))
    run = site.app.test_cli_runner().invoke
    plain = run(args=["payouts", "token", "ana"])
    shown = json.loads(run(args=["payouts", "token", "ana", "--json"]).stdout)
    assert (shown["creator"], shown["expires_in"]) == ("ana", 30 * 86_400)
    for token in (plain.stdout.strip(), shown["token"]):
        headers = {"Authorization": f"Bearer {token}"}
        answer = site.app.test_client().get("/api/payouts", headers=headers)
        assert answer.json == {"payouts": [], "after": None}
    unknown = run(args=["payouts", "token", "zoe"])
    assert (unknown.exit_code, unknown.stdout) == (2, "")
    assert unknown.stderr == "Error: no creator 'zoe'\n"


def test_the_command_needs_the_secret_key(lite: Callable[..., Site]) -> None:
    site = lite(stripe_api_key=SecretStr("sk_live_x"))
    result = site.app.test_cli_runner().invoke(args=["payouts", "token", "ana"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "SECRET_KEY is not set" in result.stderr
