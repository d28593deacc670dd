"""FLAG_PROVIDER: OpenFeature providers in place of the stages, good and bad, through the SDK."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import Mock

import pytest
from openfeature import api
from openfeature.evaluation_context import EvaluationContext
from openfeature.flag_evaluation import FlagResolutionDetails
from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider

import flags
from app.platform.config import load
from app.switchyard.cutover import openfeature
from app.switchyard.cutover.openfeature import Provided, factory
from app.switchyard.errors import SettingsError
from flags import StageRow
from tests.support.forks import in_a_fork
from tests.support.waiting import PATIENCE_SECONDS, until
from tests.switchyard.test_flags import Store as Stages

HOME = __name__


JOB = "five-steps"
state: dict[str, Any] = {"mode": "", "asked": 0, "made": 0}
over = threading.Event()
"""Set when whoever hangs need not any more."""


class Moody(InMemoryProvider):
    """Says yes to keys that begin with y; or fails, as `state` has it."""

    def __init__(self) -> None:
        def chosen(flag: Any, context: EvaluationContext) -> FlagResolutionDetails[bool]:
            on = str(context.targeting_key).startswith("y")
            return FlagResolutionDetails(on, reason="TARGETING_MATCH", variant=str(on))

        flag = InMemoryFlag("on", {"on": True, "off": False}, context_evaluator=chosen)
        super().__init__({JOB: flag})

    def resolve_boolean_details(
        self, flag_key: str, default_value: bool, evaluation_context: Any = None
    ) -> FlagResolutionDetails[bool]:
        state["asked"] += 1
        nonsense: Any = "maybe"
        if state["mode"] == "raises":
            raise ConnectionError("the provider is away")
        if state["mode"] == "hangs":
            over.wait()
        if state["mode"] == "nonsense":
            return FlagResolutionDetails(nonsense)
        if state["mode"] == "odd reason":
            return FlagResolutionDetails(True, reason="BECAUSE")
        return super().resolve_boolean_details(flag_key, default_value, evaluation_context)


def moody() -> Moody:
    state["made"] += 1
    return Moody()


def unready() -> Any:
    class Unready(Moody):
        def initialize(self, evaluation_context: EvaluationContext) -> None:
            over.wait()

    return Unready()


def broken() -> Any:
    raise RuntimeError("no such account")


def none() -> Any:
    return object()


class Store(Stages):
    """Beside a provider."""

    def provided(self, named: str = "moody", switch: str = "true") -> Provided:
        return Provided(
            self.load,
            lambda job: "inngest",
            make=factory(f"{HOME}:{named}"),
            environ={"USE_INNGEST": switch},
            monotonic=lambda: self.time,
        )


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    state.update(mode="", asked=0, made=0)
    over.clear()
    monkeypatch.setattr(flags, "_at_work", lambda: None)
    monkeypatch.setattr(openfeature, "TIMEOUT_SECONDS", PATIENCE_SECONDS)
    yield
    over.set()
    api.shutdown()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on no provider is waited for."""
    return lambda: monkeypatch.setattr(openfeature, "TIMEOUT_SECONDS", 0.2)


@pytest.mark.parametrize(
    "rows", [[], [StageRow(JOB, "ramp", 50.0, 3)], [StageRow(JOB, "live", None, 3)]]
)
def test_a_provider_decides_by_key(rows: list[StageRow]) -> None:
    decide = Store(*rows).provided().decide
    version, stage = (3, rows[0].stage) if rows else (0, "legacy")
    assert decide(JOB, "yes") == ("inngest", "TARGETING_MATCH", stage, version)
    assert decide(JOB, "no") == ("rq", "TARGETING_MATCH", stage, version)
    assert state["made"] == 1


@pytest.mark.parametrize(
    ("row", "backend"),
    [
        (StageRow(JOB, "legacy", None, 3), "rq"),
        (StageRow(JOB, "shadow", None, 3), "rq"),
        (StageRow(JOB, "live", None, 3, (("yes", "rq"),)), "rq"),
        (StageRow(JOB, "complete", None, 3), "inngest"),
        (StageRow(JOB, "banana", None, 3), "rq"),
    ],
)
def test_an_off_switch_wins_and_complete_stays(row: StageRow, backend: str) -> None:
    assert Store(row).provided().decide(JOB, "yes").backend == backend
    assert state["asked"] == 0


def test_the_master_switch_wins() -> None:
    decision = Store().provided(switch="false").decide(JOB, "yes")
    assert (decision.backend, decision.reason) == ("rq", "DISABLED")
    assert state["asked"] == 0


def test_an_unreadable_store_is_no_leave_to_ask() -> None:
    store = Store(StageRow(JOB, "legacy", None, 3))
    provided = store.provided()
    assert provided.decide(JOB, "yes").backend == "rq"
    store.away = True
    store.time += 5
    assert provided.decide(JOB, "yes").backend == "rq"
    cold = Store()
    cold.away = True
    assert cold.provided().decide(JOB, "yes") == ("rq", "ERROR", "legacy", 0)
    assert state["asked"] == 0


@pytest.mark.parametrize("mode", ["raises", "nonsense", "hangs", "no thread"])
def test_without_an_answer_the_last_one_serves_or_legacy(
    mode: str, impatient: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    decide = Store().provided().decide
    assert decide(JOB, "yes").backend == "inngest"
    state["mode"] = mode
    if mode == "hangs":
        impatient()
    if mode == "no thread":
        full = Mock(side_effect=RuntimeError("can't start new thread"))
        monkeypatch.setattr("app.switchyard.threads.threading.Thread.start", full)
    assert decide(JOB, "yes")[:2] == ("inngest", "STALE")
    assert decide(JOB, "yet unseen")[:2] == ("rq", "ERROR")
    assert decide("no such flag", "yes")[:2] == ("rq", "ERROR")


def test_a_slow_provider_is_left_alone_for_a_while(
    impatient: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openfeature, "PAUSE_SECONDS", 3600.0)
    impatient()
    decide = Store().provided().decide
    state["mode"] = "hangs"
    for number in range(50):
        assert decide(JOB, f"y{number}").reason == "ERROR"
    until(lambda: state["asked"])
    assert state["asked"] == 1


def test_one_that_is_not_ready_is_one_without_an_answer(impatient: Callable[[], None]) -> None:
    impatient()
    assert Store().provided("unready").decide(JOB, "yes")[:2] == ("rq", "ERROR")


def test_a_reason_it_made_up_is_unknown() -> None:
    state["mode"] = "odd reason"
    assert Store().provided().decide(JOB, "yes")[:2] == ("inngest", "UNKNOWN")


def test_a_forked_child_has_a_provider_of_its_own() -> None:
    provided = Store().provided()
    provided.decide(JOB, "yes")

    def asked() -> str:
        answer = provided.decide(JOB, "yes")
        return f"{answer.backend} {answer.reason} {state['made']}"

    assert in_a_fork(asked) == "inngest TARGETING_MATCH 2"


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ("no.such.module:make", "No module named"),
        (f"{HOME}:nope", "has no attribute 'nope'"),
        (f"{HOME}:JOB", "not callable"),
        (f"{HOME}:broken", "no such account"),
        (f"{HOME}:none", "does not make an OpenFeature provider"),
    ],
)
def test_a_wrong_setting_stops_the_start(named: str, says: str) -> None:
    with pytest.raises(SettingsError, match="FLAG_PROVIDER") as refused:
        factory(named)
    assert says in str(refused.value)


@pytest.mark.parametrize("raw", ["module", "module:", ":factory", "a b:c", "a:b.c"])
def test_what_is_no_module_and_factory(raw: str) -> None:
    with pytest.raises(SettingsError, match="FLAG_PROVIDER"):
        load({"FLAG_PROVIDER": raw})
