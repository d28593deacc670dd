"""Settings: read once from the environment and validated at start."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError

from app.errors import SettingsError
from flags import parse_use_inngest

ROOT = Path(__file__).resolve().parent.parent
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


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


HttpUrl = Annotated[str | None, _url("http", "https")]


class Settings(BaseModel):
    """Everything the environment may say; the field's name in capitals is the variable's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    use_inngest: bool = False
    database_url: Annotated[str, _url("sqlite", "postgresql", "postgres", "postgresql+psycopg")] = (
        f"sqlite:///{ROOT / 'var' / 'switchyard.db'}"
    )
    redis_url: Annotated[str, _url("redis", "rediss", "unix")] = "redis://127.0.0.1:6379/0"
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
    backend_url: HttpUrl = None
    smtp_url: str | None = None
    storage_url: str | None = None
    admin_token: SecretStr | None = None
    secret_key: SecretStr | None = None
    port: int = Field(default=3005, ge=1, le=65535)
    switchyard_jobs: str = "app.jobs.payouts,app.jobs.webhooks,app.jobs.relay"
    """Modules that declare jobs, comma-separated: a team adds its own here."""
    lease_seconds: float = Field(default=10.0, ge=0.5)
    """How long a claim holds without a sign of life; half of what a crash may cost in time."""
    check_seconds: float = Field(default=5.0, ge=0.1)
    """How long a told run may stay unclaimed before the relay asks its queue about it."""

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
    def inngest_signed(self) -> bool:
        """Whether Inngest's calls must carry a signature: with a signing key and no dev server."""
        return self.inngest_signing_key is not None and self.inngest_dev is None

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
        name = str(first["loc"][0]).upper()
        raise SettingsError(f"{name}: {first['msg'].removeprefix('Value error, ')}") from None
    _check_together(settings)
    return settings


def _check_together(settings: Settings) -> None:
    if settings.inngest_signing_key is not None:
        text = settings.inngest_signing_key.get_secret_value().rpartition("-")[2]
        if not text or len(text) % 2 or not set(text.lower()) <= set("0123456789abcdef"):
            raise SettingsError("INNGEST_SIGNING_KEY: must be hex, after an optional signkey-*-")
    if settings.local:
        return
    if settings.use_inngest and settings.inngest_dev is None:
        for name in ("inngest_event_key", "inngest_signing_key"):
            if getattr(settings, name) is None:
                raise SettingsError(f"USE_INNGEST is true but {name.upper()} is not set")
    if settings.admin_token is not None and len(settings.admin_token.get_secret_value()) < 16:
        raise SettingsError("ADMIN_TOKEN: must have at least 16 characters")
