"""Calls to the SDK and its answers, in the shapes recorded with the real server."""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

from app.local.inngest import codec
from app.local.inngest.functions import Function
from app.local.inngest.runs import Call, Item

MAX_INLINE_BYTES = 4 * 1024 * 1024
MAX_ANSWER_BYTES = 4 * 1024 * 1024
OPCODES = frozenset(
    ("StepRun", "StepError", "StepFailed", "StepPlanned", "Sleep", "WaitForEvent", "InvokeFunction")
)


@dataclass(frozen=True)
class Finished:
    """The function returned."""

    output: Any


@dataclass(frozen=True)
class Steps:
    """The SDK reported steps; `version` is what it asks to be called with from now on."""

    ops: list[dict[str, Any]]
    version: int | None
    no_retry: bool


@dataclass(frozen=True)
class Failure:
    """The attempt failed; `retry_at` is in Unix seconds, None for the usual gap."""

    error: dict[str, Any]
    no_retry: bool = False
    retry_at: float | None = None


Answer = Finished | Steps | Failure


def failure(message: str, *, no_retry: bool = False) -> Failure:
    """A failure that the server itself noticed."""
    return Failure({"code": "unknown", "message": message, "name": "Error", "stack": ""}, no_retry)


def build_call(item: Item, function: Function, request_id: str) -> Call:
    """The call for an item, with the run's whole memoised state."""
    run = item.run
    generation = item.attempt + 1
    event = {**run.event.body, "user": {}}
    stack = list(run.steps)
    body = {
        "ctx": {
            "attempt": item.attempt,
            "disable_immediate_execution": item.targeted,
            "env": "",
            "fn_id": function.uuid,
            "generation_id": generation,
            "job_id": item.job_id,
            "max_attempts": function.attempts,
            "qi_id": base64.b64encode(f"{item.job_id}::default".encode()).decode(),
            "request_id": request_id,
            "run_id": run.id,
            "stack": {"current": len(stack), "stack": stack},
            # Always the root: only the URL and a header name a planned step.
            "step_id": "step",
            "use_api": False,
        },
        "defers": {},
        "event": event,
        "events": [event],
        "steps": dict(run.steps),
        "use_api": False,
        "version": run.version,
    }
    headers = {
        "content-type": "application/json",
        "user-agent": "Inngest",
        "x-inngest-generation-id": str(generation),
        "x-inngest-job-id": item.job_id,
        "x-inngest-req-version": str(run.version),
        "x-inngest-step-id": item.step_id,
        "x-request-id": request_id,
        "x-run-id": run.id,
    }
    query = urlencode({"fnId": function.id, "stepId": item.step_id})
    url = urlunsplit(urlsplit(function.url)._replace(query=query))
    return Call(item, url, headers, body)


def encode(body: dict[str, Any]) -> bytes:
    """The request's bytes; a state above 4 MiB is left for the SDK to fetch (`use_api`)."""
    raw = codec.dumps(body)
    if len(raw) <= MAX_INLINE_BYTES:
        return raw
    ctx = {**body["ctx"], "use_api": True}
    return codec.dumps({**body, "ctx": ctx, "events": [], "steps": {}, "use_api": True})


def read_answer(status: int, headers: Mapping[str, str], body: bytes) -> Answer:
    """What the SDK's answer means; whatever is not plainly the SDK's is a failed attempt."""
    no_retry = headers.get("x-inngest-no-retry") == "true"
    if "x-inngest-sdk" not in headers:
        return failure(f"status {status} from something that is not the SDK", no_retry=no_retry)
    if len(body) > MAX_ANSWER_BYTES:
        return failure(f"the answer is larger than {MAX_ANSWER_BYTES} bytes", no_retry=True)
    try:
        value = codec.loads(body)
        if status == 200:
            return Finished(value)
        if status == 206:
            return Steps(_ops(value), _version(headers), no_retry)
        retry_at = _moment(headers["retry-after"]) if "retry-after" in headers else None
    except ValueError as error:
        return failure(f"invalid answer with status {status}: {error}")
    if isinstance(value, dict) and isinstance(value.get("message"), str):
        return Failure(value, no_retry, retry_at)
    return Failure(failure(f"invalid status code: {status}").error, no_retry, retry_at)


def _version(headers: Mapping[str, str]) -> int | None:
    text = headers.get("x-inngest-req-version")
    return int(text) if text is not None else None


def _ops(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value:
        raise ValueError("expected a list of steps")
    for op in value:
        if not isinstance(op, dict) or op.get("op") not in OPCODES:
            raise ValueError(f"unknown step {op!r:.200}")
        if not re.fullmatch(r"[0-9a-f]{40}", str(op.get("id"))):
            raise ValueError(f"a step's id must be a SHA-1, not {op.get('id')!r}")
        if op["op"] in ("StepError", "StepFailed") and not isinstance(op.get("error"), dict):
            raise ValueError(f"{op['op']} without an error")
    return value


def _moment(text: str) -> float:
    """Retry-After as seconds, an HTTP date or, as the SDK sends it, ISO 8601; in Unix seconds."""
    if text.isdigit():
        return datetime.now(UTC).timestamp() + int(text)
    parse = datetime.fromisoformat if text[:1].isdigit() else parsedate_to_datetime
    return instant(parse(text))


def instant(moment: datetime) -> float:
    """Unix seconds; a moment without a zone is refused rather than guessed at."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment} has no time zone")
    return moment.timestamp()
