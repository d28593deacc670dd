"""Imports Stripe's balance transactions from CSV into the earnings and the ledger.

The file is read twice, since a refund may come before its sale.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from sqlalchemy import Connection, case, func, select

from app.platform.db import insert
from app.platform.earnings.csv_rows import CsvRefused, Report, Row, opened, rows
from app.platform.earnings.models import Creator, Earning, EarningKind, earnings
from app.platform.earnings.posting import post_earnings
from app.switchyard.db import Database
from app.switchyard.words import plural

BATCH = 2_000
"""Rows in one transaction."""


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
        with path.open("rb") as file:
            text = opened(file)
            for before, sales in ((0, True), (size, False)):
                # Rows without an earning are counted and reported in the first pass only.
                every = rows(text, *((done, bad) if sales else (Counter[str](), lambda *_: None)))
                wanted = (row for row in every if (row[1]["refund_of"] is None) is sales)
                while batch := list(islice(wanted, BATCH)):
                    with db.begin() as tx:
                        _write(tx, batch, done, bad)
                        post_earnings(tx)
                    if not at(before + file.tell(), 2 * size):
                        return done
    except (OSError, CsvRefused) as failure:
        reason = getattr(failure, "strerror", None) or failure
        kept = f"{plural(done['new'], 'new row')} committed, and importing again completes it"
        kept = kept if done["new"] else "nothing written"
        raise CsvRefused(f"{path}: {reason}; {kept}") from None
    return done


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
