"""What an app registers, checked as strictly as the real server or more."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, parse_qs, urlsplit, urlunsplit

from croniter import croniter
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.local.inngest import expressions
from app.local.inngest.ids import named_uuid
from app.local.serving import require_loopback

DEFAULT_RETRIES = 4
FAILED_EVENT = "inngest/function.failed"
_UNSUPPORTED = frozenset(
    ("batchEvents", "debounce", "priority", "rateLimit", "singleton", "throttle")
)
_UNIT_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_CRON_FIELD = re.compile(r"[0-9*,/-]+")
Text = Annotated[str, Field(min_length=1)]


class RegistrationError(ValueError):
    """The registration is refused, with the reason for the 400 answer."""


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Retries(_Shape):
    attempts: int = Field(ge=0, le=20)


class _Runtime(_Shape):
    type: Literal["http"]
    url: Text


class _Step(_Shape):
    id: Literal["step"]
    name: Text
    retries: _Retries | None = None
    runtime: _Runtime


class _Trigger(_Shape):
    event: Text | None = None
    cron: Text | None = None
    expression: Text | None = None


class _Concurrency(_Shape):
    limit: int = Field(ge=1)


class _Cancel(_Shape):
    event: Text
    if_: Text | None = Field(default=None, alias="if")


class _Timeouts(_Shape):
    start: str | None = None
    finish: str | None = None


class _Function(_Shape):
    id: Text
    name: Text
    steps: dict[Literal["step"], _Step] = Field(min_length=1)
    triggers: list[_Trigger] = Field(min_length=1)
    cancel: list[_Cancel] = []
    concurrency: list[_Concurrency] = Field(default=[], max_length=1)
    idempotency: Text | None = None
    timeouts: _Timeouts = _Timeouts()


class _Registration(_Shape):
    appname: Text
    appVersion: Text | None = None
    capabilities: dict[str, str]
    deploy_type: Literal["ping"]
    framework: Text
    functions: list[_Function] = Field(min_length=1)
    sdk: Text
    url: Text
    v: Literal["0.1"]


@dataclass(frozen=True)
class EventRule:
    """An event name, and the condition that goes with it."""

    event: str
    condition: expressions.Expression | None


@dataclass(frozen=True)
class Function:
    """One registered function; `limit` is steps at a time, the timeouts are seconds."""

    id: str
    uuid: str
    app_id: str
    url: str
    attempts: int
    triggers: tuple[EventRule, ...]
    crons: tuple[str, ...]
    cancels: tuple[EventRule, ...]
    limit: int | None
    idempotency: str | None
    start_timeout: float | None
    finish_timeout: float | None


def seconds(duration: str) -> float:
    """`30s`, `2h` and the like, in seconds."""
    match = re.fullmatch(r"(\d+)(ms|[smhdw])", duration)
    if match is None:
        raise RegistrationError(f"invalid duration {duration!r}")
    return int(match[1]) * _UNIT_SECONDS[match[2]]


def local_url(url: str) -> str:
    """The URL as the real dev server keeps it: localhost for 127.0.0.1. Loopback only."""
    parts = urlsplit(url)
    try:
        require_loopback(parts.hostname or "")
    except ValueError as error:
        raise RegistrationError(f"the app's URL {url!r} is not on loopback") from error
    if parts.scheme != "http":
        raise RegistrationError(f"the app's URL {url!r} is not http")
    return urlunsplit(_with_localhost(parts))


def _with_localhost(parts: SplitResult) -> SplitResult:
    return parts._replace(netloc=re.sub(r"^127\.0\.0\.1(?=:|$)", "localhost", parts.netloc))


def parse_registration(body: Any) -> tuple[str, list[Function]]:
    """The app's name and its functions; raises RegistrationError."""
    functions = body.get("functions") if isinstance(body, dict) else None
    for raw in functions if isinstance(functions, list) else []:
        asked = sorted(_UNSUPPORTED.intersection(raw if isinstance(raw, dict) else ()))
        if asked:
            raise RegistrationError(f"{raw.get('id')}: the stand-in does not do {', '.join(asked)}")
    try:
        checked = _Registration.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RegistrationError(f"{where}: {first['msg']}") from error
    local_url(checked.url)
    made = [_function(checked.appname, raw) for raw in checked.functions]
    if len({one.id for one in made}) != len(made):
        raise RegistrationError("two functions have the same id")
    return checked.appname, made


def _function(app: str, raw: _Function) -> Function:
    try:
        return _checked(app, raw)
    except ValueError as error:
        raise RegistrationError(f"{raw.id}: {error}") from error


def _checked(app: str, raw: _Function) -> Function:
    step = raw.steps["step"]
    url = local_url(step.runtime.url)
    query = parse_qs(urlsplit(url).query)
    if not raw.id.startswith(f"{app}-") or raw.id == f"{app}-":
        raise RegistrationError(f"the id must be {app}-<function>")
    if query.get("fnId") != [raw.id] or query.get("stepId") != ["step"]:
        raise RegistrationError("the step's URL must name fnId and stepId=step")
    triggers = [_event_trigger(t) for t in raw.triggers if t.cron is None]
    if raw.idempotency and not re.fullmatch(r"event(\.[A-Za-z_]\w*)+", raw.idempotency):
        raise RegistrationError(f"the stand-in does not understand {raw.idempotency!r}")
    return Function(
        id=raw.id,
        uuid=named_uuid(raw.id),
        app_id=named_uuid(app),
        url=url,
        attempts=1 + (step.retries.attempts if step.retries else DEFAULT_RETRIES),
        triggers=tuple(triggers),
        crons=tuple(_cron(t) for t in raw.triggers if t.cron is not None),
        cancels=tuple(EventRule(c.event, _condition(c.if_)) for c in raw.cancel),
        limit=raw.concurrency[0].limit if raw.concurrency else None,
        idempotency=raw.idempotency,
        start_timeout=seconds(raw.timeouts.start) if raw.timeouts.start else None,
        finish_timeout=seconds(raw.timeouts.finish) if raw.timeouts.finish else None,
    )


def _condition(text: str | None, *, asynchronous: bool = True) -> expressions.Expression | None:
    return None if text is None else expressions.parse(text, asynchronous=asynchronous)


def _event_trigger(raw: _Trigger) -> EventRule:
    if raw.event is None:
        raise RegistrationError("a trigger needs an event or a cron")
    if raw.event.startswith("inngest/") and raw.event != FAILED_EVENT:
        raise RegistrationError(f"the stand-in does not send {raw.event}")
    return EventRule(raw.event, _condition(raw.expression, asynchronous=False))


def _cron(raw: _Trigger) -> str:
    text = raw.cron or ""
    fields = text.split()
    if raw.event is not None or raw.expression is not None:
        raise RegistrationError("a trigger is an event or a cron, not both")
    # The real parser (robfig/cron) counts Sunday as 0 only and has no seconds, `L` or `#`.
    known = len(fields) == 5 and all(_CRON_FIELD.fullmatch(field) for field in fields)
    if not known or re.search(r"(?<![/\d])7(?!\d)", fields[4]) or not croniter.is_valid(text):
        raise RegistrationError(f"invalid cron {text!r}")
    return text
