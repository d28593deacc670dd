"""Statements made and kept: each one's files in the storage, then its row, which names them.

One with the figures it had is left as it is; other figures are the next version, in new files.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import date, datetime
from hashlib import sha256
from typing import Any, Protocol

from sqlalchemy import String, case, exists, func, literal, or_, select
from sqlalchemy.orm import Session

from app.platform.earnings.models import Creator
from app.platform.earnings.models import Earning as X
from app.platform.gateways import Gateways
from app.platform.gateways.storage import Storage, StorageUnavailable
from app.platform.ledger.models import Entry as E
from app.platform.ledger.postings import CREATOR, INSERT, AnySelect, connection_of
from app.platform.statements import csv, pdf
from app.platform.statements.document import Document, NotAddingUp, bounds, document, documents
from app.platform.statements.models import Statement, statements
from app.switchyard.db import canonical_json
from app.switchyard.errors import SwitchyardError

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


def make_page(tx: Session, ctx: Maker, month: date, after: str) -> dict[str, Any]:
    """Make the month of the next creators with ids past `after` who had anything in it.

    Returns the page's `last` id (None: there are no more), how many were `made`, the ids of those
    of them that are `new` or of a new version, and of those that are `wrong`: their figures do not
    add up, and they have no (new) statement. As a step it can be repeated: the same figures make
    the same files and rows.
    """
    with ctx.transaction() as reading:
        page = list(reading.scalars(_active(month, after)))
        found = Found.of(reading, page, month, ctx.gateways.platform)
    new = keep(tx, ctx, month, found)
    last = page[-1] if len(page) == PAGE_SIZE else None
    return {"last": last, "made": len(found.documents), "new": new, "wrong": found.wrong}


def make_one(tx: Session, ctx: Maker, month: date, creator_id: str) -> dict[str, Any]:
    """Make one creator's month, whatever was in it; its row's id as `statement`.

    Raises UnknownCreator, NotAddingUp, StorageUnavailable.
    """
    with ctx.transaction() as reading:
        made = document(reading, creator_id, month, ctx.gateways.platform)
        found = Found([made], [], _known(reading, month, [creator_id]))
    keep(tx, ctx, month, found)
    return {"statement": made["id"]}


@dataclass(frozen=True, slots=True)
class Found:
    """Some creators' month as the ledger has it, and their statements as they are kept."""

    documents: list[Document]
    wrong: list[str]
    """Whose figures do not add up."""
    known: Mapping[str, Any]
    """The rows there are, by creator."""

    @classmethod
    def of(cls, tx: Session, creator_ids: Sequence[str], month: date, platform: str) -> Found:
        """Read them."""
        known = _known(tx, month, creator_ids)
        fine = list[Document]()
        for one in documents(tx, creator_ids, month, platform):
            if isinstance(one, NotAddingUp):
                log.error("%s", one)
            else:
                fine.append(one)
        wrong = sorted(set(creator_ids) - {one["creator"]["id"] for one in fine})
        return cls(fine, wrong, known)


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


def _known(tx: Session, month: date, creator_ids: Sequence[str]) -> dict[str, Any]:
    columns = (Statement.creator_id, Statement.version, Statement.document)
    chosen = select(*columns, Statement.csv_path, Statement.pdf_path)
    mine = chosen.where(Statement.month == month, Statement.creator_id.in_(creator_ids))
    return {row.creator_id: row for row in tx.execute(mine)}


def keep(tx: Session, ctx: Maker, month: date, found: Found) -> list[str]:
    """Keep what is new, or not as it was; their ids. Raises StorageUnavailable, MadeMeanwhile."""
    storage = ctx.gateways.storage
    if storage is None:
        raise StorageUnavailable("there is no storage")
    # Files first, and outside the transaction: it is not begun yet, so nobody waits for them.
    made = [(one, found.known.get(one["creator"]["id"])) for one in found.documents]
    rows = [row for one, known in made if (row := _stored(storage, month, one, known))]
    if not rows:
        return []
    for row in rows:
        row["made_at"] = ctx.now()
    connection = connection_of(tx)
    insert = INSERT[connection.dialect.name](statements)
    new = insert.excluded
    names = ("document", "csv_path", "pdf_path", "made_at", "version")
    kept = insert.on_conflict_do_update(
        index_elements=["id"],
        set_={name: new[name] for name in names},
        where=Statement.version == new.version - 1,
    ).returning(statements.c.id)
    if missing := {row["id"] for row in rows} - (ids := set(connection.scalars(kept, rows))):
        raise MadeMeanwhile(f"another process made {', '.join(sorted(missing)[:3])} meanwhile")
    return sorted(ids)


def _stored(storage: Storage, month: date, made: Document, known: Any) -> dict[str, Any] | None:
    """Store the files of what is not there as it is; its row, unless it has that already."""
    version = 1 if known is None else known.version
    if known is not None and known.document != canonical_json(_versioned(made, version)):
        version += 1
    made = _versioned(made, version)
    creator_id, text = made["creator"]["id"], canonical_json(made)
    # Named by what is in them, so that the files of a row never change under it.
    stem = f"statements/{month:%Y-%m}/{creator_id}-{sha256(text.encode()).hexdigest()[:16]}"
    paths = {kind: f"{stem}.{kind}" for kind in TYPES}
    same = known is not None and known.version == version
    if same and storage.exists(known.csv_path) and storage.exists(known.pdf_path):
        return None
    storage.put(paths["csv"], csv.made(made), TYPES["csv"])
    storage.put(paths["pdf"], pdf.made(made), TYPES["pdf"])
    if same:
        return None
    return {
        "id": made["id"],
        "creator_id": creator_id,
        "month": month,
        "document": text,
        "csv_path": paths["csv"],
        "pdf_path": paths["pdf"],
        "version": version,
    }


def _versioned(made: Document, version: int) -> Document:
    """A first version does not say that it is one."""
    return made if version == 1 else {**made, "version": version}
