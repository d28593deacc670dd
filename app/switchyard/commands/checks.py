"""`cutover verify`, the migration guide's checklist: the layer's parts, a canary through each side,
the services and their keys, and the way from them to this app. The checks are made side by side,
each with its own time; one that hangs is reported, not waited for."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.metadata import version
from secrets import token_hex
from typing import Any

import click
from sqlalchemy import func, select

from app.switchyard import extras
from app.switchyard.clock import iso
from app.switchyard.commands.adoption import bypassed
from app.switchyard.commands.cutover import group
from app.switchyard.commands.database import standing
from app.switchyard.commands.output import DID_NOT_HOLD, answered, parts, progress, table
from app.switchyard.cutover.clock import proposal
from app.switchyard.cutover.status import sync_refusal
from app.switchyard.dispatch import dispatch_canary
from app.switchyard.errors import CheckFailed, RunNotMovable, SwitchyardError
from app.switchyard.reached import called, is_refused
from app.switchyard.runs import operate
from app.switchyard.runs.create import new_run
from app.switchyard.runs.models import IS_OPEN, OPEN, Status
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runtime import Check, Runtime
from app.switchyard.text import reason
from queues.backend import WORKER_COMMAND, connect, registered_workers
from queues.backend import answered as redis_answered
from queues.inventory import take
from workflows.client import CANCELLED
from workflows.remote import functions_there, send_harmless
from workflows.sync import sync

JOB = "canary"
CANARY_SECONDS = 15.0
LATE = timedelta(minutes=1)
"""How long after its time a tick, or a look at a run, is taken for missing."""
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
    """One line of `cutover verify`, named as its function is; `fix` is what to do where it does not
    hold."""

    def declared(look: Look) -> Look:
        CHECKS.append(Check(look.__name__.replace("_", "-"), look, fix))
        return look

    return declared


@_check("install what is missing")
def sdks(runtime: Runtime) -> str:
    """Each library is there that the settings, and the jobs' serverless sides, ask for."""
    packages = ["rq", "redis"]
    for extra, _why in extras.needed(runtime.settings, runtime.catalogue, use_inngest=True):
        if (lacking := extras.missing(extra)) is not None:
            raise CheckFailed(lacking)
        packages += extras.PACKAGES[extra].values()
    return ", ".join(f"{package} {version(package)}" for package in packages)


@_check("see that DATABASE_URL is right and it is up; then `flask --app app db upgrade`")
def database(runtime: Runtime) -> str:
    """The database answers, and its tables are those of this version."""
    for row in standing(runtime):
        if row["revision"] != row["head"]:
            where = f"{row['revision']}, this version's are {row['head']}"
            raise CheckFailed(f"the tables of {row['name']} are at {where}")
    return "it answers; the tables are those of this version"


@_check("see that REDIS_URL is right and Redis up")
def redis(runtime: Runtime) -> str:
    """RQ's Redis answers, and a script may write there."""
    runtime.store.backends["rq"].ping()
    return "it answers"


@_check(f"start `{WORKER_COMMAND}` in their place")
def rq_workers(runtime: Runtime) -> str:
    """Who takes runs from RQ's queues can do them."""
    connection = connect(runtime.settings.redis_url)
    with closing(connection), redis_answered():
        workers = registered_workers(connection)
    queues = {spec.queue for spec in runtime.catalogue.values()}
    foreign = [
        f"{worker.name} (process {worker.pid} on {worker.host}, queues {', '.join(worker.queues)})"
        for worker in workers
        if not worker.ours and queues.intersection(worker.queues)
    ]
    if foreign:
        raise CheckFailed(f"these rq workers fail the runs they take: {'; '.join(foreign)}")
    return "no other rq worker takes runs"


@_check(
    "`cutover inventory` shows which: have it enqueue with queues.Queue, give its schedule to the"
    " job, or let the old function dispatch (docs/old-call-sites.md)"
)
def rq_bypasses(runtime: Runtime) -> str:
    """No RQ job waits, and none has just been done, that stands for a job of the catalogue."""
    seen = take(runtime.settings.redis_url, _MOST_CHECKED)
    past = [
        f"{counts.total() - counts['failed']} of {function} in {queue.name}"
        for queue in seen.queues
        for function, counts in queue.functions.items()
        if bypassed(runtime, function) and counts.total() > counts["failed"]
    ]
    names = [str(entry.get("func_name")) for entry in seen.cron]
    past += [f"rq cron's {name}" for name in names if bypassed(runtime, name)]
    if past:
        raise CheckFailed(f"past the flag and the ledger go: {', '.join(past)}")
    return "nothing goes past the flag"


@_check("see UPSTASH_REDIS_REST_URL and UPSTASH_REDIS_REST_TOKEN")
def cache(runtime: Runtime) -> str:
    """The cache answers."""
    runtime.cache.script("return 1", [])
    if runtime.settings.upstash_redis_rest_url is None:
        return "it answers; UPSTASH_REDIS_REST_URL is not set, so it is the Redis of REDIS_URL"
    return "Upstash answers to the token"


@_check("set INNGEST_EVENT_KEY and INNGEST_SIGNING_KEY of the same environment at Inngest")
def inngest_key(runtime: Runtime) -> str:
    """Inngest takes an event (one that starts nothing)."""
    settings = runtime.settings
    if settings.inngest_dev is None and not settings.local:
        for name in ("inngest_event_key", "inngest_signing_key"):
            if getattr(settings, name) is None:
                raise CheckFailed(f"{name.upper()} is not set")
    send_harmless(settings)
    return "an event was taken" + ("" if settings.inngest_signed else "; a dev server: any key is")


@_check(
    "deploy this version, then sync the app at Inngest (its URL is BACKEND_URL/api/inngest); where"
    " Inngest does not say, compare its dashboard with `jobs list`"
)
def inngest_functions(runtime: Runtime) -> str:
    """Inngest has synced exactly the functions of this catalogue."""
    if (why := sync_refusal(runtime)) is not None:
        raise CheckFailed(f"its last sync was refused: {why}")
    ours = {CANCELLED, *runtime.catalogue}
    there = functions_there(runtime.settings)
    missing, strange = sorted(ours - there), sorted(there - ours)
    if missing or strange:
        raise CheckFailed(
            f"missing there: {missing or 'none'}; not in this code: {strange or 'none'}"
        )
    return f"{len(ours)} functions, the same there and here"


@_check("set QSTASH_TOKEN and BACKEND_URL")
def qstash_token(runtime: Runtime) -> str:
    """QStash answers to the token."""
    _require_qstash(runtime)
    runtime.store.backends["qstash"].ping()
    return "it answers to the token"


@_check("`flask --app app qstash sync`")
def qstash_schedules(runtime: Runtime) -> str:
    """QStash ticks what the catalogue says, and nothing else of ours."""
    _require_qstash(runtime)
    would = sync(runtime, dry_run=True)
    if would.new or would.changed or would.removed:
        raise CheckFailed(
            f"{len(would.new)} are missing there, {len(would.changed)} differ,"
            f" {len(would.removed)} are of no job"
        )
    return f"{len(would.unchanged)} schedules, as here"


def _require_qstash(runtime: Runtime) -> None:
    if runtime.settings.qstash_lacks is not None:
        raise CheckFailed(f"{runtime.settings.qstash_lacks} is not set")


@_check("set BACKEND_URL to where web is reached from the internet")
def address(runtime: Runtime) -> str:
    """This app answers at the address that others call."""
    answer = called(runtime, "GET", "/healthz")
    if answer.status_code != 200:
        raise CheckFailed(f"/healthz answered {answer.status_code}")
    return "/healthz answers"


@_check("set the variable named, no INNGEST_DEV, and deploy: anybody may start jobs until then")
def signatures(runtime: Runtime) -> str:
    """Where others call this app, it refuses a call that is not signed."""
    opened = []
    for path, secret in UNSIGNED.items():
        name = path.partition("?")[0]
        refused = is_refused(runtime, path)
        if not refused and not (runtime.settings.local and name in OPEN_LOCALLY):
            opened.append(f"{name} ({secret})")
    if opened:
        raise CheckFailed(f"an unsigned call was not refused by {', '.join(opened)}")
    if runtime.settings.local:
        return f"refused, but for {' and '.join(OPEN_LOCALLY)}, which are open in local mode"
    return "unsigned calls are refused"


def canary(backend: str, runtime: Runtime) -> str:
    """A run of one step comes back from `backend`."""
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
    with suppress(RunNotMovable):  # it may have come this moment
        operate.cancel(runtime.store, run.id)
    waited = f"after {CANARY_SECONDS:g} s; it is called off"
    raise CheckFailed(f"run {run.id} was {row.status} {waited}")


def _come_back(backend: str, row: Any, seconds: float) -> str:
    if row.status != Status.SUCCEEDED:
        raise CheckFailed(f"it {row.status}: {row.error}")
    if (on := json.loads(row.result)["backend"]) != backend:
        raise CheckFailed(f"it came back from {on}")
    return f"there and back in {seconds:.1f} s"


for _backend, _fix in {
    "rq": "see that a worker runs and serves the queue maintenance",
    "inngest": "see inngest-key, inngest-functions, address; Inngest's dashboard shows its calls",
    "qstash": "see qstash-token and address; QStash's console shows its deliveries",
}.items():
    # A backend that is unavailable also takes its time to say so.
    _look = partial(canary, _backend)
    CHECKS.append(Check(f"canary-{_backend}", _look, _fix, seconds=CANARY_SECONDS + 8))


@_check("see that a clock process runs, or Inngest's or QStash's cron")
def clocks(runtime: Runtime) -> str:
    """The last occurrence of every scheduled job is a run."""
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
    return f"the last tick of {due} jobs is there"


@_check("see that a relay process runs, or relay-sweep each minute")
def lost_runs(runtime: Runtime) -> str:
    """No open run is overdue: the relay looks at each when its time has come."""
    late = runtime.store.clock() - LATE
    overdue = select(func.count(), func.min(R.check_at)).where(IS_OPEN, R.check_at < late)
    [(count, oldest)] = runtime.db.rows(overdue)
    if count:
        raise CheckFailed(
            f"{count} open runs that nobody has looked at, the oldest due {iso(oldest)}"
        )
    return "no open run is overdue"


@group.command("verify")
def verify() -> None:
    """Check every line of the migration's checklist; 1 where one does not hold."""
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
    """`cutover verify --json`, in the order of the checks; `done` is called as each ends."""
    started = time.monotonic()
    seen: dict[str, tuple[bool, str, str | None]] = {}

    def look(check: Check) -> None:
        try:
            seen[check.name] = True, check.look(runtime), None
        except SwitchyardError as failure:
            seen[check.name] = False, str(failure), getattr(failure, "fix", None) or check.fix
        except Exception as failure:  # noqa: BLE001 - a check that breaks is one that does not hold
            seen[check.name] = False, f"it failed: {reason(failure)}", check.fix
        done()

    # Daemons: one that hangs must not hold up the end of the process.
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
