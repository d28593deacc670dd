"""`make run` and what it stands on: everything comes up, comes back, and leaves nothing behind."""

from __future__ import annotations

import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from qstash import QStash
from redis import Redis
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError
from redis.retry import Retry
from rich.console import Console
from sqlalchemy import func, select

from app.local.environment import CannotRun, LiveKey, clean, prepare
from app.local.loopback import HOST, free_port
from app.local.parts import servers
from app.local.run import PAYABLE, _banner
from app.local.stack import Stack
from app.platform.config import ROOT, running_stack
from app.platform.payouts.models import Payout, PayoutStatus
from app.switchyard.config import LOCAL_QSTASH_TOKEN
from app.switchyard.db import Database
from tests.support.serving import local_server
from tests.support.waiting import PATIENCE_SECONDS, until

GUIDE = {"name": "payout.scheduled", "data": {"payoutDate": "2025-01-15", "dayOfMonth": 15}}


def all_gone(processes: list[psutil.Process]) -> None:
    """Wait until all processes have ended. A zombie that PID 1 has not reaped has ended."""

    def alive(process: psutil.Process) -> bool:
        try:
            return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False

    psutil.wait_procs(processes, timeout=0)
    until(lambda: not any(map(alive, processes)), lambda: list(filter(alive, processes)))


@contextmanager
def running(folder: Path, **environ: str) -> Iterator[subprocess.Popen[str]]:
    """`make run`'s own process, in a folder of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "app.local.run", "--dir", str(folder)],
        cwd=ROOT,
        env=clean(os.environ) | environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.minutes
def test_works_restarts_and_leaves_nothing(tmp_path: Path) -> None:
    """test_procfile ends processes by SIGTERM."""
    port = free_port()
    with running(tmp_path / "var", PORT=str(port)) as process:
        assert process.stdout is not None
        shown = ""
        while "curl -X POST" not in shown:
            line = process.stdout.readline()
            assert line, shown
            shown += line
        assert "\x1b" not in shown
        threading.Thread(target=process.stdout.read, daemon=True).start()  # so that it can go on
        environ = running_stack(tmp_path)
        assert (tmp_path / "var" / "run.json").stat().st_mode & 0o777 == 0o600
        qstash = QStash(LOCAL_QSTASH_TOKEN, base_url=environ["QSTASH_URL"])
        assert "switchyard-process-payouts" in {s.schedule_id for s in qstash.schedule.list()}
        family = psutil.Process(process.pid)
        everything = family.children(recursive=True)
        assert len(everything) >= 9
        for word in ("valkey", "gunicorn", "worker", "inngest", "qstash", "stripe"):
            killed = part(family, word)
            assert killed is not None, word
            os.kill(killed.pid, signal.SIGKILL)
            until(lambda word=word, killed=killed: part(family, word) not in (None, killed))  # type: ignore[misc]
        until(lambda: _triggered(f"http://127.0.0.1:{port}"))
        db = Database(environ["DATABASE_URL"])
        paid = select(func.count()).where(Payout.status == PayoutStatus.PAID)
        # At the bank: Stripe's stand-in said so by its webhook.
        until(lambda: db.value(paid) == PAYABLE, "the guide's own curl pays")
        db.dispose()
        everything += family.children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) == 0
        all_gone(everything)
    assert running_stack(tmp_path) == {}
    assert not (tmp_path / "var" / "run.json").exists()


def part(family: psutil.Process, word: str) -> Any:
    """The running part with a word of its command that begins with `word`, or None."""
    for child in family.children():
        with suppress(psutil.NoSuchProcess):
            if child.status() != psutil.STATUS_ZOMBIE and any(
                Path(said).name.startswith(word) for said in child.cmdline()
            ):
                return child
    return None


def _triggered(url: str) -> bool:
    try:
        answer = requests.post(f"{url}/api/inngest/trigger", json=GUIDE, timeout=PATIENCE_SECONDS)
    except requests.ConnectionError:
        return False
    assert answer.status_code == 202, answer.text
    return True


@pytest.mark.process
def test_a_part_that_does_not_come_up_is_named_with_its_log(tmp_path: Path) -> None:
    environ = clean(os.environ) | {"DATABASE_URL": f"sqlite:///{tmp_path}/a-file/x.db"}
    (tmp_path / "a-file").touch()
    before = psutil.Process().children()
    local = prepare(tmp_path / "var", free_port(), environ)
    with pytest.raises(CannotRun, match=r"release ended with 2(.|\n)*DATABASE_URL"), Stack(local):
        raise AssertionError("it came up")
    assert set(psutil.Process().children()) <= set(before)


def test_the_callers_own_parts_are_used(tmp_path: Path) -> None:
    mine = {"REDIS_URL": "redis://127.0.0.1:1/0", "STRIPE_API_KEY": "sk_test_x"}
    local = prepare(tmp_path, 3005, mine | {"INNGEST_DEV": ""})
    assert not local.own_redis
    assert "stripe" not in local.ports
    assert "inngest" in local.ports
    assert "STRIPE_API_BASE" not in local.process_env
    assert local.shown_env["REDIS_URL"] == mine["REDIS_URL"]
    assert "STRIPE_API_KEY" not in local.shown_env
    assert "STRIPE_WEBHOOK_SECRET" not in local.process_env


def test_the_stand_ins_webhooks_are_signed_with_a_secret_of_their_own(tmp_path: Path) -> None:
    made = [prepare(tmp_path, 3005, {}) for _ in range(2)]
    secrets = {local.process_env["STRIPE_WEBHOOK_SECRET"] for local in made}
    assert len(secrets) == 2
    assert all(secret.startswith("whsec_") for secret in secrets)
    assert "STRIPE_WEBHOOK_SECRET" not in made[0].shown_env
    (stripe,) = (part for part in servers(made[0]) if part.name == "stripe")
    assert f"{made[0].url}/api/webhooks/stripe" in stripe.command
    assert not secrets & set(stripe.command)
    named = prepare(tmp_path, 3005, {"STRIPE_WEBHOOK_SECRET": "whsec_mine"})
    assert named.process_env["STRIPE_WEBHOOK_SECRET"] == "whsec_mine"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a process to its parent")
def test_killed_it_leaves_nothing(tmp_path: Path) -> None:
    with running(tmp_path, PORT=str(free_port())) as process:
        family = psutil.Process(process.pid)
        # Each is tied to its parent as it begins: the first few are as good as all.
        children = until(lambda: (found := family.children(recursive=True))[2:] and found)
        process.kill()
        process.wait(PATIENCE_SECONDS)
        all_gone(children)


def test_what_stops_the_start_is_one_line(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = str(taken.getsockname()[1])
        says = f"port {port} is taken; choose another one with PORT=… make run"
        for environ, code, why in (
            ({"PORT": port}, 1, says),
            ({"STRIPE_API_KEY": "sk_live_0123456789abcdef"}, 2, "STRIPE_API_KEY is a live key"),
        ):
            with running(tmp_path / f"{code}", **environ) as process:
                said, _ = process.communicate(timeout=PATIENCE_SECONDS)
            assert (process.returncode, said.count("\n")) == (code, 1)
            assert said.startswith(f"switchyard: {why}")
    assert not (tmp_path / "2").exists()


def test_a_killed_valkey_loses_nothing_and_there_is_only_one(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 30)  # too long for a socket's path: it goes to the temp folder
    given = ("valkey", "--data", str(folder))
    retry = Retry(ConstantBackoff(0.05), 1000, supported_errors=(ConnectionError,))
    with local_server(*given) as (process, url):
        Redis.from_url(url, retry=retry).set("kept", "yes")
        command = [sys.executable, "-m", "app.local", *given]
        again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert (again.returncode, again.stdout) == (1, "")
        assert "served by another process" in again.stderr
        process.kill()
        process.wait()
    with local_server(*given) as (_, url):
        assert Redis.from_url(url, retry=retry).get("kept") == b"yes"


@pytest.mark.parametrize(
    "key", ["sk_live_0123456789abcdef", " rk_live_0123456789abcdef\n", "sk_org_live_0123456789"]
)
@pytest.mark.parametrize("name", ["STRIPE_API_KEY", "SWITCHYARD_STRIPE_API_KEY", "stripe_api_key"])
def test_a_live_stripe_key_stops_the_plan(tmp_path: Path, name: str, key: str) -> None:
    with pytest.raises(LiveKey, match=f"^{name} is a live key; ") as refused:
        prepare(tmp_path, 3005, {name: key})
    assert "0123456789" not in str(refused.value)


def printed(folder: Path, **environ: str) -> str:
    """What `make run` says at its start."""
    out = io.StringIO()
    _banner(prepare(folder, 3005, environ), Console(file=out, soft_wrap=True, width=200))
    return out.getvalue()


def test_it_says_how_to_reach_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Authorization" not in printed(tmp_path)
    assert "inngest-cli" not in printed(tmp_path)
    dev = printed(tmp_path, INNGEST_DEV="http://127.0.0.1:8288")
    assert "dev -u http://localhost:3005/api/inngest" in dev
    keys = {"INNGEST_EVENT_KEY": "e", "INNGEST_SIGNING_KEY": "abcd" * 8}
    said = printed(tmp_path, **keys)
    assert re.search(r'-H "Authorization: Bearer [0-9a-f]{32}"', said)
    assert "start --event-key $INNGEST_EVENT_KEY" in said  # a dev server is refused
    assert "latest dev -u" in printed(tmp_path, **keys, INNGEST_DEV="1")
    monkeypatch.setenv("ADMIN_TOKEN", "a-token-of-my-own")
    mine = printed(tmp_path, **keys, ADMIN_TOKEN="a-token-of-my-own")
    assert 'Bearer $ADMIN_TOKEN"' in mine
    assert "of-my-own" not in mine
