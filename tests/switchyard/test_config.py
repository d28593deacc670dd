"""A bad setting stops the start with one clear line, which never shows a secret."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from app.local.environment import prepare
from app.platform.config import Settings, load
from app.platform.gateways.address import SmtpServer, Tls
from app.platform.wiring import make_runtime
from app.switchyard import logs
from app.switchyard.errors import SettingsError
from app.switchyard.text import reason

ROOT = Path(__file__).resolve().parents[2]


SECRETS = ("SECRET_KEY", "ADMIN_TOKEN", "READ_ONLY_TOKEN", "METRICS_TOKEN", "STRIPE_WEBHOOK_SECRET")
SIGNING_KEYS = ("QSTASH_CURRENT_SIGNING_KEY", "QSTASH_NEXT_SIGNING_KEY")
KEY = "0a" * 16
NO_NUMBERS = ("x", "1/2", "/0", "-1", "1.5", "%31", "0/", "1e3", "٣")
ALONE: list[tuple[str, str, tuple[str, ...]]] = [
    ("USE_INNGEST", "must be true or false", ("maybe",)),
    ("PORT", "", ("web", "0")),
    ("LEASE_SECONDS", "", ("inf",)),
    ("CHECK_SECONDS", "", ("1e300",)),
    ("RETENTION_DAYS", "", ("-1", "29", "3651", "90.5", "zz", "1e2", "inf")),
    ("SWITCHYARD_JOBS", "must be modules", ("app.platform.mail.jobs,.", ".zz")),
    ("INNGEST_DEV", "must be a URL, 1 or 0", ("maybe",)),
    ("QSTASH_TOKEN", "must have ASCII characters only", ("zz\nX-Other: 1",)),
    ("STRIPE_API_KEY", "must have ASCII characters only", ("sk_test_é",)),
    ("STRIPE_API_KEY", "must have no spaces", ("sk_test_x y",)),
    ("PLATFORM_NAME", "must be one line", ("Fan\nhouse",)),
    ("STRIPE_API_BASE", "must start with", ("ftp://x",)),
    (
        "INNGEST_SIGNING_KEY",
        "must be 32 hex",
        tuple(f"signkey-prod-{key}" for key in ("zz", "0a" * 15, "00" * 32))
        + tuple(f"{head}-prod-{KEY * 2}" for head in ("zz", "SIGNKEY")),
    ),
    ("INNGEST_SIGNING_KEY_FALLBACK", "must be 32 hex", ("zz",)),
    *(
        (name, "must have at least 16 characters", ("zz", "fifteen letters", "z" * 32))
        for name in (*SECRETS, *SIGNING_KEYS)
    ),
    ("STRIPE_WEBHOOK_SECRET", "must have", ("whsec_0123456789abc,zz", " , ")),
    ("DATABASE_URL", "mysql:// is not supported, only sqlite", ("mysql://x",)),
    ("DATABASE_URL", "must start with", ("sqlite:/x",)),
    ("DATABASE_URL", "sqlite:// needs a third slash", ("sqlite://zz.db", "sqlite://u:zz@h/zz.db")),
    (
        "DATABASE_URL",
        "it can be read in two",
        ("postgres://u:zz@zz@127.0.0.1/db", "postgres://u:zz/zz@127.0.0.1/db"),
    ),
    ("REDIS_URL", "must start with", ("http://x",)),
    ("REDIS_URL", "its port", ("redis://h:port/0",)),
    ("REDIS_URL", "it can be read in two ways", ("redis://:6399/zz@127.0.0.1:1/0",)),
    (
        "REDIS_URL",
        "its path must be the number of a",
        tuple(f"redis://zz/{path}" for path in NO_NUMBERS),
    ),
    ("REDIS_URL", "its path must begin with /", ("unix://zz.sock",)),
    ("SMTP_URL", "must start with smtp:// or smtps://", ("http://u:zz@h", "smtp:u:zz@h")),
    (
        "SMTP_URL",
        "must end in a valid host and port; in a password, / ? # @ : % must be percent-encoded",
        (
            *("smtp://", "smtp://u:zz@:25", "smtp://u:zz@h:0", "smtp://u:zz@h:65536"),
            *("smtp://u:25/zz@h:25", "smtp://u:25?zz@h:25", "smtp://u:25#zz@h:25"),
            *("smtp://[zz@h:25", "smtp://u:zz\n@h:25", "smtp://u:z/zz@h:25"),
        ),
    ),
    (
        "SMTP_URL",
        "needs a user and a password",
        ("smtp://zz@h", "smtp://:zz@h", "smtp://u:zz%00@h", "smtp://u:zz%FF@h"),
    ),
    ("MAIL_FROM", "must be a mail address", ("zz",)),
    ("ADMIN_EMAIL", "must be a mail address", ("zz <a@b.c>", "a@b\nBcc: zz@d")),
    ("ADMIN_WEBHOOK_URL", "must start with http:// or https://", ("ftp://h/zz",)),
    ("ADMIN_WEBHOOK_URL", "it is not a valid URL", ("https:///zz", "https://h/a zz")),
    ("ADMIN_WEBHOOK_URL", "its port is not a number", ("https://h:zz/",)),
    ("ADMIN_WEBHOOK_SECRET", "must be whsec_ and", ("zz", "whsec_zzz=", "whsec_zz!!")),
]
TOGETHER: list[tuple[dict[str, str], str]] = [
    ({"INNGEST_DEV": "1", "STRIPE_API_KEY": "sk_live_zz"}, "STRIPE_API_KEY is a live key"),
    ({"INNGEST_DEV": "1", "STRIPE_API_KEY": "rk_live_zz"}, "STRIPE_API_KEY is a live key"),
    ({"INNGEST_DEV": "1", "SHOP_KEYS": "a,sk_live_zz"}, "SHOP_KEYS is a live key"),
    ({"INNGEST_DEV": "1", "shop_key": "SK_LIVE_zz"}, "shop_key is a live key"),
    ({"INNGEST_DEV": "1", "SHOP_KEY": "sk_org_live_zz"}, "SHOP_KEY is a live key"),
    (
        {"SWITCHYARD_INNGEST_DEV": "http://127.0.0.1:1", "STRIPE_API_KEY": "sk_live_zz"},
        "INNGEST_DEV is set and STRIPE_API_KEY",
    ),
    ({"INNGEST_SIGNING_KEY_FALLBACK": KEY}, "but INNGEST_SIGNING_KEY is not"),
    ({"QSTASH_NEXT_SIGNING_KEY": KEY}, "but QSTASH_CURRENT_SIGNING_KEY is not"),
    ({"USE_INNGEST": "true", "STRIPE_API_KEY": "sk_live_x"}, "INNGEST_EVENT_KEY is not set"),
    ({"ADMIN_TOKEN": f"zz{KEY}", "READ_ONLY_TOKEN": f"zz{KEY}"}, "READ_ONLY_TOKEN: must not be"),
    ({"STRIPE_API_KEY": "sk_live_x", "ADMIN_EMAIL": "a@b.c"}, "SMTP_URL is not"),
    ({"SWITCHYARD_REDIS_URL": "zz", "REDIS_URL": "redis://h"}, "REDIS_URL: must start with"),
]


@pytest.mark.parametrize(
    ("environ", "says"),
    [({name: bad}, f"{name}: {says}") for name, says, values in ALONE for bad in values] + TOGETHER,
)
def test_a_bad_setting_is_named(environ: dict[str, str], says: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load(environ)
    message = str(refused.value)
    assert says in message
    assert "\n" not in message
    assert "zz" not in message
    assert "sk_live" not in message


def test_a_live_key_in_a_host_s_config_counts_as_well() -> None:
    with pytest.raises(SettingsError, match="STRIPE_KEYS is a live key"):
        Settings.load({"INNGEST_DEV": "1"}, {"STRIPE_KEYS": ["sk_live_zz"]})
    # What is meant to be seen by everybody moves no money.
    assert load({"INNGEST_DEV": "1", "SHOP_KEY": "pk_live_zz"}).inngest_dev


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("no_such=1", "no_such"),
        ("socket_timeout=abc", "socket_timeout"),
        ("db=abc", "db"),
        ("ssl_cert_reqs=bad", "ssl_cert_reqs"),
        ("protocol=9", "protocol"),
    ],
)
def test_an_option_of_redis_that_makes_no_sense_is_named(option: str, says: str) -> None:
    """R13: the start fails, and not whoever dispatches first."""
    environ = {"REDIS_URL": f"redis://:hunter2-hunter2@127.0.0.1:1/0?{option}"}
    with pytest.raises(SettingsError, match=f"REDIS_URL: .*{says}") as refused:
        make_runtime(load({**environ, "DATABASE_URL": "sqlite://"}))
    assert "hunter2" not in str(refused.value)


def test_a_driver_that_is_not_there_is_named() -> None:
    if find_spec("psycopg2") is None:
        with pytest.raises(SettingsError, match="DATABASE_URL: psycopg2 is not installed"):
            make_runtime(load({"DATABASE_URL": "postgresql+psycopg2://u:hunter2@h/db"}))


def test_a_password_is_hidden_wherever_the_url_has_it() -> None:
    load(
        {
            "DATABASE_URL": "postgres://u@h/db?password=in-a%20query&sslpassword=of-redis-key",
            "REDIS_URL": "redis://h/0?password=of-redis",
        }
    )
    shown = reason(ValueError("in-a query of-redis-key of-redis in-a%20query"))
    assert shown == "… … … …"


def test_the_level_of_the_logs_is_a_setting_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_LEVEL", "loud")
    with pytest.raises(SettingsError, match="LOG_LEVEL: must be one of DEBUG, INFO"):
        logs.configure()


def test_the_example_names_every_setting_and_changes_none() -> None:
    """A copy of it can be loaded before anybody fills it in."""
    lines = (ROOT / ".env.example").read_text().splitlines()
    example = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    others = {"BIND", "LOG_LEVEL"}  # the Procfile's and the logs'
    assert set(example) - others == {name.upper() for name in Settings.model_fields}
    assert load(example) == load({})
    named = [
        {name for name, value in prepare(ROOT / "var", 3005, given).shown_env.items() if value}
        for given in (example, {})
    ]
    assert named[0] == named[1]


def test_nothing_set_is_local_mode() -> None:
    settings = load({})
    assert settings.local
    assert not settings.use_inngest
    assert settings.sqlalchemy_url.startswith("sqlite:///")
    assert settings.port == 3005
    assert (settings.smtp, settings.mail_from) == (None, "switchyard@localhost")
    assert (settings.admin_email, settings.admin_webhook_url) == (None, None)
    assert load({"ADMIN_EMAIL": "a@b.c"}).admin_email == "a@b.c"  # nothing is sent


@pytest.mark.parametrize("name", ["STRIPE_API_KEY", "INNGEST_EVENT_KEY", "QSTASH_TOKEN"])
def test_one_credential_ends_local_mode(name: str) -> None:
    assert not load({name: "something"}).local


@pytest.mark.parametrize(("dev", "signed"), [("0", True), ("false", True), ("1", False)])
def test_a_signing_key_counts_unless_a_dev_server_is_named(dev: str, signed: bool) -> None:
    settings = load({"INNGEST_SIGNING_KEY": "signkey-test-" + "ab12" * 16, "INNGEST_DEV": dev})
    assert settings.inngest_signed is signed


def test_secrets_stay_out_of_a_repr() -> None:
    settings = load(
        {
            "STRIPE_API_KEY": "sk_live_hunter2",
            "ADMIN_TOKEN": "0123456789abcdef-hunter2",
            "SMTP_URL": "smtp://pay:hunter2@h:25",
            "ADMIN_WEBHOOK_URL": "https://h/hunter2",
            "ADMIN_WEBHOOK_SECRET": "whsec_" + "hunter2x" * 4,
            "DATABASE_URL": "postgresql://pay:hunter2@h/pay",
            "REDIS_URL": "rediss://:hunter2@h/0",
        }
    )
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in repr(settings.smtp)


@pytest.mark.parametrize(
    ("url", "server", "password"),
    [
        ("smtp://mail.example", SmtpServer("mail.example", 25), None),
        ("smtp://127.0.0.1:2525/", SmtpServer("127.0.0.1", 2525), None),
        ("smtps://[::1]", SmtpServer("::1", 465, Tls.IMPLICIT), None),
        (
            "smtp+starttls://me%40x.example:p%2F%3A%25%20w@mail.example",
            SmtpServer("mail.example", 587, Tls.STARTTLS, "me@x.example"),
            "p/:% w",
        ),
    ],
)
def test_an_smtp_url_is_read(url: str, server: SmtpServer, password: str | None) -> None:
    read = load({"SMTP_URL": url}).smtp
    assert read is not None
    assert replace(read, password=None) == server
    assert (read.password and read.password.get_secret_value()) == password


@pytest.mark.parametrize(
    ("url", "with_driver"),
    [
        ("postgres://u@h/d", "postgresql+psycopg://u@h/d"),
        ("postgresql://u@h/d", "postgresql+psycopg://u@h/d"),
        ("sqlite:///x.db", "sqlite:///x.db"),
    ],
)
def test_the_driver_is_named(url: str, with_driver: str) -> None:
    assert Settings(database_url=url).sqlalchemy_url == with_driver
