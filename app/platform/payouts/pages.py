"""/api/payouts: a creator asks for a payout of their own, and sees what became of it."""

from __future__ import annotations

import re
from typing import Any

from flask import Blueprint, request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session
from werkzeug.exceptions import BadRequest

from app.platform.earnings.models import Creator
from app.platform.payouts import request as orders
from app.platform.payouts import status
from app.platform.payouts.models import Method
from app.switchyard.clock import iso
from app.switchyard.dispatch import dispatch
from app.switchyard.errors import BadInput, KeyConflict, Unauthorized
from app.switchyard.runs.models import RunRow
from app.switchyard.runtime import Runtime
from app.switchyard.web.auth import require_creator

JOB = "process-single-payout"
MAX_BYTES = 4096
PAGE, MAX_PAGE = 20, 100
_KEY = re.compile(r"[A-Za-z0-9_-]{1,100}")


class Wanted(BaseModel):
    """What a creator asks for; `amount` in minor units of `currency` (None: their own)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    amount: int = Field(strict=True, gt=0)
    currency: str | None = Field(default=None, pattern=r"^[a-z]{3}$")
    method: Method = Method.STANDARD


def blueprint(made: Runtime) -> Blueprint:
    """The creators' own endpoints."""
    pages = Blueprint("payouts", __name__)

    @pages.post("/api/payouts")
    def ask() -> tuple[dict[str, Any], int]:
        creator_id = require_creator(request, made.settings)
        key, wanted = _key(), _wanted()
        with made.db.session() as session:
            answer = _ask(made, session, creator_id, key, wanted)
        return answer, 202 if answer["created"] else 200

    @pages.get("/api/payouts")
    def newest() -> dict[str, Any]:
        creator_id = require_creator(request, made.settings)
        limit, after = _limit(), request.args.get("after")
        with made.db.autocommit() as connection:
            page = status.page(connection, creator_id, limit, after)
        return {"payouts": [_shown(payout) for payout in page.payouts], "after": page.after}

    @pages.get("/api/payouts/<payout_id>")
    def show(payout_id: str) -> dict[str, Any]:
        creator_id = require_creator(request, made.settings)
        with made.db.autocommit() as connection:
            return _shown(status.show(connection, creator_id, payout_id))

    return pages


def _key() -> str:
    key = request.headers.get("Idempotency-Key", "")
    if not _KEY.fullmatch(key):
        raise BadRequest("send an Idempotency-Key of 1 to 100 letters, digits, - and _")
    return key


def _wanted() -> Wanted:
    """The request's body, checked. Raises BadInput or werkzeug's 400, 413 and 415."""
    request.max_content_length = MAX_BYTES
    try:
        body = request.get_json()
    except BadRequest:
        raise BadRequest("the body is not valid JSON") from None
    except RecursionError:
        raise BadRequest("the JSON is nested too deeply") from None
    if not isinstance(body, dict):
        raise BadInput("the body must be a JSON object")
    try:
        return Wanted.model_validate(body)
    except ValidationError as failure:
        first = failure.errors(include_url=False)[0]
        raise BadInput(f"{first['loc'][0]}: {first['msg']}") from None


def _limit() -> int:
    raw = request.args.get("limit", str(PAGE))
    if not re.fullmatch(r"[0-9]{1,3}", raw) or not 1 <= int(raw) <= MAX_PAGE:
        raise BadInput(f"limit: must be 1 to {MAX_PAGE}")
    return int(raw)


def _ask(made: Runtime, tx: Session, creator_id: str, key: str, wanted: Wanted) -> dict[str, Any]:
    """The payout of this key: as it stands, or requested now, its run with it.

    Raises Unauthorized, KeyConflict, TooManyPayouts and whatever refuses the payout.
    """
    C = Creator
    # Locked for all that follows: of two requests at once the second one sees what the first did.
    creator = tx.execute(
        select(C.currency, C.stripe_account_id).where(C.id == creator_id).with_for_update()
    ).one_or_none()
    if creator is None:
        raise Unauthorized("the token's creator is not known")
    order = orders.Order(
        payout_id=f"manual:{creator_id}:{key}",
        creator_id=creator_id,
        amount=wanted.amount,
        destination=creator.stripe_account_id or "",
        currency=wanted.currency or creator.currency,
        method=wanted.method,
    )
    known = status.find(tx, order.payout_id)
    if known is None:
        now = made.store.clock()
        status.limit_by_hand(tx, creator_id, now)
        payout = orders.request(tx, order, now)
        return _answer(order, payout.status, _dispatched(tx, order, key), created=True)
    asked = (order.creator_id, order.amount, order.currency, order.method)
    if (known.creator_id, known.amount, known.currency, known.method) != asked:
        raise _reused(key)
    R = RunRow
    run_id = tx.scalar(select(R.id).where(R.job == JOB, R.key == order.payout_id))
    return _answer(order, known.status, run_id, created=False)


def _dispatched(tx: Session, order: orders.Order, key: str) -> str:
    payload = {
        "payoutId": order.payout_id,
        "creatorId": order.creator_id,
        "amount": order.amount,
        "stripeAccountId": order.destination,
        "currency": order.currency,
        "method": order.method,
    }
    run = dispatch(JOB, payload, session=tx)
    if not run.created:  # someone else's, and maybe over: it might never pay this payout
        raise _reused(key)
    return run.id


def _reused(key: str) -> KeyConflict:
    return KeyConflict(f"Idempotency-Key {key} was used for another payout")


def _answer(
    order: orders.Order, stands: str, run_id: str | None, *, created: bool
) -> dict[str, Any]:
    return {
        "payoutId": order.payout_id,
        "status": stands,
        "amount": order.amount,
        "currency": order.currency,
        "method": order.method,
        "runId": run_id,
        "created": created,
    }


def _shown(payout: status.PayoutRow) -> dict[str, Any]:
    day = payout.payout_date
    return {
        "payoutId": payout.id,
        "status": payout.status,
        "amount": payout.amount,
        "currency": payout.currency,
        "method": payout.method,
        "reason": payout.reason,
        "payoutDate": None if day is None else day.isoformat(),
        "requestedAt": iso(payout.requested_at),
        "settledAt": iso(payout.settled_at),
    }
