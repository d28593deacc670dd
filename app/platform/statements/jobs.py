"""Closes a month: rolls up and checks its earnings, and makes and stores its statements.

A statement's file is stored before the row that names it. Statements are final.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from hashlib import sha256
from typing import Annotated, Any

from pydantic import Field, model_validator
from sqlalchemy import String, case, exists, func, insert, literal, or_, select
from sqlalchemy.orm import Session

from app.platform.days import Day
from app.platform.db import AnySelect
from app.platform.earnings import rollup
from app.platform.earnings.jobs import roll_days
from app.platform.earnings.models import Creator
from app.platform.earnings.models import Earning as X
from app.platform.earnings.posting import post_earnings
from app.platform.gateways.storage import Storage
from app.platform.ledger.models import Entry as E
from app.platform.ledger.postings import CREATOR
from app.platform.statements.document import Document, documents, statement_id
from app.platform.statements.links import mail_links
from app.platform.statements.models import Statement as S
from app.platform.statements.movements import bounds, previous
from app.switchyard.clock import in_reach
from app.switchyard.context import Context
from app.switchyard.db import canonical_json
from app.switchyard.errors import NonRetriable, RetryAfter, SwitchyardError
from app.switchyard.job import JobPayload, job

PAGE_SIZE = 100
_ONE = timedelta(days=1)
_AGAIN = timedelta(seconds=30)


class MadeMeanwhile(SwitchyardError, status=409, title="Statement made meanwhile"):
    """Another process made a statement at the same time. A retry takes it into account."""


class TargetMonth(JobPayload):
    """A month in UTC, or a day in it; by default the month before the run was created."""

    target_month: Annotated[str, Field(pattern=r"^\d{4}-(0[1-9]|1[0-2])$")] | None = None
    target_date: Day | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> TargetMonth:
        if self.target_month is not None and self.target_date is not None:
            raise ValueError("give targetMonth or targetDate, not both")
        self.month()
        return self

    def month(self) -> date | None:
        """The month's first day. Raises ValueError for a year that is out of range."""
        if self.target_month is not None:
            return in_reach(date.fromisoformat(f"{self.target_month}-01"))
        return None if self.target_date is None else self.target_date.replace(day=1)


@job(
    "monthly-earnings-rollup",
    event="earnings.rollup-monthly",
    schedule="0 3 1 * *",
    missed="all",  # each month has its own totals and statements
    payload=TargetMonth,
    queue="analytics",
    key=lambda payload: f"{month:%Y-%m}" if (month := payload.month()) else None,
    tick=lambda at: TargetMonth(target_month=f"{_before(at):%Y-%m}"),
    concurrency=1,
    timeout=3600.0,
)
def monthly_earnings_rollup(ctx: Context, payload: TargetMonth) -> dict[str, Any]:
    """Roll up a month and what changed in it, check it against earnings and ledger, and make its
    creators' statements, where it was over when the run was made; the totals."""
    month = payload.month() or _before(ctx.created_at)
    end = rollup.following(month)
    days = roll_days(ctx, month, end - _ONE)["days"]
    totals = ctx.step.run("month", _month, month)
    rolled = {"month": f"{month:%Y-%m}", "days": days, "totals": totals}
    made, wrong, number = 0, list[str](), 0
    after = "" if end <= ctx.created_at.date() else None
    while after is not None:
        page = ctx.step.run(f"statements-{number}", make_page, ctx, month, after)
        made, after, number = made + page["made"], page["last"], number + 1
        wrong += page["wrong"]
    return {**rolled, "statements": made, "statementsWrong": wrong}


def _month(tx: Session, month: date) -> list[dict[str, Any]]:
    """Roll up and check a month. Nothing is stored where the check fails."""
    post_earnings(tx)
    end = rollup.following(month)
    for day in rollup.dirty(tx, end, month):
        rollup.roll_day(tx, day)
    if wrong := rollup.check_month(tx, month):
        if rollup.dirty(tx, end, month):
            raise RetryAfter(f"earnings of {month:%Y-%m} came in meanwhile", _AGAIN)
        raise NonRetriable("; ".join(wrong))
    return rollup.month_totals(tx, month)


def _before(moment: datetime) -> date:
    return (moment.date().replace(day=1) - _ONE).replace(day=1)


def make_page(tx: Session, ctx: Context, month: date, after: str) -> dict[str, Any]:
    """Make the month's statements of the next active creators with ids past `after`, and mail them.

    Returns the page's `last` id (None if there are no more), how many were `made` now or before,
    the ids of the `new` statements, and the creators that are `wrong`: their figures do not add up,
    so they have no statement. Creators with only a later statement are skipped. As a step, it can
    be repeated. Raises StorageUnavailable, MadeMeanwhile.
    """
    with ctx.transaction() as reading:
        page = list(reading.scalars(_active(month, after)))
        of = (S.month == month, S.creator_id.in_(page))
        there = reading.scalar(select(func.count()).where(*of)) or 0
        last = previous(reading, page)
        new = [id_ for id_ in page if id_ not in last or last[id_].id < statement_id(id_, month)]
        fine = documents(reading, new, month, ctx.gateways.platform)
    made = sorted(one["id"] for one in fine)
    if fine:
        _keep(tx, ctx, month, fine)
        mail_links(tx, ctx, made)
    return {
        "last": page[-1] if len(page) == PAGE_SIZE else None,
        "made": there + len(fine),
        "new": made,
        "wrong": sorted(set(new) - {one["creator"]["id"] for one in fine}),
    }


def _active(month: date, after: str) -> AnySelect:
    """The creators with a balance at the month's beginning, or with any activity in it."""
    start, end = bounds(month)
    account = literal(CREATOR, String) + Creator.id
    change = case((E.credit == account, E.amount), else_=-E.amount)
    mine = or_(E.credit == account, E.debit == account)
    before = select(E.currency).where(mine, E.created_at < start).group_by(E.currency)
    moved = exists().where(mine, E.created_at >= start, E.created_at < end)
    sold = exists().where(
        X.creator_id == Creator.id, X.occurred_at >= start, X.occurred_at < end, X.posted
    )
    had = before.having(func.sum(change) != 0).correlate(Creator).exists()
    chosen = select(Creator.id).where(Creator.id > after, or_(sold, moved, had))
    return chosen.order_by(Creator.id).limit(PAGE_SIZE)


def _keep(tx: Session, ctx: Context, month: date, documents: Sequence[Document]) -> None:
    # Files first: the transaction has not begun yet, so nobody waits while they are stored.
    rows = [_stored(ctx.gateways.storage, month, one) for one in documents]
    made_at = ctx.now()
    # Serialized for each creator, so that no two statements follow the same one.
    ids = [row["creator_id"] for row in rows]
    chosen = select(Creator.id).where(Creator.id.in_(ids)).order_by(Creator.id)
    tx.execute(chosen.with_for_update(key_share=True))
    last = previous(tx, ids)
    for one in documents:
        there = last.get(one["creator"]["id"])
        if (there and there.id) != one["previous"]:
            raise MadeMeanwhile(f"another process made {one['id']}, or a later one, meanwhile")
    tx.execute(insert(S), [row | {"made_at": made_at} for row in rows])


def _stored(storage: Storage, month: date, document: Document) -> dict[str, Any]:
    """Store the file and return the row."""
    from app.platform.statements import pdf  # most processes need no PDF library

    creator_id, text = document["creator"]["id"], canonical_json(document)
    # Named after its content, so that a row's file never changes.
    digest = sha256(text.encode()).hexdigest()[:16]
    path = f"statements/{month:%Y-%m}/{creator_id}-{digest}.pdf"
    storage.put(path, pdf.made(document), "application/pdf")
    row = {"id": document["id"], "creator_id": creator_id, "month": month, "document": text}
    return {**row, "pdf_path": path}
