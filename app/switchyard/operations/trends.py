"""What the charts show, from the ledger: when runs ended, how many, and how long they took."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from statistics import NormalDist
from typing import Any

from sqlalchemy import (
    BigInteger,
    CompoundSelect,
    bindparam,
    cast,
    extract,
    func,
    literal,
    select,
    text,
    union_all,
)

from app.switchyard.cutover.guardrail import wilson
from app.switchyard.cutover.status import BACKENDS
from app.switchyard.db import Database
from app.switchyard.runs.models import FailureRow as F
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.store import chunks
from flags import LEGACY_BACKEND, Side

SAMPLE = 100
"""How many runs of a job and backend in a span of time percentiles are taken from."""
ERRORS = 30
"""How many classes of errors are shown."""
_Z = NormalDist().inv_cdf(0.975)
_MOST = 150
"""How many SELECTs one UNION has: SQLite allows 500, and each execution has to plan them all."""
# Worded as in the partial indexes, since SQLite compares the text.
_BY_ITSELF = text("switchyard_runs.status IN ('succeeded', 'failed')")
_FAILED = text("switchyard_runs.status = 'failed'")

_at = cast(extract("epoch", R.ended_at), BigInteger) - bindparam("origin", type_=BigInteger)
_bucket = (_at // bindparam("width", type_=BigInteger)).label("bucket")
# All columns of the index are named, so that each pair of job and backend is one short range of it.
# No other column is, so that no row is read.
_ENDED = (
    select(R.job, R.backend, _bucket, func.count().label("runs"))
    .where(R.job.in_(bindparam("jobs", expanding=True)), R.backend.in_(BACKENDS))
    .where(R.ended_at >= bindparam("since", type_=R.ended_at.type))
    .group_by(R.job, R.backend, "bucket")
)
_COUNTS = _ENDED.where(_BY_ITSELF), _ENDED.where(_FAILED)


@dataclass(slots=True)
class Trend:
    """One side's runs of one job in a span of time."""

    succeeded: list[int]
    """How many, by bucket, oldest first."""
    failed: list[int]
    seconds: list[float] = field(default_factory=list)
    """The time from creation to end of each of its latest runs, sorted. It is what a caller waits
    for, so it includes queues, retries and sleeps."""

    @property
    def runs(self) -> int:
        """How many runs succeeded or failed."""
        return sum(self.succeeded) + sum(self.failed)

    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of the true share of failed runs, where there are runs."""
        return wilson(sum(self.failed), self.runs, _Z)

    def percentile(self, percent: int) -> float | None:
        """The seconds within which `percent` of the sample ended, or None without a sample."""
        return percentile(self.seconds, percent) if self.seconds else None


def percentile(sample: Sequence[float], percent: int) -> float:
    """The percentile of a sorted sample, by the nearest-rank method."""
    return sample[max(-(-percent * len(sample) // 100), 1) - 1]


def side_of(backend: str) -> Side:
    """The side of a backend: every one but RQ is serverless."""
    return Side.RQ if backend == LEGACY_BACKEND else Side.SERVERLESS


def trends(
    db: Database, jobs: Collection[str], until: datetime, width: timedelta, buckets: int
) -> dict[str, dict[Side, Trend]]:
    """Each job's trend on each side, over the last `buckets` of length `width` until `until`. A run
    belongs to the side on which it ended."""
    since = until - width * buckets
    seconds = int(width.total_seconds())
    bound: dict[str, Any] = {"since": since, "origin": int(since.timestamp()), "width": seconds}
    bound["jobs"] = list(jobs)
    shown = {job: {s: Trend([0] * buckets, [0] * buckets) for s in Side} for job in jobs}
    pairs = set[tuple[str, str]]()
    with db.autocommit() as connection:
        for counts, name in zip(_COUNTS, ("succeeded", "failed"), strict=True):
            for row in connection.execute(counts, bound):
                trend = shown[row.job][side_of(row.backend)]
                getattr(trend, name)[min(max(row.bucket, 0), buckets - 1)] += row.runs
                pairs.add((row.job, row.backend))
        for some in chunks(sorted(pairs), _MOST):
            sampled = connection.execute(_sampled(tuple(some)), {"since": since})
            for job, backend, began, end in sampled:
                shown[job][side_of(backend)].seconds.append((end - began).total_seconds())
    for trend in (trend for sides in shown.values() for trend in sides.values()):
        # Those that ended were counted first, so one that failed since is only among the failed.
        both = zip(trend.succeeded, trend.failed, strict=True)
        trend.succeeded = [max(ended - failed, 0) for ended, failed in both]
        trend.seconds.sort()
    return shown


def by_span(
    db: Database, job: str, until: datetime, width: timedelta, spans: int
) -> dict[Side, list[tuple[float, float] | None]]:
    """The p50 and p95, in seconds, of each side in each of the last `spans` of length `width`, from
    the first runs that ended in each, or None where none did."""
    edges = [until - width * back for back in range(spans, -1, -1)]
    bound: dict[str, Any] = {"job": job}
    bound |= {f"edge{number}": edge for number, edge in enumerate(edges)}
    samples: dict[tuple[Side, int], list[float]] = defaultdict(list)
    for backend, span, began, ended in db.rows(_spans(spans), bound):
        samples[side_of(backend), span].append((ended - began).total_seconds())
    shown: dict[Side, list[tuple[float, float] | None]] = {}
    for side in Side:
        taken = [sorted(samples[side, span]) for span in range(spans)]
        shown[side] = [(percentile(one, 50), percentile(one, 95)) if one else None for one in taken]
    return shown


def errors(db: Database, job: str, since: datetime) -> list[dict[str, Any]]:
    """The errors of the job's failed attempts since then, by class and backend, latest first. Each
    has its count, when it was first and last seen, and the message of the last one."""
    latest = func.max(F.id).label("latest")
    grouped = (
        select(F.error, F.backend, func.count().label("count"), latest)
        .add_columns(func.min(F.at).label("first"), func.max(F.at).label("last"))
        .where(F.job == job, F.at >= since)
        .group_by(F.error, F.backend)
        .order_by(latest.desc())
        .limit(ERRORS)
        .subquery()
    )
    with_message = select(grouped, F.message).join(F, F.id == grouped.c.latest)
    rows = db.rows(with_message.order_by(grouped.c.latest.desc()))
    return [row._asdict() for row in rows]


@lru_cache(maxsize=32)
def _sampled(pairs: tuple[tuple[str, str], ...]) -> CompoundSelect[Any]:
    since = R.ended_at >= bindparam("since", type_=R.ended_at.type)
    latest = (
        select(R.job, R.backend, R.created_at, R.ended_at)
        .where(R.job == job, R.backend == backend, _BY_ITSELF, since)
        .order_by(R.ended_at.desc())
        .limit(SAMPLE)
        .subquery()
        for job, backend in pairs
    )
    return union_all(*(select(one) for one in latest))


@lru_cache(maxsize=4)
def _spans(spans: int) -> CompoundSelect[Any]:
    edges = [bindparam(f"edge{number}", type_=R.ended_at.type) for number in range(spans + 1)]
    first = (
        select(R.backend, literal(span).label("span"), R.created_at, R.ended_at)
        .where(R.job == bindparam("job"), R.backend == backend, _BY_ITSELF)
        .where(R.ended_at >= edges[span], R.ended_at < edges[span + 1])
        .order_by(R.ended_at)
        .limit(SAMPLE)
        .subquery()
        for span in range(spans)
        for backend in BACKENDS
    )
    return union_all(*(select(one) for one in first))
