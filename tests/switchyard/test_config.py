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


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"USE_INNGEST": "maybe"}, "USE_INNGEST: must be true or false"),
        ({"PORT": "web"}, "PORT: "),
        ({"PORT": "0"}, "PORT: "),
        ({"DATABASE_URL": "mysql://x"}, "DATABASE_URL: mysql:// is not supported, only sqlite"),
        ({"INNGEST_DEV": "maybe"}, "INNGEST_DEV: must be a URL, 1 or 0"),
        ({"QSTASH_TOKEN": "zz\nX-Other: 1"}, "QSTASH_TOKEN: must have ASCII characters only"),
        ({"STRIPE_API_KEY": "sk_test_é"}, "STRIPE_API_KEY: must have ASCII characters only"),
        ({"PLATFORM_NAME": "Fan\nhouse"}, "PLATFORM_NAME: must be one line"),
        ({"STRIPE_API_KEY": "sk_test_x y"}, "STRIPE_API_KEY: must have no spaces"),
        ({"INNGEST_DEV": "1", "STRIPE_API_KEY": "sk_live_zz"}, "STRIPE_API_KEY is a live key"),
        ({"INNGEST_DEV": "1", "STRIPE_API_KEY": "rk_live_zz"}, "STRIPE_API_KEY is a live key"),
        ({"INNGEST_DEV": "1", "SHOP_KEYS": "a,sk_live_zz"}, "SHOP_KEYS is a live key"),
        ({"INNGEST_DEV": "1", "shop_key": "SK_LIVE_zz"}, "shop_key is a live key"),
        ({"INNGEST_DEV": "1", "SHOP_KEY": "sk_org_live_zz"}, "SHOP_KEY is a live key"),
        (
            {"SWITCHYARD_INNGEST_DEV": "http://127.0.0.1:1", "STRIPE_API_KEY": "sk_live_zz"},
            "INNGEST_DEV is set and STRIPE_API_KEY",
        ),
        ({"REDIS_URL": "redis://h:port/0"}, "REDIS_URL: its port"),
        ({"DATABASE_URL": "sqlite:/x"}, "DATABASE_URL: must start with"),
        ({"REDIS_URL": "http://x"}, "REDIS_URL: must start with"),
        ({"STRIPE_API_BASE": "ftp://x"}, "STRIPE_API_BASE: must start with"),
        ({"INNGEST_SIGNING_KEY": "signkey-prod-zz"}, "INNGEST_SIGNING_KEY: must be 32 hex"),
        ({"INNGEST_SIGNING_KEY": "signkey-prod-" + "0a" * 15}, "INNGEST_SIGNING_KEY: must be"),
        ({"INNGEST_SIGNING_KEY": "signkey-prod-" + "00" * 32}, "INNGEST_SIGNING_KEY: must be"),
        ({"INNGEST_SIGNING_KEY": "zz-prod-" + "0a" * 32}, "INNGEST_SIGNING_KEY: must be"),
        ({"INNGEST_SIGNING_KEY": "SIGNKEY-prod-" + "0a" * 32}, "INNGEST_SIGNING_KEY: must be"),
        ({"INNGEST_SIGNING_KEY_FALLBACK": "zz"}, "INNGEST_SIGNING_KEY_FALLBACK: must be 32 hex"),
        ({"INNGEST_SIGNING_KEY_FALLBACK": "0a" * 16}, "but INNGEST_SIGNING_KEY is not"),
        ({"QSTASH_NEXT_SIGNING_KEY": "0a" * 16}, "but QSTASH_CURRENT_SIGNING_KEY is not"),
        *(
            ({name: weak}, f"{name}: must have at least 16 characters")
            for name in (
                *("SECRET_KEY", "ADMIN_TOKEN", "READ_ONLY_TOKEN", "METRICS_TOKEN"),
                *("QSTASH_CURRENT_SIGNING_KEY", "QSTASH_NEXT_SIGNING_KEY", "STRIPE_WEBHOOK_SECRET"),
            )
            for weak in ("zz", "fifteen letters", "z" * 32)
        ),
        ({"STRIPE_WEBHOOK_SECRET": "whsec_0123456789abc,zz"}, "STRIPE_WEBHOOK_SECRET: must have"),
        ({"STRIPE_WEBHOOK_SECRET": " , "}, "STRIPE_WEBHOOK_SECRET: must have"),
        ({"USE_INNGEST": "true", "STRIPE_API_KEY": "sk_live_x"}, "INNGEST_EVENT_KEY is not set"),
        (
            {"ADMIN_TOKEN": "zz" + "0a" * 16, "READ_ONLY_TOKEN": "zz" + "0a" * 16},
            "READ_ONLY_TOKEN: must not be",
        ),
        ({"SMTP_URL": "http://u:zz@h"}, "SMTP_URL: must start with smtp:// or smtps://"),
        ({"SMTP_URL": "smtp:u:zz@h"}, "SMTP_URL: must start with"),
        ({"SMTP_URL": "smtp://"}, "SMTP_URL: must end in a valid host and port"),
        ({"SMTP_URL": "smtp://u:zz@:25"}, "SMTP_URL: must end in a valid host and port"),
        ({"SMTP_URL": "smtp://u:zz@h:0"}, "SMTP_URL: must end in a valid host and port"),
        ({"SMTP_URL": "smtp://u:zz@h:65536"}, "SMTP_URL: must end in a valid host and port"),
        ({"SMTP_URL": "smtp://u:z/zz@h:25"}, "percent-encoded"),
        ({"SMTP_URL": "smtp://u:25/zz@h:25"}, "SMTP_URL: must end in a valid host and port"),
        ({"SMTP_URL": "smtp://u:25?zz@h:25"}, "SMTP_URL: must end in a valid host and port"),
        ({"SMTP_URL": "smtp://u:25#zz@h:25"}, "SMTP_URL: must end in a valid host and port"),
        ({"SMTP_URL": "smtp://[zz@h:25"}, "SMTP_URL: must end in a valid host and port"),
        ({"SMTP_URL": "smtp://u:zz\n@h:25"}, "SMTP_URL: must end in a valid host and port"),
        ({"SMTP_URL": "smtp://zz@h"}, "SMTP_URL: needs a user and a password"),
        ({"SMTP_URL": "smtp://:zz@h"}, "SMTP_URL: needs a user and a password"),
        ({"SMTP_URL": "smtp://u:zz%00@h"}, "SMTP_URL: needs a user and a password"),
        ({"SMTP_URL": "smtp://u:zz%FF@h"}, "SMTP_URL: needs a user and a password"),
        ({"MAIL_FROM": "zz"}, "MAIL_FROM: must be a mail address"),
        ({"ADMIN_EMAIL": "zz <a@b.c>"}, "ADMIN_EMAIL: must be a mail address"),
        ({"ADMIN_EMAIL": "a@b\nBcc: zz@d"}, "ADMIN_EMAIL: must be a mail address"),
        ({"STRIPE_API_KEY": "sk_live_x", "ADMIN_EMAIL": "a@b.c"}, "SMTP_URL is not"),
        (
            {"ADMIN_WEBHOOK_URL": "ftp://h/zz"},
            "ADMIN_WEBHOOK_URL: must start with http:// or https://",
        ),
        ({"ADMIN_WEBHOOK_URL": "https:///zz"}, "ADMIN_WEBHOOK_URL: it is not a valid URL"),
        ({"ADMIN_WEBHOOK_URL": "https://h:zz/"}, "ADMIN_WEBHOOK_URL: its port is not a number"),
        ({"ADMIN_WEBHOOK_URL": "https://h/a zz"}, "ADMIN_WEBHOOK_URL: it is not a valid URL"),
        ({"ADMIN_WEBHOOK_SECRET": "zz"}, "ADMIN_WEBHOOK_SECRET: must be whsec_ and"),
        ({"ADMIN_WEBHOOK_SECRET": "whsec_zzz="}, "ADMIN_WEBHOOK_SECRET: must be whsec_ and"),
        ({"ADMIN_WEBHOOK_SECRET": "whsec_zz!!"}, "ADMIN_WEBHOOK_SECRET: must be whsec_ and"),
        *(
            ({"RETENTION_DAYS": days}, "RETENTION_DAYS: ")
            for days in ("-1", "29", "3651", "90.5", "zz", "1e2", "inf")
        ),
        (
            {"DATABASE_URL": "postgres://u:zz@zz@127.0.0.1/db"},
            "DATABASE_URL: it can be read in two",
        ),
        (
            {"DATABASE_URL": "postgres://u:zz/zz@127.0.0.1/db"},
            "DATABASE_URL: it can be read in two",
        ),
        ({"REDIS_URL": "redis://:6399/zz@127.0.0.1:1/0"}, "REDIS_URL: it can be read in two ways"),
        *(
            ({"REDIS_URL": f"redis://zz{path}"}, "REDIS_URL: its path must be the number of a")
            for path in ("/x", "/1/2", "//0", "/-1", "/1.5", "/%31", "/0/", "/1e3", "/٣")
        ),
        ({"REDIS_URL": "unix://zz.sock"}, "REDIS_URL: its path must begin with /"),
        ({"DATABASE_URL": "sqlite://zz.db"}, "DATABASE_URL: sqlite:// needs a third slash"),
        ({"DATABASE_URL": "sqlite://u:zz@h/zz.db"}, "DATABASE_URL: sqlite:// needs a third"),
        ({"SWITCHYARD_REDIS_URL": "zz", "REDIS_URL": "redis://h"}, "REDIS_URL: must start with"),
        ({"LEASE_SECONDS": "inf"}, "LEASE_SECONDS: "),
        ({"CHECK_SECONDS": "1e300"}, "CHECK_SECONDS: "),
        ({"SWITCHYARD_JOBS": "app.platform.mail.jobs,."}, "SWITCHYARD_JOBS: must be modules"),
        ({"SWITCHYARD_JOBS": ".zz"}, "SWITCHYARD_JOBS: must be modules"),
    ],
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
    """R13: at the start, not by whoever dispatches first."""
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
            "DATABASE_URL": "postgres://u@h/db?password=in-a%20query&sslpassword=of-a-key",
            "REDIS_URL": "redis://h/0?password=of-redis",
        }
    )
    shown = reason(ValueError("in-a query of-a-key of-redis in-a%20query"))
    assert shown == "… … … …"


def test_the_level_of_the_logs_is_a_setting_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_LEVEL", "loud")
    with pytest.raises(SettingsError, match="LOG_LEVEL: must be one of DEBUG, INFO"):
        logs.configure()


def test_the_example_names_every_setting_and_changes_none() -> None:
    """So a copy of it can be loaded before anything in it is filled in."""
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


def test_mail_goes_from_a_default_address_to_nobody() -> None:
    settings = load({})
    assert (settings.smtp, settings.mail_from) == (None, "switchyard@localhost")
    assert (settings.admin_email, settings.admin_webhook_url) == (None, None)
    assert load({"ADMIN_EMAIL": "a@b.c"}).admin_email == "a@b.c"  # local mode: nothing is sent


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
