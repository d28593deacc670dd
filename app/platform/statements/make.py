"""Statements made and kept: each one's files in the storage, then its row, which names them.

One that was made is final: made again it is the same, and only files that were lost are restored.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import date, datetime
from hashlib import sha256
from typing import Any, Protocol

from sqlalchemy import String, case, exists, func, insert, literal, or_, select
from sqlalchemy.orm import Session

from app.platform.earnings.models import Creator
from app.platform.earnings.models import Earning as X
from app.platform.gateways import Gateways
from app.platform.gateways.storage import Storage, StorageUnavailable
from app.platform.ledger.models import Entry as E
from app.platform.ledger.postings import CREATOR, AnySelect
from app.platform.statements import csv
from app.platform.statements.document import (
    Document,
    NotAddingUp,
    document,
    documents,
    statement_id,
)
from app.platform.statements.models import Statement
from app.platform.statements.movements import bounds, newest_before, previous
from app.switchyard.db import canonical_json
from app.switchyard.errors import BadInput, SwitchyardError

PAGE_SIZE = 100
TYPES = {"csv": "text/csv; charset=utf-8", "pdf": "application/pdf"}
log = logging.getLogger(__name__)


class Maker(Protocol):
    """What of a run's Context is needed here."""

    @property
    def gateways(self) -> Gateways: ...
    def now(self) -> datetime: ...
    def transaction(self) -> AbstractContextManager[Session]: ...


class MadeMeanwhile(SwitchyardError):
    """Another process made a statement at the same time; made again, it will be right."""

    status = 409
    title = "Statement made meanwhile"


class NotOver(BadInput):
    """A month that is not over has no statement yet."""

    title = "Month not over"


def make_page(tx: Session, ctx: Maker, month: date, after: str) -> dict[str, Any]:
    """Make the month of the next creators with ids past `after` who had anything in it.

    Returns the page's `last` id (None: there are no more), how many were `made`, now or before, the
    ids of those of them that are `new`, and of those that are `wrong`: their figures do not add up,
    and they have no statement. Who has one of a later month alone is left out. As a step it can be
    repeated. Raises NotOver, StorageUnavailable, MadeMeanwhile.
    """
    with ctx.transaction() as reading:
        page = list(reading.scalars(_active(month, after)))
        there = _kept(reading, month, page)
        last = {id_: one.id for id_, one in previous(reading, page).items()}
        passed = {id_ for id_, one in last.items() if one >= statement_id(id_, month)}
        new = [one for one in page if one not in passed]
        fine = list[Document]()
        for one in documents(reading, new, month, ctx.gateways.platform):
            if isinstance(one, NotAddingUp):
                log.error("%s", one)
            else:
                fine.append(one)
    _restore(ctx, there)
    ids = _keep(tx, ctx, month, fine)
    return {
        "last": page[-1] if len(page) == PAGE_SIZE else None,
        "made": len(there) + len(fine),
        "new": ids,
        "wrong": sorted(set(new) - {one["creator"]["id"] for one in fine}),
    }


def make_one(tx: Session, ctx: Maker, month: date, creator_id: str) -> dict[str, Any]:
    """Make one creator's month, whatever was in it; its row's id as `statement`.

    Raises UnknownCreator, NotOver, MonthPassed, NotAddingUp, StorageUnavailable, MadeMeanwhile.
    """
    with ctx.transaction() as reading:
        there = _kept(reading, month, [creator_id])
        new = [] if there else [document(reading, creator_id, month, ctx.gateways.platform)]
    _restore(ctx, there)
    _keep(tx, ctx, month, new)
    return {"statement": statement_id(creator_id, month)}


def kept_or_now(tx: Session, creator_id: str, month: date, platform: str) -> Document:
    """A month's document: its statement's, or what that would be now. Raises as document()."""
    for row in _kept(tx, month, [creator_id]):
        kept: Document = json.loads(row.document)
        return kept
    return document(tx, creator_id, month, platform)


def _active(month: date, after: str) -> AnySelect:
    """Who had a balance when the month began, or anything in it, or booked late before it."""
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
    own = select(func.max(Statement.last_entry)).where(Statement.creator_id == Creator.id)
    seen = func.coalesce(own.scalar_subquery(), newest_before(month).scalar_subquery())
    late = exists().where(mine, E.created_at < start, E.id > seen)
    chosen = select(Creator.id).where(Creator.id > after, or_(sold, moved, had, late))
    return chosen.order_by(Creator.id).limit(PAGE_SIZE)


def _kept(tx: Session, month: date, creator_ids: Sequence[str]) -> Sequence[Any]:
    columns = (Statement.document, Statement.csv_path, Statement.pdf_path)
    mine = (Statement.month == month, Statement.creator_id.in_(creator_ids))
    return tx.execute(select(*columns).where(*mine)).all()


def _restore(ctx: Maker, rows: Sequence[Any]) -> None:
    storage = _storage(ctx)
    for row in rows:
        if not (storage.exists(row.csv_path) and storage.exists(row.pdf_path)):
            _store(storage, json.loads(row.document), row.csv_path, row.pdf_path)


def _keep(tx: Session, ctx: Maker, month: date, documents: Sequence[Document]) -> list[str]:
    """Keep what is new; their ids."""
    if not documents:
        return []
    if ctx.now() < bounds(month)[1]:
        raise NotOver(f"{month:%Y-%m} is not over yet")
    # Files first, and outside the transaction: it is not begun yet, so nobody waits for them.
    rows = [_stored(_storage(ctx), month, one) for one in documents]
    made_at = ctx.now()
    # One at a time for each creator, so that no two statements follow the same one.
    ids = [row["creator_id"] for row in rows]
    chosen = select(Creator.id).where(Creator.id.in_(ids)).order_by(Creator.id)
    tx.execute(chosen.with_for_update(key_share=True))
    last = previous(tx, ids)
    for one in documents:
        there, before = last.get(one["creator"]["id"]), one["previous"] or ""
        if (there.id if there else "") != before or before >= one["id"]:
            raise MadeMeanwhile(f"another process made {one['id']}, or a later one, meanwhile")
    tx.execute(insert(Statement), [row | {"made_at": made_at} for row in rows])
    return sorted(row["id"] for row in rows)


def _stored(storage: Storage, month: date, made: Document) -> dict[str, Any]:
    """Store the files; the row."""
    creator_id, text = made["creator"]["id"], canonical_json(made)
    # Named by what is in them, so that the files of a row never change under it.
    stem = f"statements/{month:%Y-%m}/{creator_id}-{sha256(text.encode()).hexdigest()[:16]}"
    paths = (f"{stem}.csv", f"{stem}.pdf")
    _store(storage, made, *paths)
    return {
        "id": made["id"],
        "creator_id": creator_id,
        "month": month,
        "document": text,
        "csv_path": paths[0],
        "pdf_path": paths[1],
        "last_entry": made["last_entry"],
    }


def _store(storage: Storage, made: Document, csv_path: str, pdf_path: str) -> None:
    from app.platform.statements import pdf  # a process that makes none needs no PDF library

    storage.put(csv_path, csv.made(made), TYPES["csv"])
    storage.put(pdf_path, pdf.made(made), TYPES["pdf"])


def _storage(ctx: Maker) -> Storage:
    if ctx.gateways.storage is None:
        raise StorageUnavailable("there is no storage")
    return ctx.gateways.storage
