"""A bad setting stops the start with one clear line, which never shows a secret."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.config import Settings, load
from app.errors import SettingsError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"USE_INNGEST": "maybe"}, "USE_INNGEST: must be true or false"),
        ({"PORT": "web"}, "PORT: "),
        ({"PORT": "0"}, "PORT: "),
        ({"DATABASE_URL": "mysql://x"}, "DATABASE_URL: must start with"),
        ({"INNGEST_DEV": "maybe"}, "INNGEST_DEV: must be a URL, 1 or 0"),
        ({"REDIS_URL": "redis://h:port/0"}, "REDIS_URL: its port"),
        ({"DATABASE_URL": "sqlite:/x"}, "DATABASE_URL: must start with"),
        ({"REDIS_URL": "http://x"}, "REDIS_URL: must start with"),
        ({"STRIPE_API_BASE": "ftp://x"}, "STRIPE_API_BASE: must start with"),
        ({"INNGEST_SIGNING_KEY": "signkey-prod-zz"}, "INNGEST_SIGNING_KEY: must be hex"),
        ({"USE_INNGEST": "true", "STRIPE_API_KEY": "sk_live_x"}, "INNGEST_EVENT_KEY is not set"),
        ({"STRIPE_API_KEY": "sk_live_x", "ADMIN_TOKEN": "short"}, "ADMIN_TOKEN: "),
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


def test_nothing_set_is_local_mode() -> None:
    settings = load({})
    assert settings.local
    assert not settings.use_inngest
    assert settings.database_url.startswith("sqlite:///")
    assert settings.port == 3005


@pytest.mark.parametrize("name", ["STRIPE_API_KEY", "INNGEST_EVENT_KEY", "QSTASH_TOKEN"])
def test_one_credential_ends_local_mode(name: str) -> None:
    assert not load({name: "something"}).local


@pytest.mark.parametrize(("dev", "signed"), [("0", True), ("false", True), ("1", False)])
def test_a_signing_key_counts_unless_a_dev_server_is_named(dev: str, signed: bool) -> None:
    settings = load({"INNGEST_SIGNING_KEY": "signkey-test-ab12", "INNGEST_DEV": dev})
    assert settings.inngest_signed is signed


def test_secrets_stay_out_of_a_repr() -> None:
    settings = load({"STRIPE_API_KEY": "sk_live_secret", "ADMIN_TOKEN": "0123456789abcdef-secret"})
    assert "secret" not in repr(settings).replace("secret_key", "").replace("webhook_secret", "")


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


@pytest.mark.parametrize(
    "command", [["-c", "import app.server"], ["-m", "flask", "--app", "app", "jobs", "list"]]
)
def test_a_process_with_a_bad_setting_ends_with_one_line(command: list[str]) -> None:
    environ = {"PATH": os.environ["PATH"], "USE_INNGEST": "maybe", "DATABASE_URL": "sqlite://"}
    ended = subprocess.run(
        [sys.executable, *command], env=environ, cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode in (2, 4)  # 4 makes gunicorn stop instead of trying again
    assert "USE_INNGEST: must be true or false" in ended.stderr
    assert "Traceback" not in ended.stderr
