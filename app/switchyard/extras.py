"""The optional parts of the distribution: which package each needs, and how to install it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec

from app.switchyard.config import Settings
from app.switchyard.job import Catalogue

PACKAGES: dict[str, dict[str, str]] = {
    "postgres": {"psycopg": "psycopg"},
    "inngest": {"inngest": "inngest"},
    "qstash": {"qstash": "qstash", "jwt": "PyJWT"},
    "upstash": {"upstash_redis": "upstash-redis", "httpx": "httpx"},
    "openfeature": {"openfeature": "openfeature-sdk"},
    "otel": {
        "opentelemetry.sdk": "opentelemetry-sdk",
        "opentelemetry.exporter": "opentelemetry-exporter-otlp-proto-http",
    },
}
"""For each extra its modules, and the packages that contain them."""


@cache
def missing(extra: str) -> str | None:
    """What this environment lacks for an extra, with the command that installs it, or None.

    Only packages that may lack a system library are imported, since the others load slowly.
    """
    look: Callable[[str], object] = import_module if extra == "postgres" else find_spec
    for module, package in PACKAGES[extra].items():
        try:
            if look(module) is None:
                raise ModuleNotFoundError(name=module)
        except ImportError as failure:
            absent = isinstance(failure, ModuleNotFoundError) and failure.name == module
            state = "is not installed" if absent else f"cannot be imported ({failure})"
            return f"the package {package} {state}: pip install 'switchyard[{extra}]'"
    return None


def needed(settings: Settings, jobs: Catalogue, use_inngest: bool) -> Iterator[tuple[str, str]]:
    """The extras that an app's settings need, each with the reason. `use_inngest` says whether the
    serverless sides of its jobs count."""
    if (settings.database_url or "").startswith(("postgres://", "postgresql://")):
        yield "postgres", "DATABASE_URL is on Postgres"
    if settings.upstash_redis_rest_url is not None:
        yield "upstash", "UPSTASH_REDIS_REST_URL is set"
    if settings.flag_provider is not None:
        yield "openfeature", "FLAG_PROVIDER is set"
    if use_inngest:
        sides = {spec.serverless: spec.name for spec in jobs.values()}
        if "inngest" in sides:
            yield "inngest", "USE_INNGEST is true"
        if "qstash" in sides:
            yield "qstash", f"USE_INNGEST is true and {sides['qstash']} goes to QStash"
