"""Whether what an old call site enqueues can be carried by the ledger, and with which payload."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

from rq.job import Job
from rq.utils import import_attribute

from app.switchyard.context import Payload
from app.switchyard.errors import BadInput
from app.switchyard.job import JobSpec, Legacy
from app.switchyard.runs.create import new_run


class NotCarried(Exception):
    """It stays on RQ, for the reason that is the message's first word."""


def payload_of(job: Job, spec: JobSpec) -> Payload:
    """The payload that the job's arguments make. Raises NotCarried."""
    for reason, stands in (
        ("depends_on", job._dependency_ids),
        (
            "callbacks",
            job._success_callback_name or job._failure_callback_name or job._stopped_callback_name,
        ),
        ("webhooks", job.webhooks),
        ("repeat", job.repeats_left),
        ("rate_limit", job.has_rate_limit),
        ("group", job.group_id),
        ("ttl", job.ttl),
    ):
        if stands:
            raise NotCarried(reason)
    if spec.legacy is None:
        raise NotCarried("undeclared")
    try:
        payload = _bound(spec.legacy, tuple(job.args), dict(job.kwargs))
        new_run(spec, payload, job._id, job.created_at)  # else it would be refused as it is written
    except (TypeError, ValueError, BadInput) as misfit:
        raise NotCarried(f"arguments: {misfit}") from None
    return payload


def _bound(legacy: Legacy, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Payload:
    if legacy.payload is not None:
        try:
            return legacy.payload(*args, **kwargs)
        except Exception as misfit:
            raise TypeError(f"{type(misfit).__name__}: {misfit}") from misfit
    signature = _signature(legacy.function)
    if signature is None:
        if args:
            raise TypeError("by position, of a function that this process cannot import")
        return kwargs
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    payload: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = signature.parameters[name].kind
        if kind == inspect.Parameter.VAR_KEYWORD:
            payload.update(value)
        elif kind != inspect.Parameter.VAR_POSITIONAL:
            payload[name] = value
        elif value:
            raise TypeError(f"*{name} has no names")
    return payload


@cache
def _signature(path: str) -> inspect.Signature | None:
    try:
        return inspect.signature(import_attribute(path))
    except (ImportError, ValueError, AttributeError, TypeError):
        return None  # RQ enqueues by name what only its workers can import


def replaced(job: Job, spec: JobSpec, default_timeout: float, *, at_front: bool) -> str:
    """Which of the caller's options give way to the job's own rule, where they differ."""
    differs = {
        "retry": job.retries_left is not None and job.retries_left + 1 != spec.attempts,
        "timeout": job.timeout not in (None, default_timeout, spec.timeout),
        "at_front": at_front or job.enqueue_at_front,
        "meta": job.meta,
        "result_ttl": job.result_ttl is not None,
        "failure_ttl": job.failure_ttl is not None,
    }
    return ",".join(name for name, does in differs.items() if does)
