"""Settings, read once from the environment and validated at start."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, TypeAdapter
from pydantic import ValidationError as Misfit
from pydantic.networks import AnyUrl
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from app.switchyard.errors import SettingsError
from app.switchyard.text import hide, secrets_of
from flags import parse_use_inngest, switch

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
OWN_PREFIX = "SWITCHYARD_"
"""A prefix for variables whose plain names the host uses for something else. The prefixed one wins.
"""
LOCAL_QSTASH_TOKEN = "switchyard-local"
"""The token of the QStash stand-in that `make run` starts. It opens nothing else."""
TOKENS = ("admin_token", "read_only_token")
"""The fields with the tokens that people log in with."""
SECRET = 16
"""The least number of characters in a secret of one's own choosing."""
ENCODE = "in a user name or password, percent-encode / ? # @ : %"

_LIVE_KEY = re.compile(r"(?i)\b(?!pk)[a-z]k_(org_)?live_")
"""Stripe's live keys: secret, restricted, and kinds to come. A publishable one moves no money."""
_SECOND_KEYS = {
    "inngest_signing_key_fallback": "inngest_signing_key",
    "qstash_next_signing_key": "qstash_current_signing_key",
}
"""Second keys, each of which is useless without its first."""
_SIGNKEY = re.compile(r"(signkey-\w+-)?(?P<key>([0-9a-fA-F]{2}){16,})")


def split(value: str) -> list[str]:
    """The items of a comma-separated setting."""
    return [item for item in (part.strip() for part in value.split(",")) if item]


def hidden(check: Callable[[str], object]) -> AfterValidator:
    """`check` applied to the value of a secret."""

    def checked(value: SecretStr) -> SecretStr:
        check(value.get_secret_value())
        return value

    return AfterValidator(checked)


def url(*schemes: str, parse: Callable[[str], object] | None = None) -> Callable[[str], str]:
    """A check of a URL, which stays as it was written. `parse` reads it as its user will.

    The check raises ValueError with a message that shows nothing of the URL, which may contain a
    password.
    """
    parse = TypeAdapter(AnyUrl).validate_python if parse is None else parse

    def check(value: str) -> str:
        scheme, _, rest = value.partition("://")
        if scheme not in schemes or not value.isprintable() or not (rest or scheme == "sqlite"):
            raise ValueError(f"must start with {' or '.join(f'{s}://' for s in schemes)}")
        if scheme in ("sqlite", "file", "unix"):
            return value
        authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
        # An @ further on means that the authority ended too early, inside the password.
        if rest.count("@") > 1 or ("@" in rest and "@" not in authority):
            raise ValueError(f"it can be read in two ways; {ENCODE}")
        try:
            port = urlsplit(value).port
        except ValueError:
            port = -1
        if port is not None and port < 1:
            raise ValueError(f"its port is not a number from 1 to 65535; {ENCODE}")
        try:
            parse(value)
        except (ValueError, ArgumentError):
            raise ValueError(f"it is not a valid URL; {ENCODE}") from None
        if scheme.startswith("http") and not (authority and " " not in value):
            raise ValueError("it is not a valid URL: it needs a host, and no spaces")
        return value

    return check


WEB = url("http", "https")
HttpUrl = Annotated[str, AfterValidator(WEB)]
_DATABASES = ("sqlite", "postgresql", "postgres", "postgresql+psycopg", "postgresql+psycopg2")
_DATABASE = url(*_DATABASES, parse=make_url)


def database(value: str) -> str:
    """Check the URL of a database that the layer supports. Raises ValueError."""
    scheme, sep, rest = value.partition("://")
    if sep and scheme not in _DATABASES and re.fullmatch(r"[a-z][a-z0-9+]*", scheme):
        raise ValueError(f"{scheme}:// is not supported, only sqlite:// and postgresql://")
    if scheme == "sqlite" and not re.match("[/?]|$", rest):
        raise ValueError("sqlite:// needs a third slash before a path")
    return _DATABASE(value)


def _redis(value: str) -> str:
    unix = url("redis", "rediss", "unix")(value).startswith("unix")
    if not re.fullmatch("/.+" if unix else "/?[0-9]{0,5}", urlsplit(value).path):
        wanted = "begin with /" if unix else "be the number of a database, such as /0"
        raise ValueError(f"its path must {wanted}")
    return value


def _dev(value: str) -> str | None:
    if value.lower() in ("0", "false"):
        return None
    if value.lower() in ("1", "true"):
        return value
    try:
        return WEB(value)
    except ValueError:
        raise ValueError("must be a URL, 1 or 0") from None


def _hex_key(value: str) -> None:
    parts = _SIGNKEY.fullmatch(value)
    if parts is None or len(set(parts["key"])) == 1:
        raise ValueError("must be 32 hex digits or more, after an optional signkey-*-")


def strong(value: str) -> None:
    """Checks a secret that somebody else must not guess. Raises ValueError."""
    if len(value) < SECRET or len(set(value)) == 1:
        raise ValueError(f"must have at least {SECRET} characters, and not all the same")


def live_key(environ: Mapping[str, str]) -> str | None:
    """The name of a variable that has a key to real money in it, if any."""
    return next((name for name, value in environ.items() if _LIVE_KEY.search(value)), None)


def each(pattern: str, says: str) -> AfterValidator:
    """A check that each item of a comma-separated setting is of this kind."""

    def check(value: str) -> str:
        if not all(re.fullmatch(pattern, item) for item in split(value)):
            raise ValueError(f"must be {says}")
        return value

    return AfterValidator(check)


_NAMES = r"[^\W\d]\w*(\.[^\W\d]\w*)*"
_MODULES = each(_NAMES, "modules such as shop.jobs, comma-separated")
_PATHS = each(_NAMES + r"\.([^\W\d]\w*|\*)", "dotted paths such as shop.tasks.pay or shop.tasks.*")


def _retention(days: int) -> int:
    if days != 0 and not 30 <= days <= 3650:
        raise ValueError("must be 0 (keep everything) or 30 to 3650 days")
    return days


class Settings(BaseModel):
    """What the environment says to the layer: the variable is the field's name in capitals, or the
    same with SWITCHYARD_ before it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    credentials: ClassVar[tuple[str, ...]] = (
        "inngest_event_key",
        "inngest_signing_key",
        "qstash_token",
        "upstash_redis_rest_token",
    )
    """The fields that are credentials for an outside service."""

    use_inngest: bool = False
    database_url: Annotated[str, AfterValidator(database)] | None = Field(default=None, repr=False)
    redis_url: Annotated[str, AfterValidator(_redis)] = Field(
        default="redis://127.0.0.1:6379/0", repr=False
    )
    """Like the one above it is never shown, since it may contain a password."""
    database_pool_size: int | None = Field(default=None, ge=2, le=1000)
    """The most connections that a process opens to the database. Who needs another one waits. The
    default is one for each thread of web, and four for their heartbeats."""
    web_threads: int = Field(default=16, ge=2, le=500)
    """How many threads serve requests in a web process that the Procfile starts."""
    database_prepare: bool = True
    """Whether statements are prepared on Postgres. A pooler before it is detected anyway."""
    inngest_event_key: SecretStr | None = None
    inngest_signing_key: Annotated[SecretStr, hidden(_hex_key)] | None = None
    inngest_signing_key_fallback: Annotated[SecretStr, hidden(_hex_key)] | None = None
    """The other key during a rotation. Calls signed with either key are accepted."""
    inngest_dev: Annotated[str, AfterValidator(_dev)] | None = None
    inngest_base_url: HttpUrl | None = None
    inngest_call_seconds: float = Field(default=1.0, ge=0, le=60)
    """For how long one call from Inngest continues with further steps of a run. With 0 each step is
    a call of its own, which Inngest's dashboard then shows."""
    qstash_token: SecretStr | None = None
    qstash_url: HttpUrl | None = None
    qstash_current_signing_key: Annotated[SecretStr, hidden(strong)] | None = None
    qstash_next_signing_key: Annotated[SecretStr, hidden(strong)] | None = None
    upstash_redis_rest_url: HttpUrl | None = None
    upstash_redis_rest_token: SecretStr | None = None
    backend_url: HttpUrl | None = None
    admin_token: Annotated[SecretStr, hidden(strong)] | None = None
    read_only_token: Annotated[SecretStr, hidden(strong)] | None = None
    """A token that gives access to everything that the console and the API show, without the right
    to change anything."""
    metrics_token: Annotated[SecretStr, hidden(strong)] | None = None
    """The bearer token that /metrics requires, if any."""
    secret_key: Annotated[SecretStr, hidden(strong)] | None = None
    trusted_proxies: int = Field(default=0, ge=0, le=10)
    """How many proxies are in front of the app, each of which adds its caller to X-Forwarded-For.
    Local mode is closed then."""
    port: int = Field(default=3005, ge=1, le=65535)
    switchyard_jobs: Annotated[str, _MODULES] = ""
    """The modules that declare jobs, comma-separated, instead of the app's own."""
    legacy_functions: Annotated[str, _PATHS] = ""
    """The functions of old jobs in Redis that a worker may run, comma-separated: a dotted path, or
    `package.module.*` for all that the module itself defines."""
    legacy_queues: str = ""
    """Queues that hold only old jobs, comma-separated. A worker serves them after the others."""
    legacy_pickle: bool = False
    """Whether a worker opens pickled jobs. Anyone who can write to Redis can then run code in it.
    """
    flag_provider: str | None = Field(default=None, pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    """The `module:factory` of an OpenFeature provider that replaces ramps and live stages."""
    lease_seconds: float = Field(default=10.0, ge=0.5, le=3600)
    """How long a claim lasts without a heartbeat, in seconds. A crash may delay a run by twice as
    long."""
    check_seconds: float = Field(default=5.0, ge=0.1, le=3600)
    """How long a run may stay unclaimed after it was sent before the relay looks at it, in seconds.
    """
    retention_days: Annotated[int, AfterValidator(_retention)] = 90
    """How long data that no promise needs is kept (see runs.retention). 0 keeps everything."""

    @classmethod
    def load(
        cls,
        environ: Mapping[str, str] | None = None,
        config: Mapping[str, Any] = MappingProxyType({}),
    ) -> Self:
        """Settings from `environ`, by default the process's, and from an app's `config`, in which
        names beginning with SWITCHYARD_ win.

        Raises SettingsError with one line that names the variable and what is wrong with it. Values
        never appear in it, since some are secrets.
        """
        environ = os.environ if environ is None else environ
        own = {n: _as_text(v) for n, v in config.items() if n.startswith(OWN_PREFIX)}
        given = {name.upper(): value.strip() for name, value in {**environ, **own}.items()}
        values: dict[str, Any] = {}
        for field in cls.model_fields:
            name = field.upper()
            # An empty variable counts as unset.
            if value := given.get(f"{OWN_PREFIX}{name}") or given.get(name):
                values[field] = value
        try:
            where, name = switch(environ, config)
            values["use_inngest"] = parse_use_inngest(where.get(name))
            settings = cls(**values)
        except Misfit as failure:
            first = failure.errors(include_input=False, include_url=False)[0]
            raise SettingsError(_line(first)) from None
        except ValueError as nonsense:
            raise SettingsError(str(nonsense)) from None
        everything = {**environ, **{n: str(v) for n, v in config.items()}}
        if settings.inngest_dev is not None and (variable := live_key(everything)) is not None:
            raise SettingsError(
                f"INNGEST_DEV is set and {variable} is a live key: unsigned calls must not move"
                " real money"
            )
        settings.check()
        hide(*settings._secrets())
        return settings

    def check(self) -> None:
        """Raise SettingsError where settings conflict, or a secret cannot be sent in a header."""
        for name in (*self.credentials, *TOKENS, "metrics_token"):
            secret = getattr(self, name)
            text = "" if secret is None else secret.get_secret_value()
            if not (text.isascii() and text.isprintable()):
                raise SettingsError(f"{name.upper()}: must have ASCII characters only")
        if (self.upstash_redis_rest_url is None) != (self.upstash_redis_rest_token is None):
            raise SettingsError(
                "UPSTASH_REDIS_REST_URL and UPSTASH_REDIS_REST_TOKEN: set both or none"
            )
        for name, first in _SECOND_KEYS.items():
            if getattr(self, name) is not None and getattr(self, first) is None:
                raise SettingsError(f"{name.upper()} is set but {first.upper()} is not")
        if self.read_only_token is not None and self.read_only_token == self.admin_token:
            raise SettingsError("READ_ONLY_TOKEN: must not be ADMIN_TOKEN, which may do everything")
        if self.local:
            return
        if self.use_inngest and self.inngest_dev is None:
            for name in ("inngest_event_key", "inngest_signing_key"):
                if getattr(self, name) is None:
                    raise SettingsError(f"USE_INNGEST is true but {name.upper()} is not set")

    def _secrets(self) -> Iterator[str | None]:
        """The values that must never be shown."""
        for name in type(self).model_fields:
            value = getattr(self, name)
            secret = value.get_secret_value() if isinstance(value, SecretStr) else ""
            yield from (*split(secret), *secrets_of(str(value)))

    @property
    def local(self) -> bool:
        """Local mode: no credentials of an outside service are set, so the stand-ins serve."""
        return not any(getattr(self, name) for name in self.credentials)

    @property
    def inngest_signed(self) -> bool:
        """Whether Inngest's calls must be signed: there is a signing key and no dev server."""
        return self.inngest_signing_key is not None and self.inngest_dev is None

    @property
    def qstash_secret(self) -> str | None:
        """The token for QStash, which is the stand-in's where QSTASH_URL is on loopback."""
        if self.qstash_token is not None:
            return self.qstash_token.get_secret_value()
        host = urlsplit(self.qstash_url or "").hostname
        return LOCAL_QSTASH_TOKEN if host in LOOPBACK else None

    @property
    def qstash_lacks(self) -> str | None:
        """The first variable that jobs on QStash need and that is not set. Signing keys are not
        needed, since the token gives access to them."""
        needed = {"QSTASH_TOKEN": self.qstash_secret, "BACKEND_URL": self.backend_url}
        return next((name for name, value in needed.items() if value is None), None)

    @property
    def sqlalchemy_url(self) -> str:
        """DATABASE_URL with this project's driver named in it.

        Raises SettingsError where it is not set.
        """
        if self.database_url is None:
            raise SettingsError("DATABASE_URL is not set, and the app passes no engine")
        scheme, sep, rest = self.database_url.partition("://")
        if scheme in ("postgres", "postgresql"):
            return f"postgresql+psycopg{sep}{rest}"
        return self.database_url


def _as_text(value: object) -> str:
    """A value of an app's config, as text like that of a variable."""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return "" if value is None else str(value)


def _line(misfit: Any) -> str:
    name, *where = map(str, misfit["loc"])
    return ": ".join([name.upper(), *where[:4], misfit["msg"].removeprefix("Value error, ")])
