"""Checks of what lies outside: the services and their keys, and the way from them to this app."""

from __future__ import annotations

import importlib
from importlib.metadata import version

import requests

from app.switchyard.errors import BackendUnavailable, CheckFailed
from app.switchyard.runtime import Runtime
from workflows.remote import functions_there, send_harmless
from workflows.sync import sync

SDKS = {
    "inngest": "inngest",
    "qstash": "qstash",
    "upstash-redis": "upstash_redis",
    "rq": "rq",
    "redis": "redis",
}
ANSWER_SECONDS = 4.0
REFUSED = (400, 401, 403)
UNSIGNED = {
    "/api/inngest?fnId=switchyard-canary&stepId=step": "INNGEST_SIGNING_KEY",
    "/api/qstash/deliver": "QSTASH_CURRENT_SIGNING_KEY",
    "/api/inngest/trigger": "ADMIN_TOKEN",
}
OPEN_LOCALLY = ("/api/inngest", "/api/inngest/trigger")


def sdks(_made: Runtime) -> str:
    """Each library is there."""
    found = []
    for package, module in SDKS.items():
        try:
            importlib.import_module(module)
        except ImportError as missing:
            raise CheckFailed(f"{package} cannot be imported ({missing.name})") from None
        found.append(f"{package} {version(package)}")
    return ", ".join(found)


def inngest_key(made: Runtime) -> str:
    """Inngest takes an event (one that starts nothing)."""
    settings = made.settings
    if settings.inngest_dev is None and not settings.local:
        for name in ("inngest_event_key", "inngest_signing_key"):
            if getattr(settings, name) is None:
                raise CheckFailed(f"{name.upper()} is not set")
    send_harmless(settings)
    return "an event was taken" + ("" if settings.inngest_signed else "; a dev server: any key is")


def inngest_functions(made: Runtime) -> str:
    """Inngest has synced exactly the functions of this catalogue."""
    ours = {spec.name for spec in made.catalogue.values() if spec.serverless == "inngest"}
    there = functions_there(made.settings)
    missing, strange = sorted(ours - there), sorted(there - ours)
    if missing or strange:
        raise CheckFailed(
            f"missing there: {missing or 'none'}; not in this code: {strange or 'none'}"
        )
    return f"{len(ours)} functions, the same there and here"


def qstash_token(made: Runtime) -> str:
    """QStash answers to the token."""
    _qstash(made)
    made.store.backends["qstash"].ping()
    return "it answers to the token"


def qstash_schedules(made: Runtime) -> str:
    """QStash ticks what the catalogue says, and nothing else of ours."""
    _qstash(made)
    would = sync(made, dry_run=True)
    if would.new or would.changed or would.removed:
        raise CheckFailed(
            f"{len(would.new)} are missing there, {len(would.changed)} differ,"
            f" {len(would.removed)} are of no job"
        )
    return f"{len(would.unchanged)} schedules, as here"


def _qstash(made: Runtime) -> None:
    if made.settings.qstash_lacks is not None:
        raise CheckFailed(f"{made.settings.qstash_lacks} is not set")


def cache(made: Runtime) -> str:
    """The cache answers."""
    made.cache.script("return 1", [])
    if made.settings.upstash_redis_rest_url is None:
        return "it answers; UPSTASH_REDIS_REST_URL is not set, so it is the Redis of REDIS_URL"
    return "Upstash answers to the token"


def address(made: Runtime) -> str:
    """This app is to be reached from outside, and answers there."""
    answer = _ask(made, "GET", "/healthz")
    if answer.status_code != 200:
        raise CheckFailed(f"/healthz answered {answer.status_code}")
    return "/healthz answers"


def signatures(made: Runtime) -> str:
    """Where others call this app, it refuses a call that is not signed."""
    opened = []
    for path, secret in UNSIGNED.items():
        name = path.partition("?")[0]
        refused = is_refused(made, path)
        if not refused and not (made.settings.local and name in OPEN_LOCALLY):
            opened.append(f"{name} ({secret})")
    if opened:
        raise CheckFailed(f"an unsigned call was not refused by {', '.join(opened)}")
    if made.settings.local:
        return f"refused, but for {' and '.join(OPEN_LOCALLY)}, which are open in local mode"
    return "unsigned calls are refused"


def is_refused(made: Runtime, path: str) -> bool:
    """Whether a call of this app that nobody signed is refused.

    Raises CheckFailed and BackendUnavailable where the app cannot be called from here.
    """
    return _ask(made, "POST", path).status_code in REFUSED


def _ask(made: Runtime, method: str, path: str) -> requests.Response:
    base = made.settings.backend_url
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
