"""What a publish or a schedule may say, checked as strictly as the real service or more."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from croniter import croniter

from app.local.serving import require_loopback

MAX_BODY = 1024 * 1024
MAX_RETRIES = 3
MAX_DELAY_SECONDS = 7 * 24 * 3600
MAX_TIMEOUT_SECONDS = 900
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_KNOWN = {
    *("method", "retries", "callback", "failure-callback", "delay", "not-before", "label"),
    *("deduplication-id", "content-based-deduplication", "timeout", "flow-control-key"),
    *("flow-control-value", "cron", "schedule-id", "queue-name", "redact-fields"),
}
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_FORWARD = ("forward-", "callback-forward-", "failure-callback-forward-")


class Refused(ValueError):
    """What the service answers 400 to."""


def named(text: str | None) -> str | None:
    """What a schedule, a queue or a flow control key may be called, where it is called anything."""
    if text is not None and not _NAME.fullmatch(text):
        raise Refused(f"invalid name {text!r}: letters, digits, hyphens, periods and underscores")
    return text


def seconds(text: str) -> int:
    """A duration such as 10s or 1d2h."""
    if not re.fullmatch(r"(\d{1,9}[smhd])+", text):
        raise Refused(f"invalid duration {text!r}")
    return sum(int(n) * _UNITS[unit] for n, unit in re.findall(r"(\d+)([smhd])", text))


def destination(url: str) -> str:
    """A URL to call: http or https with a host, and here on loopback only."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isprintable():
        raise Refused(f"invalid destination url {url!r}: endpoint must be a valid http(s) url")
    try:
        require_loopback(parts.hostname)
        _ = parts.port
    except ValueError as refused:
        raise Refused(str(refused)) from None
    return url


def cron(text: str) -> str:
    """A cron line of five fields, UTC."""
    if len(text.split()) != 5 or not croniter.is_valid(text):
        raise Refused(f"invalid cron expression {text!r}")
    return text


def message(url: str, headers: Mapping[str, str], body: bytes, now: float) -> dict[str, Any]:
    """A message as it is kept: everything but its id. Raises Refused."""
    given = {name.lower(): value for name, value in headers.items()}
    said = {n.removeprefix("upstash-"): v for n, v in given.items() if n.startswith("upstash-")}
    for name in said:
        if name not in _KNOWN and not name.startswith(_FORWARD):
            raise Refused(f"unknown header Upstash-{name}")
    if len(body) > MAX_BODY:
        raise Refused(f"message body is larger than {MAX_BODY} bytes")
    method = said.get("method", "POST")
    if method not in _METHODS:
        raise Refused(f"invalid method {method!r}")
    header = _forwarded("forward-", said)
    if "content-type" in given:
        header["Content-Type"] = [given["content-type"]]
    return {
        "url": destination(url),
        "method": method,
        "header": header,
        "callbackHeader": _forwarded("callback-forward-", said),
        "failureCallbackHeader": _forwarded("failure-callback-forward-", said),
        "body64": b64encode(body).decode(),
        "maxRetries": _number("Retries", said.get("retries"), MAX_RETRIES, MAX_RETRIES),
        "retried": 0,
        "createdAt": int(now * 1000),
        "notBefore": int(_due(said, now) * 1000),
        "callback": _callback(said.get("callback")),
        "failureCallback": _callback(said.get("failure-callback")),
        "timeout": _timeout(said.get("timeout")),
        "queueName": named(said.get("queue-name")),
        "label": said.get("label"),
        "deduplicationId": said.get("deduplication-id"),
        "callerIP": "127.0.0.1",
        **_flow(said),
    }


def _forwarded(prefix: str, said: Mapping[str, str]) -> dict[str, list[str]]:
    return {n[len(prefix) :].title(): [v] for n, v in said.items() if n.startswith(prefix)}


def _callback(url: str | None) -> str | None:
    return None if url is None else destination(url)


def _number(name: str, text: str | None, default: int, most: int) -> int:
    if text is None:
        return default
    if not re.fullmatch(r"\d{1,12}", text) or int(text) > most:
        raise Refused(f"invalid Upstash-{name} {text!r}: must be 0 to {most}")
    return int(text)


def _due(said: Mapping[str, str], now: float) -> float:
    due = now + (seconds(said["delay"]) if "delay" in said else 0)
    if "not-before" in said:
        due = max(now, _number("Not-Before", said["not-before"], 0, 10**12))
    if due > now + MAX_DELAY_SECONDS:
        raise Refused(f"maximum allowed delay is {MAX_DELAY_SECONDS} seconds")
    return due


def _timeout(text: str | None) -> int:
    wanted = MAX_TIMEOUT_SECONDS if text is None else seconds(text)
    if not 0 < wanted <= MAX_TIMEOUT_SECONDS:
        raise Refused(f"maximum allowed timeout is {MAX_TIMEOUT_SECONDS} seconds")
    return wanted


def _flow(said: Mapping[str, str]) -> dict[str, Any]:
    key, value = said.get("flow-control-key"), said.get("flow-control-value")
    if key is None and value is None:
        return {}
    found = re.fullmatch(r"parallelism=([1-9]\d{0,5})", (value or "").strip().lower())
    if key is None or found is None:
        raise Refused("flow control takes a key, and here parallelism=N alone")
    return {"flowControlKey": named(key), "parallelism": int(found[1])}
