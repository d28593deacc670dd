"""Statements made and kept: each one's files in the storage, then its row, which names them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import date, datetime
from hashlib import sha256
from typing import Any, Protocol

from sqlalchemy import String, case, exists, func, literal, or_, select
from sqlalchemy.orm import Session

from app.db import canonical_json
from app.earnings.models import Creator
from app.earnings.models import Earning as X
from app.gateways import Gateways
from app.gateways.storage import Storage, StorageUnavailable
from app.ledger.models import Entry as E
from app.ledger.postings import CREATOR, INSERT, AnySelect, connection_of
from app.statements import csv, pdf
from app.statements.document import Document, NotAddingUp, bounds, document, documents
from app.statements.models import Statement, statements

PAGE_SIZE = 100
TYPES = {"csv": "text/csv; charset=utf-8", "pdf": "application/pdf"}
log = logging.getLogger(__name__)


class Maker(Protocol):
    """What of a run's Context is needed here."""

    @property
    def gateways(self) -> Gateways: ...
    def now(self) -> datetime: ...
    def transaction(self) -> AbstractContextManager[Session]: ...


def make_page(tx: Session, ctx: Maker, month: date, after: str) -> dict[str, Any]:
    """Make the month of the next creators with ids past `after` who had anything in it.

    Returns the page's `last` id (None: there are no more), how many were `made`, and the ids of
    those that are `wrong`: their figures do not add up, and they have no (new) statement. As a step
    it can be repeated: the same figures make the same files and rows.
    """
    with ctx.transaction() as reading:
        page = list(reading.scalars(_active(month, after)))
        found = documents(reading, page, month, ctx.gateways.platform)
    for wrong in (one for one in found if isinstance(one, NotAddingUp)):
        log.error("%s", wrong)
    fine = [one for one in found if not isinstance(one, NotAddingUp)]
    _keep(tx, ctx, month, fine)
    wrong_ids = sorted(set(page) - {one["creator"]["id"] for one in fine})
    last = page[-1] if len(page) == PAGE_SIZE else None
    return {"last": last, "made": len(fine), "wrong": wrong_ids}


def make_one(tx: Session, ctx: Maker, month: date, creator_id: str) -> dict[str, Any]:
    """Make one creator's month, whatever was in it; its row's id as `statement`.

    Raises UnknownCreator, NotAddingUp, StorageUnavailable.
    """
    with ctx.transaction() as reading:
        made = document(reading, creator_id, month, ctx.gateways.platform)
    _keep(tx, ctx, month, [made])
    return {"statement": made["id"]}


def _active(month: date, after: str) -> AnySelect:
    """Who had a balance when the month began, or anything in it."""
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


def _keep(tx: Session, ctx: Maker, month: date, made: Sequence[Document]) -> None:
    if ctx.gateways.storage is None:
        raise StorageUnavailable("there is no storage")
    # Files first, and outside the transaction: it is not begun yet, so nobody waits for them.
    rows = [_row(ctx.gateways.storage, month, one) | {"made_at": ctx.now()} for one in made]
    if rows:
        connection = connection_of(tx)
        insert = INSERT[connection.dialect.name](statements)
        new = insert.excluded
        connection.execute(
            insert.on_conflict_do_update(
                index_elements=["id"],
                set_={name: new[name] for name in ("document", "csv_path", "pdf_path", "made_at")},
                # As it was: then it was not made again.
                where=Statement.document != new.document,
            ),
            rows,
        )


def _row(storage: Storage, month: date, made: Document) -> dict[str, Any]:
    creator_id, text = made["creator"]["id"], canonical_json(made)
    # Named by what is in them, so that the files of a row never change under it.
    stem = f"statements/{month:%Y-%m}/{creator_id}-{sha256(text.encode()).hexdigest()[:16]}"
    paths = {kind: f"{stem}.{kind}" for kind in TYPES}
    storage.put(paths["csv"], csv.made(made), TYPES["csv"])
    storage.put(paths["pdf"], pdf.made(made), TYPES["pdf"])
    return {
        "id": made["id"],
        "creator_id": creator_id,
        "month": month,
        "document": text,
        "csv_path": paths["csv"],
        "pdf_path": paths["pdf"],
    }
