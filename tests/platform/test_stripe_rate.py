"""How many calls a second a process may send to Stripe."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.platform.config import Settings, load
from app.platform.wiring import make_runtime
from app.switchyard.errors import SettingsError


@pytest.mark.parametrize(
    ("environ", "rate"),
    [
        ({}, 1000.0),
        ({"STRIPE_API_KEY": "sk_live_x"}, 20.0),
        ({"STRIPE_API_KEY": "rk_live_x"}, 20.0),
        ({"STRIPE_API_KEY": "sk_test_x"}, 20.0),
        ({"STRIPE_API_KEY": "rk_test_x"}, 20.0),
        ({"INNGEST_EVENT_KEY": "x"}, 20.0),
        ({"STRIPE_RATE": "0.5"}, 0.5),
        ({"STRIPE_API_KEY": "sk_live_x", "STRIPE_RATE": "15"}, 15.0),
    ],
)
def test_the_rate_follows_the_key_unless_set(environ: dict[str, str], rate: float) -> None:
    settings = load(environ)
    assert settings.stripe_calls_per_second == rate


def test_a_process_gives_its_gateway_the_rate(tmp_path: Path) -> None:
    settings = Settings(database_url=f"sqlite:///{tmp_path / 'test.db'}", stripe_rate=7)
    made = make_runtime(settings, backends=[])
    assert made.engine.gateways.stripe.calls_per_second == 7
    made.db.dispose()


@pytest.mark.parametrize("rate", ["0", "-1", "nan", "inf", "fast"])
def test_a_rate_that_is_none_is_refused(rate: str) -> None:
    with pytest.raises(SettingsError, match="STRIPE_RATE: "):
        load({"STRIPE_RATE": rate})
