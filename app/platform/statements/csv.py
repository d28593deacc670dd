"""A statement as CSV (RFC 4180, UTF-8), from the document alone: every line with its balance."""

from __future__ import annotations

import csv
from io import StringIO

from app.platform.statements.document import Document, major
from app.platform.statements.movements import CLOSING, OPENING

HEADINGS = ["date", "currency", "what", "source", "reference", "gross", "fee", "amount", "balance"]
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def made(document: Document) -> bytes:
    """Amounts in units of the currency, without separators; each currency begins with its opening
    balance and ends with its closing one."""
    out = StringIO()
    rows = csv.writer(out)
    rows.writerow(HEADINGS)
    for one in document["currencies"]:
        code = one["currency"]
        rows.writerow((document["from"], code, OPENING, *[""] * 5, _plain(one["opening"], code)))
        for line in one["lines"]:
            words = [_safe(line[name]) for name in ("kind", "source", "id")]
            figures = [_plain(line[name], code) for name in ("gross", "fee", "amount", "balance")]
            rows.writerow((line["at"], code, *words, *figures))
        rows.writerow((document["to"], code, CLOSING, *[""] * 5, _plain(one["closing"], code)))
    return out.getvalue().encode()


def _plain(amount: int, currency: str) -> str:
    return major(amount, currency).replace(",", "")


def _safe(text: str) -> str:
    # A spreadsheet would take it for a formula, and run it.
    return f"'{text}" if text.startswith(_FORMULA) else text
