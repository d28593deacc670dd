"""Jobs as commands and the API show them: what each declares, and its current state."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import GenerateJsonSchema

import flags
from app.switchyard.cutover import stages
from app.switchyard.cutover.status import cutover_status
from app.switchyard.job import JobSpec
from app.switchyard.operations.acts import would_move
from app.switchyard.runtime import Runtime
from flags import LEGACY_BACKEND, Side, Stage

_DECLARED = ("name", "event", "schedule", "queue", "attempts", "concurrency", "serverless")


class Lenient(GenerateJsonSchema):
    """Allows any value where JSON Schema cannot describe a field of an adopter's payload."""

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> dict[str, Any]:
        """The schema of any value."""
        return {}


def described(
    spec: JobSpec, stage: str = Stage.LEGACY.value, percent: float | None = None
) -> dict[str, Any]:
    """A job as in `jobs list --json`, with the backend that a new run would get now."""
    # On a ramp each key has its own answer, so legacy is given until all are serverless.
    ramping = stage == Stage.RAMP and percent != 100
    return {
        **{name: getattr(spec, name) for name in _DECLARED},
        "stage": stage,
        "percent": percent,
        "backend": LEGACY_BACKEND if ramping else flags.decide(spec.name, spec.name).backend,
        "file": spec.file,
    }


def detailed(runtime: Runtime, spec: JobSpec, *at: Any) -> dict[str, Any]:
    """A job as in `jobs show --json`. `at` is its stage and percent, as for described()."""
    return {
        **described(spec, *at),
        "gaps": list(spec.gaps),
        "timeout": spec.timeout,
        "next": spec.occurrence_after(runtime.store.clock()) if spec.schedule else None,
        "payload": spec.payload.model_json_schema(by_alias=True, schema_generator=Lenient),
    }


def every(runtime: Runtime) -> dict[str, Any]:
    """Every job with its state: `jobs list` and `cutover status` in one. A job that this code does
    not declare has only what the ledger knows."""
    status = cutover_status(runtime)
    unknown = dict.fromkeys((*_DECLARED, "backend", "file"))
    for job in status["jobs"]:
        spec = runtime.catalogue.get(job["name"])
        declared = unknown if spec is None else described(spec, job["stage"], job["percent"])
        job |= {**declared, **job, "known": spec is not None}
    return status


def one(runtime: Runtime, name: str) -> dict[str, Any]:
    """One job, with everything that a decision about it needs. Raises UnknownJob."""
    spec = runtime.catalogue[name]
    [status] = cutover_status(runtime, [name])["jobs"]
    return {
        **detailed(runtime, spec, status["stage"], status["percent"]),
        **status,
        "known": True,
        "against_complete": stages.obstacles(runtime.db, name, runtime.store.clock()),
        "pins": stages.pinned_keys(runtime.db, name),
        "would_move": {str(side): would_move(runtime, name, side) for side in Side},
    }
