"""The jobs as commands and the API show them: what each declares, and where it stands."""

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
    """What JSON Schema cannot say of an adopter's payload is any value."""

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> dict[str, Any]:
        """Any value."""
        return {}


def described(
    spec: JobSpec, stage: str = Stage.LEGACY.value, percent: float | None = None
) -> dict[str, Any]:
    """A job as `jobs list --json` gives it, with where a new run of it would go now."""
    # In the middle of a ramp each key has its own answer: legacy until all are serverless.
    ramping = stage == Stage.RAMP and percent != 100
    return {
        **{name: getattr(spec, name) for name in _DECLARED},
        "stage": stage,
        "percent": percent,
        "backend": LEGACY_BACKEND if ramping else flags.decide(spec.name, spec.name).backend,
        "file": spec.file,
    }


def detailed(runtime: Runtime, spec: JobSpec, *at: Any) -> dict[str, Any]:
    """A job as `jobs show --json` gives it; `at` is as of described()."""
    return {
        **described(spec, *at),
        "gaps": list(spec.gaps),
        "timeout": spec.timeout,
        "next": spec.occurrence_after(runtime.store.clock()) if spec.schedule else None,
        "payload": spec.payload.model_json_schema(by_alias=True, schema_generator=Lenient),
    }


def every(runtime: Runtime) -> dict[str, Any]:
    """Each job with where it stands: `jobs list` and `cutover status` in one. What is not declared
    in this code has only what the ledger says."""
    status = cutover_status(runtime)
    unknown = dict.fromkeys((*_DECLARED, "backend", "file"))
    for job in status["jobs"]:
        spec = runtime.catalogue.get(job["name"])
        declared = unknown if spec is None else described(spec, job["stage"], job["percent"])
        job |= {**declared, **job, "known": spec is not None}
    return status


def one(runtime: Runtime, name: str) -> dict[str, Any]:
    """One job, with all that a decision about it needs. Raises UnknownJob."""
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
