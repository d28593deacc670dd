"""A bad day at Stripe: rules that say which request fails, how, and how often."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn, get_args

from werkzeug.wrappers import Request, Response

from app.local.stripe import money, params
from app.local.stripe.errors import ApiError, refusal
from app.local.stripe.server import Route, StripeStandIn
from app.local.stripe.store import Call, Result
from tests.support.serving import drop_connection

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

# Before idempotency is looked at: nothing is done and nothing stored.
Enter = Literal["drop_before", "409", "429"]
# When a request is executed, so never on a replay: the result is stored.
Execute = Literal["500_before", "500_after", "refuse", "slow"]
# Once the result stands, executed or replayed: the answer is lost.
Leave = Literal["timeout_after_effect"]
# What the bank does later with a new payout: fails it, or fails it once it was paid.
Bank = Literal["bank_fails", "bank_turns"]
CODES = {"409": "idempotency_key_in_use", "429": "rate_limit", "refuse": "balance_insufficient"}
"""What is answered where a rule names no code."""


class HangUp(Exception):
    """The connection is to be closed without an answer."""


class Target(NamedTuple):
    """What a rule may strike; `key` is the idempotency key or empty."""

    method: str
    path: str
    account: str | None
    key: str


@dataclass
class Rule:
    """One fault: strikes the next `next` requests that match, then each with `probability`."""

    kind: Enter | Execute | Leave | Bank
    method: str = "POST"
    path: str = "*"
    """A glob of the URL's path, such as `/v1/transfers` or `/v1/*`."""
    destinations: list[str] | None = None
    """Only requests to these accounts."""
    next: int = 0
    probability: float = 0.0
    seconds: float = 0.0
    """How long `slow` holds before it executes, and `timeout_after_effect` before it hangs up (0:
    at once, so that nobody waits for an answer)."""
    code: str | None = None
    """What 409, 429 (`lock_timeout` is one) and `refuse` answer, see CODES; of a bank's failure
    the failure_code (account_closed)."""
    status: Literal[400, 402] = 400
    """Of `refuse`."""
    retry_after: int | None = None
    """Seconds that `429` asks for in `Retry-After`."""
    hits: int = 0

    def matches(self, target: Target) -> bool:
        return (
            fnmatchcase(target.method, self.method)
            and fnmatchcase(target.path, self.path)
            and (self.destinations is None or target.account in self.destinations)
        )

    def error(self) -> ApiError:
        if self.kind not in CODES:
            return ApiError(500, "An unknown error occurred", kind="api_error")
        status = self.status if self.kind == "refuse" else int(self.kind)
        wait = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return refusal(self.code or CODES[self.kind], status, wait)

    def fail(self, _call: Call) -> NoReturn:
        raise self.error()


class Faulty(StripeStandIn):
    """A stand-in with rules in force.

    Chance is drawn from the rule and the request's key and turn, not from the order of arrival, so
    that concurrent callers meet the same faults again.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._drawing = threading.Lock()
        self._turns: dict[tuple[int, str], int] = {}
        self._released = threading.Event()
        self.rules: list[Rule] = []

    def fault(self, kind: Any, **rule: Any) -> None:
        """Put a rule in force; without a probability it strikes once, or `next` times."""
        often = {} if "probability" in rule else {"next": 1}
        with self._drawing:
            self.rules = [*self.rules, Rule(kind, **often | rule)]

    def forgive(self) -> None:
        """Drop all rules, and release whatever they hold."""
        with self._drawing:
            self.rules, self._turns = [], {}
            held, self._released = self._released, threading.Event()
        held.set()

    def stop(self) -> None:
        self.forgive()
        super().stop()

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        try:
            return super().__call__(environ, start)
        except HangUp:
            drop_connection(environ)
            return Response(status=500)(environ, start)

    def _answer(self, request: Request) -> tuple[Result, bool]:
        account = request.headers.get("Stripe-Account") or request.form.get("destination")
        key = request.headers.get("Idempotency-Key", "")
        target = Target(request.method, request.path, account, key)
        if (rule := self.draw(Enter, target)) is not None:
            raise HangUp if rule.kind == "drop_before" else rule.error()
        answer = super()._answer(request)
        if (rule := self.draw(Leave, target)) is not None:
            self._released.wait(rule.seconds)
            raise HangUp
        return answer

    def _execute(self, route: Route, call: Call, fingerprint: str) -> Result:
        method, path, form, run = route
        account = call.owner or params.checked(form, call.params).get("destination")
        target = Target(method, call.path, account, call.key)
        rule = self.draw(Execute, target)
        if rule is not None and rule.kind == "slow":
            self._released.wait(rule.seconds)
        elif rule is not None and rule.kind != "500_after":
            run = rule.fail
        result = super()._execute((method, path, form, run), call, fingerprint)
        if run is money.payout and result.status == 200:
            self._bank(target, json.loads(result.body), call.owner)
        if rule is not None and rule.kind == "500_after" and result.status == 200:
            error = rule.error()
            result = Result(fingerprint, error.status, error.body)
            self.store.remember(call.owner, call.key, result)
        return result

    def _bank(self, target: Target, payout: dict[str, Any], owner: str) -> None:
        """What the bank will do instead of paying, or after it."""
        if (rule := self.draw(Bank, target)) is None:
            return
        due, code = payout["arrival_date"], rule.code or "account_closed"
        if rule.kind == "bank_fails":
            self.store._rows("DELETE FROM plans WHERE payout = ? AND due = ?", payout["id"], due)
        else:
            due += due - payout["created"]
        self.store.plan(due, owner, payout["id"], "failed", code)

    def draw(self, kinds: Any, target: Target) -> Rule | None:
        """The first rule of these kinds that strikes, counted as a hit."""
        with self._drawing:
            for index, rule in enumerate(self.rules):
                if rule.kind not in get_args(kinds) or not rule.matches(target):
                    continue
                if rule.next:
                    rule.next -= 1
                elif not self._chance(index, rule.probability, target.key):
                    continue
                rule.hits += 1
                return rule
        return None

    def _chance(self, index: int, probability: float, key: str) -> bool:
        turn = self._turns[index, key] = self._turns.get((index, key), 0) + 1
        return random.Random(f"1|{index}|{key}|{turn}").random() < probability
