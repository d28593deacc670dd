"""`make run`: the whole product on this machine until Ctrl-C or SIGTERM, web on port 3005."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from app.local.environment import CannotRun, Local, prepare
from app.local.loopback import HOST, is_free
from app.local.seed import fill_fresh
from app.local.stack import WATCH_SECONDS, Stack
from app.local.standin import stop_signal
from app.platform import JOBS
from app.platform.config import ROOT
from app.switchyard import maintenance

PORT = 3005
CREATORS, PAYABLE = 30, 26
PAY_DAY = datetime(2025, 1, 15, 9, tzinfo=UTC)
"""The pay day of the migration guide's own example. The made-up earnings are older."""
CURL = """curl -X POST {url}/api/inngest/trigger -H 'Content-Type: application/json'{token} \\
    -d '{{"name": "payout.scheduled", "data": {{"payoutDate": "2025-01-15", "dayOfMonth": 15}}}}'"""
SELF_HOSTED = "start --event-key $INNGEST_EVENT_KEY --signing-key ${INNGEST_SIGNING_KEY##*-}"
"""Inngest's server with keys, which a dev server has not; it takes one without its prefix."""

LINE_BYTES = 256 * 1024
_DULL = {"event", "level", "timestamp", "logger"}


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Reserve the folder for this process, however it ends. Raises CannotRun."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "run.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotRun(f"another `make run` is running in {folder}") from None
        yield


class Follower:
    """Reads the lines that were added to the `*.log` files of a folder since the last call."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read = {path: path.stat().st_size for path in folder.glob("*.log")}

    def lines(self) -> Iterator[tuple[str, str]]:
        """The new lines, each with the name of its process. A very long one comes in pieces."""
        for path in sorted(self._folder.glob("*.log")):
            with path.open("rb") as log:
                log.seek(self._read.get(path, 0))
                while (line := log.readline(LINE_BYTES)).endswith(b"\n") or len(line) == LINE_BYTES:
                    self._read[path] = log.tell()
                    if text := line.decode(errors="replace").rstrip():
                        yield path.stem, _readable(text)


def _readable(line: str) -> str:
    """A structured log line as readable text. Any other line stays as it is."""
    try:
        entry = json.loads(line)
        event = entry["event"]
    except (ValueError, TypeError, KeyError):
        return line
    level = str(entry.get("level", "info"))
    fields = " ".join(f"{name}={value}" for name, value in entry.items() if name not in _DULL)
    return " ".join(filter(None, ("" if level == "info" else level.upper(), str(event), fields)))


def run(folder: Path, port: int, console: Console, jobs: str = "") -> None:
    """Start everything, print where it is, and keep it running. Raises CannotRun.

    `jobs` names the caller's own modules, comma-separated, whose jobs come before all others.
    """
    names = ",".join((jobs, *JOBS, maintenance.__name__))
    environ = {**os.environ, "SWITCHYARD_JOBS": names} if jobs else os.environ
    local = prepare(folder, port, environ, mail=True)
    with alone(folder), stop_signal() as stopped:
        signal.signal(signal.SIGHUP, lambda *_: stopped.set())  # the terminal was closed
        if not is_free(port):
            raise CannotRun(f"port {port} is taken; choose another one with PORT=… make run")

        def say(line: str) -> None:
            console.print(f"[cyan]switchyard[/] | {escape(line)}")

        filled = partial(fill_fresh, local, creators=CREATORS, payable=PAYABLE, now=PAY_DAY)
        with Stack(local, say=say, before_web=filled) as stack:
            _banner(local, console)
            follower = Follower(folder / "log")
            while not stopped.wait(WATCH_SECONDS):
                stack.tend()
                for name, line in follower.lines():
                    console.print(f"[dim]{escape(name):>10}[/] | {escape(line)}")
            say("stopping")


def _banner(local: Local, console: Console) -> None:
    env = local.shown_env
    rows = {
        "console": f"{local.url}/console",
        "database": env["DATABASE_URL"],
        "queue": env["REDIS_URL"],
        "inngest": env.get("INNGEST_DEV") or env.get("INNGEST_BASE_URL", "as your keys say"),
        "qstash": env.get("QSTASH_URL", "as your token says"),
        "mail": str(local.folder / "mail") if "mail" in local.ports else "as SMTP_URL says",
        "stripe": env.get("STRIPE_API_BASE", "as your key says"),
        "logs": str(local.folder / "log"),
    }
    lines = [f"  {name:<9} {_without_password(value)}" for name, value in rows.items()]
    url = local.url.replace(HOST, "localhost")
    curl = CURL.format(url=url, token=_token(local))
    if "inngest" not in local.ports:
        # A dev server that was given another path only shows "unreachable".
        lines += ["", f"Inngest reaches it at {url}/api/inngest:"]
        dev = (env.get("INNGEST_DEV") or "0").lower() not in ("0", "false")
        server = "dev" if dev or "INNGEST_SIGNING_KEY" not in local.process_env else SELF_HOSTED
        lines += ["", f"  npx inngest-cli@latest {server} -u {url}/api/inngest"]
    lines += ["", f"Pay the creators of {PAY_DAY:%d %B %Y}:", "", f"  {curl}", ""]
    console.print(f"\nSwitchyard runs at [bold]{local.url}[/] (Ctrl-C ends it)")
    console.print(escape("\n".join(lines)))


def _token(local: Local) -> str:
    """The header that a call needs. The caller's own token is not printed."""
    token = local.process_env.get("ADMIN_TOKEN", "").strip()
    if not token:
        return ""
    shown = "$ADMIN_TOKEN" if token in map(str.strip, os.environ.values()) else token
    return f' \\\n    -H "Authorization: Bearer {shown}"'


def _without_password(url: str) -> str:
    head, sep, tail = url.rpartition("@")
    return f"{head.partition('://')[0]}://…@{tail}" if sep else url


def main() -> int:
    """Run. Returns 0 at the end, 1 where something does not come up, and 2 for wrong use."""
    parser = argparse.ArgumentParser(prog="python -m app.local.run", description=__doc__)
    parser.add_argument("--dir", type=Path, default=ROOT / "var", help="the folder for its data")
    parser.add_argument("--jobs", default="", help="modules with jobs of your own, comma-separated")
    options = parser.parse_args()
    raw = os.environ.get("PORT", "").strip() or str(PORT)
    if not raw.isdecimal() or not 1 <= int(raw) <= 65535:
        parser.error(f"PORT: must be 1 to 65535, not {raw!r}")
    console = Console(soft_wrap=True, highlight=False, emoji=False)
    try:
        run(options.dir, int(raw), console, options.jobs)
    except CannotRun as failure:
        sys.stderr.write(f"switchyard: {failure}\n")
        return failure.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
