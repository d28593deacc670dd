"""The contract's RQ part on the oldest and the newest RQ of each major that the layer runs on."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from app.platform.config import ROOT
from tests.support.environments import ours_but

VERSIONS = {
    "1-oldest": ("rq==1.16.0", "redis==4.6.0"),
    "2-oldest": ("rq==2.0.0", "redis==5.0.1"),
    "2-newest": ("rq==2.12.0",),
    "3-oldest": ("rq==3.0.0", "redis==5.0.1"),
}
"""With the oldest redis-py that each works with, or else this environment's. The newest 1 is the
shop's in tests/adopter; the newest 3 is this environment's own, on which all tests are run."""
TESTS = (
    *("contract/test_rq_promises.py", "contract/test_runs.py"),
    *("switchyard/test_old_call_sites.py", "switchyard/test_jobs_found_again.py"),
    "switchyard/test_adopt.py",
)
CHOSEN = "not (memory or inngest or qstash or postgres)"
"""What is not on Postgres or another backend."""


@pytest.mark.process
@pytest.mark.minutes
@pytest.mark.timeout(900)
@pytest.mark.parametrize("which", VERSIONS)
def test_the_rq_part_holds_on(which: str, tmp_path: Path) -> None:
    python = ours_but(f"rq-{which}", *VERSIONS[which])
    files = [str(ROOT / "tests" / name) for name in TESTS]
    # RQ 1 warns of its own functions.
    options = ("-W", "default", "-p", "no:cacheprovider", "--basetemp", str(tmp_path / "inner"))
    done = subprocess.run(
        [str(python), "-m", "pytest", *files, "-k", CHOSEN, *options],
        cwd=ROOT,
        env={name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
