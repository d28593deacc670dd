"""The event API's rules: what is an event, and how much of a bad batch is taken."""

import re
from dataclasses import dataclass
from typing import Any

from app.local import shapes
from app.local.inngest import ids

MAX_EVENTS = 5_000
MAX_EVENT_BYTES = 3 * 1024 * 1024
RESERVED_PREFIX = "inngest/"
CANCELLED = f"{RESERVED_PREFIX}function.cancelled"
# A number that Go's float64 does not hold.
_TOO_LARGE = re.compile(rb"\d{309}")
# The years 1980 and 2100: outside them the real server takes `ts` for a mistake.
_TS_RANGE = (315_532_800_000, 4_102_444_800_000)


class _Sent(shapes.Shape):
    name: shapes.Text
    data: dict[str, Any] | None = None
    id: str | None = None
    ts: int | None = None
    v: str | None = None


@dataclass(frozen=True)
class Event:
    """An event: the server's `id`, and the `body` that functions see, whose own id is the sender's
    if it had one, and whose `ts` is in milliseconds since 1970."""

    id: str
    body: dict[str, Any]

    @property
    def at(self) -> float:
        """When it is to start functions, Unix seconds."""
        return float(self.body["ts"]) / 1000


def scheduled(cron: str, at: float) -> Event:
    """A cron's tick; `at` is the scheduled time in Unix seconds."""
    moment = ids.iso(at, "seconds")
    data = {"cron": cron, "fireAt": moment, "scheduledAt": moment}
    body = {"data": data, "id": moment, "name": "inngest/scheduled.timer", "ts": int(at * 1000)}
    return Event(ids.ulid(at), body)


def cancelled(run_id: str, function_id: str, event: Event, at: float) -> Event:
    """What the server sends of a run that somebody cancelled."""
    error = {"error": "function cancelled", "message": "function cancelled", "name": "Error"}
    data = {"error": error, "event": event.body, "function_id": function_id, "run_id": run_id}
    body = {"data": data, "id": run_id, "name": CANCELLED, "ts": int(at * 1000)}
    return Event(ids.ulid(at), body)


def accept(raw: bytes, seed: str | None, now: float) -> tuple[list[Event], str | None]:
    """The events accepted (as there, up to the first bad one), and why the rest was not."""
    accepted: list[Event] = []
    try:
        sent = shapes.loads(raw)
        for index, one in enumerate(sent if isinstance(sent, list) else [sent]):
            if index >= MAX_EVENTS:
                raise ValueError(f"more than {MAX_EVENTS} events in one request")
            if len(raw) > MAX_EVENT_BYTES and len(shapes.dumps(one)) > MAX_EVENT_BYTES:
                raise ValueError(f"event {index} is larger than {MAX_EVENT_BYTES} bytes")
            if _TOO_LARGE.search(raw) and _TOO_LARGE.search(shapes.dumps(one)):
                raise ValueError("json: cannot unmarshal number into Go value of type float64")
            accepted.append(_event(one, ids.event_ulid(seed, index, now), now))
    except ValueError as error:
        return accepted, str(error)
    return accepted, None


def _event(sent: Any, internal_id: str, now: float) -> Event:
    one = shapes.shaped(_Sent, sent)
    if one.name.lower().startswith(RESERVED_PREFIX):
        raise ValueError(f"event name is reserved for internal use: {one.name}")
    if one.ts and not _TS_RANGE[0] <= one.ts <= _TS_RANGE[1]:
        raise ValueError("event ts is before 1980 or after 2100")
    body = {"data": one.data or {}, "id": one.id or internal_id, "name": one.name}
    more = {"v": one.v} if one.v else {}
    return Event(internal_id, {**body, "ts": one.ts or int(now * 1000), **more})
