"""Whatever fits the API's own document, and whatever does not, is answered as it says: no 5xx, and
answers of the shapes that it gives."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from flask import Flask
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.checks import load_all_checks
from schemathesis.generation import GenerationMode

from app.switchyard.dispatch import dispatch
from app.switchyard.runs import operate
from app.switchyard.runtime import EXTENSION
from tests.platform.test_every_route import LIVE, OUTSIDE, TOKEN
from tests.support.sides import app_on, environment

EXAMPLES = 7
"""Of each route, that fit and that do not."""
OPERATOR = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    url = f"sqlite:///{tmp_path / 'test.db'}"
    with app_on(environment(url, "unix:///nowhere", **LIVE)) as made:
        yield made


def test_it_is_as_its_document_says(app: Flask) -> None:
    load_all_checks()
    with app.app_context():
        runs = [dispatch("child", {"name": f"n{number}"}).id for number in range(3)]
        runs.append("0" * 26)
        operate.cancel(app.extensions[EXTENSION].store, runs[0])
    schema = schemathesis.openapi.from_wsgi("/api/openapi.json", app, headers=OPERATOR)
    checks = [
        schemathesis.checks.CHECKS.get_one(name)
        for name in (
            "response_schema_conformance",
            "content_type_conformance",
            "status_code_conformance",
        )
    ]
    seen = set()
    for result in schema.get_all_operations():
        operation: Any = result.ok()
        for mode in GenerationMode:

            @seed(1)
            @settings(
                max_examples=EXAMPLES,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(operation.as_strategy(mode))
            def answers(case: Any) -> None:
                if re.fullmatch("[0-9a-f]{26}", str(case.path_parameters.get("run_id"))):
                    case.path_parameters["run_id"] = runs[len(str(case.body)) % 4]
                answer = case.call(headers=OPERATOR)
                title = (json.loads(answer.text or "{}") or {}).get("title")
                assert answer.status_code < 500 or title in OUTSIDE, case.as_curl_command()
                assert "X-Request-Id".lower() in {name.lower() for name in answer.headers}
                case.validate_response(answer, checks=checks)

            answers()
        seen.add(operation.label)
    assert len(seen) > 12
