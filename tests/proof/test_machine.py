"""Whatever happens, in whatever order: see tests.support.machine; `make chaos` does more of it."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.support.machine import Machine


@pytest.mark.minutes
@pytest.mark.timeout(900)
def test_whatever_happens_each_intent_has_one_effect() -> None:
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=80,
            stateful_step_count=50,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
