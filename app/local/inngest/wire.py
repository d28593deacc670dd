"""HTTP to the apps: calls to the SDK and its answers, in the shapes recorded."""

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlencode, urlsplit

import requests
from pydantic import BaseModel, Field, TypeAdapter
from requests.adapters import HTTPAdapter

from app.local import shapes
from app.local.inngest.functions import Function
from app.local.inngest.keys import Keys
from app.local.inngest.runs import Call, Item

MAX_CALLS = 256
CONNECT_SECONDS = 5.0
CALL_SECONDS = 300.0
PUT_SECONDS = 10.0
MAX_BYTES = 4 * 1024 * 1024
# What has no canonical form, which the real server makes of a run's state for each of its calls:
# it never calls again.
_UNCANONICAL = re.compile(rb"\d{309}|\\ud[89ab]..(?!\\ud[c-f])|(?<!\\ud[89ab]..)\\ud[c-f]", re.I)
# What the SDK reports of parallel steps and others: here it fails the run at once.
NotDone = Literal["StepPlanned", "WaitForEvent", "InvokeFunction", "AIGateway"]


class Step(BaseModel):
    """One step that the SDK reports."""

    id: Annotated[str, Field(pattern="^[0-9a-f]{40}$")]
    op: Literal["StepRun", "StepError", "StepFailed", "Sleep"] | NotDone
    name: str | None = None
    data: Any = None
    error: dict[str, Any] | None = None


_STEPS = TypeAdapter(Annotated[list[Step], Field(min_length=1)])


@dataclass(frozen=True)
class Answer:
    """What a call came to: an error, or a step, or else the function's output.

    `unreached`: the app did not answer at all. `version` is what the SDK asks to be called with
    from now on; `retry_at` (None for the usual gap) and a sleep's `wake_at` are in Unix seconds.
    """

    output: Any = None
    step: Step | None = None
    error: dict[str, Any] | None = None
    version: int | None = None
    no_retry: bool = False
    unreached: bool = False
    retry_at: float | None = None
    wake_at: float = 0.0


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
            "disable_immediate_execution": False,
            "env": "",
            "fn_id": function.uuid,
            "generation_id": generation,
            "job_id": item.job_id,
            "max_attempts": function.attempts,
            "qi_id": base64.b64encode(f"{item.job_id}::default".encode()).decode(),
            "request_id": request_id,
            "run_id": run.id,
            "stack": {"current": len(run.steps), "stack": list(run.steps)},
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
        "user-agent": "Inngest",
        "x-inngest-generation-id": str(generation),
        "x-inngest-job-id": item.job_id,
        "x-inngest-req-version": str(run.version),
        "x-inngest-step-id": "step",
        "x-request-id": request_id,
        "x-run-id": run.id,
    }
    query = urlencode({"fnId": function.id, "stepId": "step"})
    return Call(item, urlsplit(function.url)._replace(query=query).geturl(), headers, body)


def encode(body: dict[str, Any]) -> bytes:
    """The request's bytes; a state above 4 MiB is left for the SDK to fetch (`use_api`)."""
    raw = shapes.dumps(body)
    if len(raw) <= MAX_BYTES:
        return raw
    ctx = {**body["ctx"], "use_api": True}
    return shapes.dumps({**body, "ctx": ctx, "events": [], "steps": {}, "use_api": True})


def read_answer(status: int, headers: Mapping[str, str], body: bytes) -> Answer:
    """What the SDK's answer means; whatever is not plainly the SDK's is a failed attempt."""
    no_retry = headers.get("x-inngest-no-retry") == "true"
    if "x-inngest-sdk" not in headers:
        message = f"status {status} from something that is not the SDK"
        return Answer(error=problem(message), no_retry=no_retry)
    if len(body) > MAX_BYTES:
        return Answer(error=problem(f"an answer above {MAX_BYTES} bytes"))
    try:
        value = shapes.loads(body)
        if status == 200:
            return Answer(output=value)
        if status == 206 and _UNCANONICAL.search(body):
            return Answer(error=problem("error transforming request with JCS"), no_retry=True)
        if status == 206:
            return _read_step(value, headers.get("x-inngest-req-version"), no_retry)
        retry_at = _instant(headers["retry-after"]) if "retry-after" in headers else None
    except ValueError as error:
        return Answer(error=problem(f"invalid answer with status {status}: {error}"))
    known = isinstance(value, dict) and isinstance(value.get("message"), str)
    shown = value if known else problem(f"invalid status code: {status}")
    return Answer(error=shown, no_retry=no_retry, retry_at=retry_at)


def _read_step(value: Any, version: str | None, no_retry: bool) -> Answer:
    """The only step that an answer reports. Raises ValueError for what is none."""
    steps = _STEPS.validate_python(value)
    step = steps[0]
    if len(steps) > 1 or step.op in get_args(NotDone):
        message = f"the stand-in does not do {' and '.join(step.op for step in steps)}"
        return Answer(error=problem(message), no_retry=True)
    if step.op in ("StepError", "StepFailed") and step.error is None:
        raise ValueError(f"{step.op} without an error")
    wake_at = _instant(step.name or "") if step.op == "Sleep" else 0.0
    asked = None if version is None else int(version)
    return Answer(step=step, version=asked, no_retry=no_retry, wake_at=wake_at)


def _instant(text: str) -> float:
    """ISO 8601, as the SDK sends all times, in Unix seconds; without a zone it is refused."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text} has no time zone")
    return moment.timestamp()


class Caller:
    """Signs what it sends if it has a key, and then demands signed answers. For all threads."""

    def __init__(self, clock: Callable[[], float], keys: Keys) -> None:
        self._clock, self.keys = clock, keys
        self._session = requests.Session()
        # A proxy from the environment must not see loopback calls.
        self._session.trust_env = False
        self._session.mount("http://", HTTPAdapter(pool_maxsize=MAX_CALLS))
        self.close = self._session.close

    def call(self, call: Call) -> Answer:
        """Make one call, to its answer."""
        try:
            reply = self._send("POST", call.url, encode(call.body), call.headers, CALL_SECONDS)
        except requests.RequestException as error:
            return Answer(error=problem(f"Unable to reach SDK URL: {error}"), unreached=True)
        signature = reply.headers.get("x-inngest-signature", "")
        if reply.ok and not self.keys.signed(reply.content, signature):
            return Answer(error=problem("the answer's signature is wrong"))
        return read_answer(reply.status_code, reply.headers, reply.content)

    def ask(self, app: str) -> str | None:
        """Ask an app to register, which it does by itself; why it did not, or None."""
        kind = {"user-agent": "Go-http-client/1.1", "x-inngest-server-kind": self.keys.server_kind}
        try:
            reply = self._send("PUT", app, shapes.dumps({"url": app}), kind, PUT_SECONDS)
            answer = reply.json()
        except requests.RequestException as error:
            return str(error)
        # The SDK passes a refused registration on with status 200: only the body says so.
        registered = isinstance(answer, dict) and answer.get("ok") is True
        return None if registered else f"status {reply.status_code}: {answer}"

    def _send(
        self, method: str, url: str, body: bytes, headers: dict[str, str], timeout: float
    ) -> requests.Response:
        body, signature = self.keys.sign(body, self._clock())
        headers = {**headers, **signature, "content-type": "application/json"}
        wait = (CONNECT_SECONDS, timeout)
        return self._session.request(
            method, url, data=body, headers=headers, timeout=wait, allow_redirects=False
        )
