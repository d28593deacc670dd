"""Settings: read once from the environment and validated at start."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Json, SecretStr, ValidationError

from app.platform.webhooks import config as webhook_config
from app.switchyard.errors import SettingsError
from flags import parse_use_inngest

ROOT = Path(__file__).resolve().parents[2]
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ADDRESS = re.compile(rf"(?=.{{1,64}}@){_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})*")
_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*\.([^\W\d]\w*|\*)")
_HOST = re.compile(r"[A-Za-z0-9._:-]+")
LOCAL_QSTASH_TOKEN = "switchyard-local"
"""Of the QStash stand-in that `make run` starts; it opens nothing else."""


class Tls(StrEnum):
    """How a connection to a mail server is encrypted."""

    NONE = "none"
    STARTTLS = "starttls"
    """Asked for in the clear, and insisted upon."""
    IMPLICIT = "implicit"
    """From its first byte on."""


_SMTP = {
    "smtp": (Tls.NONE, 25),
    "smtps": (Tls.IMPLICIT, 465),
    "smtp+starttls": (Tls.STARTTLS, 587),
}
_ENCODED = "in a password, / ? # @ : % must be percent-encoded"


@dataclass(frozen=True, slots=True)
class SmtpServer:
    """Where mail is handed in, and as whom."""

    host: str
    port: int
    tls: Tls = Tls.NONE
    user: str | None = None
    password: SecretStr | None = None


def smtp_server(url: str) -> SmtpServer:
    """What an SMTP URL says. Raises ValueError, which shows nothing of it."""
    scheme = url.partition("://")[0]
    if scheme not in _SMTP:
        raise ValueError(f"must start with {' or '.join(f'{s}://' for s in _SMTP)}")
    tls, port = _SMTP[scheme]
    try:
        parts = urlsplit(url)
        port = port if parts.port is None else parts.port
    except ValueError:
        port = 0
    if not (url.isprintable() and port > 0 and _HOST.fullmatch(parts.hostname or "")):
        raise ValueError(f"has no valid host and port; {_ENCODED}")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(f"must end after its port; {_ENCODED}")
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if bool(user) != bool(password):
        raise ValueError("needs a user and a password, or neither")
    # Python's SMTP client can send no others.
    if not f"{user}{password}".isascii() or not f"{user}{password}".isprintable():
        raise ValueError("its user and password must be printable ASCII")
    return SmtpServer(
        host=parts.hostname or "",
        port=port,
        tls=tls,
        user=user or None,
        password=SecretStr(password) if password else None,
    )


def mail_address(value: str) -> str:
    """A mail address, ASCII and without a name. Raises ValueError where it is none."""
    if len(value) > 254 or not _ADDRESS.fullmatch(value):
        raise ValueError("must be a mail address such as pay@example.com")
    return value


def split(value: str) -> list[str]:
    """The items of a comma-separated setting."""
    return [item for item in (part.strip() for part in value.split(",")) if item]


def _hidden(check: Callable[[str], object]) -> AfterValidator:
    """`check`, of a secret's value."""

    def checked(value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            check(value.get_secret_value())
        return value

    return AfterValidator(checked)


def _optional(check: Callable[[str], str]) -> AfterValidator:
    return AfterValidator(lambda value: None if value is None else check(value))


def _web_address(value: str) -> None:
    try:
        parts = urlsplit(value)
        whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        whole = None
    if not (whole and value.isprintable() and " " not in value):
        raise ValueError("must be a URL that starts with http:// or https://")


def _url(*schemes: str) -> AfterValidator:
    def check(value: str | None) -> str | None:
        if value is None:
            return None
        wanted = f"must start with {' or '.join(f'{s}://' for s in schemes)}"
        if not value.startswith(tuple(f"{scheme}://" for scheme in schemes)):
            raise ValueError(wanted)
        try:
            _ = urlsplit(value).port
        except ValueError:
            raise ValueError("its port is not a number from 0 to 65535") from None
        return value

    return AfterValidator(check)


def _dev(value: str | None) -> str | None:
    text = (value or "").lower()
    if text in ("", "0", "false"):
        return None
    if text not in ("1", "true") and not text.startswith(("http://", "https://")):
        raise ValueError("must be a URL, 1 or 0")
    return value


def _legacy_functions(value: str) -> str:
    for path in split(value):
        if not _PATH.fullmatch(path):
            raise ValueError("must be dotted paths such as shop.tasks.pay or shop.tasks.*")
    return value


def _retention(days: int) -> int:
    if days != 0 and not 30 <= days <= 3650:
        raise ValueError("must be 0 (keep everything) or 30 to 3650 days")
    return days


def _modules(value: str) -> str:
    if not all(map(_MODULE.fullmatch, split(value))):
        raise ValueError("must be modules such as app.platform.payouts.jobs, comma-separated")
    return value


HttpUrl = Annotated[str | None, _url("http", "https")]


class Settings(BaseModel):
    """Everything the environment may say; the field's name in capitals is the variable's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    use_inngest: bool = False
    database_url: Annotated[str, _url("sqlite", "postgresql", "postgres", "postgresql+psycopg")] = (
        Field(default=f"sqlite:///{ROOT / 'var' / 'switchyard.db'}", repr=False)
    )
    redis_url: Annotated[str, _url("redis", "rediss", "unix")] = Field(
        default="redis://127.0.0.1:6379/0", repr=False
    )
    """Not shown, as the one above: there may be a password in it."""
    inngest_event_key: SecretStr | None = None
    inngest_signing_key: SecretStr | None = None
    inngest_dev: Annotated[str | None, AfterValidator(_dev)] = None
    inngest_base_url: HttpUrl = None
    qstash_token: SecretStr | None = None
    qstash_url: HttpUrl = None
    qstash_current_signing_key: SecretStr | None = None
    qstash_next_signing_key: SecretStr | None = None
    upstash_redis_rest_url: HttpUrl = None
    upstash_redis_rest_token: SecretStr | None = None
    stripe_api_key: SecretStr | None = None
    stripe_api_base: HttpUrl = None
    stripe_webhook_secret: SecretStr | None = None
    """Or several, comma-separated."""
    stripe_rate: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Calls a second that all processes together may send to Stripe; see stripe_calls_per_second"""
    backend_url: HttpUrl = None
    smtp_url: Annotated[SecretStr | None, _hidden(smtp_server)] = None
    mail_from: Annotated[str, AfterValidator(mail_address)] = "switchyard@localhost"
    mail_folder: Path | None = None
    """Where the local mail server keeps what it takes: /console/mail shows it."""
    admin_email: Annotated[str | None, _optional(mail_address)] = None
    """Who is told by mail how a pay day went."""
    admin_webhook_url: Annotated[SecretStr | None, _hidden(_web_address)] = None
    """Told the same as JSON; secret, as it may hold a token."""
    admin_webhook_secret: webhook_config.SigningSecret | None = None
    webhook_sources: Json[webhook_config.Sources] = {}
    """Whose webhooks are taken; see app.platform.webhooks.config."""
    webhook_targets: Json[webhook_config.Targets] = {}
    """Who gets them."""
    storage_url: Annotated[str, _url("file", "s3")] = (ROOT / "var" / "storage").as_uri()
    """See app.platform.gateways.storage."""
    platform_name: str = Field(default="Switchyard", max_length=60)
    """As creators know it: on their statements."""
    admin_token: SecretStr | None = None
    secret_key: SecretStr | None = None
    port: int = Field(default=3005, ge=1, le=65535)
    switchyard_jobs: Annotated[str, AfterValidator(_modules)] = (
        "app.platform.payouts.jobs,app.platform.webhooks.jobs,app.platform.earnings.jobs,app.platform.earnings.warm_job,app.platform.mail.jobs,"
        "app.platform.media.jobs,app.switchyard.builtin.relay,app.switchyard.builtin.cutover,app.switchyard.builtin.canary"
    )
    """Modules that declare jobs, comma-separated: a team adds its own here."""
    legacy_functions: Annotated[str, AfterValidator(_legacy_functions)] = ""
    """What a worker may run of the jobs that were in Redis before, comma-separated: a dotted path,
    or `package.module.*` for what that module itself defines."""
    legacy_queues: str = ""
    """Queues that only old jobs lie in, comma-separated: a worker serves them after the others."""
    legacy_pickle: bool = False
    """Whether a worker opens pickled jobs: who can write to Redis then runs any code in it."""
    flag_provider: str | None = Field(default=None, pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    """`module:factory` of an OpenFeature provider that decides instead of ramps and live stages."""
    lease_seconds: float = Field(default=10.0, ge=0.5, le=3600)
    """How long a claim holds without a sign of life; half of what a crash may cost in time."""
    check_seconds: float = Field(default=5.0, ge=0.1, le=3600)
    """How long a run that was sent may stay unclaimed before the relay asks its queue about it."""

    retention_days: Annotated[int, AfterValidator(_retention)] = 90
    """How long what no promise needs is kept (runs.retention); 0 keeps everything."""

    @property
    def local(self) -> bool:
        """Local mode: no credential of an outside service is set, so the stand-ins serve."""
        return not any(
            (
                self.inngest_event_key,
                self.inngest_signing_key,
                self.qstash_token,
                self.upstash_redis_rest_token,
                self.stripe_api_key,
            )
        )

    @property
    def stripe_calls_per_second(self) -> float:
        """STRIPE_RATE, or 20: Stripe allows 25 in test mode, and live 25 to any one endpoint
        (https://docs.stripe.com/rate-limits). The stand-in of local mode has no limit of its own.
        """
        if self.stripe_rate is not None:
            return self.stripe_rate
        return 1000.0 if self.local else 20.0

    @property
    def inngest_signed(self) -> bool:
        """Whether Inngest's calls must carry a signature: with a signing key and no dev server."""
        return self.inngest_signing_key is not None and self.inngest_dev is None

    @property
    def qstash_secret(self) -> str | None:
        """The token to speak to QStash with: the stand-in's where QSTASH_URL is on loopback."""
        if self.qstash_token is not None:
            return self.qstash_token.get_secret_value()
        host = urlsplit(self.qstash_url or "").hostname
        return LOCAL_QSTASH_TOKEN if host in LOOPBACK else None

    @property
    def qstash_lacks(self) -> str | None:
        """The first variable that jobs on QStash need and that is not set; its signing keys can be
        had by the token."""
        needed = {
            "QSTASH_TOKEN": self.qstash_secret,
            "BACKEND_URL": self.backend_url,
        }
        return next((name for name, value in needed.items() if value is None), None)

    @property
    def smtp(self) -> SmtpServer | None:
        """What SMTP_URL says."""
        return None if self.smtp_url is None else smtp_server(self.smtp_url.get_secret_value())

    @property
    def sqlalchemy_url(self) -> str:
        """DATABASE_URL with the driver this project uses named in it."""
        scheme, sep, rest = self.database_url.partition("://")
        if scheme in ("postgres", "postgresql"):
            return f"postgresql+psycopg{sep}{rest}"
        return self.database_url


def running_stack(root: Path = ROOT) -> dict[str, str]:
    """What a `make run` in this folder exported (var/run.json), or nothing where none runs."""
    try:
        state = json.loads((root / "var" / "run.json").read_text())
        os.kill(int(state["pid"]), 0)
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {str(name): str(value) for name, value in state["env"].items()}


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from `environ`; by default the process's, filled up from a running `make run`.

    Raises SettingsError with one line naming the variable and what is wrong with it; values never
    appear in it, since some are secrets.
    """
    if environ is None:
        if "DATABASE_URL" not in os.environ:  # who names a database of their own means no stack
            for name, value in running_stack().items():
                os.environ.setdefault(name, value)
        environ = os.environ
    values: dict[str, object] = {}
    for field in Settings.model_fields:
        raw = environ.get(field.upper(), "").strip()
        if raw:
            values[field] = raw
    try:
        values["use_inngest"] = parse_use_inngest(environ.get("USE_INNGEST"))
    except ValueError as nonsense:
        raise SettingsError(str(nonsense)) from None
    try:
        settings = Settings.model_validate(values)
    except ValidationError as failure:
        first = failure.errors(include_input=False, include_url=False)[0]
        name, *where = map(str, first["loc"])
        said = [name.upper(), *where[:4], first["msg"].removeprefix("Value error, ")]
        raise SettingsError(": ".join(said)) from None
    _check_together(settings)
    return settings


def _check_together(settings: Settings) -> None:
    if settings.inngest_signing_key is not None:
        text = settings.inngest_signing_key.get_secret_value().rpartition("-")[2]
        if not text or len(text) % 2 or not set(text.lower()) <= set("0123456789abcdef"):
            raise SettingsError("INNGEST_SIGNING_KEY: must be hex, after an optional signkey-*-")
    if (settings.upstash_redis_rest_url is None) != (settings.upstash_redis_rest_token is None):
        raise SettingsError("UPSTASH_REDIS_REST_URL and UPSTASH_REDIS_REST_TOKEN: set both or none")
    try:
        webhook_config.check(settings.webhook_sources, settings.webhook_targets)
    except ValueError as wrong:
        raise SettingsError(f"WEBHOOK_SOURCES, WEBHOOK_TARGETS: {wrong}") from None
    if settings.local:
        return
    if settings.use_inngest and settings.inngest_dev is None:
        for name in ("inngest_event_key", "inngest_signing_key"):
            if getattr(settings, name) is None:
                raise SettingsError(f"USE_INNGEST is true but {name.upper()} is not set")
    if settings.admin_email is not None and settings.smtp_url is None:
        raise SettingsError("ADMIN_EMAIL is set but SMTP_URL is not: no mail would go to it")
    if settings.admin_token is not None and len(settings.admin_token.get_secret_value()) < 16:
        raise SettingsError("ADMIN_TOKEN: must have at least 16 characters")
