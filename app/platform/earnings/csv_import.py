"""Imports Stripe's balance transactions from CSV into the earnings and the ledger.

It reads the report `balance_change_from_activity.itemized`
(https://docs.stripe.com/reports/report-types) and the Dashboard's export of all activity, even if
saved again by a spreadsheet. The file is read twice, since a refund may come before its sale.
"""

from __future__ import annotations

import csv
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from sqlalchemy import Connection, case, func, select

from app.platform import currencies
from app.platform.db import insert
from app.platform.earnings.models import Creator, Earning, EarningKind, earnings
from app.platform.earnings.posting import TAKING, post_earnings
from app.switchyard.clock import in_reach
from app.switchyard.db import Database
from app.switchyard.errors import BadInput

BATCH = 2_000
"""Rows in one transaction."""
_COLUMNS = {
    # The headings in the report, and in the Dashboard's export.
    "id": ("balance_transaction_id", "id"),
    "created": ("created_utc", "created (utc)"),
    "category": ("reporting_category", "type"),
    "object": ("source_id", "source"),
    "creator": ("payment_metadata[creator_id]", "creator_id (metadata)"),
    "gross": ("gross", "amount"),
    **{name: (name,) for name in ("fee", "net", "currency")},
    "charge": ("charge_id",),
    "source": ("payment_metadata[source]", "source (metadata)"),
}
_NEEDED = set(_COLUMNS) - {"charge", "source"}
_KINDS = {
    **dict.fromkeys(("charge", "payment"), EarningKind.EARNING),
    # The last two are a bank debit that bounced, and the part of a sale that was not captured.
    **dict.fromkeys(("refund", "payment_refund"), EarningKind.REFUND),
    **dict.fromkeys(("charge_failure", "partial_capture_reversal"), EarningKind.REFUND),
    "dispute": EarningKind.DISPUTE,
    "dispute_reversal": EarningKind.DISPUTE_WON,
}
_UNCLEAR = ("adjustment", "refund_failure", "payment_refund_failure", "payment_failure_refund")
"""Categories that change creators' balances in ways that the file does not show."""

_AMOUNT = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,9})?")
Row = tuple[int, dict[str, Any]]
"""A line's number and its earning."""
Report = Callable[[int, str], None]


class CsvRefused(BadInput, title="File refused"):
    """The file is not one of these exports, or it is incomplete."""


def import_csv(
    db: Database, path: Path, report: Report, at: Callable[[int, int], bool]
) -> Counter[str]:
    """Import a file. Returns how many rows were `read`, and how many of them were `new`, `known`,
    `bad` and `other` (no earnings). `report` is called with each bad line and the reason. `at` is
    called with the bytes read and their total, and returns False to stop after a batch.

    A repetition changes nothing. Raises CsvRefused; what was already committed stays.
    """
    done = Counter[str]()

    def bad(line: int, reason: str) -> None:
        done["bad"] += 1
        report(line, reason)

    try:
        size = path.stat().st_size
        for before, sales in ((0, True), (size, False)):
            # Rows without an earning are counted and reported in the first pass only.
            seen, said = (done, bad) if sales else (Counter[str](), lambda *_: None)
            with path.open("rb") as file, _text(file) as text:
                every = _earnings(text, seen, said)
                rows = (row for row in every if (row[1]["refund_of"] is None) is sales)
                while batch := list(islice(rows, BATCH)):
                    with db.begin() as tx:
                        written = _write(tx, batch, bad)
                        post_earnings(tx)
                    done.update(written)
                    if not at(before + file.tell(), 2 * size):
                        return done
    except (OSError, CsvRefused) as failure:
        reason = failure.strerror if isinstance(failure, OSError) else failure
        kept = f"{done['new']} new rows are committed, and importing again completes it"
        raise CsvRefused(
            f"{path}: {reason}; {kept if done['new'] else 'nothing written'}"
        ) from None
    return done


def _text(file: BinaryIO) -> TextIOWrapper:
    wide = file.read(2) in (BOM_UTF16_LE, BOM_UTF16_BE)
    file.seek(0)
    # Undecodable bytes matter only in the columns that are used, where they are not printable.
    errors = "replace" if wide else "surrogateescape"
    return TextIOWrapper(file, "utf-16" if wide else "utf-8-sig", errors, newline="")


def _earnings(text: TextIOWrapper, done: Counter[str], bad: Report) -> Iterator[Row]:
    first = next(filter(str.strip, text), "")
    text.seek(0)
    rows = csv.reader(text, delimiter=max(",;\t", key=first.count), strict=True)
    begins = 1
    try:
        # Excel's "sep=;" may precede the header.
        names = _names(next((row for row in rows if any(row) and row[0][:4] != "sep="), []))
        begins = rows.line_num + 1
        for row in rows:
            number, begins = begins, rows.line_num + 1
            if not row:
                continue
            done["read"] += 1
            try:
                if len(row) != len(names):
                    raise BadInput(f"{len(row)} fields instead of {len(names)}")
                values = {name: text.strip() for name, text in zip(names, row, strict=True)}
                kind = _KINDS.get(category := values["category"])
                if category in _UNCLEAR:
                    raise BadInput(f"{category}: not clear whose; record it by hand")
                if kind is not None:
                    yield number, _earning(values, kind)
                else:
                    done["other"] += 1  # a payout, or a fee of Stripe's own
            except BadInput as reason:
                bad(number, str(reason))
    except csv.Error as failure:
        raise CsvRefused(f"broken off in a field, from line {begins} on ({failure})") from None


def _names(header: list[str]) -> list[str]:
    """The field of each column. Raises CsvRefused where a column is missing."""
    fields = {heading: field for field, headings in _COLUMNS.items() for heading in headings}
    names = [fields.get(name.strip().lower(), "") for name in header]
    if lacking := _NEEDED - set(names):
        has = "".join(c if c.isprintable() else "?" for c in ", ".join(header)[:200])
        why = f"it has no column for {', '.join(sorted(lacking))} but {has or 'nothing'}"
        raise CsvRefused(f"no such export, {why}; Stripe's own headings are English")
    return names


def _earning(values: Mapping[str, str], kind: EarningKind) -> dict[str, Any]:
    """Raises BadInput."""
    currency, sale = values["currency"].lower(), kind is EarningKind.EARNING
    currencies.unit(currency)
    gross, fee, net = (_minor(name, values[name], currency) for name in ("gross", "fee", "net"))
    if gross - fee != net:
        raise BadInput(f"gross {values['gross']} less fee {values['fee']} is not {values['net']}")
    if kind in TAKING:
        gross, fee = -gross, -fee
    if not sale:
        fee = max(fee, 0)  # Stripe's fee for a dispute is a cost of the platform, and not booked
    if not 0 < gross <= currencies.MAX_AMOUNT or not 0 <= fee <= gross:
        raise BadInput(f"gross must be above 0 and the fee within it, not {gross} and {fee}")
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
        "source": values.get("source") or "other",
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
    return row


def _minor(name: str, text: str, currency: str) -> int:
    plain = text.replace(",", ".")  # a spreadsheet may have saved it so
    amount = Decimal(plain if _AMOUNT.fullmatch(plain) else "nan")
    minor = amount.scaleb(currencies.places(currency))
    if not minor.is_finite() or minor % 1:
        raise BadInput(f"{name} {text!r} is no amount of {currency}")
    return int(minor)


def _write(tx: Connection, batch: list[Row], bad: Report) -> dict[str, int]:
    """Write a batch. Returns how many were `new` and `known`, and calls `bad` for the others."""
    people = {row["creator_id"] for _, row in batch if row["refund_of"] is None}
    creators = set(tx.scalars(select(Creator.id).where(Creator.id.in_(people))))
    charges = {row["refund_of"] for _, row in batch} - {None}
    chosen = select(earnings).where(Earning.id.in_(charges), Earning.kind == EarningKind.EARNING)
    sales = {row.id: row for row in tx.execute(chosen.order_by(Earning.id).with_for_update())}
    back = case((Earning.kind == EarningKind.DISPUTE_WON, -Earning.gross), else_=Earning.gross)
    sums = select(Earning.refund_of, func.sum(back)).where(Earning.refund_of.in_(sales))
    taken = Counter({row[0]: int(row[1]) for row in tx.execute(sums.group_by(Earning.refund_of))})
    chosen = select(earnings).where(Earning.id.in_({row["id"] for _, row in batch}))
    there: dict[str, Any] = {row.id: row._mapping for row in tx.execute(chosen)}
    fresh, known = list[dict[str, Any]](), 0
    for line, row in batch:
        sale, id_ = sales.get(row["refund_of"]), row["id"]
        if sale is not None:
            row |= {"creator_id": sale.creator_id, "source": sale.source}
        more = -row["gross"] if row["kind"] == EarningKind.DISPUTE_WON else row["gross"]
        if sale is None and row["refund_of"] is not None:
            bad(line, f"no sale {row['refund_of']!r}")
        elif sale is None and row["creator_id"] not in creators:
            bad(line, f"no creator {row['creator_id']!r}")
        elif sale is not None and sale.currency != row["currency"]:
            bad(line, f"sale {sale.id} is in {sale.currency}, not {row['currency']}")
        elif odd := [n for n in row if id_ in there and there[id_][n] != row[n]]:
            was, is_ = there[id_][odd[0]], row[odd[0]]
            bad(line, f"{id_} is recorded with {odd[0]} {was}, not {is_}")
        elif id_ in there:
            known += 1
        elif sale is not None and taken[sale.id] + more > sale.gross:
            bad(line, f"more than all of sale {sale.id} would be taken back")
        else:
            taken[row["refund_of"]] += more
            there[id_] = row
            fresh.append(row)
    if fresh:
        tx.execute(insert(tx, Earning).on_conflict_do_nothing(), fresh)
    return {"new": len(fresh), "known": known}
