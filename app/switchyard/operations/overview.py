"""The overview: first what is in trouble, in words and with what to do, then each job."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select

from app.switchyard import maintenance
from app.switchyard.cutover.clock import missed, read_marks
from app.switchyard.cutover.stages import stepped_back
from app.switchyard.cutover.status import LATE, OPEN, cutover_status, sync_refusal
from app.switchyard.job import JobSpec
from app.switchyard.operations import processes
from app.switchyard.operations.trends import trends
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runtime import Runtime
from app.switchyard.words import ago, duration, plural
from flags import LEGACY_BACKEND, Side

MINUTE, MINUTES = timedelta(minutes=1), 60
FAILING = 0.01
"""A side is reported where more than this share of its runs in the last hour surely failed."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that needs a human."""

    about: str
    """The heading in docs/runbook.md that says more."""
    what: str
    do: str
    job: str | None = None
    runs: dict[str, str] = field(default_factory=dict)
    """The filter that finds the runs concerned."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the health strip."""

    name: str
    is_well: bool | None
    """None for a kind of process that was never seen."""
    says: str
    trouble: Trouble | None = None


@dataclass(frozen=True, slots=True)
class Overview:
    """Everything that the first page shows."""

    troubles: list[Trouble]
    parts: list[Part]
    jobs: list[dict[str, Any]]
    """As in cutover_status(), plus whether each is `known` to this code and `built_in` (one of the
    layer's own), its `serverless` backend, and the trends of its `sides`."""


def overview(runtime: Runtime, sides: Mapping[str, str]) -> Overview:
    """The current overview. `sides` has each backend's last known state: `ok`, or why it is not."""
    now = runtime.store.clock()
    open_runs = runtime.db.rows(OPEN, {"late": now - LATE})
    jobs = cutover_status(runtime, open_runs=open_runs)["jobs"]
    trend = trends(runtime.db, [job["name"] for job in jobs], now, MINUTE, MINUTES)
    for job in jobs:
        spec = runtime.catalogue.get(job["name"])
        job["known"] = spec is not None
        job["built_in"] = spec is not None and spec.body.__module__ == maintenance.__name__
        job["serverless"] = Side.SERVERLESS.value if spec is None else spec.serverless
        job["sides"] = trend[job["name"]]
    late = runtime.db.value(select(func.min(R.check_at)).where(R.check_at < now))
    overdue = [row for row in open_runs if row.overdue]
    parts = [
        *_backends(sides, jobs),
        *_processes(processes.listed(runtime.db, now)),
        _relay(now - (late or now)),
        *_clock(runtime.catalogue.values(), read_marks(runtime.db), now),
        _queues(min((row.oldest for row in overdue), default=None), now),
    ]
    troubles = [part.trouble for part in parts if part.trouble is not None]
    if (why := sync_refusal(runtime)) is not None:
        what = f"Inngest refused its last sync: {why}."
        troubles.append(Trouble("sync-refused", what, "Fix that and sync again."))
    troubles += map(_stepped_back, stepped_back(runtime.db, now))
    for job in jobs:
        troubles += _failing(job)
    troubles += [_overdue(row, now) for row in overdue]
    return Overview(troubles, parts, jobs)


def _backends(sides: Mapping[str, str], jobs: list[dict[str, Any]]) -> Iterator[Part]:
    for backend, state in sides.items():
        if state == "ok":
            yield Part(backend, True, "answers")
            continue
        waiting = sum(job["open"].get(backend, 0) for job in jobs)
        instead = "drain them to serverless" if backend == LEGACY_BACKEND else "roll back to legacy"
        trouble = Trouble(
            "unreachable",
            f"{backend} does not answer: {state.removeprefix('unavailable: ')}."
            f" It has {plural(waiting, 'open run')}.",
            "Nothing is lost: what is open continues when it answers."
            f" If it stays down, {instead}.",
            runs={"backend": backend},
        )
        yield Part(backend, False, "does not answer", trouble)


def _processes(listed: list[dict[str, Any]]) -> Iterator[Part]:
    for kind, start in processes.KINDS.items():
        of = [one for one in listed if one["kind"] == kind]
        alive = sum(one["alive"] for one in of)
        if not of:
            yield Part(kind, None, "none seen")
            continue
        if alive:
            yield Part(kind, True, f"{alive} alive")
            continue
        last = max(of, key=lambda one: one["seen_at"])
        trouble = Trouble(
            f"no-{kind}",
            f"No {kind} process is alive: the last one, {last['pid']} on {last['host']}, was last"
            f" seen at {last['seen_at']:%H:%M:%S} UTC.",
            f"Start one: {start}. The old one's log says why it ended.",
        )
        yield Part(kind, False, "0 alive", trouble)


def _relay(lag: timedelta) -> Part:
    """`lag` is how long the run that the relay should have looked at first has waited."""
    if lag <= LATE:
        return Part("relay lag", True, "none")
    trouble = Trouble(
        "no-relay",
        f"The relay is behind: it should have looked at a run {lag / MINUTE:.0f} min ago.",
        "Is a relay running? If not, start flask switchyard relay.",
    )
    return Part("relay lag", False, duration(lag.total_seconds()), trouble)


def _clock(jobs: Iterable[JobSpec], marks: Mapping[str, datetime], now: datetime) -> Iterator[Part]:
    """No part where nothing is scheduled."""
    if not marks:
        return
    late = sorted((at, spec.name) for spec in jobs for at in missed(spec, marks, now, most=1))
    trouble = None
    if late:
        at, name = late[0]
        others = f", nor those of {plural(len(late) - 1, 'more job')}" if late[1:] else ""
        trouble = Trouble(
            "no-clock",
            f"No clock has proposed the tick of {name} at {at:%Y-%m-%d %H:%M} UTC{others}.",
            "Start flask switchyard clock, which makes up missed ticks.",
        )
    yield Part("ticks", trouble is None, f"seen {ago(max(marks.values()), now)}", trouble)


def _queues(oldest: datetime | None, now: datetime) -> Part:
    if oldest is None:
        return Part("overdue", True, "nothing")
    return Part("overdue", False, f"for {duration((now - oldest).total_seconds())}")


def _stepped_back(step: Any) -> Trouble:
    percent = "" if step.percent is None else f" {step.percent:g} %"
    return Trouble(
        "guardrail",
        f"The guardrail moved {step.job} from {step.from_stage} to"
        f" {step.to_stage}{percent} at {step.at:%H:%M} UTC: {step.why}.",
        "Find out what went wrong there before you ramp the job again.",
        step.job,
    )


def _failing(job: dict[str, Any]) -> Iterator[Trouble]:
    for side, trend in job["sides"].items():
        failed, runs = sum(trend.failed), trend.runs
        if not failed or trend.interval()[0] <= FAILING:
            continue
        backend = LEGACY_BACKEND if side == Side.RQ else job["serverless"]
        do = "Look at the errors, fix the cause, and retry the runs."
        if side == Side.SERVERLESS and job["stage"] != "legacy":
            do = "Look at the errors, and roll back to legacy if the cause is not clear."
        share = f"{failed} of {plural(runs, 'run')} of the last hour ({100 * failed / runs:.1f} %)"
        shown = {"job": job["name"], "status": "failed", "backend": backend}
        what = f"{job['name']} fails on {backend}: {share}."
        yield Trouble("failing", what, do, job["name"], shown)


def _overdue(row: Any, now: datetime) -> Trouble:
    return Trouble(
        "overdue",
        f"{plural(row.overdue, 'run')} of {row.job} should have begun on {row.backend},"
        f" the oldest {(now - row.oldest) / MINUTE:.0f} min ago.",
        "Are there enough workers for its queue?"
        if row.backend == LEGACY_BACKEND
        else f"Does {row.backend} call this app? If not, roll back to legacy.",
        row.job,
        {"job": row.job, "backend": row.backend, "status": "pending"},
    )
