"""The platform's settings, in addition to the layer's."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, Field, Json, SecretStr

from app.platform.gateways import hooks
from app.platform.gateways.address import SmtpServer, mail_address, one_line, smtp_server
from app.switchyard import config
from app.switchyard.config import HttpUrl, database, hidden
from app.switchyard.errors import SettingsError
from app.switchyard.runtime import Runtime

ROOT = Path(__file__).resolve().parents[2]


def _strong_each(secrets: str) -> None:
    for secret in config.split(secrets) or [""]:
        config.strong(secret)


class Settings(config.Settings):
    """All settings. A variable's name is the field's name in capitals."""

    credentials: ClassVar[tuple[str, ...]] = (*config.Settings.credentials, "stripe_api_key")

    database_url: Annotated[str, AfterValidator(database)] | None = Field(
        default=f"sqlite:///{ROOT / 'var' / 'switchyard.db'}", repr=False
    )
    stripe_api_key: SecretStr | None = None
    stripe_api_base: HttpUrl | None = None
    stripe_webhook_secret: Annotated[SecretStr, hidden(_strong_each)] | None = None
    """One secret, or several that are comma-separated."""
    smtp_url: Annotated[SecretStr, hidden(smtp_server)] | None = None
    mail_from: Annotated[str, AfterValidator(mail_address)] = "switchyard@localhost"
    admin_email: Annotated[str, AfterValidator(mail_address)] | None = None
    """The address that gets mail about pay days, retries and the guardrail."""
    admin_webhook_url: hooks.Address | None = None
    """The address that gets the same as JSON. It is secret, since it may contain a token."""
    admin_webhook_secret: hooks.SigningSecret | None = None
    webhook_sources: Json[hooks.Sources] = Field(default_factory=dict)
    """The sources of webhooks; see app.platform.gateways.hooks."""
    webhook_targets: Json[hooks.Targets] = Field(default_factory=dict)
    """The targets to which webhooks are relayed."""
    storage_url: Annotated[str, AfterValidator(config.url("file", "s3"))] = (
        ROOT / "var" / "storage"
    ).as_uri()
    """See app.platform.gateways.storage."""
    platform_name: Annotated[str, Field(max_length=60), AfterValidator(one_line)] = "Switchyard"
    """The name that creators see in mails and on statements."""

    @classmethod
    def load(
        cls,
        environ: Mapping[str, str] | None = None,
        config: Mapping[str, Any] = MappingProxyType({}),
    ) -> Self:
        """Settings from `environ`, or from the process's environment and a running `make run`.

        Raises SettingsError, as the layer's load() does.
        """
        if environ is None and "DATABASE_URL" not in os.environ:
            # Whoever sets DATABASE_URL does not mean the running stack.
            for name, value in running_stack().items():
                os.environ.setdefault(name, value)
        return super().load(environ, config)

    def check(self) -> None:
        """Raise SettingsError where settings contradict each other."""
        super().check()
        if self.stripe_api_key is not None and " " in self.stripe_api_key.get_secret_value():
            raise SettingsError("STRIPE_API_KEY: must have no spaces")
        try:
            hooks.check(self.webhook_sources, self.webhook_targets)
        except ValueError as wrong:
            raise SettingsError(f"WEBHOOK_SOURCES, WEBHOOK_TARGETS: {wrong}") from None
        if not self.local and self.admin_email is not None and self.smtp_url is None:
            raise SettingsError("ADMIN_EMAIL is set but SMTP_URL is not: no mail would go to it")

    @property
    def smtp(self) -> SmtpServer | None:
        """The mail server in SMTP_URL."""
        return None if self.smtp_url is None else smtp_server(self.smtp_url.get_secret_value())


def running_stack(root: Path = ROOT) -> dict[str, str]:
    """The variables that a running `make run` in this folder exported (var/run.json), if any."""
    try:
        state = json.loads((root / "var" / "run.json").read_text())
        os.kill(int(state["pid"]), 0)
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {str(name): str(value) for name, value in state["env"].items()}


load = Settings.load


def settings_of(runtime: Runtime) -> Settings:
    """The platform's settings, from which its runtime was built."""
    settings = runtime.settings
    assert isinstance(settings, Settings)
    return settings
