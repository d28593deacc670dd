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
    ("sources", "says"),
    [
        ("github", "Invalid JSON"),
        (json.dumps({"Git": [SECRET]}), "Git: .*String should match pattern"),
        (json.dumps({"a": []}), "a: List should have at least 1 item"),
        (json.dumps({"a": ["whsec_hunter2"]}), "a: 0: must be whsec_"),
        (json.dumps({"stripe": [SECRET]}), "stripe has an endpoint"),
    ],
)
def test_a_source_that_is_none(sources: str, says: str) -> None:
    with pytest.raises(SettingsError, match=f"^WEBHOOK_SOURCES.*: {says}") as refused:
        load({"WEBHOOK_SOURCES": sources})
    assert not [text for text in ("hunter2", SECRET, "\n") if text in str(refused.value)]


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ({**HERE, "sources": ["shop"]}, "crm: there is no source 'shop'"),
        ({**HERE, "secret": "whsec_hunter2"}, "crm: secret: must be whsec_"),
        ({**HERE, "url": "ftp://crm.example.com/hunter2"}, "crm: url: must start with http"),
        ({**HERE, "source": "github"}, "crm: source: Extra inputs are not permitted"),
    ],
)
def test_a_target_that_is_none(target: Any, says: str) -> None:
    targets = json.dumps({"crm": target})
    with pytest.raises(SettingsError, match=f"WEBHOOK_TARGETS: {says}") as refused:
        load({"WEBHOOK_SOURCES": SOURCES, "WEBHOOK_TARGETS": targets})
    assert not [text for text in ("hunter2", SECRET, "\n") if text in str(refused.value)]
