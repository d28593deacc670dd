"""Imports Stripe's balance transactions from CSV into the earnings and the ledger.

It knows the report `balance_change_from_activity.itemized`
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
from typing import Any

from sqlalchemy import Connection, case, func, select

from app.platform import currencies
from app.platform.db import insert
from app.platform.earnings.models import Creator, Earning, EarningKind, earnings
from app.platform.earnings.posting import TAKING, post_earnings
from app.switchyard.clock import in_reach
from app.switchyard.db import Database
from app.switchyard.errors import BadInput
from app.switchyard.words import plural

BATCH = 2_000
"""Rows in one transaction."""
_FIELDS = {
    # The headings in the report, and in the Dashboard's export.
    **dict.fromkeys(("balance_transaction_id", "id"), "id"),
    **dict.fromkeys(("created_utc", "created (utc)"), "created"),
    **dict.fromkeys(("reporting_category", "type"), "category"),
    **dict.fromkeys(("source_id", "source"), "object"),
    **dict.fromkeys(("payment_metadata[creator_id]", "creator_id (metadata)"), "creator"),
    **dict.fromkeys(("payment_metadata[source]", "source (metadata)"), "source"),
    **dict.fromkeys(("gross", "amount"), "gross"),
    **{name: name for name in ("fee", "net", "currency")},
    "charge_id": "charge",
}
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
_AMOUNT = re.compile(r"-?[0-9]{1,15}([.,][0-9]{1,9})?")  # a comma, if saved by some spreadsheets
Row = dict[str, Any]
Report = Callable[[int, object], None]


class CsvRefused(BadInput, title="File refused"):
    """The file is not one of these exports, or it is incomplete."""


def import_csv(
    db: Database, path: Path, done: Counter[str], report: Report
) -> Iterator[tuple[int, int]]:
    """Import a file. After each transaction, yields the bytes read and their total.

    `done` counts the rows that were `read`, and how many of them were `new`, `known`, `bad` and
    `other` (no earnings). `report` is called with each bad line and the reason. A repetition
    changes nothing. Raises CsvRefused; what was already committed stays.
    """

    def bad(line: int, reason: object) -> None:
        done["bad"] += 1
        report(line, reason)

    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            encoding = "utf-16" if file.read(2) in (BOM_UTF16_LE, BOM_UTF16_BE) else "utf-8-sig"
            text = TextIOWrapper(file, encoding, "replace", newline="")
            for before, sales in ((0, True), (size, False)):
                # Rows without an earning are counted and reported in the first pass only.
                every = _rows(text, *((done, bad) if sales else (Counter[str](), lambda *_: None)))
                wanted = (row for row in every if (row[1]["refund_of"] is None) is sales)
                while batch := list(islice(wanted, BATCH)):
                    with db.begin() as tx:
                        _write(tx, batch, done, bad)
                        post_earnings(tx)
                    yield before + file.tell(), 2 * size
    except (OSError, CsvRefused) as failure:
        why, kept = getattr(failure, "strerror", None) or failure, "nothing written"
        if new := done["new"]:
            kept = f"{plural(new, 'new row')} committed, and importing again completes it"
        raise CsvRefused(f"{path}: {why}; {kept}") from None


def _rows(text: TextIOWrapper, done: Counter[str], bad: Report) -> Iterator[tuple[int, Row]]:
    """The number and the earning of each line that has one. Raises CsvRefused."""
    text.seek(0)
    first, begins = next(filter(str.strip, text), ""), 1
    text.seek(0)
    lines = csv.reader(text, delimiter=max(",;\t", key=first.count), strict=True)
    try:
        # Excel's "sep=;" may precede the header.
        header = next((one for one in lines if any(one) and one[0][:4].lower() != "sep="), [])
        names = [_FIELDS.get(heading.strip().lower(), "") for heading in header]
        if lacking := {*_FIELDS.values()} - {*names, "charge", "source"}:
            has = "".join(c if c.isprintable() else "?" for c in ", ".join(header)[:200])
            why = f"it has no column for {', '.join(sorted(lacking))} but {has or 'nothing'}"
            raise CsvRefused(f"not such an export: {why}; Stripe's own headings are English")
        begins = lines.line_num + 1
        for cells in lines:
            number, begins = begins, lines.line_num + 1
            if not cells:
                continue
            done["read"] += 1
            try:
                if len(cells) != len(names):
                    raise BadInput(f"{plural(len(cells), 'field')} instead of {len(names)}")
                if row := _earning(dict(zip(names, map(str.strip, cells), strict=True))):
                    yield number, row
                else:
                    done["other"] += 1  # a payout, or a fee of Stripe's own
            except BadInput as reason:
                bad(number, reason)
    except csv.Error as failure:
        raise CsvRefused(f"broken off in a field, from line {begins} on ({failure})") from None


def _earning(values: Mapping[str, str]) -> Row | None:
    """The earning of a line, a refund's without what its sale has. Raises BadInput."""
    if (category := values["category"]) in _UNCLEAR:
        raise BadInput(f"{category}: not clear whose; record it by hand")
    if (kind := _KINDS.get(category)) is None:
        return None
    currencies.unit(currency := values["currency"].lower())
    gross, fee, net = (_minor(name, values[name], currency) for name in ("gross", "fee", "net"))
    if gross - fee != net:
        raise BadInput(f"gross {values['gross']} less fee {values['fee']} is not {values['net']}")
    if kind in TAKING:
        gross, fee = -gross, -fee
    charge = values.get("charge") or values["object"]
    if kind is EarningKind.EARNING:
        texts = {"id": charge or values["id"], "creator_id": values["creator"]}
        texts["source"] = values.get("source") or "other"
    else:
        fee = max(fee, 0)  # Stripe's fee for a dispute is a cost of the platform, and not booked
        texts = {"id": values["id"], "refund_of": charge}
    if not 0 < gross <= currencies.MAX_AMOUNT or not 0 <= fee <= gross:
        raise BadInput(f"gross must be above 0 and the fee within it, not {gross} and {fee}")
    for name, text in texts.items():
        most = 40 if name == "source" else 64
        if not 0 < len(text) <= most or not text.isprintable() or "\ufffd" in text:
            raise BadInput(f"{name} must be 1 to {most} printable characters, not {text!r}")
    try:
        created = datetime.fromisoformat(values["created"])
        created = created.astimezone(UTC) if created.tzinfo else created.replace(tzinfo=UTC)
        in_reach(created)
    except (ValueError, OverflowError):
        raise BadInput(f"created {values['created']!r} is no time") from None
    amounts = {"currency": currency, "gross": gross, "fee": fee}
    return {"refund_of": None, "kind": kind.value, "occurred_at": created, **texts, **amounts}


def _minor(name: str, text: str, currency: str) -> int:
    amount = Decimal(text.replace(",", ".") if _AMOUNT.fullmatch(text) else "nan")
    minor = amount.scaleb(currencies.places(currency))
    if not minor.is_finite() or minor % 1:
        raise BadInput(f"{name} {text!r} is no amount of {currency}")
    return int(minor)


def _write(tx: Connection, batch: list[tuple[int, Row]], done: Counter[str], bad: Report) -> None:
    """Write the new rows of a batch, and count them and the known ones."""
    people = {row.get("creator_id") for _, row in batch}
    creators = set(tx.scalars(select(Creator.id).where(Creator.id.in_(people))))
    ids = {row[name] for _, row in batch for name in ("id", "refund_of")}
    chosen = select(earnings).where(Earning.id.in_(ids)).order_by(Earning.id).with_for_update()
    there = {row.id: dict(row._mapping) for row in tx.execute(chosen)}
    back = case((Earning.kind == EarningKind.DISPUTE_WON, -Earning.gross), else_=Earning.gross)
    sums = select(Earning.refund_of, func.sum(back)).where(Earning.refund_of.in_(there))
    taken = Counter({row[0]: int(row[1]) for row in tx.execute(sums.group_by(Earning.refund_of))})
    fresh = list[Row]()
    for line, row in batch:
        id_, of = row["id"], row["refund_of"]
        if sale := there.get(of):
            row |= {"creator_id": sale["creator_id"], "source": sale["source"]}
        more = -row["gross"] if row["kind"] == EarningKind.DISPUTE_WON else row["gross"]
        if of and (sale is None or sale["kind"] != EarningKind.EARNING):
            bad(line, f"no sale {of!r}")
        elif sale is None and row["creator_id"] not in creators:
            bad(line, f"no creator {row['creator_id']!r}")
        elif sale and sale["currency"] != row["currency"]:
            bad(line, f"sale {of} is in {sale['currency']}, not {row['currency']}")
        elif odd := [n for n in row if id_ in there and there[id_][n] != row[n]]:
            was, is_ = there[id_][odd[0]], row[odd[0]]
            bad(line, f"{id_} is recorded with {odd[0]} {was}, not {is_}")
        elif id_ in there:
            done["known"] += 1
        elif sale and taken[of] + more > sale["gross"]:
            bad(line, f"more than all of sale {of} would be taken back")
        else:
            taken[of] += more
            there[id_] = row
            fresh.append(row)
    if fresh:
        tx.execute(insert(tx, Earning).on_conflict_do_nothing(), fresh)
    done["new"] += len(fresh)
