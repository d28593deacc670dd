"""/metrics: the state of runs, sides and processes in the ledger at the moment of a scrape."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from flask import Response, request
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from app.switchyard.audit import GUARDRAIL
from app.switchyard.cutover import shadow
from app.switchyard.cutover.stages import StageChange, current_stages
from app.switchyard.cutover.status import LATE, OPEN
from app.switchyard.errors import Unauthorized
from app.switchyard.http import bearer, is_secret
from app.switchyard.logs import logger_of
from app.switchyard.operations import counted, processes
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.tallies import RESENDS
from app.switchyard.runtime import Runtime
from app.switchyard.text import reason
from flags import LEGACY_BACKEND, Stage, StageRow

log = logger_of(__name__)

SIDE = ["job", "backend"]
COUNTERS = {
    "ended": ("ended_runs", "Runs that ended.", "status"),
    "failures": ("failed_attempts", "Attempts that failed, whether tried again or not.", None),
    "takeovers": ("takeovers", "Runs taken over from a process whose lease ran out.", None),
    RESENDS: ("resends", "Runs sent again, since their backend had lost them.", None),
    "handoffs": ("handoffs", "Runs that left this backend for another one.", "to"),
}
"""For each tally: the metric's name, its help, and its label beside job and backend."""
HISTOGRAMS = {
    "wait": ("queue_wait", "From due to claimed, of runs that ended and were never given back."),
    "took": ("run", "From its first claim to its end, of runs that ended."),
}
OPENED = OPEN.add_columns(R.status).group_by(R.status)
_C = StageChange
STEPPED = select(_C.job, func.count()).where(_C.by == GUARDRAIL).group_by(_C.job)


def answer(runtime: Runtime, up: Callable[[], Mapping[str, bool]]) -> Response:
    """The answer to a scrape. `up` says whether each part answered when it was last asked.

    Raises Unauthorized where the scraper does not send METRICS_TOKEN.
    """
    token = runtime.settings.metrics_token
    if token is not None and not is_secret(bearer(request) or "", token):
        raise Unauthorized("send Authorization: Bearer METRICS_TOKEN")
    registry = CollectorRegistry()
    registry.register(Ledger(runtime, up))
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return Response(encode(registry), content_type=content_type)


class Ledger(Collector):
    """Metrics from the ledger. No process has counters of its own, so all report the same."""

    def __init__(self, runtime: Runtime, up: Callable[[], Mapping[str, bool]]) -> None:
        self._runtime, self._up = runtime, up

    def collect(self) -> Iterator[Metric]:
        """All metrics, or only what is up while the database does not answer."""
        sides = {(name,): up for name, up in self._up().items()}
        database = [((), up) for name, up in sides.items() if name == ("database",)]
        what = "Whether the database could be written to when it was last tried."
        yield family("database_up", what, [], database)
        sides.pop(("database",), None)
        what = "Whether a backend answered when it was last asked."
        yield family("backend_up", what, ["backend"], sides.items())
        now = self._runtime.store.clock()
        try:
            counted.count(self._runtime.db, list(self._runtime.catalogue), now)
        except SQLAlchemyError as failure:  # the database may be read-only, or its disk full
            log.warning("tallies not brought up to date", extra={"reason": reason(failure)})
        try:
            yield from [*self._runs(now), *self._jobs(), *self._processes(now), *self._tallied()]
        except SQLAlchemyError as failure:
            log.warning("no metrics of the ledger", extra={"reason": reason(failure)})

    def _runs(self, now: datetime) -> Iterator[Metric]:
        opened = self._runtime.db.rows(OPENED, {"late": now - LATE})
        overdue: dict[tuple[str, str], int] = defaultdict(int)
        oldest: dict[tuple[str, str], float] = {}
        for row in opened:
            side = row.job, row.backend
            overdue[side] += row.overdue
            if row.oldest is not None:
                oldest[side] = max((now - row.oldest).total_seconds(), oldest.get(side, 0.0))
        counts = (((row.job, row.backend, row.status), row.runs) for row in opened)
        yield family("open_runs", "Runs that have not ended.", [*SIDE, "status"], counts)
        what = "Runs that have been due for a minute and that nobody has claimed."
        yield family("overdue_runs", what, SIDE, overdue.items())
        what = "How long the oldest overdue run has been due."
        yield family("overdue_oldest_seconds", what, SIDE, oldest.items())

    def _jobs(self) -> Iterator[Metric]:
        db, jobs = self._runtime.db, self._runtime.catalogue
        legacy = {job: StageRow(job, Stage.LEGACY, None, 0) for job in jobs}
        rows = (legacy | {row.job: row for row in current_stages(db)}).values()
        stages = (((row.job, row.stage), 1) for row in rows)
        yield family("stage", "1 for the stage of a job.", ["job", "stage"], stages)
        percents = (((row.job,), _percent(row)) for row in rows)
        what = "The share of new keys that a job's stage sends to the serverless side."
        yield family("stage_percent", what, ["job"], percents)
        what = "Shadows that differ from their live runs without an explanation."
        counts = shadow.counts(db)
        unexplained = (((job,), counts[job]["unexplained"]) for job in jobs)
        yield family("parity_unexplained", what, ["job"], unexplained)
        what = "Automatic steps back by the guardrail."
        steps = {(job,): 0 for job in jobs} | {(job,): number for job, number in db.rows(STEPPED)}
        yield family("guardrail_steps", what, ["job"], steps.items(), CounterMetricFamily)

    def _processes(self, now: datetime) -> Iterator[Metric]:
        listed = processes.listed(self._runtime.db, now)
        alive = Counter(one["kind"] for one in listed if one["alive"])
        rows = (((kind,), alive[kind]) for kind in processes.KINDS)
        yield family("processes", "Processes with a recent heartbeat.", ["kind"], rows)

    def _tallied(self) -> Iterator[Metric]:
        counts: dict[str, dict[tuple[str, str], dict[str, float]]] = {
            name: defaultdict(dict) for name in (*COUNTERS, *HISTOGRAMS)
        }
        for spec in self._runtime.catalogue.values():  # so that a rate counts from the first one
            sides = LEGACY_BACKEND, spec.serverless
            for backend, other in (sides, sides[::-1]):
                side = spec.name, backend
                counts["ended"][side] = dict.fromkeys(("succeeded", "failed", "cancelled"), 0.0)
                counts["handoffs"][side] = {other: 0.0}
                for name in ("failures", "takeovers", RESENDS):
                    counts[name][side] = {"": 0.0}
        for name, job, backend, label, value in self._runtime.db.rows(counted.COUNTS):
            if name in counts:
                counts[name][job, backend][label] = value
        for tally, (name, what, label) in COUNTERS.items():
            labels = [*SIDE, label] if label else SIDE
            rows = (
                ((*side, value)[: len(labels)], number)
                for side, values in counts[tally].items()
                for value, number in values.items()
            )
            yield family(name, what, labels, rows, CounterMetricFamily)
        for tally, (name, what) in HISTOGRAMS.items():
            histogram = HistogramMetricFamily(f"switchyard_{name}_seconds", what, labels=SIDE)
            for side, values in counts[tally].items():
                below, buckets = 0.0, []
                for bound in (*map(str, counted.BOUNDS), counted.INFINITE):
                    below += values.get(bound, 0.0)
                    buckets.append((bound, below))
                histogram.add_metric(list(side), buckets, values[counted.SUM])
            yield histogram


def family(
    name: str,
    what: str,
    labels: list[str],
    rows: Iterable[tuple[Iterable[Any], float]],
    kind: type[GaugeMetricFamily | CounterMetricFamily] = GaugeMetricFamily,
) -> Metric:
    """A metric made of rows, each with the values of its labels and its own value."""
    made = kind(f"switchyard_{name}", what, labels=labels)
    for values, number in rows:
        made.add_metric([str(value) for value in values], number)
    return made


def _percent(row: StageRow) -> float:
    if row.stage in (Stage.LIVE, Stage.COMPLETE):
        return 100.0
    return row.percent or 0.0
