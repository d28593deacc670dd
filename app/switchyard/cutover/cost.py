"""What the serverless side would have cost over the ledger's last days."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, bindparam, func, select

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

# A run's id begins with its time, so that both read a range of a primary key.
RUNS = (
    select(R.job, func.count())
    .where(R.id >= bindparam("first"), R.id < bindparam("end"))
    .group_by(R.job)
)
STEPS = (
    select(R.job, func.count(), func.sum(S.attempts))
    .join(S, S.run_id == R.id)
    .where(S.run_id >= bindparam("first"), S.run_id < bindparam("end"))
    .where(R.id >= bindparam("first"), R.id < bindparam("end"))
    .group_by(R.job)
)


def cost(db: Database, jobs: Catalogue, now: datetime, days: int) -> dict[str, Any]:
    """`cutover cost --json`. Every run counts, whichever side did it.

    On Inngest each run is one step for its function and one for each try of a step; on QStash each
    run is a message, and one more for each further slice of it.
    """
    start = now - timedelta(days=days)
    used: dict[str, dict[str, int]] = {}
    busiest = 0
    with db.autocommit() as connection:
        for day in range(days):
            since = start + timedelta(days=day)
            counted = _day(connection, since, since + timedelta(days=1))
            messages = 0
            for job, (runs, steps, further) in counted.items():
                row = used.setdefault(job, {"runs": 0, "steps": 0, "messages": 0})
                row["runs"] += runs
                if _side(jobs, job) == "qstash":
                    row["messages"] += runs + further
                    messages += runs + further
                else:
                    row["steps"] += runs + steps
            busiest = max(busiest, messages)
    monthly = sum(row["steps"] for row in used.values()) * MONTH_DAYS / days
    services = [
        _service("inngest", round(monthly)),
        _service("qstash", busiest),
        # The cache's commands are in no ledger.
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
        "jobs": [
            {"job": job, "service": _side(jobs, job), **row} for job, row in sorted(used.items())
        ],
    }


def _day(
    connection: Connection, since: datetime, until: datetime
) -> dict[str, tuple[int, int, int]]:
    """By job: its runs, the tries of their steps, and the tries beyond a step's first."""
    span = {"first": id_at(since), "end": id_at(until)}
    runs = {row[0]: int(row[1]) for row in connection.execute(RUNS, span)}
    steps = {job: (count, int(tries or 0)) for job, count, tries in connection.execute(STEPS, span)}
    found = {}
    for job, count in runs.items():
        done, tries = steps.get(job, (0, 0))
        found[job] = (count, tries, tries - done)
    return found


def _side(jobs: Catalogue, job: str) -> str:
    return jobs[job].serverless if job in jobs else "inngest"


def _service(name: str, used: int | None) -> dict[str, Any]:
    unit, plans = PLANS[name]
    plan = None
    if used is not None:
        plan = next((plan for plan in plans if used <= plan.limit), None)
    return {
        "service": name,
        "unit": unit,
        "used": used,
        "plan": None if plan is None else plan.name,
        "limit": None if plan is None else plan.limit,
        "usd": None if plan is None else plan.usd,
    }
