"""Failures on demand: rules that say which request fails, how, and how often."""

import random
import threading
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.local.stripe.errors import ApiError, refusal

# Before idempotency is looked at: nothing is done and nothing stored.
Door = Literal["drop_before", "409", "429"]
# When a request is executed, so never on a replay: the result is stored.
Work = Literal["500_before", "500_after", "refuse", "slow"]
# Once the result stands, executed or replayed: the answer is lost.
Exit = Literal["timeout_after_effect"]
# What the bank does later with a new payout: fails it, or fails it once it was paid.
Bank = Literal["bank_fails", "bank_turns"]
# How an event is delivered; `path` is then the event's type and the method POST.
Delivery = Literal["webhook_double", "webhook_late"]
CODES = {"409": "idempotency_key_in_use", "429": "rate_limit", "refuse": "balance_insufficient"}
"""What is answered where a rule names no code."""


class Target(NamedTuple):
    """What rules match on; `key` is the idempotency key or empty, of a delivery the event's id."""

    method: str
    path: str
    destination: str | None
    key: str


class Rule(BaseModel):
    """One fault: strikes the next `next` requests that match, then each with `probability`."""

    model_config = ConfigDict(extra="forbid")

    kind: Door | Work | Exit | Bank | Delivery
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
            and (self.destinations is None or target.destination in self.destinations)
        )

    def error(self) -> ApiError:
        """What the request is answered with, where this rule is one of an answer."""
        if self.kind not in CODES:
            return ApiError(500, "An unknown error occurred", kind="api_error")
        status = self.status if self.kind == "refuse" else int(self.kind)
        wait = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return refusal(self.code or CODES[self.kind], status, wait)


class Faults:
    """The rules in force.

    Chance is drawn from the seed, the rule and the request's key and turn, not from the order of
    arrival, so that concurrent callers meet the same faults again.
    """

    def __init__(self, seed: int) -> None:
        self._lock = threading.Lock()
        self._turns: dict[tuple[int, str], int] = {}
        self._released = threading.Event()
        self.seed = seed
        self.rules: list[Rule] = []

    def add(self, rules: list[Rule], seed: int | None = None) -> None:
        with self._lock:
            self.seed = self.seed if seed is None else seed
            self.rules = [*self.rules, *rules]

    def clear(self) -> None:
        """Drops all rules and lets go of whatever they hold."""
        with self._lock:
            self.rules, self._turns = [], {}
            held, self._released = self._released, threading.Event()
        held.set()

    def hold(self, seconds: float) -> None:
        """Waits, or until the rules are cleared."""
        self._released.wait(seconds)

    def draw(self, kinds: frozenset[str], target: Target) -> Rule | None:
        """The first rule of these kinds that strikes the request, counted as a hit."""
        with self._lock:
            for index, rule in enumerate(self.rules):
                if rule.kind not in kinds or not rule.matches(target):
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
        return random.Random(f"{self.seed}|{index}|{key}|{turn}").random() < probability
