"""What a message or a schedule may say, as strict as the strictest plan of the real service."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from croniter import croniter
from pydantic import AfterValidator, AliasGenerator, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

from app.local.loopback import is_loopback
from app.local.shapes import Shape, shaped

MAX_BODY = 1024 * 1024
MAX_DELAY_SECONDS = 7 * 24 * 3600
MAX_TIMEOUT_SECONDS = 900
_FORWARDED = {"Content-Type": "content-type", "traceparent": "upstash-forward-traceparent"}
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}


def _seconds(text: object) -> int:
    if not re.fullmatch(r"(\d{1,9}[smhd])+", str(text)):
        raise ValueError(f"invalid duration {text!r}")
    return sum(int(n) * _UNITS[unit] for n, unit in re.findall(r"(\d+)([smhd])", str(text)))


def _url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isprintable():
        raise ValueError(f"invalid destination url {url!r}: endpoint must be a valid http(s) url")
    if not is_loopback(parts.hostname):
        raise ValueError(f"the stand-in calls loopback only, not {parts.hostname!r}")
    return url


def _whole(text: object) -> object:
    return int(text) if isinstance(text, str) and re.fullmatch(r"\d{1,12}", text) else text


def _cron(line: str) -> str:
    if len(line.split()) != 5 or not croniter.is_valid(line):
        raise ValueError(f"invalid cron expression {line!r}")
    return line


Url = Annotated[str, AfterValidator(_url)]
Name = Annotated[str, Field(pattern="^[A-Za-z0-9._-]+$")]
Number = Annotated[int, BeforeValidator(_whole)]
Seconds = Annotated[int, BeforeValidator(_seconds)]


class Message(Shape):
    """A destination and the `Upstash-…` headers of a message to it, by the service's names."""

    model_config = ConfigDict(alias_generator=AliasGenerator(serialization_alias=to_camel))

    destination: Annotated[Url, Field(serialization_alias="url")]
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = "POST"
    retries: Annotated[Number, Field(le=3, serialization_alias="maxRetries")] = 3
    timeout: Annotated[Seconds, Field(gt=0, le=MAX_TIMEOUT_SECONDS)] = MAX_TIMEOUT_SECONDS
    not_before: Number = 0
    failure_callback: Url | None = None
    deduplication_id: str | None = None
    label: str | None = None
    flow_control_key: Name | None = None
    flow_control_value: Annotated[str, Field(pattern="^parallelism=[1-9][0-9]{0,5}$")] | None = None


class Schedule(Message):
    """With what only a schedule has; five fields, UTC."""

    schedule_id: Name
    cron: Annotated[str, AfterValidator(_cron)]


def message(
    destination: str,
    headers: Mapping[str, str],
    body: bytes,
    now: float,
    shape: type[Message] = Message,
) -> dict[str, Any]:
    """A message, or a Schedule, as it is kept: everything but a message's id. Raises ValueError."""
    if len(body) > MAX_BODY:
        raise ValueError(f"message body is larger than {MAX_BODY} bytes")
    named = {name.lower(): value for name, value in headers.items()}
    header = {name: named.pop(given, None) for name, given in _FORWARDED.items()}
    if foreign := [name for name in named if not name.startswith("upstash-")]:
        raise ValueError(f"{', '.join(foreign)}: the stand-in forwards no header but traceparent")
    fields = {name[len("upstash-") :].replace("-", "_"): value for name, value in named.items()}
    checked = shaped(shape, {**fields, "destination": destination})
    if checked.not_before > now + MAX_DELAY_SECONDS:
        raise ValueError(f"maximum allowed delay is {MAX_DELAY_SECONDS} seconds")
    if (checked.flow_control_key is None) is not (checked.flow_control_value is None):
        raise ValueError("flow control takes a key and a value")
    doc = checked.model_dump(by_alias=True, exclude_none=True)
    if (limit := doc.pop("flowControlValue", None)) is not None:
        doc["parallelism"] = int(limit.partition("=")[2])
    return doc | {
        "header": {name: [value] for name, value in header.items() if value is not None},
        "body64": b64encode(body).decode(),
        "retried": 0,
        "createdAt": int(now * 1000),
        "notBefore": int(max(now, checked.not_before) * 1000),
    }
