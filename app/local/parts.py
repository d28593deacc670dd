"""The parts of a stack: their commands, from the Procfile, and how to tell that each is up."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import Any

import requests

from app.local.environment import Local
from app.local.loopback import HOST, call
from app.local.valkey import socket_of
from app.platform.config import ROOT
from app.platform.payouts.inbox import ACTS_ON
from workflows.client import APP_ID

ANSWER_SECONDS = 2.0
SAID_SECONDS = 5.0
"""A process that has lived this long is up, even if its log level hides the line that says so."""
SETTLE_SECONDS = "4"
"""How long the bank of Stripe's stand-in takes."""
SYNC = "flask --app app qstash sync"
"""A command for each deploy, once QStash ticks the jobs."""

TIED = Path(__file__).with_name("tied.py")

_LINE = re.compile(r"(?P<name>[A-Za-z0-9_-]+):\s*(?P<command>\S.*)")


@dataclass(frozen=True, slots=True)
class Part:
    """A process to run, and how to tell that it is up."""

    name: str
    command: Sequence[str]
    ready: Callable[[Process], bool]
    """Polled after a start. True once the process does its work."""
    once: bool = False
    """Whether it ends by itself, and is ready once it has ended well."""


class Process(Popen[bytes]):
    """A running part in its own session (Ctrl-C is for its owner), tied to this process."""

    def __init__(self, part: Part, env: Mapping[str, str], log: Path) -> None:
        self.part = part
        self.log = log
        self.began = time.monotonic()
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-I", "-S", str(TIED), str(os.getpid()), *part.command]
        with log.open("ab") as out:
            self._offset = out.tell()
            super().__init__(
                command,
                cwd=ROOT,
                env=env,
                stdin=DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        log.with_suffix(".pid").write_text(f"{self.pid}\n")  # for anyone who wants to kill it

    @property
    def age(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self.began

    def kill(self) -> None:
        """Send SIGKILL to it and to everything it started."""
        with suppress(ProcessLookupError, PermissionError):  # macOS says so of a group of zombies
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()

    def logged(self) -> str:
        """Its output."""
        with self.log.open("rb") as log:
            log.seek(self._offset)
            return log.read().decode(errors="replace")


Ready = Callable[[Process], bool]


def read_procfile() -> dict[str, str]:
    """Shell commands by process name, in the file's order: here it all starts as in production."""
    lines = (ROOT / "Procfile").read_text().splitlines()
    found = (_LINE.fullmatch(line.strip()) for line in lines)
    return {match["name"]: match["command"] for match in found if match is not None}


def argv(command: str) -> list[str]:
    """The arguments that run a Procfile's command as one process, which replaces its shell."""
    return ["sh", "-c", f"exec {command}"]


def servers(local: Local) -> list[Part]:
    """The services that the caller does not have, and the migrations."""
    hook = ["--webhook", f"{local.url}/api/webhooks/stripe", "--events", ",".join(ACTS_ON)]
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
    return [*parts, _once("release", read_procfile()["release"])]


def workers(local: Local, count: int) -> list[Part]:
    """The processes that do the work: web, `count` RQ workers, relay and clock."""
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
    """The JSON answer of `url` on this machine, or None without one."""
    try:
        return call("GET", url, timeout=ANSWER_SECONDS)
    except (requests.RequestException, ValueError):
        return None


def _listens(address: tuple[str, int] | str) -> Ready:
    """Whether somebody listens at a port, or at a Unix socket's path."""

    def ready(_process: Process) -> bool:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        with socket.socket(family) as probe:
            probe.settimeout(ANSWER_SECONDS)
            return probe.connect_ex(address) == 0

    return ready


def _web(local: Local) -> Ready:
    """Whether web is ready, and known to Inngest, which drops events for unknown functions."""
    asked = [f"{local.url}/readyz"]
    if (port := local.ports.get("inngest")) is not None:
        asked.append(f"http://{HOST}:{port}/v1/apps/{APP_ID}/functions")
    return lambda _process: all(get(url) for url in asked)


def _says(words: str) -> Ready:
    return lambda process: words in process.logged() or process.age > SAID_SECONDS
