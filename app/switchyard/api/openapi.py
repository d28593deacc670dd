"""The OpenAPI document: made from the app's routes and from the catalogue's payloads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal

from flask import Flask
from pydantic import BaseModel, Field, TypeAdapter, create_model

from app.switchyard.api import shapes
from app.switchyard.console.door import CSRF_HEADER
from app.switchyard.job import Catalogue, JobSpec
from app.switchyard.operations.jobs import Lenient
from app.switchyard.runs.models import RUN_ID
from app.switchyard.runs.store import KEY_LENGTH

TRIGGER = "switchyard_trigger.trigger"
_REFUSED = {
    "4XX": "The request is malformed, invalid (`errors` lists every error), or not allowed.",
    "503": "The database, or a queue that the request needs, is unavailable.",
}


@dataclass(frozen=True, slots=True)
class Operation:
    """What a route takes and returns."""

    answer: Any
    query: type[BaseModel] = shapes.Nothing
    body: Any = None
    status: int = 200


class _Schemas(dict[str, Any]):
    """The JSON Schema of types. Shared definitions are kept here, by name."""

    def of(self, type_: Any, mode: Literal["validation", "serialization"] = "validation") -> Any:
        # An adopter's model may have the same name as one of ours.
        prefix = "" if mode == "serialization" else "Taken."
        schema = TypeAdapter(type_).json_schema(
            mode=mode,
            ref_template=f"#/components/schemas/{prefix}{{model}}",
            schema_generator=Lenient,
        )
        shared = schema.pop("$defs", {})
        self.update({prefix + name: model for name, model in shared.items()})
        return schema


def document(
    app: Flask, operations: Mapping[str, Operation], catalogue: Catalogue
) -> dict[str, Any]:
    """The document for the routes that `operations` lists by endpoint, and for the trigger."""
    triggered = Operation(shapes.Triggered, body=_events(catalogue), status=202)
    operations = {**operations, TRIGGER: triggered}
    in_path = {
        "name": {"type": "string", "enum": [*catalogue]},
        "run_id": {"type": "string", "pattern": f"^{RUN_ID.pattern}$"},
    }
    schemas, paths = _Schemas(), dict[str, dict[str, Any]]()
    problem = {"application/problem+json": {"schema": schemas.of(shapes.Problem)}}
    refusals = {code: {"description": what, "content": problem} for code, what in _REFUSED.items()}
    for rule in app.url_map.iter_rules():
        if rule.endpoint not in operations:
            continue
        one, reads = operations[rule.endpoint], "GET" in (rule.methods or ())
        answer = {"application/json": {"schema": schemas.of(one.answer, "serialization")}}
        query = schemas.of(one.query)
        said: dict[str, Any] = {
            "operationId": rule.endpoint.rpartition(".")[2],
            "summary": (app.view_functions[rule.endpoint].__doc__ or "").strip(),
            "security": [{"operator": []}, {"reader": []}, {"cookie": []}]
            if reads
            else [{"operator": []}, {"cookie": [], "form": []}],
            "parameters": [
                {"name": name, "in": "path", "required": True, "schema": in_path[name]}
                for name in sorted(rule.arguments)
            ]
            + [
                {"name": name, "in": "query", "schema": schema}
                for name, schema in query.get("properties", {}).items()
            ],
            "responses": {str(one.status): {"description": "Done.", "content": answer}} | refusals,
        }
        if one.body is not None:
            content = {"application/json": {"schema": schemas.of(one.body)}}
            said["requestBody"] = {"required": True, "content": content}
        path = re.sub(r"<(\w+)>", r"{\1}", rule.rule)
        paths.setdefault(path, {})["get" if reads else "post"] = said
    bearer, key = {"type": "http", "scheme": "bearer"}, {"type": "apiKey"}
    schemes = {
        "operator": bearer | {"description": "ADMIN_TOKEN"},
        "reader": bearer | {"description": "READ_ONLY_TOKEN"},
        "cookie": key | {"in": "cookie", "name": app.config["SESSION_COOKIE_NAME"]},
        "form": key | {"in": "header", "name": CSRF_HEADER},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Switchyard", "version": "1"},
        "paths": dict(sorted(paths.items())),
        "components": {"schemas": dict(schemas), "securitySchemes": schemes},
    }


def _events(catalogue: Catalogue) -> Any:
    """What the trigger takes: an event of the catalogue, with its name and payload."""
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
