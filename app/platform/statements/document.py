"""Makes a creator's month into a document, from the ledger alone.

The opening balance, plus earnings (sales less fees, refunds and disputes), less payouts, plus
returned payouts, must be the ledger's balance at the month's end. A statement is final: the next
one opens with its closing balance and has every entry since its end. Entries booked late, for
earlier months, become one line, a correction. Amounts are in minor units, times in UTC.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from datetime import date
from itertools import groupby
from operator import attrgetter
from typing import Any

from sqlalchemy import select

from app.platform.currencies import money
from app.platform.db import Tx, connection_of
from app.platform.earnings.models import Creator
from app.platform.earnings.posting import TAKING
from app.platform.ledger.postings import HOLD, EntryKind
from app.platform.statements.movements import CLOSING, Previous, bounds, movements, previous
from app.switchyard.clock import iso

Document = dict[str, Any]
OTHER = "other"
"""The source of entries without an earning."""
CORRECTION = "correction"
"""The kind of line for amounts of earlier months that are on no statement."""
PAYOUT, RETURNED = "payout", "payout_returned"
_PAYOUTS = {EntryKind.HOLD.value: PAYOUT, EntryKind.RELEASE.value: RETURNED}
log = logging.getLogger(__name__)
_BY_CURRENCY = attrgetter("currency")
_JOINERS = "\u200c\u200d"
_ACCENTS = re.compile("([\u0300-\u036f]{3})[\u0300-\u036f]+")  # a pile would cover other lines


class _NotAddingUp(ValueError):
    """A month's figures do not agree with the ledger, so no statement is made."""


def statement_id(creator_id: str, month: date) -> str:
    """The id of a statement: `<creator>:<YYYY-MM>`."""
    return f"{creator_id}:{month:%Y-%m}"


def major(amount: int, currency: str) -> str:
    """An amount of minor units in units of the currency, such as 1,234.50."""
    return money(amount, currency).partition(" ")[0]


def documents(tx: Tx, creator_ids: Sequence[str], month: date, platform: str) -> list[Document]:
    """The documents, as of now, of those creators that exist and whose figures add up, by id. None
    of them may have a statement for that month or a later one."""
    start, end = bounds(month)
    C = Creator
    chosen = select(C.id, C.name, C.country).where(C.id.in_(creator_ids)).order_by(C.id)
    people = connection_of(tx).execute(chosen).all()
    before, ready = previous(tx, creator_ids), list[Document]()
    for person in people:
        name, last = statement_id(person.id, month), before.get(person.id)
        rows = movements(tx, person.id, last.end if last else start, end)
        rows.sort(key=_BY_CURRENCY)
        try:
            made = [_currency(code, [*of], last) for code, of in groupby(rows, _BY_CURRENCY)]
        except _NotAddingUp as wrong:
            log.error("statement %s does not add up: %s", name, wrong)
            continue
        creator = {"id": person.id, "name": _plain(person.name), "country": person.country}
        ready.append(
            {
                "id": name,
                "previous": last and last.id,
                "platform": _plain(platform),
                "creator": creator,
                "month": f"{month:%Y-%m}",
                "from": iso(start),
                "to": iso(end),
                "currencies": [one for one in made if one["lines"] or one["opening"]],
            }
        )
    return ready


def _currency(code: str, rows: list[Any], last: Previous | None) -> Document:
    closing = sum(row.amount for row in rows if row.kind == CLOSING)
    entries = [row for row in rows if row.kind != CLOSING]
    entries.sort(key=lambda row: (row.created_at, row.ref, row.kind))
    opening, lines = closing - sum(row.amount for row in entries), list[Document]()
    missing = opening - last.closing.get(code, 0) if last else 0
    balance = opening = opening - missing
    if last and missing:
        balance += missing
        line = {"at": iso(last.end), "kind": CORRECTION, "id": "", "source": OTHER}
        amounts = {"gross": missing, "fee": 0, "amount": missing, "balance": balance}
        lines.append(line | amounts)
    for row in entries:
        balance += row.amount
        lines.append({**_line(row), "balance": balance})
    sources = {line["source"] for line in lines if line["source"]}
    earned = [line for line in lines if line["source"]]
    made = {
        "currency": code,
        "opening": opening,
        "sources": [
            {"source": one, **_sums(line for line in earned if line["source"] == one)}
            for one in sorted(sources)
        ],
        "earned": _sums(earned),
        "payouts": _payouts(lines),
        "paid_out": -sum(line["amount"] for line in lines if line["kind"] == PAYOUT),
        "returned": sum(line["amount"] for line in lines if line["kind"] == RETURNED),
        "closing": closing,
        "lines": lines,
    }
    came_to = opening + made["earned"]["net"] - made["paid_out"] + made["returned"]
    if not came_to == balance == closing:
        raise _NotAddingUp(f"{came_to} {code}, and {closing} in the ledger")
    return made


def _line(row: Any) -> Document:
    line = {"at": iso(row.created_at), "kind": row.kind, "id": row.ref, "source": ""}
    line |= {"gross": 0, "fee": 0, "amount": row.amount}
    if row.kind in _PAYOUTS:
        return line | {"kind": _PAYOUTS[row.kind], "id": row.other.removeprefix(HOLD)}
    if row.source is None:
        return line | {"source": OTHER, "gross": row.amount}
    sign = -1 if row.kind in TAKING else 1
    gross, fee = sign * row.gross, -sign * row.fee
    if gross + fee != row.amount:
        raise _NotAddingUp(f"{row.kind} {row.ref} is booked with {row.amount}, not {gross + fee}")
    return line | {"source": _plain(row.source) or OTHER, "gross": gross, "fee": fee}


def _sums(lines: Iterable[Document]) -> dict[str, int]:
    """gross - refunds - fees = net, as in the rollups."""
    of = list(lines)
    sales = [line["gross"] for line in of if line["kind"] == EntryKind.EARNING]
    others = [line["gross"] for line in of if line["kind"] != EntryKind.EARNING]
    return {
        "sales": len(sales),
        "gross": sum(sales),
        "refunds": -sum(others),
        "fees": -sum(line["fee"] for line in of),
        "net": sum(line["amount"] for line in of),
    }


def _payouts(lines: Iterable[Document]) -> list[Document]:
    """The amounts that were set aside for each payout in the month, and those returned in it."""
    made: dict[str, Document] = {}
    for line in lines:
        if not line["source"]:
            new = {"id": line["id"], "at": line["at"], "amount": 0, "returned": 0}
            payout = made.setdefault(line["id"], new)
            payout["amount" if line["kind"] == PAYOUT else "returned"] += abs(line["amount"])
    return list(made.values())


def _plain(text: str) -> str:
    # Joiners shape letters. Any other unprintable character could be used to deceive.
    kept = "".join(c if c.isprintable() or c in _JOINERS else " " for c in text)
    return " ".join(_ACCENTS.sub(r"\1", kept).split())
