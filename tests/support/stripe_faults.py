"""A bad day at Stripe: rules that say which request fails, how, and how often."""

from __future__ import annotations

import random
import threading
from fnmatch import fnmatchcase
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.local.stripe.errors import ApiError, HangUp, refusal
from app.local.stripe.server import StripeStandIn
from app.local.stripe.store import Target

# Before idempotency is looked at: nothing is done and nothing stored.
Enter = Literal["drop_before", "409", "429"]
# When a request is executed, so never on a replay: the result is stored.
Execute = Literal["500_before", "500_after", "refuse", "slow"]
# Once the result stands, executed or replayed: the answer is lost.
Leave = Literal["timeout_after_effect"]
# What the bank does later with a new payout: fails it, or fails it once it was paid.
Bank = Literal["bank_fails", "bank_turns"]
# How an event is delivered; `path` is then the event's type and the method POST.
Late = Literal["webhook_late"]
Double = Literal["webhook_double"]
CODES = {"409": "idempotency_key_in_use", "429": "rate_limit", "refuse": "balance_insufficient"}
"""What is answered where a rule names no code."""


class Rule(BaseModel):
    """One fault: strikes the next `next` requests that match, then each with `probability`."""

    model_config = ConfigDict(extra="forbid")

    kind: Enter | Execute | Leave | Bank | Late | Double
    method: str = "POST"
    path: str = "*"
    """A glob of the URL's path, such as `/v1/transfers` or `/v1/*`."""
    destinations: list[str] | None = None
    """Only requests to these accounts."""
    next: int = Field(default=0, ge=0)
    probability: float = Field(default=0.0, ge=0, le=1)
    seconds: float = Field(default=0.0, ge=0)
    """How long `slow` holds before it executes, `timeout_after_effect` before it hangs up (0: at
    once, so that nobody waits for an answer), and `webhook_late` keeps an event back."""
    code: str | None = None
    """What 409, 429 (`lock_timeout` is one) and `refuse` answer, see CODES; of a bank's failure
    the failure_code (account_closed)."""
    status: Literal[400, 402] = 400
    """Of `refuse`."""
    retry_after: int | None = None
    """Seconds that `429` asks for in `Retry-After`."""
    hits: int = 0

    @model_validator(mode="after")
    def _how_often(self) -> Self:
        if not self.next and not self.probability:
            raise ValueError("give next or probability")
        return self

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


class Faulty(StripeStandIn):
    """A stand-in with rules in force.

    Chance is drawn from the seed, the rule and the request's key and turn, not from the order of
    arrival, so that concurrent callers meet the same faults again.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._drawing = threading.Lock()
        self._turns: dict[tuple[int, str], int] = {}
        self._released = threading.Event()
        self._seed = 0
        self.rules: list[Rule] = []

    def strike(self, rules: list[Rule], seed: int | None = None) -> None:
        with self._drawing:
            self._seed = self._seed if seed is None else seed
            self.rules = [*self.rules, *rules]

    def forgive(self) -> None:
        """Drop all rules, and release whatever they hold."""
        with self._drawing:
            self.rules, self._turns = [], {}
            held, self._released = self._released, threading.Event()
        held.set()

    def enter(self, target: Target) -> None:
        if (rule := self._draw(Enter, target)) is not None:
            raise HangUp if rule.kind == "drop_before" else rule.error()

    def execute(self, target: Target) -> ApiError | None:
        rule = self._draw(Execute, target)
        if rule is None:
            return None
        if rule.kind == "slow":
            self._released.wait(rule.seconds)
            return None
        if rule.kind == "500_after":
            return rule.error()
        raise rule.error()

    def leave(self, target: Target) -> None:
        if (rule := self._draw(Leave, target)) is not None:
            self._released.wait(rule.seconds)
            raise HangUp

    def ends(self, target: Target) -> tuple[list[str], str]:
        rule = self._draw(Bank, target)
        if rule is None:
            return super().ends(target)
        ends = ["failed"] if rule.kind == "bank_fails" else ["paid", "failed"]
        return ends, rule.code or "account_closed"

    def delays(self, target: Target) -> list[float]:
        late = self._draw(Late, target)
        delay = late.seconds if late else 0.0
        return [delay] * (2 if self._draw(Double, target) else 1)

    def _draw(self, kinds: Any, target: Target) -> Rule | None:
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
        return random.Random(f"{self._seed}|{index}|{key}|{turn}").random() < probability
