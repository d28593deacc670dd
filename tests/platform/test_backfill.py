"""`earnings backfill` continues after an interruption, and does every day once."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from contextlib import suppress
from datetime import date
from pathlib import Path

from app.platform.config import load
from app.platform.earnings import rollup
from tests.support.forks import forked
from tests.support.months import Months
from tests.support.sides import ROOT, build, environment
from tests.support.waiting import PATIENCE_SECONDS


def command(url: str, since: str, until: str) -> tuple[list[str], dict[str, str]]:
    words = ["-m", "flask", "--app", "app", "earnings", "backfill", "--from", since, "--to", until]
    jobs = "app.switchyard.maintenance"
    return words, environment(url, "redis://127.0.0.1:1/0", SWITCHYARD_JOBS=jobs)


def test_on_a_terminal_it_is_interrupted_and_goes_on(tmp_path: Path) -> None:
    """It shows a bar on a terminal and none in a pipe."""
    url = f"sqlite:///{tmp_path / 'x.db'}"
    months = Months(url, tmp_path)
    months.creator("ana")
    months.sale("s1", 500, "2025-01-05")
    words, environ = command(url, "2024-01-01", "2025-12-31")
    code, shown = interrupted(words, environ)
    assert (code, b"%" in shown) == (1, True)
    result = forked([*words, "--json"], environ)
    assert (result.returncode, result.stderr) == (0, "")
    answer = json.loads(result.stdout)
    assert (answer["days"], answer["left"], answer["resumed"]) == (731, 0, True)
    assert 0 < answer["done"] < 731, "what was done is not done again"
    with months.db.begin() as tx:
        assert rollup.dirty(tx, date(2100, 1, 1)) == []
        assert rollup.platform_day(tx, date(2025, 1, 5))[0]["count"] == 1
    months.db.dispose()


def interrupted(words: list[str], environ: dict[str, str]) -> tuple[int, bytes]:
    """The exit code of a command and what it shows on a terminal; Ctrl-C once its bar moves."""
    pilot, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, *words],
        env={**environ, "TERM": "xterm", "COLUMNS": "80"},
        cwd=ROOT,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    shown, sent = b"", False
    with suppress(OSError):  # the other end is closed
        while data := os.read(pilot, 65_536):
            shown += data
            if not sent and re.search(rb"[1-9]%", shown):
                process.send_signal(signal.SIGINT)
                sent = True
    os.close(pilot)
    return process.wait(PATIENCE_SECONDS), shown


def test_days_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    for since in ("2025-13-01", "1999-12-31", "2025-02-02", "x"):
        words, environ = command(f"sqlite:///{tmp_path / 'x.db'}", since, "2025-02-01")
        assert build(load(environ)).test_cli_runner().invoke(args=words[4:]).exit_code == 2
