"""Reads Stripe's balance transactions from CSV, line by line.

It knows the report `balance_change_from_activity.itemized`
(https://docs.stripe.com/reports/report-types) and the Dashboard's export of all activity, even if
saved again by a spreadsheet.
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
from typing import IO, Any

from app.platform import currencies
from app.platform.earnings.models import EarningKind
from app.platform.earnings.posting import TAKING
from app.switchyard.clock import in_reach
from app.switchyard.errors import BadInput
from app.switchyard.words import plural

_COLUMNS = {
    # The headings in the report, and in the Dashboard's export.
    "id": ("balance_transaction_id", "id"),
    "created": ("created_utc", "created (utc)"),
    "category": ("reporting_category", "type"),
    "object": ("source_id", "source"),
    "creator": ("payment_metadata[creator_id]", "creator_id (metadata)"),
    "gross": ("gross", "amount"),
    **{name: (name,) for name in ("fee", "net", "currency")},
}
_OPTIONAL = {"charge": ("charge_id",), "source": ("payment_metadata[source]", "source (metadata)")}
_FIELDS = {name: field for field, names in (_COLUMNS | _OPTIONAL).items() for name in names}
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
_UNREADABLE = "\N{REPLACEMENT CHARACTER}"
Row = dict[str, Any]
Report = Callable[[int, str], None]


class CsvRefused(BadInput, title="File refused"):
    """The file is not one of these exports, or it is incomplete."""


def opened(file: IO[bytes]) -> TextIOWrapper:
    """The file's text."""
    encoding = "utf-16" if file.read(2) in (BOM_UTF16_LE, BOM_UTF16_BE) else "utf-8-sig"
    return TextIOWrapper(file, encoding, "replace", newline="")


def rows(text: TextIOWrapper, done: Counter[str], bad: Report) -> Iterator[tuple[int, Row]]:
    """The number and the earning of each line that has one. Raises CsvRefused."""
    text.seek(0)
    first, begins = next(filter(str.strip, text), ""), 1
    text.seek(0)
    lines = csv.reader(text, delimiter=max(",;\t", key=first.count), strict=True)
    try:
        # Excel's "sep=;" may precede the header.
        header = next((one for one in lines if any(one) and one[0][:4] != "sep="), [])
        names = [_FIELDS.get(heading.strip().lower(), "") for heading in header]
        if lacking := _COLUMNS.keys() - set(names):
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
                bad(number, str(reason))
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
        if not 0 < len(text) <= most or not text.isprintable() or _UNREADABLE in text:
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
