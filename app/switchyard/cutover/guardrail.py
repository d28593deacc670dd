"""The guardrail steps a job back where its serverless side does worse than its legacy side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import sqrt
from statistics import NormalDist, median
from typing import Any

from sqlalchemy import ColumnElement, Select, func, select, text

from app.switchyard.audit import GUARDRAIL, By
from app.switchyard.cutover.stages import StageChange, current_stages, set_stage
from app.switchyard.dispatch import dispatch
from app.switchyard.errors import StageRefused
from app.switchyard.job import JobSpec
from app.switchyard.logs import logger_of
from app.switchyard.runs.models import IS_OPEN, Status
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runtime import Runtime
from flags import LEGACY_BACKEND, MOVING, Reason, Stage, StageRow

log = logger_of(__name__)

INTERVAL_SECONDS = 60.0
WINDOW = timedelta(hours=1)
"""Serverless runs count if they were created within this time and since the job's last move."""
BASE = 500
"""How many legacy runs count, the latest ones. During a ramp they are as recent as the serverless
runs; once a job is live, they are those from before."""
BASE_AGE = timedelta(days=30)
"""Legacy runs that ended earlier than this do not count."""
FEWEST = 30
"""How many runs each side must have."""
MOST = 2000
"""How many serverless runs are enough. Where there are more, the window is shortened."""
SURE = 0.999
"""The confidence of each test. It is high since tests repeat every minute, mostly on old runs."""
MARGIN = 0.02
"""By how much the serverless side's share of failed runs may be higher: 2 in 100 runs."""
SLOWER, SLACK_SECONDS = 1.5, 2.0
"""How much longer a serverless run may take: half as long again, plus two seconds."""
ALMOST_ALL = 0.95
"""A run is judged at the age by which this share of legacy runs had ended. At an earlier age, the
runs that have ended are not typical of those that have not."""
FIRST_STEP = 10.0
"""Percent. Live, or a higher ramp, steps back to it; a ramp up to it steps back to legacy."""
ALERT = "guardrail-alert"

_BY_ITSELF = text("status IN ('succeeded', 'failed')")  # the partial index's words, for SQLite
_Z = NormalDist().inv_cdf(SURE)


@dataclass(frozen=True, slots=True)
class Sample:
    """The runs of one side."""

    seconds: list[float]
    """The time from each run's creation to its end, or to now if it is open. It is what a caller
    waits for, so it includes time in queues and, on both sides alike, requested delays."""
    failed: int

    def median(self) -> float:
        """The median of the times, in seconds. Raises StatisticsError without a run."""
        return median(self.seconds)

    def share(self) -> str:
        """How many failed, in words."""
        runs = len(self.seconds)
        return f"{self.failed} of {runs} ({100 * self.failed / runs:.1f} %)"


def breach(serverless: Sample, legacy: Sample) -> str | None:
    """How the serverless side is worse, or None where that is not certain enough."""
    runs, base = len(serverless.seconds), len(legacy.seconds)
    if min(runs, base) < FEWEST:
        return None
    worse, _ = newcombe(serverless.failed, runs, legacy.failed, base, _Z)
    if worse > MARGIN:
        return f"failed runs: {serverless.share()} serverless, {legacy.share()} on {LEGACY_BACKEND}"
    allowed = [SLOWER * seconds + SLACK_SECONDS for seconds in legacy.seconds]
    if mann_whitney(serverless.seconds, allowed) < 1 - SURE:
        return (
            f"slow runs: median of {runs} serverless runs {serverless.median():.1f} s,"
            f" of {base} runs on {LEGACY_BACKEND} {legacy.median():.1f} s"
        )
    return None


def samples(runtime: Runtime, spec: JobSpec, version: int, now: datetime) -> tuple[Sample, Sample]:
    """Returns the two samples to compare: the serverless runs since the last move (the change with
    id `version`) that are old enough to be judged, and the latest legacy runs."""
    db, side = runtime.db, (spec.name, spec.serverless)
    last = _ended(spec.name, LEGACY_BACKEND, now - BASE_AGE).order_by(R.ended_at.desc())
    legacy = _sample(db.rows(last.limit(BASE)))
    if len(legacy.seconds) < FEWEST:
        return Sample([], 0), legacy
    until = now - timedelta(seconds=sorted(legacy.seconds)[int(ALMOST_ALL * len(legacy.seconds))])
    number = db.value(_ended(*side, now - WINDOW).with_only_columns(func.count()))
    moved = db.value(select(StageChange.at).where(StageChange.id == version)) or now
    since = max(moved, until - WINDOW * min(1.0, MOST / max(1, number)))
    asked = (R.created_at >= since, R.created_at <= until)
    ended = db.rows(_ended(*side, since).where(*asked))
    still = select(R.created_at).where(IS_OPEN, *_of(*side), *asked).limit(MOST)
    waiting = [(now - row.created_at).total_seconds() for row in db.rows(still)]
    return _sample(ended, waiting), legacy


def _of(job: str, backend: str) -> tuple[ColumnElement[bool], ...]:
    """The run is on one side. One that changed sides belongs to neither."""
    return R.job == job, R.backend == backend, R.reason != Reason.HANDED_OVER.value


def _ended(job: str, backend: str, after: datetime) -> Select[*tuple[Any, ...]]:
    """One side's runs that have succeeded or failed since `after`."""
    ended = select(R.status, R.created_at, R.ended_at).where(_BY_ITSELF, *_of(job, backend))
    return ended.where(R.ended_at >= after)


def _sample(ended: Sequence[Any], waiting: Iterable[float] = ()) -> Sample:
    failed = sum(row.status == Status.FAILED for row in ended)
    return Sample([(r.ended_at - r.created_at).total_seconds() for r in ended] + [*waiting], failed)


def step_back(row: StageRow, provided: bool = False) -> tuple[Stage, float | None]:
    """The stage and percent a job steps back to: always legacy where another provider decides."""
    if (row.stage == Stage.RAMP and (row.percent or 0) <= FIRST_STEP) or provided:
        return Stage.LEGACY, None
    return Stage.RAMP, FIRST_STEP


def look(runtime: Runtime) -> list[StageChange]:
    """Look once at every job on a ramp or live. Returns the steps back that this call made.

    Several relays may do this at once. A step back is tied to the version that was read, so only
    one of them makes it.
    """
    now = runtime.store.clock()
    steps = []
    for row in current_stages(runtime.db):
        spec = runtime.store.spec_of(row.job) if row.stage in MOVING else None
        why = None if spec is None else breach(*samples(runtime, spec, row.version, now))
        if why is not None and (change := _step(runtime, row, why, now)) is not None:
            steps.append(change)
    return steps


def _step(runtime: Runtime, row: StageRow, why: str, now: datetime) -> StageChange | None:
    stage, percent = step_back(row, runtime.settings.flag_provider is not None)
    by = By(GUARDRAIL, why)
    try:
        with runtime.db.session() as tx:
            how: dict[str, Any] = {"expected": row.version, "tx": tx}
            change = set_stage(runtime.db, row.job, stage, percent, by, now, **how)
            if ALERT in runtime.catalogue:
                alert = {"changeId": change.id, "job": row.job, "from": row.stage, "to": stage}
                dispatch(ALERT, alert | {"percent": percent, "why": why}, session=tx)
    except StageRefused as refusal:
        log.info("no step back: %s", refusal)
        return None
    log.error("guardrail: stepped back to %s", stage, extra={"job": row.job, "why": why})
    return change


def wilson(hits: int, of: int, z: float) -> tuple[float, float]:
    """Wilson's score interval of a proportion (https://doi.org/10.1080/01621459.1927.10502953)."""
    share, square = hits / of, z * z / of
    middle = (share + square / 2) / (1 + square)
    half = sqrt(share * (1 - share) * square + square * square / 4) / (1 + square)
    return max(0.0, middle - half), min(1.0, middle + half)


def newcombe(hits: int, of: int, other_hits: int, other_of: int, z: float) -> tuple[float, float]:
    """A confidence interval for the first proportion minus the second: Newcombe's hybrid score
    method, which is sound for small samples and rare events
    (https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8%3C873::AID-SIM779%3E3.0.CO;2-I)."""
    one, other = hits / of, other_hits / other_of
    low, high = wilson(hits, of, z)
    other_low, other_high = wilson(other_hits, other_of, z)
    below = sqrt((one - low) ** 2 + (other_high - other) ** 2)
    above = sqrt((high - one) ** 2 + (other - other_low) ** 2)
    return one - other - below, one - other + above


def mann_whitney(one: Sequence[float], other: Sequence[float]) -> float:
    """The chance that `one` looks this much greater than `other` although it is not. It is the
    Mann-Whitney rank test, in its normal approximation with corrections for ties and continuity
    (https://doi.org/10.1214/aoms/1177730491). Returns 1 where all values are equal."""
    counts = [Counter(one), Counter(other)]
    n, m = len(one), len(other)
    ranks, before, ties = 0.0, 0, 0
    for value in sorted(counts[0].keys() | counts[1].keys()):
        tied = counts[0][value] + counts[1][value]
        ranks += counts[0][value] * (before + (tied + 1) / 2)
        ties += tied**3 - tied
        before += tied
    above = ranks - n * (n + 1) / 2
    spread = n * m / 12 * (n + m + 1 - ties / ((n + m) * (n + m - 1)))
    if spread <= 0:
        return 1.0
    return 1 - NormalDist().cdf((above - n * m / 2 - 0.5) / sqrt(spread))
