"""docs/grafana.json and docs/alerts.yml ask for what /metrics gives, and alerts lead somewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from app.platform.config import ROOT
from app.switchyard.metrics import Ledger
from app.switchyard.operations import processes
from tests.support.pages import sections
from tests.support.sides import environment, fresh

ALERTS = yaml.safe_load((ROOT / "docs" / "alerts.yml").read_text())["groups"][0]["rules"]
DASHBOARD = json.loads((ROOT / "docs" / "grafana.json").read_text())
OURS = "switchyard_"
TARGETS = {"up": {"job", "instance"}}
"""What Prometheus itself says of what it scrapes."""


@pytest.fixture
def given(tmp_path: Path) -> dict[str, set[str]]:
    """The labels of each metric of /metrics, by the names that a query may have."""
    url = f"sqlite:///{tmp_path / 'x.db'}"
    made = fresh(environment(url, "redis://127.0.0.1:1/0"))
    labels: dict[str, set[str]] = dict(TARGETS)
    for family in Ledger(made, lambda: {"database": True, "rq": True}).collect():
        own = {"instance", *vars(family)["_labelnames"]}  # before there is any sample
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
        for suffix in suffixes.get(family.type, [""]):
            labels[family.name + suffix] = own | ({"le"} if suffix == "_bucket" else set())
    made.db.dispose()
    return labels


def asked(expression: str) -> Iterator[tuple[str, set[str]]]:
    """The metrics of an expression, each with the labels that it must have."""
    nodes: list[Any] = []
    promql_parser.walk(promql_parser.parse(expression), lambda n: nodes.append(n), lambda _n: None)
    for node in nodes:
        kind = type(node).__name__
        if kind == "VectorSelector":
            yield node.name, {matcher.name for matcher in node.matchers.matchers}
        elif kind == "AggregateExpr" and node.modifier is not None:
            yield from ((name, set(node.modifier.labels)) for name in names(node.expr))
        elif kind == "BinaryExpr" and node.modifier and node.modifier.matching:
            labels = set(node.modifier.matching.labels)
            yield from ((name, labels) for name in names(node.lhs))


def names(node: Any) -> set[str]:
    return set(re.findall(r"\b(?:switchyard_\w+|up)\b", str(node)))


def expressions() -> Iterator[tuple[str, str]]:
    for rule in ALERTS:
        yield rule["alert"], rule["expr"]
    shown = [target for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
    for target in [*shown, *DASHBOARD["annotations"]["list"]]:
        text = target["expr"].replace("$__rate_interval", "5m").replace("$job", ".*")
        assert "$" not in text
        yield "grafana.json", text


def test_each_asks_for_what_there_is(given: dict[str, set[str]]) -> None:
    seen = set()
    for where, expression in expressions():
        for name, labels in asked(expression):
            assert name in given, f"{where}: {name}"
            assert labels <= given[name], f"{where}: {name} by {labels}"
            seen.add(re.sub("_(bucket|sum|count)$", "", name))
    unseen = {re.sub("_(bucket|sum|count)$", "", name) for name in given} - seen
    assert unseen == {"switchyard_overdue_runs"}


def test_each_alert_and_each_banner_leads_to_a_heading_of_the_runbook() -> None:
    anchors = {heading.lower().replace(" ", "-") for heading in sections("runbook.md")}
    for rule in ALERTS:
        assert rule["annotations"]["runbook"] in anchors
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert re.match("Switchyard[A-Z]", rule["alert"])
    source = (ROOT / "app" / "switchyard" / "operations" / "overview.py").read_text()
    banners = set(re.findall(r'Trouble\(\s*f?"([\w{}-]+)"', source))
    kinds = {f"no-{kind}" for kind in processes.KINDS}
    assert len(banners) > 5
    assert (banners - {"no-{kind}"}) | kinds <= anchors
