"""A ledger that has been used for half a year: many runs, written by SQL."""

from __future__ import annotations

import time

from app.switchyard.db import Database
from app.switchyard.runs.models import runs
from tests.support.plans import analyze

_SPAN_MS = 170 * 86_400_000
_CHUNK = 500_000
# Ten jobs, one of them rare; one run in a hundred failed, one in a thousand was cancelled.
_FILL = """
INSERT INTO switchyard_runs (id, job, key, payload, backend, reason, stage, stage_version, status,
  epoch, sends, attempt, losses, created_at, due_at, check_at, started_at, ended_at, result, error)
SELECT {stamp} || {rest}, job, 'key-' || n,
  '{{"amount":' || (n % 9973) || ',"creatorId":"creator-' || (n % 99991)
  || '","note":"a line of text that says what it is for"}}',
  CASE WHEN n % 3 > 0 THEN 'rq' WHEN job = '{common}' THEN 'qstash' ELSE 'inngest' END,
  'STATIC', CASE WHEN n % 7 = 0 THEN 'ramp' ELSE 'live' END, 1, status, 3, 0, 1, 0, {at}, {at},
  NULL, {at}, {at}, '{{"done":true}}',
  CASE WHEN status = 'failed' THEN 'step pay: RuntimeError: no answer from '
    || (n % 20) || '.example.org (attempt 5)' END
FROM (
  SELECT n, {start} + n * {every} AS ms,
    CASE WHEN n % 500000 = 499999 THEN 'rare' WHEN n % 10 < 5 THEN '{common}'
      ELSE 'job-' || (n % 10) END AS job,
    CASE WHEN n % 1000 = 7 THEN 'cancelled' WHEN n % 97 = 5 THEN 'failed' ELSE 'succeeded' END
      AS status
  FROM {numbers}
) AS made
"""
_SQLITE = {
    "numbers": "(WITH RECURSIVE up(n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM up"
    " WHERE n + 1 < {last}) SELECT n FROM up)",
    "stamp": "printf('%012x', ms)",
    "rest": "printf('%014x', n * 2654435761)",
    "at": "strftime('%Y-%m-%d %H:%M:%S.000000', ms / 1000, 'unixepoch')",
}
_POSTGRES = {
    "numbers": "generate_series({first}::bigint, {last} - 1) AS n",
    "stamp": "lpad(to_hex(ms), 12, '0')",
    "rest": "lpad(to_hex(n * 2654435761), 14, '0')",
    "at": "to_timestamp(ms / 1000)",
}


def fill(db: Database, count: int, common: str = "mail") -> None:
    """Write so many runs that have ended, over the last 170 days, into a ledger with none; half of
    them are of the job `common`."""
    start = int(time.time() * 1000) - _SPAN_MS
    words = _SQLITE if db.is_sqlite else _POSTGRES
    indexes = list(runs.indexes)
    for index in indexes:
        index.drop(db.engine)
    for first in range(0, count, _CHUNK):
        numbers = words["numbers"].format(first=first, last=min(count, first + _CHUNK))
        given = {**words, "numbers": numbers, "start": start, "every": _SPAN_MS // count}
        given["common"] = common
        with db.begin() as connection:
            plain = connection.execution_options(no_parameters=True)  # a % is a %
            plain.exec_driver_sql(_FILL.format(**given))
    for index in indexes:
        index.create(db.engine)
    analyze(db)
