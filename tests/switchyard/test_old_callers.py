"""Old call sites in processes of their own: one that dies, and what importing the drop-in costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from sqlalchemy import select

from app.switchyard.runs.models import RunRow as R
from tests.support.forks import forked
from tests.support.sides import ROOT, no_worker, relaying, rq_worker

ENQUEUE = """
import sys
from queues import Queue
from queues.backend import connect
queue = Queue("old", connection=connect(sys.argv[1]))
queue.enqueue("tests.support.old_tasks.mark", name=sys.argv[2], job_id=sys.argv[2])
"""


def test_the_caller_dies(redis_url: str, tmp_path: Path) -> None:
    """A process that never called create_app(), killed before the sending; it tries again. At which
    points else it may die: test_crashes."""
    n = uuid4().hex
    with no_worker(redis_url, tmp_path) as on:
        for crash_at in ("dispatch.committed", ""):
            crashing = {**on.environ, "SWITCHYARD_CRASH_AT": crash_at}
            ended = forked(["-c", ENQUEUE, redis_url, n], crashing)
            assert ended.returncode == (-9 if crash_at else 0), ended.stderr
        with relaying(on.runtime), rq_worker(on.environ, tmp_path / "worker.log"):
            [row] = on.runtime.db.rows(select(R.__table__).where(R.job == "old-mark"))
            on.finish(cast(Any, row))
            on.settle(0.5)
        assert on.marks(n) == {n: 1}


def test_importing_it_is_cheap() -> None:
    """No web app is made, nothing is connected, and jobs load neither rq nor inngest."""
    code = "import sys"
    for given, forbidden in (
        ("import queues", ("rq", "flask", "sqlalchemy")),
        ("import app.platform.payouts.jobs", ("rq", "inngest")),
        ("import app.switchyard.job, app.switchyard.maintenance", ("rq", "inngest", "flask")),
        ("from queues import Job, Queue, job", ("flask", "inngest", "app.switchyard.extension")),
    ):
        code += f"; {given}; print([m for m in {forbidden!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == ["[]"] * 4
