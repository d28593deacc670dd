"""The environment of a stack's processes, which names the caller's own services or local ones."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from app.local import valkey
from app.local.loopback import HOST, free_port
from app.platform.config import Settings
from app.switchyard.config import OWN_PREFIX, live_key

_SERVICES = {
    "stripe": ("STRIPE_API_BASE", "STRIPE_API_KEY"),
    "inngest": ("INNGEST_DEV", "INNGEST_BASE_URL", "INNGEST_EVENT_KEY", "INNGEST_SIGNING_KEY"),
    "qstash": ("QSTASH_URL", "QSTASH_TOKEN"),
    "mail": ("SMTP_URL",),
}
"""The variables that name a caller's own service. The first also points the app to a stand-in."""
_SHOWN = (
    *("DATABASE_URL", "REDIS_URL", "BACKEND_URL", "PORT", "USE_INNGEST", "SWITCHYARD_JOBS"),
    *("QSTASH_CURRENT_SIGNING_KEY", "QSTASH_NEXT_SIGNING_KEY", "INNGEST_BASE_URL"),
    *(names[0] for names in _SERVICES.values()),
)
_FIELDS = {name.upper() for name in Settings.model_fields}


class CannotRun(Exception):
    """The stack cannot start or finish. The message says why."""

    exit_code = 1


class LiveKey(CannotRun):
    """The environment has a key that moves real money, which nothing here may do."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Local:
    """Where a stack lives, and how its parts are reached."""

    folder: Path
    port: int
    """The port of web."""
    process_env: Mapping[str, str]
    """The complete environment of its processes."""
    ports: Mapping[str, int]
    """The ports of the stand-ins, by name, for services that the caller does not have."""
    own_redis: bool
    own_database: bool

    @property
    def shown_env(self) -> dict[str, str]:
        """The variables that a command needs to reach the parts."""
        return {name: self.process_env[name] for name in _SHOWN if name in self.process_env}

    @property
    def url(self) -> str:
        """The URL of web."""
        return f"http://{HOST}:{self.port}"


def clean(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` without any setting of this product."""
    names = {*_FIELDS, *(f"{OWN_PREFIX}{name}" for name in _FIELDS), "BIND", "WEB_CONCURRENCY"}
    return {name: value for name, value in environ.items() if name.upper() not in names}


def prepare(
    folder: Path, port: int, environ: Mapping[str, str] = os.environ, *, mail: bool = False
) -> Local:
    """Plan a stack in `folder` with web on `port`, with local parts where `environ` names none.

    Keys for Stripe, Inngest or QStash count as naming the service. Without `mail` no mail is sent,
    unless `environ` names a server. Raises LiveKey.
    """
    given = {name: value for name, value in environ.items() if value.strip()}
    if (name := live_key(given)) is not None:
        raise LiveKey(f"{name} is a live key; use a test key, or none for the stand-in")
    for name, value in list(given.items()):
        if name != (own := name.removeprefix(OWN_PREFIX)) and own in _FIELDS:
            given[own] = value  # this name wins, wherever it is read
    folder = folder.resolve()
    ports = {
        name: free_port()
        for name, theirs in _SERVICES.items()
        if not given.keys() & set(theirs) and (mail or name != "mail")
    }
    local = {
        "DATABASE_URL": f"sqlite:///{folder / 'switchyard.db'}",
        "REDIS_URL": valkey.url_of(folder / "valkey"),
        "BACKEND_URL": f"http://{HOST}:{port}",
        "USE_INNGEST": "true",
        # Only for this machine, since in local mode some pages need no password.
        "BIND": HOST,
    }
    for name, stand_in in ports.items():
        scheme = "smtp" if name == "mail" else "http"
        local[_SERVICES[name][0]] = f"{scheme}://{HOST}:{stand_in}"
    if "stripe" in ports:
        local["STRIPE_WEBHOOK_SECRET"] = f"whsec_{secrets.token_hex(16)}"
    if "qstash" in ports:
        for name in ("QSTASH_CURRENT_SIGNING_KEY", "QSTASH_NEXT_SIGNING_KEY"):
            local[name] = f"sig_{secrets.token_hex(16)}"
    if given.keys() & {name.upper() for name in Settings.credentials}:
        # There is no local mode then, so calls need a token and logins need sessions.
        local |= {"ADMIN_TOKEN": secrets.token_hex(16), "SECRET_KEY": secrets.token_hex(32)}
    env = {**environ, **local, **given, "PORT": str(port), "PYTHONUNBUFFERED": "1"}
    env["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), env.get("PATH", os.defpath)))
    for name in ("NO_PROXY", "no_proxy"):  # a proxy must not see calls on loopback
        env[name] = ",".join(filter(None, (env.get(name), HOST, "localhost")))
    own_redis, own_database = "REDIS_URL" not in given, "DATABASE_URL" not in given
    return Local(folder, port, env, ports, own_redis, own_database)
