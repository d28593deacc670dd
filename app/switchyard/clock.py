"""Time is UTC and passed in, so that tests own the clock."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

from app.switchyard.errors import BadInput

Clock = Callable[[], datetime]


def utcnow() -> datetime:
    """The current time, UTC, rounded down to milliseconds (what Inngest's wire format carries)."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


def moment(seconds: float) -> datetime | None:
    """Unix seconds as a time in UTC, or None for one that is out of range."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError, ValueError):
        return None


def ceil_ms(moment: datetime) -> datetime:
    """`moment` rounded up to whole milliseconds, so that no timer set to it fires early."""
    rest = -moment.microsecond % 1000
    return moment + timedelta(microseconds=rest)


def as_utc(moment: datetime) -> datetime:
    """`moment` in UTC. Raises BadInput for a time without a zone, which would be a guess."""
    if moment.tzinfo is None:
        raise BadInput(f"time {moment.isoformat()} has no time zone; for UTC, put a Z after it")
    return moment.astimezone(UTC)


def in_reach(day: date) -> date:
    """`day`, if it is from 2000 to 2199; no other date makes sense here. Raises ValueError."""
    if not 2000 <= day.year < 2200:
        raise ValueError(f"{day} is not from 2000 to 2199")
    return day


def iso(moment: datetime | None) -> str | None:
    """`moment` as RFC 3339 with milliseconds and a Z."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def in_json(value: object) -> str | None:
    """A time's form in JSON: the `default` for json.dumps(). Raises TypeError for other types."""
    if isinstance(value, datetime):
        return iso(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")
