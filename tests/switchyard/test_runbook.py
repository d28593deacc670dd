"""docs/runbook.md: each command as it is written, on a night with something to do."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import insert

from app.platform.config import ROOT
from app.switchyard.clock import utcnow
from app.switchyard.cutover.shadow import Parity
from app.switchyard.operations import processes
from app.switchyard.runs.models import RunRow
from tests.adopter.page import Block, sections
from tests.support.rows import run_row
from tests.support.sides import Side, environment, parts
from tests.support.waiting import PATIENCE_SECONDS, until

JOB, RUN = "five-steps", "f" * 26
HOLDS_OR_NOT = "cutover verify"
"""What may end with 1: something is wrong tonight."""
PAGE = sections("runbook.md")

pytestmark = [pytest.mark.process, pytest.mark.minutes, pytest.mark.timeout(900)]


def failed(side: Side) -> None:
    """Something for the night: a run that failed, and a shadow that differs."""
    now = utcnow()
    run = run_row(
        RUN, JOB, now, payload='{"name":"x"}', status="failed", started_at=now, ended_at=now
    )
    shadow = {"job": JOB, "run_id": RUN, "kind": "different", "planned_at": now, "differing": 1}
    with side.runtime.db.begin() as connection:
        connection.execute(insert(RunRow), run)
        connection.execute(insert(Parity), shadow)


def do(block: Block, environ: dict[str, str], side: Side) -> None:
    if block.kind.startswith("sh process"):
        live(block, environ, side)
        return
    for line in block.text.splitlines():
        command = ["sh", "-e", "-c", line]
        done = subprocess.run(
            command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=240, check=False
        )
        said = f"{line}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        assert done.returncode in ((0, 1) if HOLDS_OR_NOT in line else (0,)), said
        assert "Traceback" not in done.stderr, said


def live(block: Block, environ: dict[str, str], side: Side) -> None:
    """Start the process, wait for its sign of life, and end it."""
    kind = block.kind.split()[-1]
    process = subprocess.Popen(
        ["sh", "-c", f"exec {block.text}"], cwd=ROOT, env=environ, stderr=subprocess.PIPE, text=True
    )
    try:
        until(lambda: kind in {row["kind"] for row in processes.listed(side.runtime.db, utcnow())})
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode in (0, -signal.SIGTERM), said  # a worker: before it listens
    finally:
        process.kill()
        process.wait()


def test_each_command_as_it_is_written(redis_url: str, tmp_path: Path) -> None:
    jobs = "tests.support.jobs,app.switchyard.maintenance"
    environ = environment(f"sqlite:///{tmp_path / 'x.db'}", redis_url, SWITCHYARD_JOBS=jobs)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    upgrade = [sys.executable, "-m", "flask", "--app", "app", "db", "upgrade"]
    subprocess.run(upgrade, cwd=ROOT, env=environ, check=True, capture_output=True)
    with parts(environ, tmp_path, "inngest", "qstash", relay=False) as side:
        failed(side)
        for blocks in PAGE.values():
            for block in blocks:
                do(block, {**side.environ, "PATH": path, "JOB": JOB, "RUN": RUN}, side)


def test_its_links_within_lead_somewhere() -> None:
    text = (ROOT / "docs" / "runbook.md").read_text()
    headings = {heading.lower().replace(" ", "-") for heading in PAGE}
    assert set(re.findall(r"\]\(#([\w-]+)\)", text)) <= headings
