"""What `cutover verify` checks of the layer: its parts, a canary through each side, the services
and their keys, and the way from them to this app."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.metadata import version
from secrets import token_hex
from typing import Any

import requests
from sqlalchemy import func, select

from app.switchyard import extras
from app.switchyard.clock import iso
from app.switchyard.commands import inventory
from app.switchyard.commands.database import standing
from app.switchyard.dispatch import dispatch_canary
from app.switchyard.errors import BackendUnavailable, CheckFailed, RunNotMovable
from app.switchyard.job import JobSpec
from app.switchyard.runs import operate
from app.switchyard.runs.create import new_run
from app.switchyard.runs.models import IS_OPEN, OPEN, Status
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runtime import Check, Runtime
from queues.backend import WORKER_COMMAND
from workflows.remote import functions_there, send_harmless
from workflows.sync import sync

JOB = "canary"
CANARY_SECONDS = 15.0
LATE = timedelta(minutes=1)
"""How long after its time a tick, or a look at a run, is taken for missing."""
_LOOK_SECONDS = 0.2
ANSWER_SECONDS = 4.0
REFUSED = (400, 401, 403)
UNSIGNED = {
    "/api/inngest?fnId=switchyard-canary&stepId=step": "INNGEST_SIGNING_KEY",
    "/api/qstash/deliver": "QSTASH_CURRENT_SIGNING_KEY",
    "/api/inngest/trigger": "ADMIN_TOKEN",
}
OPEN_LOCALLY = ("/api/inngest", "/api/inngest/trigger")


def migrated(runtime: Runtime) -> str:
    """The database answers, and its tables are those of this version."""
    for row in standing(runtime):
        if row["revision"] != row["head"]:
            where = f"{row['revision']}, this version's are {row['head']}"
            raise CheckFailed(f"the tables of {row['name']} are at {where}")
    return "it answers; the tables are those of this version"


def redis(runtime: Runtime) -> str:
    """RQ's Redis answers."""
    runtime.store.backends["rq"].ping()
    return "it answers"


def canary(backend: str) -> Callable[[Runtime], str]:
    """A run of one step comes back from `backend`."""
    return partial(_canary, backend)


def _canary(backend: str, runtime: Runtime) -> str:
    if JOB not in runtime.catalogue:
        raise CheckFailed(f"SWITCHYARD_JOBS names modules without the job {JOB!r}")
    begun = time.monotonic()
    run = dispatch_canary(JOB, {"song": token_hex(8)}, backend)
    while time.monotonic() < begun + CANARY_SECONDS:
        with runtime.db.autocommit() as connection:
            columns = (R.status, R.backend, R.result, R.error)
            row = connection.execute(select(*columns).where(R.id == run.id)).one()
        if row.status not in OPEN:
            return _come_back(backend, row, time.monotonic() - begun)
        time.sleep(_LOOK_SECONDS)
    with suppress(RunNotMovable):  # it may have come this moment
        operate.cancel(runtime.store, run.id)
    raise CheckFailed(f"run {run.id} was {row.status} after {CANARY_SECONDS:g} s; it is called off")


def _come_back(backend: str, row: Any, seconds: float) -> str:
    if row.status != Status.SUCCEEDED:
        raise CheckFailed(f"it {row.status}: {row.error}")
    if json.loads(row.result)["backend"] != backend:
        raise CheckFailed(f"it came back from {json.loads(row.result)['backend']}")
    return f"there and back in {seconds:.1f} s"


def lost(runtime: Runtime) -> str:
    """No open run is overdue: the relay looks at each when its time has come."""
    now = runtime.store.clock()
    overdue = select(func.count(), func.min(R.check_at)).where(IS_OPEN, R.check_at < now - LATE)
    with runtime.db.autocommit() as connection:
        count, oldest = connection.execute(overdue).one()
    if count:
        raise CheckFailed(
            f"{count} open runs that nobody has looked at, the oldest due {iso(oldest)}"
        )
    return "no open run is overdue"


def clocks(runtime: Runtime) -> str:
    """The last occurrence of every scheduled job is a run."""
    now = runtime.store.clock()
    with runtime.db.autocommit() as connection:
        first = connection.execute(select(func.min(R.id))).scalar()
    since = now if first is None else datetime.fromtimestamp(int(first[:12], 16) / 1000, UTC)
    due: dict[str, tuple[datetime, str]] = {}
    for spec in runtime.catalogue.values():
        if spec.schedule is None:
            continue
        at = spec.occurrence_at(now - LATE)
        if at > since:
            due[spec.name] = (at, tick_key(spec, at, now))
    if not due:
        return f"nothing was due since the ledger's first run, at {iso(since)}"
    missing = []
    with runtime.db.autocommit() as connection:
        for job, (at, key) in due.items():
            known = select(R.id).where(R.job == job, R.key == key)
            if connection.execute(known).first() is None:
                missing.append(f"{job} of {iso(at)}")
    if missing:
        raise CheckFailed(f"no run for {', '.join(missing)}")
    return f"the last tick of {len(due)} jobs is there"


def tick_key(spec: JobSpec, at: datetime, now: datetime) -> str:
    """The key of the run that an occurrence becomes, as clock.tick has it."""
    payload = None if spec.tick is None else spec.tick(at)
    return new_run(spec, payload, None if spec.key else f"tick:{iso(at)}", now).key


def sdks(runtime: Runtime) -> str:
    """Each library is there that the settings, and the jobs' serverless sides, ask for."""
    packages = ["rq", "redis"]
    for extra, _why in extras.needed(runtime.settings, runtime.catalogue, use_inngest=True):
        if (lacking := extras.missing(extra)) is not None:
            raise CheckFailed(lacking)
        packages += extras.PACKAGES[extra].values()
    return ", ".join(f"{package} {version(package)}" for package in packages)


def inngest_key(runtime: Runtime) -> str:
    """Inngest takes an event (one that starts nothing)."""
    settings = runtime.settings
    if settings.inngest_dev is None and not settings.local:
        for name in ("inngest_event_key", "inngest_signing_key"):
            if getattr(settings, name) is None:
                raise CheckFailed(f"{name.upper()} is not set")
    send_harmless(settings)
    return "an event was taken" + ("" if settings.inngest_signed else "; a dev server: any key is")


def inngest_functions(runtime: Runtime) -> str:
    """Inngest has synced exactly the functions of this catalogue."""
    ours = {spec.name for spec in runtime.catalogue.values() if spec.serverless == "inngest"}
    there = functions_there(runtime.settings)
    missing, strange = sorted(ours - there), sorted(there - ours)
    if missing or strange:
        raise CheckFailed(
            f"missing there: {missing or 'none'}; not in this code: {strange or 'none'}"
        )
    return f"{len(ours)} functions, the same there and here"


def qstash_token(runtime: Runtime) -> str:
    """QStash answers to the token."""
    _qstash(runtime)
    runtime.store.backends["qstash"].ping()
    return "it answers to the token"


def qstash_schedules(runtime: Runtime) -> str:
    """QStash ticks what the catalogue says, and nothing else of ours."""
    _qstash(runtime)
    would = sync(runtime, dry_run=True)
    if would.new or would.changed or would.removed:
        raise CheckFailed(
            f"{len(would.new)} are missing there, {len(would.changed)} differ,"
            f" {len(would.removed)} are of no job"
        )
    return f"{len(would.unchanged)} schedules, as here"


def _qstash(runtime: Runtime) -> None:
    if runtime.settings.qstash_lacks is not None:
        raise CheckFailed(f"{runtime.settings.qstash_lacks} is not set")


def cache(runtime: Runtime) -> str:
    """The cache answers."""
    runtime.cache.script("return 1", [])
    if runtime.settings.upstash_redis_rest_url is None:
        return "it answers; UPSTASH_REDIS_REST_URL is not set, so it is the Redis of REDIS_URL"
    return "Upstash answers to the token"


def address(runtime: Runtime) -> str:
    """This app is to be reached from outside, and answers there."""
    answer = _ask(runtime, "GET", "/healthz")
    if answer.status_code != 200:
        raise CheckFailed(f"/healthz answered {answer.status_code}")
    return "/healthz answers"


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


def is_refused(runtime: Runtime, path: str) -> bool:
    """Whether a call of this app that nobody signed is refused.

    Raises CheckFailed and BackendUnavailable where the app cannot be called from here.
    """
    return _ask(runtime, "POST", path).status_code in REFUSED


def _ask(runtime: Runtime, method: str, path: str) -> requests.Response:
    base = runtime.settings.backend_url
    if base is None:
        raise CheckFailed("BACKEND_URL is not set")
    try:
        return requests.request(
            method,
            base.rstrip("/") + path,
            json=None if method == "GET" else {},
            timeout=ANSWER_SECONDS,
            allow_redirects=False,
        )
    except requests.RequestException as failure:
        raise BackendUnavailable(f"BACKEND_URL: {type(failure).__name__}") from failure


LONGEST_SECONDS = CANARY_SECONDS + 8
"""Of any check: a backend that is unavailable also takes its time to say so."""

CHECKS = (
    Check("sdks", sdks, "install what is missing"),
    Check(
        "database",
        migrated,
        "see that DATABASE_URL is right and it is up; then `flask --app app db upgrade`",
    ),
    Check("redis", redis, "see that REDIS_URL is right and Redis up"),
    Check("rq-workers", inventory.workers_fit, f"start `{WORKER_COMMAND}` in their place"),
    Check(
        "rq-bypasses",
        inventory.nothing_bypasses,
        "`cutover inventory` shows which: have it enqueue with queues.Queue, give its schedule to"
        " the job, or let the old function dispatch (docs/old-call-sites.md)",
    ),
    Check("cache", cache, "see UPSTASH_REDIS_REST_URL and UPSTASH_REDIS_REST_TOKEN"),
    Check(
        "inngest-key",
        inngest_key,
        "set INNGEST_EVENT_KEY and INNGEST_SIGNING_KEY of the same environment at Inngest",
    ),
    Check(
        "inngest-functions",
        inngest_functions,
        "deploy this version, then sync the app at Inngest (its URL is BACKEND_URL/api/inngest);"
        " where Inngest does not say, compare its dashboard with `jobs list`",
    ),
    Check("qstash-token", qstash_token, "set QSTASH_TOKEN and BACKEND_URL"),
    Check("qstash-schedules", qstash_schedules, "`flask --app app qstash sync`"),
    Check("address", address, "set BACKEND_URL to where web is reached from outside"),
    Check(
        "signatures",
        signatures,
        "set the variable named, no INNGEST_DEV, and deploy: anybody may start jobs until then",
    ),
    Check(
        "canary-rq",
        canary("rq"),
        "see that a worker runs and serves the queue maintenance",
        LONGEST_SECONDS,
    ),
    Check(
        "canary-inngest",
        canary("inngest"),
        "see inngest-key, inngest-functions and address; Inngest's dashboard shows its calls",
        LONGEST_SECONDS,
    ),
    Check(
        "canary-qstash",
        canary("qstash"),
        "see qstash-token and address; QStash's console shows its deliveries",
        LONGEST_SECONDS,
    ),
    Check("clocks", clocks, "see that a clock process runs, or Inngest's or QStash's cron"),
    Check("lost-runs", lost, "see that a relay process runs, or relay-sweep each minute"),
)
