"""What the page of runs is asked for: its form, its search box, and the address they make."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import ValidationError

from app.switchyard.errors import BadInput
from app.switchyard.operations.search import RunFilter

FIELDS = frozenset(RunFilter.model_fields) - {"limit"}
_RUN_ID = re.compile(r"[0-9a-f]{12,32}")
_SPAN = re.compile(r"(\d{1,4})([mhd])")
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}


def read(given: Mapping[str, str], now: datetime) -> RunFilter:
    """The filter of a form: its fields, and in `q` words such as `job:x`, `payload.creatorId:x`,
    `since:2h`, a run's id or a key. Raises BadInput."""
    asked = {name: given[name].strip() for name in FIELDS if given.get(name, "").strip()}
    asked |= _words(given.get("q", ""))
    for name, text in asked.items():
        if not (text.isprintable() and len(text) <= 300):
            raise BadInput(f"{name}: must be at most 300 printable characters")
    wanted: dict[str, Any] = dict(asked)
    for name in {"since", "until"} & asked.keys():
        wanted[name] = _time(name, asked[name], now)
    try:
        return RunFilter.model_validate(wanted)
    except ValidationError as misfit:
        first = misfit.errors(include_url=False)[0]
        raise BadInput(f"{first['loc'][0]}: {first['msg']}") from None


def _words(text: str) -> dict[str, str]:
    asked: dict[str, str] = {}
    try:
        words = shlex.split(text)
    except ValueError:
        raise BadInput('search: a " is not closed') from None
    for word in words:
        name, colon, value = word.partition(":")
        name = {"side": "backend"}.get(name, name)
        if name.startswith("payload.") and colon:
            asked["payload"] = word
        elif name in FIELDS and colon:
            asked[name] = value
        else:
            asked["id" if _RUN_ID.fullmatch(word) else "key"] = word
    return asked


def _time(name: str, text: str, now: datetime) -> datetime:
    """A time, UTC, or how long ago it is: `90m`, `2h`, `7d`."""
    if span := _SPAN.fullmatch(text):
        return now - int(span[1]) * _UNITS[span[2]]
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(f"{name}: say 2h, 7d or 2026-11-28T10:00 (UTC)") from None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at


def address(given: Mapping[str, str]) -> dict[str, str]:
    """What of it makes the address of this search, without its place."""
    kept = {name: given.get(name, "") for name in (*sorted(FIELDS - {"before"}), "q")}
    return {name: text for name, text in kept.items() if text}
