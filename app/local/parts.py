"""The parts of a stack: their commands (the Procfile's own), and how each shows that it is up."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from typing import Any

import requests
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from rq.worker_registration import REDIS_WORKER_KEYS

from app.local import procfile
from app.local.environment import Local
from app.local.loopback import HOST
from app.local.process import Part, Process
from workflows.client import APP_ID

ANSWER_SECONDS = 2.0
SAID_SECONDS = 5.0
"""How long a process may live without saying that it started (its log level may forbid it)."""
STRIPE_EVENTS = "account.updated,transfer.reversed,payout.paid,payout.failed,payout.canceled"
"""What the app acts on; a webhook at Stripe is registered for these too."""
SETTLE_SECONDS = 4
"""How long the bank of Stripe's stand-in takes."""

SYNC = "flask --app app qstash sync"
"""What a team runs at each deploy, once it has QStash tick its jobs."""

Ready = Callable[[Process], bool]


def servers(local: Local) -> list[Part]:
    """What the others talk to: only those the caller has none of."""
    parts: list[Part] = []
    if local.own_redis:
        command = _module("valkey", "--dir", str(local.folder / "valkey"))
        url = local.process_env["REDIS_URL"]
        parts.append(Part("valkey", command, lambda process: _answers_redis(url)))
    if (port := local.ports.get("stripe")) is not None:
        data = local.folder / "stripe.db"
        command = _module(
            *("stripe", "--port", str(port), "--data", str(data)),
            *("--webhook", f"{local.url}/api/webhooks/stripe", "--events", STRIPE_EVENTS),
            *("--settle-seconds", str(SETTLE_SECONDS)),
        )
        parts.append(Part("stripe", command, _listens(port)))
    if (port := local.ports.get("inngest")) is not None:
        app = f"{local.url}/api/inngest"
        command = _module("inngest", "--port", str(port), "--app", app)
        parts.append(Part("inngest", command, _listens(port)))
    if (port := local.ports.get("qstash")) is not None:
        data = local.folder / "qstash.db"
        command = _module("qstash", "--port", str(port), "--data", str(data))
        parts.append(Part("qstash", command, _listens(port)))
    if (port := local.ports.get("mail")) is not None:
        folder = local.process_env["MAIL_FOLDER"]
        command = _module("mail", "--port", str(port), "--dir", folder)
        parts.append(Part("mail", command, _listens(port)))
    return parts


def release() -> Part:
    """The migrations, run to their end."""
    return _once("release", procfile.read()["release"])


def _once(name: str, command: str) -> Part:
    return Part(name, procfile.argv(command), lambda process: process.exit_code == 0, once=True)


def workers(local: Local, count: int) -> list[Part]:
    """What does the work: web, `count` RQ workers, relay and clock."""
    commands = {name: procfile.argv(command) for name, command in procfile.read().items()}
    url = local.process_env["REDIS_URL"]
    return [
        Part("web", commands["web"], _web(local)),
        *(
            Part(f"worker-{number}", commands["worker"], lambda process: _registered(url, process))
            for number in range(1, count + 1)
        ),
        Part("relay", commands["relay"], _says("relay started")),
        Part("clock", commands["clock"], _says("clock started")),
        *([] if "qstash" not in local.ports else [_once("schedules", SYNC)]),
    ]


def _module(name: str, *args: str) -> list[str]:
    return [sys.executable, "-m", f"app.local.{name}", *args]


def get(url: str) -> Any:
    """The JSON that `url` on this machine answers, or None where it does not answer 200."""
    with requests.Session() as session:
        session.trust_env = False
        try:
            answer = session.get(url, timeout=ANSWER_SECONDS)
            return answer.json() if answer.status_code == 200 else None
        except (requests.RequestException, ValueError):
            return None


def _listens(port: int) -> Ready:
    def ready(_process: Process) -> bool:
        with socket.socket() as probe:
            probe.settimeout(ANSWER_SECONDS)
            return probe.connect_ex((HOST, port)) == 0

    return ready


def _web(local: Local) -> Ready:
    """Ready, and known to the Inngest stand-in, which would drop events for functions it has not
    heard of."""

    def ready(process: Process) -> bool:
        if get(f"{local.url}/readyz") is None:
            return False
        if "inngest" not in local.ports:
            return True
        return bool(get(f"http://{HOST}:{local.ports['inngest']}/v1/apps/{APP_ID}/functions"))

    return ready


def _says(words: str) -> Ready:
    return lambda process: words in process.logged() or process.age > SAID_SECONDS


def _client(url: str) -> Redis:
    return Redis.from_url(url, socket_timeout=ANSWER_SECONDS, retry=Retry(NoBackoff(), 0))


def _answers_redis(url: str) -> bool:
    with _client(url) as client:
        try:
            return bool(client.ping())
        except RedisError:
            return False


def _registered(url: str, process: Process) -> bool:
    """Whether the RQ worker of this process has signed in and begun to listen."""
    with _client(url) as client:
        try:
            keys: Any = client.smembers(REDIS_WORKER_KEYS)
            known: Any = [client.hmget(key, "pid", "state") for key in keys]
            return any(
                pid == str(process.pid).encode() and state in (b"idle", b"busy")
                for pid, state in known
            )
        except RedisError:
            return False
