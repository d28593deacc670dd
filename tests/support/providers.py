"""OpenFeature providers, good and bad."""

from __future__ import annotations

import threading
from typing import Any

from openfeature.evaluation_context import EvaluationContext
from openfeature.flag_evaluation import FlagResolutionDetails
from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider

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
