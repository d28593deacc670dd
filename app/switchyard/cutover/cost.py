"""What the serverless side would have cost over the ledger's last days."""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Plan:
    """One price of one service."""

    name: str
    limit: int
    usd: int
    """A month."""


PLANS = {
    "inngest": ("steps a month", (Plan("free", 50_000, 0), Plan("paid", 250_000, 20))),
    "qstash": ("messages on the busiest day", (Plan("free", 500, 0), Plan("paid", 10_000, 10))),
    "upstash": ("commands a day", (Plan("free", 10_000, 0), Plan("paid", 100_000, 10))),
}

# A run's id begins with its time: of both tables a range of the primary key is read. Grouped by an
# expression, since SQLite would else walk through all runs by an index that begins with the job.
_JOB = R.job.concat("")
USED = (
    select(_JOB, func.count(R.id.distinct()), func.count(S.name), func.sum(S.attempts))
    .outerjoin(
        S,
        and_(S.run_id == R.id, S.run_id >= bindparam("first"), S.run_id < bindparam("end")),
    )
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
    busiest = 0
    with db.autocommit() as connection:
        for day in range(days):
            since = start + timedelta(days=day)
            span = {"first": id_at(since), "end": id_at(since + timedelta(days=1))}
            messages = 0
            for job, runs, steps, tries in connection.execute(USED, span):
                service = jobs[job].serverless if job in jobs else "inngest"
                new = {"job": job, "service": service, "runs": 0, "steps": 0, "messages": 0}
                row = used.setdefault(job, new)
                row["runs"] += runs
                if service == "qstash":
                    row["messages"] += runs + int(tries or 0) - steps
                    messages += runs + int(tries or 0) - steps
                else:
                    row["steps"] += runs + int(tries or 0)
            busiest = max(busiest, messages)
    monthly = round(sum(row["steps"] for row in used.values()) * MONTH_DAYS / days)
    # The cache's commands are in no ledger.
    services = [
        _service("inngest", monthly),
        _service("qstash", busiest),
        _service("upstash", None),
    ]
    known = [service["usd"] for service in services if service["used"] is not None]
    return {
        "days": days,
        "from": start.isoformat(),
        "to": now.isoformat(),
        "plans_dated": PLANS_DATED,
        "services": services,
        "usd_a_month": None if None in known else sum(known),
        "jobs": [row for _, row in sorted(used.items())],
    }


def _service(name: str, used: int | None) -> dict[str, Any]:
    unit, plans = PLANS[name]
    plan = next((plan for plan in plans if used is not None and used <= plan.limit), None)
    return {
        "service": name,
        "unit": unit,
        "used": used,
        "plan": None if plan is None else plan.name,
        "limit": None if plan is None else plan.limit,
        "usd": None if plan is None else plan.usd,
    }
