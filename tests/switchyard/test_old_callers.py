"""Old call sites in processes of their own: one that dies, and what importing the drop-in costs."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest
from sqlalchemy import select

from app.switchyard.runs.models import RunRow as R
from queues.backend import connect
from tests.support.forks import forked
from tests.support.sides import ROOT, Side, environment, fresh, relaying, rq_worker

ENQUEUE = """
import sys
from queues import Queue
from queues.backend import connect
queue = Queue("old", connection=connect(sys.argv[1]))
queue.enqueue("tests.support.old_tasks.mark", name=sys.argv[2], job_id=sys.argv[2])
"""


@pytest.mark.parametrize("point", ["", "dispatch.committed", "dispatch.sent"])
def test_the_caller_dies(redis_url: str, tmp_path: Path, point: str) -> None:
    """A process that never called create_app(), killed around the sending; it tries again."""
    n = uuid4().hex
    connect(redis_url).flushall()
    environ = environment(f"sqlite:///{tmp_path / 'test.db'}", redis_url)
    with ExitStack() as stack:
        runtime = fresh(environ["DATABASE_URL"], environ, None)
        stack.callback(runtime.db.dispose)
        on = Side("rq", runtime, environ)
        command = ["-c", ENQUEUE, redis_url, n]
        for crash_at in (point, ""):
            crashing = {**environ, "SWITCHYARD_CRASH_AT": crash_at}
            ended = forked(command, crashing)
            assert ended.returncode == (-9 if crash_at else 0), ended.stderr
        stack.enter_context(relaying(runtime))
        stack.enter_context(rq_worker(environ, tmp_path / "worker.log"))
        [row] = runtime.db.rows(select(R.__table__).where(R.job == "old-mark"))
        on.finish(cast(Any, row))
        time.sleep(0.5)
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
