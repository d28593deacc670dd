"""The event API's rules: what is an event, and how much of a bad batch is taken."""

from dataclasses import dataclass
from typing import Any

from app.local.inngest import codec
from app.local.inngest.ids import Ids

MAX_EVENTS = 5_000
MAX_EVENT_BYTES = 3 * 1024 * 1024
RESERVED_PREFIX = "inngest/"
_KEYS = frozenset(("data", "id", "name", "ts", "v"))
# The years 1980 and 2100: outside them the real server takes `ts` for a mistake.
_TS_RANGE = (315_532_800_000, 4_102_444_800_000)


class EventError(ValueError):
    """The event is refused, with the reason for the 400 answer."""


@dataclass(frozen=True)
class Event:
    """`id` is the server's; `body` is what functions see, whose id is the sender's if it had one.

    `body["ts"]` is in milliseconds since 1970.
    """

    id: str
    body: dict[str, Any]

    @property
    def name(self) -> str:
        """The event's name, which triggers are matched with."""
        return str(self.body["name"])

    @property
    def at(self) -> float:
        """When it is to start functions, Unix seconds."""
        return float(self.body["ts"]) / 1000


def make_event(name: str, data: dict[str, Any], internal_id: str, now: float, **more: Any) -> Event:
    """An event of the server's own; `more` may hold id, ts or v."""
    body = {"data": data, "id": internal_id, "name": name, "ts": int(now * 1000), **more}
    return Event(internal_id, body)


def accept(raw: bytes, ids: Ids, seed: str | None, now: float) -> tuple[list[Event], str | None]:
    """The events taken, and why the rest was not: like the real server, up to the first bad one."""
    try:
        sent = codec.loads(raw)
    except ValueError as error:
        return [], f"invalid JSON: {error}"
    taken: list[Event] = []
    for index, one in enumerate(sent if isinstance(sent, list) else [sent]):
        try:
            if index >= MAX_EVENTS:
                raise EventError(f"more than {MAX_EVENTS} events in one request")
            if len(raw) > MAX_EVENT_BYTES and len(codec.dumps(one)) > MAX_EVENT_BYTES:
                raise EventError(f"event {index} is larger than {MAX_EVENT_BYTES} bytes")
            taken.append(_event(one, ids.event_ulid(seed, index, now), now))
        except EventError as error:
            return taken, str(error)
    return taken, None


def _event(sent: Any, internal_id: str, now: float) -> Event:
    if not isinstance(sent, dict):
        raise EventError("an event must be an object")
    name, data, ts = sent.get("name"), sent.get("data"), sent.get("ts")
    if unknown := sorted(sent.keys() - _KEYS):
        raise EventError(f"unknown keys in the event: {', '.join(unknown)}")
    if not isinstance(name, str) or not name:
        raise EventError("event name is empty")
    if name.lower().startswith(RESERVED_PREFIX):
        raise EventError(f"event name is reserved for internal use: {name}")
    if not isinstance(data, dict | None):
        raise EventError("event data must be an object")
    if not isinstance(ts, int | None) or isinstance(ts, bool):
        raise EventError("event ts must be a whole number of milliseconds")
    if ts and not _TS_RANGE[0] <= ts <= _TS_RANGE[1]:
        raise EventError("event ts is before 1980 or after 2100")
    for key in ("id", "v"):
        if not isinstance(sent.get(key), str | None):
            raise EventError(f"event {key} must be a string")
    more = {"v": sent["v"]} if sent.get("v") else {}
    return make_event(
        name,
        data or {},
        internal_id,
        now,
        **more,
        id=sent.get("id") or internal_id,
        ts=ts or int(now * 1000),
    )
