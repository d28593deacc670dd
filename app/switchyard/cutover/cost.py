"""What the serverless side would have cost over the ledger's last days."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, bindparam, func, select

from app.switchyard.db import Database
from app.switchyard.job import Catalogue
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.models import StepRow as S
from app.switchyard.runs.models import id_at

PLANS_DATED = "2025-01"
"""The table is the migration guide's, as of January 2025: see the makers' own before you sign."""
MONTH_DAYS = 30
PLANS = {
    "inngest": ("steps a month", (("free", 50_000, 0), ("paid", 250_000, 20))),
    "qstash": ("messages on the busiest day", (("free", 500, 0), ("paid", 10_000, 10))),
}
"""What each service counts, and its plans: name, limit, USD a month. The cache's commands are in no
ledger."""

# A run's id begins with its time: of both tables a range of the primary key is read. Grouped by an
# expression, since SQLite would else walk through all runs by an index that begins with the job.
_JOB = R.job.concat("")
_IN_DAY = and_(S.run_id == R.id, S.run_id >= bindparam("first"), S.run_id < bindparam("end"))
USED = (
    select(_JOB, func.count(R.id.distinct()), func.count(S.name), func.sum(S.attempts))
    .outerjoin(S, _IN_DAY)
    .where(R.id >= bindparam("first"), R.id < bindparam("end"))
    .group_by(_JOB)
)


def cost(db: Database, jobs: Catalogue, now: datetime, days: int) -> dict[str, Any]:
    """`cutover cost --json`. Every run counts, whichever side did it.

    On Inngest each run is one step for its function and one for each try of a step; on QStash each
    run is a message, and one more for each further slice of it.
    """
    start = now - timedelta(days=days)
    used: dict[str, dict[str, Any]] = {}
    by_day = Counter[int]()
    with db.autocommit() as connection:
        for day in range(days):
            since = start + timedelta(days=day)
            span = {"first": id_at(since), "end": id_at(since + timedelta(days=1))}
            for job, runs, steps, tries in connection.execute(USED, span):
                service = jobs[job].serverless if job in jobs else "inngest"
                new = {"job": job, "service": service, "runs": 0, "used": 0}
                row, units = used.setdefault(job, new), runs + int(tries or 0)
                if service == "qstash":
                    units -= steps
                    by_day[day] += units
                row["runs"] += runs
                row["used"] += units
    steps = sum(row["used"] for row in used.values() if row["service"] == "inngest")
    counted = {"inngest": round(steps * MONTH_DAYS / days)}
    counted["qstash"] = max(by_day.values(), default=0)
    services = [_priced(service, units) for service, units in counted.items()]
    prices = [service["usd"] for service in services]
    return {
        "days": days,
        "from": start.isoformat(),
        "to": now.isoformat(),
        "plans_dated": PLANS_DATED,
        "services": services,
        "usd_a_month": None if None in prices else sum(prices),
        "jobs": [row for _, row in sorted(used.items())],
    }


def _priced(service: str, used: int) -> dict[str, Any]:
    unit, plans = PLANS[service]
    plan, usd = next(((name, usd) for name, limit, usd in plans if used <= limit), (None, None))
    return {"service": service, "unit": unit, "used": used, "plan": plan, "usd": usd}
