"""How it goes: what is in trouble first, in words and with what to do; then each job."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select

from app.switchyard import maintenance
from app.switchyard.audit import GUARDRAIL
from app.switchyard.cutover import stages
from app.switchyard.cutover.clock import read_marks
from app.switchyard.cutover.guardrail import wilson
from app.switchyard.cutover.status import LATE, OPEN, cutover_status, sync_refusal
from app.switchyard.operations import processes
from app.switchyard.operations.trends import Trend, trends
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runtime import Runtime
from flags import LEGACY_BACKEND, Side

MINUTE, MINUTES = timedelta(minutes=1), 60
FAILING = 0.01
"""A side is said to fail where surely more than this share of its runs of an hour did."""
_Z = 1.96
_STARTS = {
    "web": "the web process of the Procfile",
    "worker": "flask switchyard worker",
    "relay": "flask switchyard relay",
    "clock": "flask switchyard clock",
}
KINDS = tuple(_STARTS)
SILENT_CLOCK = timedelta(minutes=2)


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that needs a human."""

    about: str
    """The heading of docs/runbook.md that says more."""
    what: str
    do: str
    job: str | None = None
    runs: dict[str, str] = field(default_factory=dict)
    """The filter that shows the runs it is about."""


@dataclass(slots=True)
class JobLine:
    """One job of the overview."""

    status: dict[str, Any]
    """As cutover_status() has it."""
    known: bool
    """Whether this code knows it."""
    built_in: bool
    """Whether it is one of the layer's own."""
    serverless: str
    """Which backend does it on the serverless side."""
    sides: dict[Side, Trend]


@dataclass(slots=True)
class Overview:
    """All that the first page shows."""

    troubles: list[Trouble]
    jobs: list[JobLine]
    sides: Mapping[str, str]
    """Each backend: `ok`, or why it is not."""
    processes: list[dict[str, Any]]
    """As processes.listed() has them."""
    relay_lag: float
    """Seconds for which the run that the relay should have looked at has waited."""
    clock_seen: datetime | None
    """Up to when the clock has looked for ticks; None where nothing is scheduled."""
    oldest_overdue: datetime | None


def overview(runtime: Runtime, sides: Mapping[str, str]) -> Overview:
    """How it goes; `sides` is how each backend was last seen to be."""
    now = runtime.store.clock()
    status = cutover_status(runtime)
    names = [job["name"] for job in status["jobs"]]
    trend = trends(runtime.db, names, now, MINUTE, MINUTES)
    jobs = []
    for job in status["jobs"]:
        spec = runtime.catalogue.get(job["name"])
        own = spec is not None and spec.body.__module__ == maintenance.__name__
        serverless = "serverless" if spec is None else spec.serverless
        both = {side: trend[job["name"], side] for side in Side}
        jobs.append(JobLine(job, spec is not None, own, serverless, both))
    with runtime.db.autocommit() as connection:
        late = connection.scalar(select(func.min(R.check_at)).where(R.check_at < now))
        opened = connection.execute(OPEN, {"late": now - LATE}).all()
    overdue = [row for row in opened if row.overdue]
    seen = max(read_marks(runtime.db).values(), default=None)
    lag = 0.0 if late is None else (now - late).total_seconds()
    oldest = min((row.oldest for row in overdue), default=None)
    shown = Overview([], jobs, sides, processes.listed(runtime.db, now), lag, seen, oldest)
    shown.troubles += _unreachable(runtime, shown)
    shown.troubles += _silent(shown, now)
    shown.troubles += _stepped_back(runtime, now)
    for line in jobs:
        shown.troubles += _failing(line)
    for row in overdue:
        shown.troubles.append(_overdue(row.job, row.backend, row.overdue, now - row.oldest))
    return shown


def _unreachable(runtime: Runtime, shown: Overview) -> Iterator[Trouble]:
    for backend, state in shown.sides.items():
        if state == "ok":
            continue
        waiting = sum(line.status["open"].get(backend, 0) for line in shown.jobs)
        instead = "drain them to serverless" if backend == LEGACY_BACKEND else "roll back to legacy"
        yield Trouble(
            "unreachable",
            f"{backend} does not answer: {state.removeprefix('unavailable: ')}."
            f" Open there: {_runs(waiting)}.",
            f"Nothing is lost: they go on when it answers. If it stays so, {instead}.",
            runs={"backend": backend},
        )
    if (why := sync_refusal(runtime)) is not None:
        what = f"Inngest refused its last sync: {why}."
        yield Trouble("sync-refused", what, "Mend that, and sync again.")


def _silent(shown: Overview, now: datetime) -> Iterator[Trouble]:
    for kind in KINDS:
        of = [one for one in shown.processes if one["kind"] == kind]
        if of and not any(one["alive"] for one in of):
            last = max(of, key=lambda one: one["seen_at"])
            yield Trouble(
                f"no-{kind}",
                f"No {kind} process lives: the last one, {last['pid']} on {last['host']}, gave no"
                f" sign since {last['seen_at'][11:19]} UTC.",
                f"Start one: {_STARTS[kind]}; its log says why it ended.",
            )
    if shown.relay_lag > LATE.total_seconds():
        yield Trouble(
            "no-relay",
            "The relay is behind: a run should have been looked at"
            f" {shown.relay_lag / 60:.0f} min ago.",
            "Is a relay running? Start flask switchyard relay.",
        )
    if shown.clock_seen is not None and now - shown.clock_seen > SILENT_CLOCK:
        yield Trouble(
            "no-clock",
            f"No clock has looked for ticks since {shown.clock_seen:%Y-%m-%d %H:%M} UTC.",
            "Start flask switchyard clock; it makes up what was missed.",
        )


def _stepped_back(runtime: Runtime, now: datetime) -> Iterator[Trouble]:
    for change in stages.history(runtime.db):
        if change.by == GUARDRAIL and change.at > now - stages.CALM:
            percent = "" if change.percent is None else f" {change.percent:g} %"
            yield Trouble(
                "guardrail",
                f"The guardrail moved {change.job} from {change.from_stage} to"
                f" {change.to_stage}{percent} at {change.at:%H:%M} UTC: {change.why}.",
                "Look at what failed there before you ramp it again.",
                change.job,
            )


def _failing(line: JobLine) -> Iterator[Trouble]:
    for side, trend in line.sides.items():
        failed, runs = sum(trend.failed), trend.runs
        if not failed or wilson(failed, runs, _Z)[0] <= FAILING:
            continue
        backend = LEGACY_BACKEND if side == Side.RQ else line.serverless
        job, at = line.status["name"], line.status["stage"]
        do = "Look at the errors, mend them, and retry the runs."
        if side == Side.SERVERLESS and at != "legacy":
            do = "Look at the errors; roll back to legacy if the cause is not plain."
        share = f"{failed} of {runs} runs of the last hour ({100 * failed / runs:.1f} %)"
        shown = {"job": job, "status": "failed", "backend": backend}
        yield Trouble("failing", f"{job} fails on {backend}: {share}.", do, job, shown)


def _overdue(job: str, backend: str, count: int, age: timedelta) -> Trouble:
    return Trouble(
        "overdue",
        f"{_runs(count)} of {job} should have begun on {backend},"
        f" the oldest {age / MINUTE:.0f} min ago.",
        "Are there workers enough for its queue?"
        if backend == LEGACY_BACKEND
        else f"Does {backend} call this app? If not, roll back to legacy.",
        job,
        {"job": job, "backend": backend, "status": "pending"},
    )


def _runs(count: int) -> str:
    return f"{count} run{'' if count == 1 else 's'}"
