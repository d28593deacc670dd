"""Whatever happens, in whatever order: see tests.support.machine; `make chaos` does more of it."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.support.machine import Machine


@pytest.mark.minutes
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(4))
def test_whatever_happens_each_intent_has_one_effect(part: int) -> None:
    """80 examples, in parts of which no one is what the suite waits for."""
    run_state_machine_as_test(
        seed(part)(type("Machine", (Machine,), {})),
        settings=settings(
            max_examples=20,
            stateful_step_count=50,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
