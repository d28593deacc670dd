"""`cutover verify`, the migration guide's checklist: the layer's parts, a canary through each side,
the services and their keys, and the way from them to this app. The checks run side by side, each
with its own time limit. One that hangs is reported without waiting for it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial, wraps
from importlib.metadata import version
from secrets import token_hex
from typing import Any

import click
from sqlalchemy import func, select

from app.switchyard import extras
from app.switchyard.check import called, is_refused
from app.switchyard.clock import iso
from app.switchyard.commands.adoption import bypassed
from app.switchyard.commands.cutover import group
from app.switchyard.commands.database import standing
from app.switchyard.commands.output import DID_NOT_HOLD, answered, parts, progress, table
from app.switchyard.cutover.clock import proposal
from app.switchyard.cutover.status import LATE, sync_refusal
from app.switchyard.dispatch import dispatch_canary
from app.switchyard.errors import CheckFailed, RunNotMovable, SwitchyardError
from app.switchyard.runs import operate
from app.switchyard.runs.models import IS_OPEN, IS_REFUSED, OPEN, Status
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.store import new_run
from app.switchyard.runtime import Check, Runtime
from app.switchyard.text import reason
from app.switchyard.words import plural
from queues.backend import WORKER_COMMAND
from queues.inventory import WORKERS, take
from workflows.client import CANCELLED, functions_there, send_harmless
from workflows.schedules import sync

JOB = "canary"
CANARY_SECONDS = 15.0
_LOOK_SECONDS = 0.2
UNSIGNED = {
    "/api/inngest?fnId=switchyard-canary&stepId=step": "INNGEST_SIGNING_KEY",
    "/api/qstash/deliver": "QSTASH_CURRENT_SIGNING_KEY",
    "/api/inngest/trigger": "ADMIN_TOKEN",
}
_MOST_CHECKED = 2000
OPEN_LOCALLY = ("/api/inngest", "/api/inngest/trigger")
CHECKS: list[Check] = []
Look = Callable[[Runtime], str]


def _check(fix: str) -> Callable[[Look], Look]:
    """A line of `cutover verify`, named after its function. `fix` says what to do if it fails."""

    def declared(look: Look) -> Look:
        CHECKS.append(Check(look.__name__.replace("_", "-"), look, fix))
        return look

    return declared


@_check("install what is missing")
def sdks(runtime: Runtime) -> str:
    """Every library that the settings and the jobs' serverless sides need is installed."""
    packages = ["rq", "redis"]
    for extra, _why in extras.needed(runtime.settings, runtime.catalogue, use_inngest=True):
        if (lacking := extras.missing(extra)) is not None:
            raise CheckFailed(lacking)
        packages += extras.PACKAGES[extra].values()
    return ", ".join(f"{package} {version(package)}" for package in packages)


@_check("check that DATABASE_URL is right and it is up; then run `flask switchyard db upgrade`")
def database(runtime: Runtime) -> str:
    """The database answers, and has this version's tables."""
    for row in standing(runtime):
        if row["revision"] != row["head"]:
            where = f"{row['revision']}, and this version needs {row['head']}"
            raise CheckFailed(f"the tables of {row['name']} are at {where}")
    return "it answers; the tables are those of this version"


@_check("check that REDIS_URL is right and Redis is up")
def redis(runtime: Runtime) -> str:
    """RQ's Redis answers, and a script may write there."""
    runtime.store.backends["rq"].ping()
    return "it answers"


@_check(f"start `{WORKER_COMMAND}` instead")
def rq_workers(runtime: Runtime) -> str:
    """Every worker that takes runs from RQ's queues can perform them."""
    seen = take(runtime.settings.redis_url, 0)
    if (why := seen.unreadable.get(WORKERS)) is not None:
        raise CheckFailed(f"{WORKERS} cannot be read: {why}")
    queues = {spec.queue for spec in runtime.catalogue.values()}
    foreign = [
        f"{worker.name} (process {worker.pid} on {worker.host}, queues {', '.join(worker.queues)})"
        for worker in seen.workers
        if not worker.ours and queues.intersection(worker.queues)
    ]
    if foreign:
        raise CheckFailed(f"these rq workers fail the runs they take: {'; '.join(foreign)}")
    return "no other rq worker takes runs"


@_check(
    "`cutover inventory` shows which: make it enqueue with queues.Queue, give its schedule to the"
    " job, or let the old function dispatch (docs/old-call-sites.md). Rename a key that cannot"
    " be read: RQ's own workers end at it"
)
def rq_bypasses(runtime: Runtime) -> str:
    """No RQ job that should be a run of the catalogue is waiting or was done recently. One with an
    option for which it stays on RQ, such as depends_on, should not."""
    seen = take(runtime.settings.redis_url, _MOST_CHECKED)
    past = [
        f"{count} of {function} in {queue.name}"
        for queue in seen.queues
        for function, counts in queue.functions.items()
        if bypassed(runtime, function)
        and (count := counts.total() - counts["failed"] - queue.stay[function])
    ]
    names = [str(entry.get("func_name")) for entry in seen.cron]
    past += [f"rq cron's {name}" for name in names if bypassed(runtime, name)]
    failed = [f"these bypass the flag and the ledger: {', '.join(past)}"] if past else []
    failed += [f"{key} cannot be read: {why}" for key, why in seen.unreadable.items()]
    if failed:
        raise CheckFailed("; ".join(failed))
    return "nothing bypasses the flag"


@_check("check UPSTASH_REDIS_REST_URL and UPSTASH_REDIS_REST_TOKEN")
def cache(runtime: Runtime) -> str:
    """The cache answers."""
    runtime.cache.script("return 1", [])
    if runtime.settings.upstash_redis_rest_url is None:
        return "it answers; UPSTASH_REDIS_REST_URL is not set, so it is the Redis of REDIS_URL"
    return "Upstash answers to the token"


@_check("set INNGEST_EVENT_KEY and INNGEST_SIGNING_KEY, both of the same environment at Inngest")
def inngest_key(runtime: Runtime) -> str:
    """Inngest accepts an event, which starts nothing."""
    settings = runtime.settings
    if settings.inngest_dev is None and not settings.local:
        for name in ("inngest_event_key", "inngest_signing_key"):
            if getattr(settings, name) is None:
                raise CheckFailed(f"{name.upper()} is not set")
    send_harmless(settings)
    return "an event was accepted" + ("" if settings.inngest_signed else ", as by any dev server")


@_check(
    "deploy this version, then sync the app at Inngest (its URL is BACKEND_URL/api/inngest); if"
    " Inngest cannot tell, compare its dashboard with `jobs list`"
)
def inngest_functions(runtime: Runtime) -> str:
    """Inngest has synced exactly this catalogue's functions."""
    if (why := sync_refusal(runtime)) is not None:
        raise CheckFailed(f"its last sync was refused: {why}")
    ours = {CANCELLED, *runtime.catalogue}
    there = functions_there(runtime.settings)
    missing, strange = sorted(ours - there), sorted(there - ours)
    if missing or strange:
        raise CheckFailed(
            f"missing there: {missing or 'none'}; not in this code: {strange or 'none'}"
        )
    return f"the same {plural(len(ours), 'function')} there and here"


def _where_used(look: Look) -> Look:
    """A check of QStash, which holds in an app that does not use it."""

    @wraps(look)
    def check(runtime: Runtime) -> str:
        if runtime.uses("qstash"):
            return look(runtime)
        return "not used: no job goes to QStash, and QSTASH_TOKEN is not set"

    return check


@_check("set QSTASH_TOKEN and BACKEND_URL")
@_where_used
def qstash_token(runtime: Runtime) -> str:
    """QStash accepts the token."""
    _require_qstash(runtime)
    runtime.store.backends["qstash"].ping()
    return "it accepts the token"


@_check("run `flask switchyard qstash sync`")
@_where_used
def qstash_schedules(runtime: Runtime) -> str:
    """QStash ticks exactly the catalogue's schedules."""
    _require_qstash(runtime)
    would = sync(runtime, dry_run=True)
    if would.new or would.changed or would.removed:
        raise CheckFailed(
            f"missing there: {len(would.new)}, different: {len(would.changed)},"
            f" of no job: {len(would.removed)}"
        )
    return f"the same {plural(len(would.unchanged), 'schedule')} there and here"


def _require_qstash(runtime: Runtime) -> None:
    if runtime.settings.qstash_lacks is not None:
        raise CheckFailed(f"{runtime.settings.qstash_lacks} is not set")


@_check("set BACKEND_URL to the address at which web is reached from the internet")
def address(runtime: Runtime) -> str:
    """This app answers at its public address."""
    answer = called(runtime, "GET", "/healthz")
    if answer.status_code != 200:
        raise CheckFailed(f"/healthz answered {answer.status_code}")
    return "/healthz answers"


@_check("set the named variable, unset INNGEST_DEV, and deploy: until then anybody can start jobs")
def signatures(runtime: Runtime) -> str:
    """At its public address this app refuses unsigned calls."""
    opened = []
    for path, secret in UNSIGNED.items():
        name = path.partition("?")[0]
        refused = is_refused(runtime, path)
        if not refused and not (runtime.settings.local and name in OPEN_LOCALLY):
            opened.append(f"{name} ({secret})")
    if opened:
        raise CheckFailed(f"an unsigned call was not refused by {', '.join(opened)}")
    if runtime.settings.local:
        return f"refused, except by {' and '.join(OPEN_LOCALLY)}, which local mode leaves open"
    return "unsigned calls are refused"


def canary(backend: str, runtime: Runtime) -> str:
    """A run with one step returns from `backend`."""
    if JOB not in runtime.catalogue:
        raise CheckFailed(f"SWITCHYARD_JOBS names modules without the job {JOB!r}")
    begun = time.monotonic()
    run = dispatch_canary(JOB, {"song": token_hex(8)}, backend)
    while time.monotonic() < begun + CANARY_SECONDS:
        columns = (R.status, R.backend, R.result, R.error)
        [row] = runtime.db.rows(select(*columns).where(R.id == run.id))
        if row.status not in OPEN:
            return _come_back(backend, row, time.monotonic() - begun)
        time.sleep(_LOOK_SECONDS)
    with suppress(RunNotMovable):  # it may end at this moment
        operate.cancel(runtime.store, run.id)
    waited = f"after {CANARY_SECONDS:g} s; it was cancelled"
    raise CheckFailed(f"run {run.id} was {row.status} {waited}")


def _come_back(backend: str, row: Any, seconds: float) -> str:
    if row.status != Status.SUCCEEDED:
        raise CheckFailed(f"it {row.status}: {row.error}")
    if (on := json.loads(row.result)["backend"]) != backend:
        raise CheckFailed(f"it came back from {on}")
    return f"there and back in {seconds:.1f} s"


for _backend, _fix in {
    "rq": "check that a worker runs and serves the queue maintenance",
    "inngest": "see inngest-key, inngest-functions, address; Inngest's dashboard shows its calls",
    "qstash": "see qstash-token and address; QStash's console shows its deliveries",
}.items():
    # An unavailable backend takes its time to fail, too.
    _look: Look = partial(canary, _backend)
    _look = _where_used(_look) if _backend == "qstash" else _look
    CHECKS.append(Check(f"canary-{_backend}", _look, _fix, seconds=CANARY_SECONDS + 8))


@_check("check that a clock process runs, or Inngest's or QStash's cron")
def clocks(runtime: Runtime) -> str:
    """Every scheduled job has a run for its last occurrence."""
    now, due, missing = runtime.store.clock(), 0, []
    first = runtime.db.value(select(func.min(R.id)))
    since = now if first is None else datetime.fromtimestamp(int(first[:12], 16) / 1000, UTC)
    for spec in runtime.catalogue.values():
        if spec.schedule is None or (at := spec.occurrence_at(now - LATE)) <= since:
            continue
        due += 1
        key = new_run(spec, *proposal(spec, at), now).key
        if runtime.db.value(select(R.id).where(R.job == spec.name, R.key == key)) is None:
            missing.append(f"{spec.name} of {iso(at)}")
    if missing:
        raise CheckFailed(f"no run for {', '.join(missing)}")
    if not due:
        return f"nothing was due since the ledger's first run, at {iso(since)}"
    return f"no run is missing for the last tick of {plural(due, 'job')}"


@_check("check that a relay process runs, or relay-sweep each minute")
def lost_runs(runtime: Runtime) -> str:
    """No open run is overdue, since the relay looks at each in time."""
    late = runtime.store.clock() - LATE
    overdue = select(func.count(), func.min(R.check_at)).where(IS_OPEN, R.check_at < late)
    [(count, oldest)] = runtime.db.rows(overdue)
    if count:
        runs = plural(count, "open run")
        raise CheckFailed(f"nobody has looked at {runs}, the oldest due {iso(oldest)}")
    return "no open run is overdue"


@_check("`runs show` has the error in full; drain the job to RQ, or cancel the run")
def refused_runs(runtime: Runtime) -> str:
    """No open run is refused by its backend."""
    chosen = (IS_OPEN, IS_REFUSED)
    [(count, first)] = runtime.db.rows(select(func.count(), func.min(R.id)).where(*chosen))
    if not count:
        return "no open run is refused"
    job, error = runtime.db.rows(select(R.job, R.error).where(R.id == first))[0]
    raise CheckFailed(f"{plural(count, 'run')}, the oldest {first} of {job}: {error}")


@group.command("verify")
def verify() -> None:
    """Check every line of the migration's checklist. Exits with 1 if one fails."""
    runtime = parts()
    checks = [*CHECKS, *runtime.checks]
    with progress("checked", transient=True) as bar:
        task = bar.add_task("", total=len(checks))
        answers = checked(runtime, checks, lambda: bar.advance(task))
    if not answered(answers):
        rows = ((a["check"], "yes" if a["ok"] else "NO", a["detail"], a["fix"]) for a in answers)
        table(("check", "ok", "detail", "to do"), rows)
    if not all(answer["ok"] for answer in answers):
        raise click.exceptions.Exit(DID_NOT_HOLD)


def checked(
    runtime: Runtime, checks: Sequence[Check], done: Callable[[], None] = lambda: None
) -> list[dict[str, Any]]:
    """The rows of `cutover verify --json`, in the checks' order. Calls `done` as each one ends."""
    started = time.monotonic()
    seen: dict[str, tuple[bool, str, str | None]] = {}

    def look(check: Check) -> None:
        try:
            seen[check.name] = True, check.look(runtime), None
        except SwitchyardError as failure:
            fix = getattr(failure, "fix", None) or check.fix
            seen[check.name] = False, " ".join(str(failure).split()), fix
        except Exception as failure:  # noqa: BLE001 - a check that raises has failed
            seen[check.name] = False, f"it failed: {reason(failure)}", check.fix
        done()

    # Daemons, so that one that hangs does not delay the end of the process.
    threads = [threading.Thread(target=look, args=(check,), daemon=True) for check in checks]
    for thread in threads:
        thread.start()
    answers = []
    for check, thread in zip(checks, threads, strict=True):
        thread.join(max(0.0, started + check.seconds - time.monotonic()))
        silent = False, f"no answer within {check.seconds:g} s", check.fix
        ok, detail, fix = seen.get(check.name, silent)
        answers.append({"check": check.name, "ok": ok, "detail": detail, "fix": fix})
    return answers
