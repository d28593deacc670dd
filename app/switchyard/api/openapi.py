"""The OpenAPI document: made from the app's routes and from the catalogue's payloads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal

from flask import Flask
from pydantic import BaseModel, Field, TypeAdapter, create_model
from werkzeug.routing import Rule

from app.switchyard.api import shapes
from app.switchyard.console.door import CSRF_HEADER
from app.switchyard.job import Catalogue, JobSpec
from app.switchyard.operations.jobs import Lenient
from app.switchyard.runs.create import KEY_LENGTH

REF = "#/components/schemas/{model}"
TRIGGER = "switchyard_trigger.trigger"
_PROBLEMS = {
    "400": "The call cannot be read.",
    "401": "No token came with it, or a wrong one.",
    "403": "The token may only look, or the form token is of another session.",
    "404": "There is no such job or run.",
    "409": "As things stand it makes no sense; nothing was changed.",
    "413": "The body is too large.",
    "415": "The body is not sent as application/json.",
    "422": "It does not fit; `errors` names each misfit.",
    "429": "Too many calls.",
    "503": "The database, or the queue that it takes, is unavailable.",
}


@dataclass(frozen=True, slots=True)
class Operation:
    """What one route takes and gives."""

    answer: Any
    query: type[BaseModel] | None = None
    body: Any = None
    status: int = 200


def document(
    app: Flask, operations: Mapping[str, Operation], catalogue: Catalogue
) -> dict[str, Any]:
    """The document of those of the app's routes that `operations` knows by endpoint, and of the
    trigger."""
    triggered = Operation(shapes.Triggered, body=events(catalogue), status=202)
    operations = {**operations, TRIGGER: triggered}
    rules = app.url_map.iter_rules()
    known = [(rule, operations[rule.endpoint]) for rule in rules if rule.endpoint in operations]
    types: list[tuple[Any, Literal["validation", "serialization"], TypeAdapter[Any]]] = [
        (("problem", ""), "serialization", TypeAdapter(shapes.Problem))
    ]
    for rule, one in known:
        for what, type_ in (("answer", one.answer), ("query", one.query), ("body", one.body)):
            if type_ is not None:
                mode: Any = "serialization" if what == "answer" else "validation"
                types.append(((what, rule.endpoint), mode, TypeAdapter(type_)))
    schemas, components = TypeAdapter.json_schemas(
        types, ref_template=REF, schema_generator=Lenient
    )
    by_key = {key: schema for (key, _), schema in schemas.items()}
    defs = components.get("$defs", {})
    paths: dict[str, dict[str, Any]] = {}
    in_path: dict[str, Any] = {
        "name": {"type": "string", "enum": [*catalogue]},
        "run_id": {"type": "string", "pattern": "^[0-9a-f]{26}$"},
    }
    for rule, one in known:
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            said = _operation(rule, method, one, by_key, defs, in_path)
            said["summary"] = (app.view_functions[rule.endpoint].__doc__ or "").strip()
            paths.setdefault(path, {})[method.lower()] = said
    cookie = app.config["SESSION_COOKIE_NAME"]
    return {
        "openapi": "3.1.0",
        "info": {"title": "Switchyard", "version": "1"},
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": defs,
            "securitySchemes": {
                "operator": {"type": "http", "scheme": "bearer", "description": "ADMIN_TOKEN"},
                "reader": {"type": "http", "scheme": "bearer", "description": "READ_ONLY_TOKEN"},
                "cookie": {"type": "apiKey", "in": "cookie", "name": cookie},
                "form": {"type": "apiKey", "in": "header", "name": CSRF_HEADER},
            },
        },
    }


def events(catalogue: Catalogue) -> Any:
    """What the trigger takes: one of the catalogue's events, by its name, with its payload."""
    models = [_event(spec) for spec in catalogue.values()]
    if len(models) < 2:
        return models[0] if models else None
    return Annotated[reduce(or_, models), Field(discriminator="name")]


def _event(spec: JobSpec) -> type[BaseModel]:
    needed = any(field.is_required() for field in spec.payload.model_fields.values())
    key = Annotated[str, Field(min_length=1, max_length=KEY_LENGTH)]
    fields: dict[str, Any] = {
        "name": (Literal[spec.event], ...),
        "data": (spec.payload, ...) if needed else (spec.payload | None, None),
        "id": (key | None, None),
    }
    return create_model(f"Event.{spec.event}", __config__={"extra": "forbid"}, **fields)


def _operation(
    rule: Rule,
    method: str,
    one: Operation,
    schemas: Mapping[Any, Any],
    defs: Mapping[str, Any],
    paths: Mapping[str, Any],
) -> dict[str, Any]:
    reads = method == "GET"
    browser: dict[str, list[str]] = {"cookie": []} if reads else {"cookie": [], "form": []}
    security = [{"operator": []}, *([{"reader": []}] if reads else []), browser]
    said: dict[str, Any] = {
        "operationId": f"{rule.endpoint.rpartition('.')[2]}",
        "security": security,
        "parameters": list(_parameters(rule, one, schemas, defs, paths)),
        "responses": {
            str(one.status): {
                "description": "Done.",
                "headers": {"X-Request-Id": {"schema": {"type": "string"}}},
                "content": {"application/json": {"schema": schemas["answer", rule.endpoint]}},
            }
        }
        | {
            status: {
                "description": what,
                "content": {"application/problem+json": {"schema": schemas["problem", ""]}},
            }
            for status, what in _PROBLEMS.items()
        },
    }
    if one.body is not None:
        content = {"application/json": {"schema": schemas["body", rule.endpoint]}}
        said["requestBody"] = {"required": True, "content": content}
    return said


def _parameters(
    rule: Rule,
    one: Operation,
    schemas: Mapping[Any, Any],
    defs: Mapping[str, Any],
    paths: Mapping[str, Any],
) -> Iterator[dict[str, Any]]:
    for name in sorted(rule.arguments):
        yield {"name": name, "in": "path", "required": True, "schema": paths[name]}
    if one.query is None:
        return
    model = schemas["query", rule.endpoint]
    model = defs[model["$ref"].rpartition("/")[2]] if "$ref" in model else model
    for name, schema in model.get("properties", {}).items():
        required = name in model.get("required", ())
        yield {"name": name, "in": "query", "required": required, "schema": schema}
