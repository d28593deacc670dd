"""/api/creators: a creator's profile, what they earned, and their statements; for themselves and
for the admins.

Creators have CALLS in any CALLS_SECONDS over all processes. While the cache is away there is no
limit: being served matters more.
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Callable
from datetime import date
from hashlib import sha256
from typing import Any

from flask import Blueprint, request
from sqlalchemy import BigInteger, cast, func, select, tuple_
from werkzeug.wrappers import Response

from app.platform.earnings.models import Creator
from app.platform.earnings.rollup_models import daily, lifetime, monthly
from app.platform.gateways.storage import StorageUnavailable
from app.platform.ledger.postings import AnySelect
from app.platform.signing import SecretKeyMissing
from app.platform.statements import links
from app.platform.statements.document import UnknownCreator, month_of
from app.platform.statements.make import TYPES
from app.platform.statements.models import Statement as S
from app.switchyard.cache import presence
from app.switchyard.cache.limits import WhenAway, allow
from app.switchyard.clock import iso
from app.switchyard.db import canonical_json
from app.switchyard.errors import BadInput, SwitchyardError, Unauthorized
from app.switchyard.runtime import Runtime
from app.switchyard.web.auth import require_admin, require_creator, require_signed

SUMS = {"gross": "gross", "refunds": "refunds", "fees": "fees", "net": "net", "count": "sales"}
DAYS, YEARS = 366, 10
PAGE, MAX_PAGE = 100, 366
CALLS, CALLS_SECONDS = 120, 60
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_CURSOR = re.compile(r"([0-9-]{10}):([a-z]{3})")
_FILE = re.compile(r"([0-9]{4}-[0-9]{2})\.(csv|pdf)")


class UnknownStatement(BadInput):
    """There is no such statement."""

    status = 404
    title = "Unknown statement"


class TooManyCalls(SwitchyardError):
    """The creator called too often."""

    status = 429
    title = "Too many calls"

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"at most {CALLS} calls in {CALLS_SECONDS} s")
        self.retry_after = retry_after


def blueprint(made: Runtime) -> Blueprint:
    """What a creator may read of theirs."""
    pages = Blueprint("creators", __name__)

    def rows(chosen: AnySelect) -> list[Any]:
        with made.db.autocommit() as connection:
            return list(connection.execute(chosen))

    def check(creator_id: str) -> None:
        """Raises Unauthorized, TooManyCalls, and UnknownCreator for any but a creator's own id."""
        unknown = UnknownCreator(f"no creator {creator_id[:64]!r}")
        try:
            if require_creator(request, made.settings) != creator_id:
                raise unknown
            name = f"creators:{creator_id}"
            limit = allow(made.cache, name, CALLS, CALLS_SECONDS, when_away=WhenAway.OPEN)
            if not limit.allowed:
                raise TooManyCalls(limit.retry_after)
            presence.seen(made.cache, creator_id)
        except (Unauthorized, SecretKeyMissing) as refused:
            _or_admin(made, refused)
        # Postgres takes no NUL in a text.
        if "\0" in creator_id or not rows(select(Creator.id).where(Creator.id == creator_id)):
            raise unknown

    @pages.get("/api/creators/<creator_id>")
    def profile(creator_id: str) -> Response:
        check(creator_id)
        known = made.cache.creator_profile(creator_id)
        if known is None:
            known = _profile(rows, creator_id)
            made.cache.cache_creator_profile(creator_id, known)
        return _json(known)

    @pages.get("/api/creators/<creator_id>/earnings")
    def earnings(creator_id: str) -> Response:
        check(creator_id)
        first, last = _window()
        by = request.args.get("by", "source")
        answer: dict[str, Any] = {"creator": creator_id, "from": f"{first}", "to": f"{last}"}
        limit = _limit() if by == "day" else None
        found = rows(_earnings(creator_id, first, last, by, limit))
        answer |= {"by": by, "earnings": [_shown(row) for row in found[:limit]], "after": None}
        if limit is not None and len(found) > limit:
            answer["after"] = f"{found[limit - 1].day}:{found[limit - 1].currency}"
        return _json(answer)

    @pages.get("/api/creators/<creator_id>/statements")
    def newest(creator_id: str) -> Response:
        check(creator_id)
        limit, after = _limit(), request.args.get("after")
        chosen = select(S.month, S.made_at, S.version).where(S.creator_id == creator_id)
        if after is not None:
            chosen = chosen.where(S.month < month_of(after))
        found = rows(chosen.order_by(S.month.desc()).limit(limit + 1))
        shown = [_statement(creator_id, row) for row in found[:limit]]
        after = shown[-1]["month"] if len(found) > limit else None
        return _json({"statements": shown, "after": after})

    @pages.get("/api/creators/<creator_id>/statements/<name>")
    def download(creator_id: str, name: str) -> Response:
        parts, storage = _FILE.fullmatch(name), made.engine.gateways.storage
        token = request.args.get("token")
        if token is None:
            check(creator_id)
        else:
            require_signed(request, made.settings)
            if not links.opens(made.settings, token, creator_id, parts[1] if parts else ""):
                raise Unauthorized("the link does not open this statement, or no longer")
        unknown = UnknownStatement(f"you have no statement {name[:20]!r}")
        try:
            month = month_of(parts[1] if parts else "")
        except BadInput:
            raise unknown from None
        kind = parts[2] if parts else ""
        found = rows(
            select(S.csv_path, S.pdf_path).where(S.creator_id == creator_id, S.month == month)
        )
        if not found:
            raise unknown
        if storage is None:
            raise StorageUnavailable("there is no storage")
        data = storage.get(found[0].pdf_path if kind == "pdf" else found[0].csv_path)
        answer = _tagged(Response(data, content_type=TYPES[kind]), data)
        file = f"statement-{creator_id}-{name}"
        answer.headers["Content-Disposition"] = f'attachment; filename="{file}"'
        answer.headers["X-Content-Type-Options"] = "nosniff"
        return answer

    return pages


def _profile(rows: Callable[[AnySelect], list[Any]], creator_id: str) -> dict[str, Any]:
    """Who they are, and all they ever earned as far as it is rolled up."""
    C, c = Creator, lifetime.c
    columns = (C.name, C.country, C.currency, C.payouts_enabled, C.created_at)
    (who,) = rows(select(*columns).where(C.id == creator_id))
    sums = select(c.currency, *(c[name].label(said) for name, said in SUMS.items()))
    earned = rows(sums.where(c.creator_id == creator_id).order_by(c.currency))
    return {
        "id": creator_id,
        "name": who.name,
        "country": who.country,
        "currency": who.currency,
        "payoutsEnabled": who.payouts_enabled,
        "since": iso(who.created_at),
        "lifetime": [_shown(row) for row in earned],
    }


def _or_admin(made: Runtime, refused: SwitchyardError) -> None:
    try:
        require_admin(request, made.settings)
    except Unauthorized:
        raise refused from None


def _earnings(creator_id: str, first: date, last: date, by: str, limit: int | None) -> AnySelect:
    """The sums of a window, whole; by day, one more than `limit`. Raises BadInput."""
    days = (last - first).days + 1
    if by not in ("source", "day", "month"):
        raise BadInput("by: must be source, day or month")
    if days > (DAYS if by == "day" else DAYS * YEARS):
        most = f"{DAYS} days" if by == "day" else f"{YEARS} years"
        raise BadInput(f"from, to: at most {most} by {by}")
    if by == "month" and (first.day != 1 or last.day != monthrange(last.year, last.month)[1]):
        raise BadInput("from, to: by month they are a month's first day and a month's last")
    table = monthly if by == "month" else daily
    when = table.c.month if by == "month" else table.c.day
    keys = [table.c.currency, table.c.source] if by == "source" else [when, table.c.currency]
    sums = (cast(func.sum(table.c[n]), BigInteger).label(said) for n, said in SUMS.items())
    chosen = select(*keys, *sums).where(table.c.creator_id == creator_id)
    chosen = chosen.where(when >= first, when <= last).group_by(*keys).order_by(*keys)
    after = request.args.get("after")
    if limit is not None and after is not None:
        cursor = _CURSOR.fullmatch(after)
        day = _day("after", cursor[1] if cursor else "")
        currency = cursor[2] if cursor else ""
        chosen = chosen.where(tuple_(when, table.c.currency) > tuple_(day, currency))
    return chosen if limit is None else chosen.limit(limit + 1)


def _window() -> tuple[date, date]:
    first, last = (_day(name, request.args.get(name, "")) for name in ("from", "to"))
    if first > last:
        raise BadInput("from, to: the first day must not be after the last")
    return first, last


def _day(name: str, raw: str) -> date:
    try:
        return date.fromisoformat(raw if _DAY.fullmatch(raw) else "")
    except ValueError:
        raise BadInput(f"{name}: must be a day, YYYY-MM-DD") from None


def _limit() -> int:
    raw = request.args.get("limit", str(PAGE))
    if not re.fullmatch(r"[0-9]{1,3}", raw) or not 1 <= int(raw) <= MAX_PAGE:
        raise BadInput(f"limit: must be 1 to {MAX_PAGE}")
    return int(raw)


def _shown(row: Any) -> dict[str, Any]:
    return {name: str(v) if isinstance(v, date) else v for name, v in row._mapping.items()}


def _statement(creator_id: str, row: Any) -> dict[str, Any]:
    month = f"{row.month:%Y-%m}"
    stem = f"/api/creators/{creator_id}/statements/{month}"
    files = {kind: f"{stem}.{kind}" for kind in TYPES}
    made = {"version": row.version, "madeAt": iso(row.made_at)}
    return {"id": f"{creator_id}:{month}", "month": month, **made, **files}


def _json(value: Any) -> Response:
    data = canonical_json(value).encode()
    return _tagged(Response(data, content_type="application/json"), data)


def _tagged(answer: Response, data: bytes) -> Response:
    answer.set_etag(sha256(data).hexdigest()[:32])
    answer.headers["Cache-Control"] = "private, no-cache"
    return answer.make_conditional(request)
