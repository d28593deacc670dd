"""The platform's settings beside the layer's."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, Field, Json, SecretStr

from app.platform.gateways import hooks
from app.platform.gateways.address import SmtpServer, mail_address, smtp_server
from app.switchyard import config
from app.switchyard.config import HttpUrl, database, hidden
from app.switchyard.errors import SettingsError
from app.switchyard.runtime import Runtime

_LOCAL_SECRET = "switchyard-local"
ROOT = Path(__file__).resolve().parents[2]


def _strong_each(secrets: str) -> None:
    for secret in config.split(secrets) or [""]:
        config.strong(secret)


class Settings(config.Settings):
    """Everything the environment may say; the field's name in capitals is the variable's."""

    credentials: ClassVar[tuple[str, ...]] = (*config.Settings.credentials, "stripe_api_key")

    database_url: Annotated[str, AfterValidator(database)] | None = Field(
        default=f"sqlite:///{ROOT / 'var' / 'switchyard.db'}", repr=False
    )
    stripe_api_key: SecretStr | None = None
    stripe_api_base: HttpUrl | None = None
    stripe_webhook_secret: Annotated[SecretStr, hidden(_strong_each)] | None = None
    """Or several, comma-separated."""
    smtp_url: Annotated[SecretStr, hidden(smtp_server)] | None = None
    mail_from: Annotated[str, AfterValidator(mail_address)] = "switchyard@localhost"
    admin_email: Annotated[str, AfterValidator(mail_address)] | None = None
    """Who is mailed how a pay day went."""
    admin_webhook_url: hooks.Address | None = None
    """Who is sent the same as JSON; secret, as it may hold a token."""
    admin_webhook_secret: hooks.SigningSecret | None = None
    webhook_sources: Json[hooks.Sources] = Field(default_factory=dict)
    """Whose webhooks are taken; see app.platform.gateways.hooks."""
    webhook_targets: Json[hooks.Targets] = Field(default_factory=dict)
    """Who gets them."""
    storage_url: Annotated[str, AfterValidator(config.url("file", "s3"))] = (
        ROOT / "var" / "storage"
    ).as_uri()
    """See app.platform.gateways.storage."""
    platform_name: str = Field(default="Switchyard", max_length=60)
    """As creators know it: on their statements."""

    @classmethod
    def load(
        cls,
        environ: Mapping[str, str] | None = None,
        config: Mapping[str, Any] = MappingProxyType({}),
    ) -> Self:
        """Settings from `environ`; by default the process's, filled up from a running `make run`.

        Raises SettingsError as the layer's own does.
        """
        if environ is None and "DATABASE_URL" not in os.environ:
            # Who names a database of their own means no stack.
            for name, value in running_stack().items():
                os.environ.setdefault(name, value)
        return super().load(environ, config)

    def check(self) -> None:
        """Raises SettingsError where settings do not go together."""
        super().check()
        try:
            hooks.check(self.webhook_sources, self.webhook_targets)
        except ValueError as wrong:
            raise SettingsError(f"WEBHOOK_SOURCES, WEBHOOK_TARGETS: {wrong}") from None
        if self.local:
            return
        if self.admin_email is not None and self.smtp_url is None:
            raise SettingsError("ADMIN_EMAIL is set but SMTP_URL is not: no mail would go to it")

    @property
    def signing_secret(self) -> str | None:
        """SECRET_KEY; in local mode a constant, which signs for callers on this machine only."""
        if self.secret_key is not None:
            return self.secret_key.get_secret_value()
        return _LOCAL_SECRET if self.local else None

    @property
    def smtp(self) -> SmtpServer | None:
        """What SMTP_URL says."""
        return None if self.smtp_url is None else smtp_server(self.smtp_url.get_secret_value())


def running_stack(root: Path = ROOT) -> dict[str, str]:
    """What a `make run` in this folder exported (var/run.json), or nothing where none runs."""
    try:
        state = json.loads((root / "var" / "run.json").read_text())
        os.kill(int(state["pid"]), 0)
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {str(name): str(value) for name, value in state["env"].items()}


load = Settings.load


def settings_of(runtime: Runtime) -> Settings:
    """The platform's settings, which its runtime was built from."""
    settings = runtime.settings
    assert isinstance(settings, Settings)
    return settings
