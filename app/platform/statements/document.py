"""A creator's month as a document, made from the ledger alone. Amounts are minor units, times UTC.

Opening balance, plus what was earned (sales less fees, refunds and disputes), less payouts, plus
payouts that came back, is the closing balance: the ledger's at the month's end, or it is refused.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, String, and_, cast, func, literal, null, select, union_all

from app.platform.currencies import money
from app.platform.earnings.models import Creator
from app.platform.earnings.models import Earning as X
from app.platform.earnings.posting import TAKING
from app.platform.ledger.models import Entry as E
from app.platform.ledger.postings import (
    CREATOR,
    HOLD,
    AnySelect,
    EntryKind,
    Tx,
    connection_of,
    creator_account,
)
from app.switchyard.clock import iso
from app.switchyard.errors import BadInput, SwitchyardError

Document = dict[str, Any]
OPENING, CLOSING = "opening", "closing"
OTHER = "other"
"""The source of what was booked without an earning."""
PAYOUT, RETURNED = "payout", "payout_returned"
_PAYOUTS = {EntryKind.HOLD.value: PAYOUT, EntryKind.RELEASE.value: RETURNED}
_MONTH = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])")
_JOINERS = "\u200c\u200d"


class UnknownCreator(BadInput):
    """There is no such creator."""

    status = 404
    title = "Unknown creator"


class NotAddingUp(SwitchyardError):
    """A month's figures do not come to what the ledger says; no statement is made of them."""

    title = "Statement does not add up"


def month_of(text: str) -> date:
    """The first day of a month given as YYYY-MM. Raises BadInput."""
    if not _MONTH.fullmatch(text) or not "2000" <= text < "2200":
        raise BadInput(f"month must be YYYY-MM, not {text[:20]!r}")
    return date(int(text[:4]), int(text[5:]), 1)


def bounds(month: date) -> tuple[datetime, datetime]:
    """When the month begins and when the next one does."""
    start = datetime(month.year, month.month, 1, tzinfo=UTC)
    return start, (start + timedelta(days=31)).replace(day=1)


def major(amount: int, currency: str) -> str:
    """Minor units in units of the currency, such as 1,234.50."""
    return money(amount, currency).partition(" ")[0]


def document(tx: Tx, creator_id: str, month: date, platform: str) -> Document:
    """One creator's month. Raises UnknownCreator, NotAddingUp."""
    for made in documents(tx, [creator_id], month, platform):
        if isinstance(made, NotAddingUp):
            raise made
        return made
    raise UnknownCreator(f"no creator {creator_id!r}")


def documents(
    tx: Tx, creator_ids: Sequence[str], month: date, platform: str
) -> list[Document | NotAddingUp]:
    """The month of each of these creators that exists, by id: a document, or why there is none."""
    start, end = bounds(month)
    C, connection = Creator, connection_of(tx)
    people = connection.execute(
        select(C.id, C.name, C.country).where(C.id.in_(creator_ids)).order_by(C.id)
    ).all()
    rows: defaultdict[str, list[Any]] = defaultdict(list)
    for row in connection.execute(_movements([person.id for person in people], start, end)):
        rows[row.account].append(row)
    made: list[Document | NotAddingUp] = []
    for person in people:
        name = f"{person.id}:{month:%Y-%m}"
        try:
            currencies = _currencies(rows[creator_account(person.id)])
        except NotAddingUp as wrong:
            made.append(NotAddingUp(f"statement {name}: {wrong}"))
            continue
        who = {"id": person.id, "name": _plain(person.name), "country": person.country}
        made.append(
            {
                "id": name,
                "platform": _plain(platform),
                "creator": who,
                "month": f"{month:%Y-%m}",
                "from": iso(start),
                "to": iso(end),
                "currencies": currencies,
            }
        )
    return made


def _movements(ids: list[str], start: datetime, end: datetime) -> AnySelect:
    """One statement, so that all it says is of one moment: each entry of the month with its
    earning, sales of which nothing is the creator's, and the balances before and after."""
    accounts = [creator_account(one) for one in ids]
    same = (E.currency, E.created_at, E.kind, E.ref)
    both = union_all(
        *(
            select(mine.label("account"), other.label("other"), amount.label("amount"), *same)
            .where(mine.in_(accounts))
            .where(E.created_at < end)
            for mine, other, amount in (
                (E.credit, E.debit, E.amount),
                (E.debit, E.credit, -E.amount),
            )
        )
    ).subquery()
    b, earning = both.c, (X.source, X.gross, X.fee)
    its = and_(X.id == b.ref, X.kind == b.kind)
    lines = (
        select(both, *earning).join_from(both, X, its, isouter=True).where(b.created_at >= start)
    )
    account, zero = literal(CREATOR, String) + X.creator_id, literal(0, BigInteger)
    for_nothing = (
        select(account, null(), zero, X.currency, X.occurred_at, X.kind, X.id, *earning)
        .where(X.posted, X.gross == X.fee, X.creator_id.in_(ids))
        .where(X.occurred_at >= start, X.occurred_at < end)
    )
    total, rest = cast(func.sum(b.amount), BigInteger), [null()] * 4
    sums = (
        select(b.account, null(), total, b.currency, null(), literal(kind, String), *rest)
        .where(b.created_at < until)
        .group_by(b.account, b.currency)
        for kind, until in ((OPENING, start), (CLOSING, end))
    )
    return select(union_all(lines, for_nothing, *sums).subquery())


def _currencies(rows: Iterable[Any]) -> list[Document]:
    by_currency: defaultdict[str, list[Any]] = defaultdict(list)
    for row in rows:
        by_currency[row.currency].append(row)
    made = (_currency(code, by_currency[code]) for code in sorted(by_currency))
    return [one for one in made if one["lines"] or one["opening"]]


def _currency(code: str, rows: list[Any]) -> Document:
    known = {row.kind: row.amount for row in rows if row.kind in (OPENING, CLOSING)}
    opening, closing = known.get(OPENING, 0), known.get(CLOSING, 0)
    entries = [row for row in rows if row.kind not in (OPENING, CLOSING)]
    entries.sort(key=lambda row: (row.created_at, row.ref, row.kind))
    balance, lines = opening, []
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
        raise NotAddingUp(f"{came_to} {code}, and {closing} in the ledger")
    return made


def _line(row: Any) -> Document:
    line = {"at": iso(row.created_at), "kind": row.kind, "id": row.ref, "source": ""}
    if row.kind in _PAYOUTS:
        payout = row.other.removeprefix(HOLD)
        line |= {"kind": _PAYOUTS[row.kind], "id": payout}
        return {**line, "gross": 0, "fee": 0, "amount": row.amount}
    if row.source is None:
        return {**line, "source": OTHER, "gross": row.amount, "fee": 0, "amount": row.amount}
    sign = -1 if row.kind in TAKING else 1
    gross, fee = sign * row.gross, -sign * row.fee
    if gross + fee != row.amount:
        raise NotAddingUp(f"{row.kind} {row.ref} is booked with {row.amount}, not {gross + fee}")
    line |= {"source": _plain(row.source) or OTHER, "gross": gross, "fee": fee}
    return {**line, "amount": row.amount}


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
    """What was set aside for each payout in the month, and what of that, or of an earlier month's,
    came back in it."""
    made: dict[str, Document] = {}
    for line in lines:
        if not line["source"]:
            new = {"id": line["id"], "at": line["at"], "amount": 0, "returned": 0}
            payout = made.setdefault(line["id"], new)
            payout["amount" if line["kind"] == PAYOUT else "returned"] += abs(line["amount"])
    return list(made.values())


def _plain(text: str) -> str:
    # Joiners are letters' business; any other unprintable could pass for what it is not.
    kept = "".join(c if c.isprintable() or c in _JOINERS else " " for c in text)
    return " ".join(kept.split())
