"""The parts of a stack: their commands (the Procfile's own), and how each shows that it is up."""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Callable
from typing import Any

import requests

from app.local.environment import Local
from app.local.loopback import HOST, call
from app.local.process import Part, Process
from app.local.valkey import socket_of
from app.platform.config import ROOT
from workflows.client import APP_ID

ANSWER_SECONDS = 2.0
SAID_SECONDS = 5.0
"""How long a process may live without saying that it started (its log level may forbid it)."""
STRIPE_EVENTS = "transfer.reversed,payout.paid,payout.failed,payout.canceled"
"""What the app acts on; a webhook at Stripe is registered for these too."""
SETTLE_SECONDS = "4"
"""How long the bank of Stripe's stand-in takes."""
SYNC = "flask --app app qstash sync"
"""What a team runs at each deploy, once it has QStash tick its jobs."""

_LINE = re.compile(r"(?P<name>[A-Za-z0-9_-]+):\s*(?P<command>\S.*)")
Ready = Callable[[Process], bool]


def read_procfile() -> dict[str, str]:
    """Shell commands by process name, in the file's order: here it all starts as in production."""
    lines = (ROOT / "Procfile").read_text().splitlines()
    found = (_LINE.fullmatch(line.strip()) for line in lines)
    return {match["name"]: match["command"] for match in found if match is not None}


def argv(command: str) -> list[str]:
    """What runs a Procfile's command as one process: its shell replaces itself."""
    return ["sh", "-c", f"exec {command}"]


def servers(local: Local) -> list[Part]:
    """What the others talk to: only those the caller has none of."""
    hook = ["--webhook", f"{local.url}/api/webhooks/stripe", "--events", STRIPE_EVENTS]
    options = {
        "stripe": [*hook, "--settle-seconds", SETTLE_SECONDS],
        "inngest": ["--app", f"{local.url}/api/inngest"],
    }
    parts = []
    if local.own_redis:
        folder = local.folder / "valkey"
        command = _module("valkey", "--data", str(folder))
        parts.append(Part("valkey", command, _listens(str(socket_of(folder)))))
    for name, port in local.ports.items():
        data = str(local.folder / (name if name == "mail" else f"{name}.db"))
        command = _module(name, "--port", str(port), "--data", data, *options.get(name, ()))
        parts.append(Part(name, command, _listens((HOST, port))))
    return parts


def release() -> Part:
    """The migrations, run to their end."""
    return _once("release", read_procfile()["release"])


def workers(local: Local, count: int) -> list[Part]:
    """What does the work: web, `count` RQ workers, relay and clock."""
    commands = {name: argv(command) for name, command in read_procfile().items()}
    listening = _says("Listening on ")
    return [
        Part("web", commands["web"], _web(local)),
        *(Part(f"worker-{n}", commands["worker"], listening) for n in range(1, count + 1)),
        Part("relay", commands["relay"], _says("relay started")),
        Part("clock", commands["clock"], _says("clock started")),
        *([] if "qstash" not in local.ports else [_once("schedules", SYNC)]),
    ]


def _once(name: str, command: str) -> Part:
    return Part(name, argv(command), lambda process: process.poll() == 0, once=True)


def _module(name: str, *args: str) -> list[str]:
    return [sys.executable, "-m", "app.local", name, *args]


def get(url: str) -> Any:
    """The JSON that `url` on this machine answers, or None where it answers none."""
    try:
        return call("GET", url, timeout=ANSWER_SECONDS)
    except (requests.RequestException, ValueError):
        return None


def _listens(address: tuple[str, int] | str) -> Ready:
    """Whether somebody does at a port, or at a Unix socket's path."""

    def ready(_process: Process) -> bool:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        with socket.socket(family) as probe:
            probe.settimeout(ANSWER_SECONDS)
            return probe.connect_ex(address) == 0

    return ready


def _web(local: Local) -> Ready:
    """Ready, and known to the Inngest stand-in, which drops events for functions that it does not
    know."""
    asked = [f"{local.url}/readyz"]
    if (port := local.ports.get("inngest")) is not None:
        asked.append(f"http://{HOST}:{port}/v1/apps/{APP_ID}/functions")
    return lambda _process: all(get(url) for url in asked)


def _says(words: str) -> Ready:
    return lambda process: words in process.logged() or process.age > SAID_SECONDS
