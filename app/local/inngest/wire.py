"""HTTP to the apps: calls to the SDK and its answers, in the shapes recorded."""

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode, urlsplit

import requests
from requests.adapters import HTTPAdapter

from app.local.inngest import codec
from app.local.inngest.functions import Function
from app.local.inngest.runs import ROOT_STEP, Call, Item

MAX_CALLS = 256
CONNECT_SECONDS = 5.0
PUT_SECONDS = 10.0
MAX_BYTES = 4 * 1024 * 1024
_STEPS = ("StepRun", "StepError", "StepFailed", "StepPlanned", "Sleep")
# Known, but not done: they fail the run at once.
_OTHERS = ("WaitForEvent", "InvokeFunction", "AIGateway")


@dataclass(frozen=True)
class Answer:
    """What a call came to: an error, or steps, or else the function's output.

    `version` is what the SDK asks to be called with from now on; `retry_at` is in Unix seconds,
    None for the usual gap.
    """

    output: Any = None
    ops: list[dict[str, Any]] | None = None
    error: dict[str, Any] | None = None
    version: int | None = None
    no_retry: bool = False
    retry_at: float | None = None


def problem(message: str) -> dict[str, Any]:
    """An error that the server itself noticed."""
    return {"code": "unknown", "message": message, "name": "Error", "stack": ""}


def build_call(item: Item, function: Function, request_id: str) -> Call:
    """The call for an item, with the run's whole memoised state."""
    run, generation = item.run, item.attempt + 1
    event = {**run.event.body, "user": {}}
    body = {
        "ctx": {
            "attempt": item.attempt,
            "disable_immediate_execution": item.step_id != ROOT_STEP,
            "env": "",
            "fn_id": function.uuid,
            "generation_id": generation,
            "job_id": item.job_id,
            "max_attempts": function.attempts,
            "qi_id": base64.b64encode(f"{item.job_id}::default".encode()).decode(),
            "request_id": request_id,
            "run_id": run.id,
            "stack": {"current": len(run.steps), "stack": list(run.steps)},
            # Always the root: only the URL and a header name a planned step.
            "step_id": ROOT_STEP,
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
        "user-agent": "Inngest",
        "x-inngest-generation-id": str(generation),
        "x-inngest-job-id": item.job_id,
        "x-inngest-req-version": str(run.version),
        "x-inngest-step-id": item.step_id,
        "x-request-id": request_id,
        "x-run-id": run.id,
    }
    query = urlencode({"fnId": function.id, "stepId": item.step_id})
    return Call(item, urlsplit(function.url)._replace(query=query).geturl(), headers, body)


def encode(body: dict[str, Any]) -> bytes:
    """The request's bytes; a state above 4 MiB is left for the SDK to fetch (`use_api`)."""
    raw = codec.dumps(body)
    if len(raw) <= MAX_BYTES:
        return raw
    ctx = {**body["ctx"], "use_api": True}
    return codec.dumps({**body, "ctx": ctx, "events": [], "steps": {}, "use_api": True})


def read_answer(status: int, headers: Mapping[str, str], body: bytes) -> Answer:
    """What the SDK's answer means; whatever is not plainly the SDK's is a failed attempt."""
    no_retry = headers.get("x-inngest-no-retry") == "true"
    if "x-inngest-sdk" not in headers:
        said = f"status {status} from something that is not the SDK"
        return Answer(error=problem(said), no_retry=no_retry)
    if len(body) > MAX_BYTES:
        return Answer(error=problem(f"an answer above {MAX_BYTES} bytes"), no_retry=True)
    try:
        value = codec.loads(body)
        if status == 200:
            return Answer(output=value)
        if status == 206:
            version = headers.get("x-inngest-req-version")
            asked = None if version is None else int(version)
            return Answer(ops=_ops(value), version=asked, no_retry=no_retry)
        retry_at = instant(headers["retry-after"]) if "retry-after" in headers else None
    except ValueError as error:
        return Answer(error=problem(f"invalid answer with status {status}: {error}"))
    known = isinstance(value, dict) and isinstance(value.get("message"), str)
    shown = value if known else problem(f"invalid status code: {status}")
    return Answer(error=shown, no_retry=no_retry, retry_at=retry_at)


def _ops(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value:
        raise ValueError("expected a list of steps")
    for op in value:
        if not isinstance(op, dict) or op.get("op") not in _STEPS + _OTHERS:
            raise ValueError(f"unknown step {op!r:.200}")
        if not re.fullmatch(r"[0-9a-f]{40}", str(op.get("id"))):
            raise ValueError(f"a step's id must be a SHA-1, not {op.get('id')!r}")
        if op["op"] in ("StepError", "StepFailed") and not isinstance(op.get("error"), dict):
            raise ValueError(f"{op['op']} without an error")
    return value


def instant(text: str) -> float:
    """ISO 8601, as the SDK sends all times, in Unix seconds; without a zone it is refused."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text} has no time zone")
    return moment.timestamp()


class Caller:
    """Signs what it sends if it has a key, and then demands signed answers. For all threads."""

    def __init__(
        self, clock: Callable[[], float], call_timeout: float, signing_key: str | None
    ) -> None:
        self._clock, self._call_timeout, self._signing_key = clock, call_timeout, signing_key
        self._session = requests.Session()
        # A proxy from the environment must not see loopback calls.
        self._session.trust_env = False
        self._session.mount("http://", HTTPAdapter(pool_maxsize=MAX_CALLS))
        self.close = self._session.close

    def call(self, call: Call) -> Answer:
        """Make one call, to its answer."""
        body = encode(call.body)
        try:
            reply = self._send("POST", call.url, body, call.headers, self._call_timeout)
        except requests.RequestException as error:
            return Answer(error=problem(f"Unable to reach SDK URL: {error}"))
        if self._signing_key is not None and reply.ok:
            signature = reply.headers.get("x-inngest-signature", "")
            if not codec.verify(reply.content, signature, self._signing_key):
                return Answer(error=problem("the answer's signature is wrong"))
        return read_answer(reply.status_code, reply.headers, reply.content)

    def ask(self, app: str) -> str | None:
        """Ask an app to register, which it does by itself; gives why it did not, or None."""
        kind = "dev" if self._signing_key is None else "cloud"
        headers = {"user-agent": "Go-http-client/1.1", "x-inngest-server-kind": kind}
        try:
            reply = self._send("PUT", app, codec.dumps({"url": app}), headers, PUT_SECONDS)
            answer = reply.json()
        except requests.RequestException as error:
            return str(error)
        # The SDK passes a refused registration on with status 200: only the body tells.
        registered = isinstance(answer, dict) and answer.get("ok") is True
        return None if registered else f"status {reply.status_code}: {answer}"

    def _send(
        self, method: str, url: str, body: bytes, headers: dict[str, str], timeout: float
    ) -> requests.Response:
        headers = {**headers, "content-type": "application/json"}
        if self._signing_key is not None:
            headers["x-inngest-signature"] = codec.sign(body, self._signing_key, self._clock())
        wait = (CONNECT_SECONDS, timeout)
        return self._session.request(
            method, url, data=body, headers=headers, timeout=wait, allow_redirects=False
        )
