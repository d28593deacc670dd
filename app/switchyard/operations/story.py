"""Everything known about one run, for its page, the API and `runs show`."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import select

from app.switchyard.db import Database
from app.switchyard.errors import UnknownRun
from app.switchyard.operations.search import COLUMNS, shown
from app.switchyard.runs import children
from app.switchyard.runs.models import FailureRow as F
from app.switchyard.runs.models import HandoffRow as H
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.models import StepRow as S

MOST = 200
"""How many failed attempts and hand-offs of a run are shown, the latest ones."""
_OWN = (R.due_at, R.stage_version, R.sent_ref, R.holder, R.move_to, R.trace)
_JSON = (R.payload, R.result, R.meta)
_STEP = (S.name, S.status, S.attempts, S.backend, S.error, S.updated_at, S.began_at, S.until)
_FAILURE = (F.step, F.attempt, F.backend, F.began_at, F.at, F.error, F.message, F.traceback)
_HANDOFF = (H.at, H.from_backend, H.to_backend, H.epoch)


def story(db: Database, run_id: str) -> dict[str, Any]:
    """A run with its payload and result, its steps, how many children it has by status, its failed
    attempts and hand-offs, oldest first, and its backend's reference. Raises UnknownRun."""
    chosen = select(*COLUMNS, *_OWN, *_JSON).where(R.id == run_id)
    steps = select(*_STEP).where(S.run_id == run_id).order_by(S.updated_at, S.name)
    failed = select(*_FAILURE).where(F.run_id == run_id).order_by(F.id.desc()).limit(MOST)
    moved = select(*_HANDOFF).where(H.run_id == run_id).order_by(H.id.desc()).limit(MOST)
    with db.autocommit() as connection:
        row = connection.execute(chosen).one_or_none()
        if row is None:
            raise UnknownRun(f"no run {run_id!r}")
        below = children.by_status(connection, run_id)
        parts = [connection.execute(each).all() for each in (steps, failed, moved)]
    texts = {column.key: getattr(row, column.key) for column in _JSON}
    done, failures, handoffs = ([one._asdict() for one in part] for part in parts)
    return {
        **shown(row),
        **{name: None if text is None else json.loads(text) for name, text in texts.items()},
        "children": below,
        "steps": done,
        "failures": failures[::-1],
        "handoffs": handoffs[::-1],
    }
