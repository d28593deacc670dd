"""The rollups' rows: a day of all the earnings there are beside the bare statement, the same day in
a short and a long history, and how much more memory ten times as many take.

`python -m tests.bench.rollups URL DAY` rolls a day up in a process of its own, and says what it
took.
"""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import MetaData, delete, insert, literal, make_url, quoted_name, text
from sqlalchemy.schema import CreateIndex, CreateTable

from app.platform.config import ROOT, Settings
from app.platform.earnings import rollup
from app.platform.earnings.models import daily, dirty_days, earnings
from app.switchyard.db import INSERT, Database
from tests.bench.harness import DATABASES, Bench, Row, row
from tests.support.tables import create_all

CREATORS = 100_000
ORDINARY, HUGE = date(2025, 1, 15), date(2025, 3, 1)
"""A day of as many earnings as there are creators, and one of all others."""
ROUNDS = 3
"""Of each the best counts: whatever else the machine does, and a cold disk, only slows it down."""
SOURCES = ("tips", "subscriptions", "calls", "media", "referrals")
_CREATORS = """
INSERT INTO creators (id, name, email, country, currency, payouts_enabled, transfers_active,
  manual_payouts, created_at)
SELECT 'c' || n, 'c', 'c@example.com', 'US', 'usd', true, true, true, '2025-01-01 00:00:00'
FROM {numbers}
"""
_EARNINGS = """
INSERT INTO earnings (id, creator_id, source, kind, currency, gross, fee, occurred_at, posted)
SELECT 'e' || (1000000000 + n), 'c' || (n * 7919 % {creators}),
  CASE n / {creators} % 5 {names} END, 'earning', 'usd', 100 + n % 9900, 20, {when}, true
FROM {numbers}
"""


def opened(url: str) -> Database:
    return Database(Settings(database_url=url).sqlalchemy_url)


def measure(bench: Bench) -> Iterator[Row]:
    """rollup."""
    for label in DATABASES:
        with bench.database(label) as url:
            yield from _measure(label, url, 10_000_000 if bench.full else bench.some(1_000_000))


def _measure(label: str, url: str, count: int) -> Iterator[Row]:
    db = opened(url)
    create_all(db.engine)
    fill(db, _CREATORS, 0, CREATORS)
    short = count // 10
    earned(db, 0, min(CREATORS, short), ORDINARY)
    earned(db, CREATORS, CREATORS + short, HUGE)
    before = min(ours(db, ORDINARY) for _ in range(ROUNDS))
    peak_before = apart(db, url)
    earned(db, CREATORS + short, CREATORS + count, HUGE)
    after = min(ours(db, ORDINARY) for _ in range(ROUNDS))
    peak = apart(db, url)
    pairs = [(ours(db, HUGE), bare(db, HUGE)) for _ in range(ROUNDS)]
    mine, theirs = (count / min(one) for one in zip(*pairs, strict=True))
    db.dispose()
    each, unit = min(CREATORS, short), f"earnings a second, of {count:,}"
    yield row(
        f"rollup of a huge day, {label}",
        *(mine, theirs, "bare INSERT … SELECT … GROUP BY", unit),
    )
    yield row(
        f"rollup of an ordinary day, {label}",
        *(each / after, each / before, "in a tenth of the history", unit),
    )
    name, rival = f"rollup of a huge day, peak, {label}", "with a tenth of it"
    yield row(name, peak, peak_before, rival, f"MiB, {count:,}", less=True)


def ours(db: Database, day: date) -> float:
    """Seconds to roll the day up, with nothing rolled up so far."""
    anew(db, day)
    start = time.perf_counter()
    with db.begin() as tx:
        rollup.roll_day(tx, day)
    return time.perf_counter() - start


def bare(db: Database, day: date) -> float:
    """Seconds of the one statement alone, into a table of the same shape, as empty."""
    table = daily.to_metadata(MetaData(), name="bare")
    table.primary_key.name = "bare_key"
    for index in table.indexes:
        index.name = quoted_name(f"bare_{index.name}", None)
    with db.begin() as tx:
        tx.execute(text("DROP TABLE IF EXISTS bare"))
        tx.execute(CreateTable(table))
        for index in table.indexes:
            tx.execute(CreateIndex(index))
    settled(db)
    stamp = literal(day, daily.c.day.type)
    chosen = rollup.raw(day, day + timedelta(days=1)).add_columns(stamp)
    names = [*rollup.KEYS, *rollup.SUMS, "day"]
    start = time.perf_counter()
    with db.begin() as tx:
        tx.execute(INSERT[tx.dialect.name](table).from_select(names, chosen))
    return time.perf_counter() - start


def apart(db: Database, url: str) -> float:
    """The peak memory of a process that does nothing but roll the huge day up, MiB."""
    anew(db, HUGE)
    command = [sys.executable, "-m", "tests.bench.rollups", url, HUGE.isoformat()]
    said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return round(int(said.stdout) / 1024, 1)


def anew(db: Database, day: date) -> None:
    """As if nothing had ever been rolled up, and the day had just come in."""
    with db.begin() as tx:
        for table in (daily, dirty_days):
            tx.execute(text(f"TRUNCATE {table.name}") if not db.is_sqlite else delete(table))
        tx.execute(insert(dirty_days).values(day=day, mark=1))
    settled(db)


def settled(db: Database) -> None:
    """What was written before is not left for who is measured."""
    with db.autocommit() as connection:
        checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)" if db.is_sqlite else "CHECKPOINT"
        connection.exec_driver_sql(checkpoint)


def earned(db: Database, since: int, until: int, day: date) -> None:
    """Write that many earnings of a day, evenly over its creators, sources and seconds."""
    names = " ".join(f"WHEN {n} THEN '{one}'" for n, one in enumerate(SOURCES))
    if db.is_sqlite:
        second = "n * 104729 % 86400"
        clock = f"printf('%02d:%02d:%02d', {second} / 3600, {second} / 60 % 60, {second} % 60)"
        when = f"'{day} ' || {clock} || '.000000'"
    else:
        when = f"timestamptz '{day} 00:00Z' + n::bigint * 104729 % 86400 * interval '1 second'"
    fill(db, _EARNINGS, since, until, names=names, creators=CREATORS, when=when)


def fill(db: Database, statement: str, since: int, until: int, **given: Any) -> None:
    """One INSERT, with its table's indexes made after it and no row's triggers."""
    with loading(db) as run:
        numbers = f"generate_series({since}::bigint, {until - 1}) AS s(n)"
        if db.is_sqlite:
            step = f"SELECT {since} UNION ALL SELECT n + 1 FROM s WHERE n < {until - 1}"
            numbers = f"(WITH RECURSIVE s(n) AS ({step}) SELECT n FROM s)"
        run(statement.format(numbers=numbers, **given))


@contextmanager
def loading(db: Database) -> Iterator[Any]:
    """What runs a statement in a database that is being filled."""
    if not db.is_sqlite:
        with db.begin() as tx:
            tx.exec_driver_sql("SET LOCAL session_replication_role = replica")
            tx.exec_driver_sql("SET LOCAL maintenance_work_mem = '256MB'")
            for index in earnings.indexes:
                index.drop(tx)
            yield lambda statement: tx.exec_driver_sql(statement.replace("%", "%%"))
            for index in earnings.indexes:
                index.create(tx)
        with db.autocommit() as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")
        return
    db.dispose()
    raw = sqlite3.connect(make_url(str(db.engine.url)).database or "", isolation_level=None)
    for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-400000"):
        raw.execute(f"PRAGMA {pragma}")
    made = "SELECT type, name, sql FROM sqlite_master WHERE tbl_name = 'earnings' AND sql NOT NULL"
    after = [row for row in raw.execute(made) if row[0] != "table"]
    for kind, name, _ in after:
        raw.execute(f"DROP {kind} {name}")
    yield raw.execute
    for _, _, sql in after:
        raw.execute(sql)
    raw.execute("ANALYZE")
    raw.close()


def main() -> None:
    """Roll the day up; how much memory that took."""
    db = opened(sys.argv[1])
    with db.begin() as tx:
        rollup.roll_day(tx, date.fromisoformat(sys.argv[2]))
    # Not getrusage's, which a child has from its parent.
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    sys.stdout.write(peak[1] if peak else "")


if __name__ == "__main__":
    main()
