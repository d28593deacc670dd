"""Settings from the environment and from the app's config, under names that the host may have."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask

from app.switchyard.errors import SettingsError
from app.switchyard.extension import Switchyard
from app.switchyard.runtime import Runtime
from flags import Flags, StageRow


def settled(**config: Any) -> Runtime:
    app = Flask("host")
    app.config.update({"SWITCHYARD_DATABASE_URL": "sqlite:///unused.db"} | config)
    Switchyard(app, jobs=["tests.support.jobs"])
    runtime: Runtime = app.extensions["switchyard"]
    return runtime


def test_the_config_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://plain/0")
    monkeypatch.setenv("RETENTION_DAYS", "60")
    monkeypatch.setenv("SWITCHYARD_RETENTION_DAYS", "70")
    monkeypatch.setenv("SWITCHYARD_CHECK_SECONDS", "7")
    settings = settled(
        SWITCHYARD_REDIS_URL="redis://own/0",
        SWITCHYARD_LEASE_SECONDS=3,
        SWITCHYARD_LEGACY_QUEUES=["old", "older"],
        SWITCHYARD_LEGACY_PICKLE=True,
        SWITCHYARD_ADMIN_TOKEN=None,
        REDIS_URL="redis://the-host-s/0",
        SECRET_KEY="the host's",
    ).settings
    assert (settings.redis_url, settings.retention_days) == ("redis://own/0", 70)
    assert (settings.lease_seconds, settings.check_seconds) == (3.0, 7.0)
    assert (settings.legacy_queues, settings.legacy_pickle) == ("old,older", True)
    assert (settings.admin_token, settings.secret_key) == (None, None)


def test_a_wrong_one_is_named() -> None:
    with pytest.raises(SettingsError, match=r"LEASE_SECONDS: .*greater than or equal"):
        settled(SWITCHYARD_LEASE_SECONDS=0)
    with pytest.raises(SettingsError, match="USE_INNGEST: must be true or false"):
        settled(SWITCHYARD_USE_INNGEST="maybe")


SWITCHES: list[tuple[dict[str, str], dict[str, object], bool]] = [
    ({}, {}, False),
    ({"USE_INNGEST": "true"}, {}, True),
    ({"USE_INNGEST": "true", "SWITCHYARD_USE_INNGEST": "false"}, {}, False),
    ({"USE_INNGEST": "false", "SWITCHYARD_USE_INNGEST": "true"}, {}, True),
    ({"USE_INNGEST": "maybe", "SWITCHYARD_USE_INNGEST": "true"}, {}, True),
    ({"USE_INNGEST": "true"}, {"SWITCHYARD_USE_INNGEST": False}, False),
    ({"SWITCHYARD_USE_INNGEST": "false"}, {"SWITCHYARD_USE_INNGEST": True}, True),
    ({"USE_INNGEST": "true"}, {"USE_INNGEST": False}, True),
]


@pytest.mark.parametrize(("environ", "config", "on"), SWITCHES)
def test_the_switch_has_one_reading(
    environ: dict[str, str],
    config: dict[str, object],
    on: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the settings say and what decides are the same."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert settled(**config).settings.use_inngest is on
    live = Flags(lambda: [StageRow("a", "live", None, 1)], lambda _: "inngest", config=config)
    assert live.decide("a", "k").backend == ("inngest" if on else "rq")


def test_the_switch_is_read_each_time() -> None:
    config: dict[str, object] = {"SWITCHYARD_USE_INNGEST": True}
    live = Flags(lambda: [StageRow("a", "live", None, 1)], lambda _: "inngest", config=config)
    assert live.decide("a", "k").backend == "inngest"
    config["SWITCHYARD_USE_INNGEST"] = "false"
    assert live.decide("a", "k").reason == "DISABLED"
