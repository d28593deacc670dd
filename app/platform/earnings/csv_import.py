"""Stripe's balance transactions as CSV, into the earnings and the ledger.

Read are the report `balance_change_from_activity.itemized`
(https://docs.stripe.com/reports/report-types) and the Dashboard's export of all activity. A sale is
known by its charge, what takes it back or gives it again by its balance transaction. The file is
read twice, as a refund may come before its sale; a batch is one transaction.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from io import SEEK_END
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from sqlalchemy import Connection, case, delete, func, select

from app.platform import currencies
from app.platform.earnings.models import Creator, Earning, EarningKind, earnings
from app.platform.earnings.posting import TAKING, post_earnings
from app.switchyard.clock import in_reach
from app.switchyard.db import INSERT, Database
from app.switchyard.errors import BadInput

BATCH = 2_000
MAX_LINE = 1 << 20
"""Bytes; no export has longer ones."""
_NAMES = {
    "id": ("balance_transaction_id", "id"),
    "created": ("created_utc", "created (utc)"),
    "category": ("reporting_category", "type"),
    "gross": ("gross", "amount"),
    "fee": ("fee",),
    "net": ("net",),
    "currency": ("currency",),
    "object": ("source_id", "source"),
    "creator": ("payment_metadata[creator_id]", "creator_id (metadata)"),
    "charge": ("charge_id",),
    "source": ("payment_metadata[source]", "source (metadata)"),
}
_OPTIONAL = ("charge", "source")
_KINDS = {
    **dict.fromkeys(("charge", "payment"), EarningKind.EARNING),
    # The last two: a bank debit that bounced, and what of a sale was not captured.
    **dict.fromkeys(("refund", "payment_refund"), EarningKind.REFUND),
    **dict.fromkeys(("charge_failure", "partial_capture_reversal"), EarningKind.REFUND),
    "dispute": EarningKind.DISPUTE,
    "dispute_reversal": EarningKind.DISPUTE_WON,
}
_UNCLEAR = ("adjustment", "refund_failure", "payment_refund_failure", "payment_failure_refund")
"""They change what creators have, and do not say how."""
_DIGITS = dict.fromkeys(("jpy", "clp", "krw"), 0)
_DIGITS |= dict.fromkeys(("bhd", "jod", "kwd", "omr", "tnd"), 3)
_AMOUNT = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,9})?")


class CsvRefused(BadInput):
    """The file is no such export, or is broken off."""

    title = "File refused"


@dataclass
class Imported:
    """What became of the rows: `read` is the sum of the others, once all is read."""

    read: int = 0
    new: int = 0
    known: int = 0
    bad: int = 0
    other: Counter[str] = field(default_factory=Counter)
    """Rows that are no earnings, by category: payouts, Stripe's own fees."""
    stripe_fees: Counter[str] = field(default_factory=Counter)
    """What Stripe took for disputes, minor units by currency: the platform's cost, not booked."""

    @property
    def left(self) -> int:
        """Rows it has not come to yet."""
        return self.read - self.new - self.known - self.bad - self.other.total()


Row = tuple[int, dict[str, Any]]
Tell = Callable[[int, str], None]


def import_csv(
    db: Database, path: Path, tell: Tell, at: Callable[[int, int], bool], source: str | None = None
) -> Imported:
    """Import a file. `tell` hears of each line left out, and why; `at` how many bytes of how many
    are read, and says False to stop after a batch. Sales without a source are of `source`.

    The same again changes nothing. Raises CsvRefused; what was committed until then stays.
    """
    done = Imported()

    def bad(line: int, reason: str) -> None:
        done.bad += 1
        tell(line, reason)

    try:
        with path.open("rb") as file:
            size = file.seek(0, SEEK_END)
            for second in (False, True):
                file.seek(0)
                wanted = _wanted(file, done, bad, source, second)
                while batch := list(islice(wanted, BATCH)):
                    with db.begin() as tx:
                        made = _write(tx, batch, bad)
                        post_earnings(tx)
                    done.new, done.known = done.new + made[0], done.known + made[1]
                    if not at(size * second + file.tell(), 2 * size):
                        return done
                if not done.left:
                    break
    except (OSError, CsvRefused) as failure:
        reason = failure.strerror if isinstance(failure, OSError) else failure
        kept = f"; {done.new} new rows are committed, and importing again completes it"
        raise CsvRefused(f"{path}: {reason}{kept if done.new else '; nothing written'}") from None
    return done


def _wanted(
    file: BinaryIO, done: Imported, bad: Tell, source: str | None, second: bool
) -> Iterator[Row]:
    """This reading's rows: the sales in the first, the others in the second."""
    # What is not UTF-8 matters only in the columns that are read, where it is not printable.
    lines = (line.decode("utf-8", "surrogateescape") for line in _lines(file))
    rows = csv.reader(lines, strict=True)
    header = next(rows)
    places, width = _places(header), len(header)
    row: list[str] | None = []
    while row is not None:
        begins = rows.line_num + 1
        try:
            row = next(rows, None)
        except csv.Error as failure:
            if "unexpected end" in str(failure):
                raise CsvRefused(f"broken off in a quoted field, from line {begins} on") from None
            row = [f"{failure}, up to line {rows.line_num}"]
        if not row:
            continue
        done.read += not second
        if len(row) != width:
            if not second:
                bad(begins, row[0] if len(row) == 1 else f"{len(row)} fields instead of {width}")
            continue
        values = {name: row[place].strip() for name, place in places.items()}
        kind = _KINDS.get(values["category"])
        if kind is None and not second and values["category"] in _UNCLEAR:
            bad(begins, f"{values['category']}: not clear whose; record it by hand")
        elif kind is None and not second:
            done.other[values["category"]] += 1
        if kind is None or (kind is EarningKind.EARNING) is second:
            continue
        try:
            yield begins, _earning(values, kind, source, done.stripe_fees)
        except BadInput as reason:
            bad(begins, str(reason))


def _lines(file: BinaryIO) -> Iterator[bytes]:
    first = True
    while line := file.readline(MAX_LINE):
        if len(line) == MAX_LINE:
            raise CsvRefused(f"a line of more than {MAX_LINE:,} bytes")
        yield line.removeprefix(b"\xef\xbb\xbf") if first else line
        first = False
    if first:
        raise CsvRefused("it is empty")


def _places(header: list[str]) -> dict[str, int]:
    there = {name.strip().lower(): place for place, name in reversed(list(enumerate(header)))}
    places = {
        name: there[alias]
        for name, known in _NAMES.items()
        for alias in known[::-1]
        if alias in there
    }
    if missing := [
        known[0] for n, known in _NAMES.items() if n not in places and n not in _OPTIONAL
    ]:
        raise CsvRefused(f"no such export, it has no column {', '.join(missing)}")
    return places


def _earning(
    values: dict[str, str], kind: EarningKind, source: str | None, outside: Counter[str]
) -> dict[str, Any]:
    currency, sale = values["currency"].lower(), kind is EarningKind.EARNING
    currencies.unit(currency)
    gross, fee, net = (_minor(name, values[name], currency) for name in ("gross", "fee", "net"))
    if gross - fee != net:
        raise BadInput(f"gross {values['gross']} less fee {values['fee']} is not {values['net']}")
    if kind in TAKING:
        gross, fee = -gross, -fee
    stripes = 0 if sale else max(0, -fee)
    fee += stripes
    currencies.whole("gross", gross)
    currencies.whole("fee", fee, least=0)
    if fee > gross:
        raise BadInput(f"a fee of {fee} is more than {gross}, the gross")
    try:
        created = datetime.fromisoformat(values["created"])
        created = created.astimezone(UTC) if created.tzinfo else created.replace(tzinfo=UTC)
        in_reach(created)
    except (ValueError, OverflowError):
        raise BadInput(f"created {values['created']!r} is no time") from None
    charge = values.get("charge") or values["object"]
    row: dict[str, Any] = {
        "id": charge or values["id"] if sale else values["id"],
        "creator_id": values["creator"],
        "source": values.get("source") or source or "",
        "kind": kind.value,
        "currency": currency,
        "gross": gross,
        "fee": fee,
        "refund_of": None if sale else charge,
        "occurred_at": created,
    }
    texts = {"id": 64, **({"creator_id": 64, "source": 40} if sale else {"refund_of": 64})}
    for name, most in texts.items():
        if not 0 < len(text := row[name]) <= most or not text.isprintable():
            raise BadInput(f"{name} must be 1 to {most} printable characters, not {text!r}")
    if stripes:
        outside[currency] += stripes if kind in TAKING else -stripes
    return row


def _minor(name: str, text: str, currency: str) -> int:
    minor = Decimal(text if _AMOUNT.fullmatch(text) else "nan").scaleb(_DIGITS.get(currency, 2))
    if not minor.is_finite() or minor % 1:
        raise BadInput(f"{name} {text!r} is no amount of {currency}")
    return int(minor)


def _write(tx: Connection, batch: list[Row], bad: Tell) -> tuple[int, int]:
    """How many were new, and how many known; of the others, `bad` is told."""
    batch, sales = _placed(tx, batch, bad)
    if not batch:
        return 0, 0
    insert = INSERT[tx.dialect.name](earnings).on_conflict_do_nothing()
    new = set(tx.scalars(insert.returning(earnings.c.id), [row for _, row in batch]))
    over = _overdrawn(tx, sales)
    undone = {row["id"] for _, row in batch if row["id"] in new and row["refund_of"] in over}
    tx.execute(delete(Earning).where(Earning.id.in_(undone)))
    chosen = select(earnings).where(Earning.id.in_({row["id"] for _, row in batch}))
    there = {row.id: row._mapping for row in tx.execute(chosen)}
    fresh, known = 0, 0
    for line, row in batch:
        if row["id"] in undone:
            bad(line, f"more than all of sale {row['refund_of']} would be taken back")
        elif odd := [name for name in row if there[row["id"]][name] != row[name]]:
            is_, was = row[odd[0]], there[row["id"]][odd[0]]
            bad(line, f"{row['id']} is recorded with {odd[0]} {was}, not {is_}")
        elif row["id"] in new:
            new.remove(row["id"])
            fresh += 1
        else:
            known += 1
    return fresh, known


def _placed(tx: Connection, batch: list[Row], bad: Tell) -> tuple[list[Row], dict[str, Any]]:
    """The rows whose creator, or sale, there is; those sales, locked."""
    placed = list[Row]()
    people = {row["creator_id"] for _, row in batch if row["refund_of"] is None}
    creators = set(tx.scalars(select(Creator.id).where(Creator.id.in_(people))))
    charges = {row["refund_of"] for _, row in batch} - {None}
    chosen = select(earnings).where(Earning.id.in_(charges), Earning.kind == EarningKind.EARNING)
    sales = {row.id: row for row in tx.execute(chosen.order_by(Earning.id).with_for_update())}
    for line, row in batch:
        sale = sales.get(row["refund_of"])
        if row["refund_of"] is None and row["creator_id"] not in creators:
            bad(line, f"no creator {row['creator_id']!r}")
        elif row["refund_of"] is not None and sale is None:
            bad(line, f"no sale {row['refund_of']!r}")
        elif sale is not None and sale.currency != row["currency"]:
            bad(line, f"sale {sale.id} is in {sale.currency}, not {row['currency']}")
        else:
            whose = {} if sale is None else {"creator_id": sale.creator_id, "source": sale.source}
            placed.append((line, row | whose))
    return placed, sales


def _overdrawn(tx: Connection, sales: dict[str, Any]) -> set[str]:
    """The sales of which more is taken back than there was."""
    back = case((Earning.kind == EarningKind.DISPUTE_WON, -Earning.gross), else_=Earning.gross)
    sums = select(Earning.refund_of, func.sum(back)).where(Earning.refund_of.in_(sales))
    rows = tx.execute(sums.group_by(Earning.refund_of))
    return {id_ for id_, taken in rows if id_ is not None and taken > sales[id_].gross}
