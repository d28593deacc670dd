"""What an app registers, checked as strictly as the real server or more."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, urlsplit

from croniter import croniter
from pydantic import Field, PositiveInt

from app.local.inngest.events import CANCELLED, RESERVED_PREFIX
from app.local.inngest.ids import named_uuid
from app.local.loopback import is_loopback
from app.local.shapes import Shape, Text, shaped

ZONE = "TZ=UTC "
"""Before a cron: the one zone that the stand-in knows, beside its machine's own."""
_NAMES = {0: "SUN MON TUE WED THU FRI SAT", 1: "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC"}
MAX_TRIGGERS = 10
Retries = Annotated[int, Field(ge=0, le=20)]


class _Runtime(Shape):
    type: Literal["http"]
    url: Text


class _Step(Shape):
    id: Literal["step"]
    name: Text
    retries: dict[Literal["attempts"], Retries] = Field({"attempts": 4}, min_length=1)
    runtime: _Runtime


class _Trigger(Shape):
    event: Text | None = None
    cron: Text | None = None


class _Function(Shape):
    id: Text
    name: Text
    steps: dict[Literal["step"], _Step] = Field(min_length=1)
    triggers: list[_Trigger] = Field(min_length=1, max_length=MAX_TRIGGERS)
    concurrency: list[dict[Literal["limit"], PositiveInt]] = Field([], max_length=1)


class _Registration(Shape):
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
class Function:
    """One registered function; `limit` is steps at a time."""

    id: str
    uuid: str
    url: str
    attempts: int
    events: tuple[str, ...]
    crons: tuple[str, ...]
    limit: int | None


def local_url(url: str) -> str:
    """The URL as the real dev server keeps it: localhost for 127.0.0.1. Loopback only."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not is_loopback(parts.hostname):
        raise ValueError(f"the app's URL {url!r} is not http on loopback")
    return re.sub(r"//127\.0\.0\.1(?=[:/]|$)", "//localhost", url, count=1)


def parse_registration(body: Any) -> tuple[str, list[Function]]:
    """The app's name and its functions; raises ValueError."""
    checked = shaped(_Registration, body)
    local_url(checked.url)
    functions = [_function(checked.appname, raw) for raw in checked.functions]
    if len({one.id for one in functions}) != len(functions):
        raise ValueError("two functions have the same id")
    return checked.appname, functions


def _function(app: str, raw: _Function) -> Function:
    step = raw.steps["step"]
    url = local_url(step.runtime.url)
    query = parse_qs(urlsplit(url).query)
    if not raw.id.startswith(f"{app}-") or raw.id == f"{app}-":
        raise ValueError(f"{raw.id}: the id must be {app}-<function>")
    if query.get("fnId") != [raw.id] or query.get("stepId") != ["step"]:
        raise ValueError(f"{raw.id}: the step's URL must name fnId and stepId=step")
    for index, trigger in enumerate(raw.triggers):
        _check(trigger, raw.id)
        if trigger in raw.triggers[:index]:
            raise ValueError(f"{raw.id}: duplicate trigger {trigger.event or trigger.cron}")
    return Function(
        id=raw.id,
        uuid=named_uuid(raw.id),
        url=url,
        attempts=1 + step.retries["attempts"],
        events=tuple(t.event for t in raw.triggers if t.event is not None),
        crons=tuple(t.cron for t in raw.triggers if t.cron is not None),
        limit=raw.concurrency[0]["limit"] if raw.concurrency else None,
    )


def _check(trigger: _Trigger, function_id: str) -> None:
    if (trigger.event is None) is (trigger.cron is None):
        raise ValueError(f"{function_id}: a trigger is either an event or a cron")
    if (trigger.event or "").startswith(RESERVED_PREFIX) and trigger.event != CANCELLED:
        raise ValueError(f"{function_id}: the stand-in does not send {trigger.event}")
    if trigger.cron is not None and not _is_cron(trigger.cron):
        raise ValueError(f"{function_id}: invalid cron {trigger.cron!r}")


def _is_cron(line: str) -> bool:
    """Whether the real parser (robfig/cron) takes it: no 7, no wrapped range, no `#`, no `L`."""
    line = line.removeprefix(ZONE).upper()
    if len(line.split()) != 5 or not croniter.is_valid(line):
        return False
    for first, names in _NAMES.items():
        for number, name in enumerate(names.split(), first):
            line = line.replace(name, str(number))
    days = re.sub(r"/\d+", "", line.split()[4])
    wraps = any(int(first) > int(last) for first, last in re.findall(r"(\d+)-(\d+)", line))
    return not wraps and "7" not in days and re.fullmatch(r"[\d*?,/\s-]+", line) is not None
