"""What WEBHOOK_SOURCES and WEBHOOK_TARGETS may say, and what stops the start."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from app.platform.config import load
from app.switchyard.errors import SettingsError

SECRET, NEXT = (f"whsec_{base64.b64encode(bytes([n]) * 32).decode()}" for n in (1, 2))
URL = "https://crm.example.com:8443/hooks?a=b:c"
SOURCES = json.dumps({"github": [SECRET, NEXT], "partner": [SECRET]})
HERE = {"url": URL, "secret": SECRET}


def test_what_is_declared() -> None:
    targets = {"crm": {**HERE, "sources": ["github", "stripe"]}, "all": HERE}
    made = load({"WEBHOOK_SOURCES": SOURCES, "WEBHOOK_TARGETS": json.dumps(targets)})
    secrets = [secret.get_secret_value() for secret in made.webhook_sources["github"]]
    assert secrets == [SECRET, NEXT]
    crm, every = made.webhook_targets.values()
    assert (str(crm.url.get_secret_value()), crm.secret.get_secret_value()) == (URL, SECRET)
    wanted = [crm.wants(name) for name in ("github", "stripe", "partner")]
    assert wanted == [True, True, False]
    assert every.wants("partner")
    assert not [text for text in (SECRET, NEXT, "crm.example") if text in repr(made)]
    assert (load({}).webhook_sources, load({}).webhook_targets) == ({}, {})


@pytest.mark.parametrize(
    ("sources", "targets", "says"),
    [
        ("github", {}, "WEBHOOK_SOURCES.*: Invalid JSON"),
        ({"Git": [SECRET]}, {}, "WEBHOOK_SOURCES.*: Git: .*String should match pattern"),
        ({"a": []}, {}, "WEBHOOK_SOURCES.*: a: List should have at least 1 item"),
        ({"a": ["whsec_hunter2"]}, {}, "WEBHOOK_SOURCES.*: a: 0: must be whsec_"),
        ({"stripe": [SECRET]}, {}, "WEBHOOK_SOURCES.*: stripe has an endpoint"),
        ({}, {"sources": ["shop"]}, "WEBHOOK_SOURCES, WEBHOOK_TARGETS: crm: there is no source"),
        ({}, {"secret": "whsec_hunter2"}, "WEBHOOK_TARGETS: crm: secret: must be whsec_"),
        ({}, {"url": "ftp://a.example/hunter2"}, "WEBHOOK_TARGETS: crm: url: must start with http"),
        ({}, {"source": "github"}, "WEBHOOK_TARGETS: crm: source: Extra inputs are not permitted"),
    ],
)
def test_what_stops_the_start(sources: Any, targets: dict[str, Any], says: str) -> None:
    given = {"WEBHOOK_SOURCES": sources if isinstance(sources, str) else json.dumps(sources)}
    if targets:
        given["WEBHOOK_TARGETS"] = json.dumps({"crm": HERE | targets})
    with pytest.raises(SettingsError, match=f"^{says}") as refused:
        load(given)
    assert not [text for text in ("hunter2", SECRET, "\n") if text in str(refused.value)]
